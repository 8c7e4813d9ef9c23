//! The agent's session with a control plane, which is a scripted one here.

use std::{pin::Pin, time::Duration};

use futures::{Stream, StreamExt, stream};
use reveille_api::{
    check::Outcome,
    proto::{
        NodeCommand, NodeReport, Registered,
        node_command::Command,
        node_report::Report,
        nodes_server::{Nodes, NodesServer},
    },
};
use reveille_node::checks;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::support::{CRIU, Place, address};

struct Scripted(mpsc::Sender<Report>, CancellationToken);

#[tonic::async_trait]
impl Nodes for Scripted {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<NodeCommand, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<NodeReport>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (mut reports, seen, stop) = (request.into_inner(), self.0.clone(), self.1.clone());
        let registered = Command::Registered(Registered { heartbeat_ms: 50 });
        let first = stream::iter([Ok(NodeCommand { command: Some(registered) })]);
        let rest = stream::once(async move {
            let pass = async {
                while let Ok(Some(NodeReport { report: Some(report) })) = reports.message().await {
                    let _ = seen.send(report).await;
                }
            };
            stop.run_until_cancelled(pass).await;
            Err(Status::unavailable("the agent is gone"))
        });
        Ok(Response::new(Box::pin(first.chain(rest))))
    }
}

pub(crate) async fn next(reports: &mut mpsc::Receiver<Report>) -> Report {
    tokio::time::timeout(Duration::from_secs(10), reports.recv()).await.expect("a report").unwrap()
}

/// A control plane that only listens, and what it hears.
pub(crate) async fn serve(
    place: &Place,
    stop: &CancellationToken,
) -> (JoinSet<()>, mpsc::Receiver<Report>) {
    let (sender, reports) = mpsc::channel(64);
    let listener = address(place, "run/control.sock").listen().await.unwrap();
    let server = tonic::transport::Server::builder()
        .add_service(NodesServer::new(Scripted(sender, stop.clone())));
    let mut tasks = JoinSet::new();
    let stop = stop.clone().cancelled_owned();
    tasks.spawn(async move {
        server.serve_with_incoming_shutdown(listener.incoming(), stop).await.unwrap();
    });
    (tasks, reports)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_registers_beats_reports_a_death_and_comes_back_to_a_new_control_plane() {
    let Some(place) = Place::new() else { return };
    // The control plane comes later: the agent tries until it is there.
    let node = place.start(1).await;
    node.activate(&place.wake(1)).await.unwrap();
    let first = CancellationToken::new();
    let (mut server, mut reports) = serve(&place, &first).await;
    let Report::Register(register) = next(&mut reports).await else { panic!("not a registration") };
    assert_eq!((register.node.as_str(), register.workers), ("n", 1));
    assert_eq!(register.runtimes[0].name, "gvisor");
    assert!(register.address.ends_with("run/node.sock"), "{}", register.address);
    assert_eq!(register.inventory.unwrap().activations.len(), 1);
    let Report::Heartbeat(beat) = next(&mut reports).await else { panic!("not a heartbeat") };
    assert_eq!(beat.workers_used, 1);
    assert!(beat.disk_free_bytes > 0);

    let record = std::fs::read_to_string(place.path("node/records/demo/counter.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let pid = record["activation"]["process"]["pid"].to_string();
    assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    let exited = loop {
        if let Report::Exited(exited) = next(&mut reports).await {
            break exited;
        }
    };
    assert_eq!(exited.epoch, 1);
    assert!(exited.message.contains("see `reveille logs counter -n demo`"), "{}", exited.message);
    assert!(node.inventory().await.activations.is_empty());

    first.cancel();
    server.join_next().await.unwrap().unwrap();
    let (_server, mut reports) = serve(&place, &CancellationToken::new()).await;
    let Report::Register(again) = next(&mut reports).await else { panic!("not a registration") };
    assert_eq!(again.instance, register.instance);
    node.destroy().await;
    place.eventually_traces(&Default::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_doctor_finds_this_machine_fit_and_leaves_it_as_it_was() {
    let (Some(_), Some(place)) = (Place::of(CRIU), Place::new()) else { return };
    let before: Vec<_> =
        std::fs::read_dir("/sys/class/net").unwrap().flatten().map(|e| e.file_name()).collect();
    let checks = checks(&place.config(1)).await;
    let failed: Vec<_> =
        checks.iter().filter(|check| matches!(check.outcome, Outcome::Fail { .. })).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let container = checks.iter().find(|check| check.name == "container").unwrap();
    assert!(matches!(container.outcome, Outcome::Ok { .. }), "{container:?}");
    let names: Vec<_> = checks.iter().map(|check| check.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "root",
            "runsc",
            "sandbox",
            "criu, runc",
            "container",
            "nft",
            "worker network",
            "egress",
            "limits",
            "freezer",
            "grace periods",
            "disk"
        ]
    );
    let mut config = place.config(1);
    config.runsc = "/nowhere/runsc".into();
    let runsc = async |config: &reveille_node::Config| {
        let checks = reveille_node::checks(config).await.into_iter();
        checks.into_iter().find(|check| check.name == "runsc").unwrap().outcome
    };
    // The other runtime is enough.
    let outcome = runsc(&config).await;
    assert!(matches!(&outcome, Outcome::Warn { fix, .. } if fix.contains("setup.sh")));
    config.criu = "/nowhere/criu".into();
    let outcome = runsc(&config).await;
    assert!(matches!(&outcome, Outcome::Fail { fix, .. } if fix.contains("setup.sh")));
    let own = |name: &std::ffi::OsString| before.contains(name);
    let after: Vec<_> =
        std::fs::read_dir("/sys/class/net").unwrap().flatten().map(|e| e.file_name()).collect();
    let new: Vec<_> = after
        .iter()
        .filter(|name| !own(name))
        .filter(|name| name.to_string_lossy().ends_with("h0"))
        .collect();
    assert!(new.len() <= 16, "{new:?}");
}

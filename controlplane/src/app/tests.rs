//! The whole control plane over its sockets, with a node agent and a router in this process.

use std::{net::Ipv4Addr, time::Duration};

use reveille_api::{
    net::{Address, Transport},
    proto::{
        control_client::ControlClient, nodes_client::NodesClient, routers_client::RoutersClient, *,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, transport::Channel};

use super::*;
use crate::{config::Timings, testing::FakeNode};

mod agent;

const TEMPLATE: &str = r#"{"apiVersion":"reveille.dev/v1alpha1","kind":"ActorTemplate",
    "metadata":{"name":"t","namespace":"demo"},
    "spec":{"runtime":"gvisor","rootfs":{"directory":"/x"},"command":["/a"]EXTRA}}"#;

struct Rig {
    folder: tempfile::TempDir,
    addrs: Addrs,
    stop: CancellationToken,
    running: JoinSet<Result<(), Error>>,
}

fn config(folder: &std::path::Path) -> Config {
    let loopback = (Ipv4Addr::LOCALHOST, 0).into();
    Config {
        data_dir: folder.join("control"),
        transport: Transport::unix(),
        listen: Address::Unix(folder.join("control.sock")),
        tcp: Some(Address::Tcp(loopback)),
        token_file: folder.join("run/token"),
        status: Some(Address::Tcp(loopback)),
        ladder: Default::default(),
        wake_budget: 0,
        timings: Timings { settle: Duration::from_millis(200), ..Timings::default() },
    }
}

impl Rig {
    async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    async fn start_in(folder: tempfile::TempDir) -> Self {
        let app = config(folder.path()).build().await.unwrap();
        let addrs = app.addrs().clone();
        let stop = CancellationToken::new();
        let mut running = JoinSet::new();
        reveille_api::task::spawn(&mut running, "app", app.run(stop.clone()));
        Self { folder, addrs, stop, running }
    }

    async fn stop(mut self) -> tempfile::TempDir {
        self.stop.cancel();
        self.running.join_next().await.unwrap().unwrap().unwrap();
        self.folder
    }

    fn control(&self) -> ControlClient<Channel> {
        ControlClient::new(self.addrs.listen.channel())
    }

    async fn apply(&self, extra: &str) -> Result<ApplyReply, tonic::Status> {
        let manifest = TEMPLATE.replace("EXTRA", extra);
        let reply = self.control().apply(ApplyRequest { manifest, check: false }).await?;
        Ok(reply.into_inner())
    }
}

fn key(name: &str) -> ActorKey {
    ActorKey { namespace: "demo".into(), name: name.into() }
}

fn create(name: &str) -> CreateActorRequest {
    CreateActorRequest { actor: Some(key(name)), template: "t".into() }
}

async fn node_ready(control: &mut ControlClient<Channel>) {
    for _ in 0..500 {
        let nodes = control.list_nodes(ListRequest::default()).await.unwrap().into_inner().items;
        if nodes.iter().any(|node| node.ready) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the node never became ready");
}

#[tokio::test]
async fn the_whole_way_of_an_actor_over_the_sockets() {
    let rig = Rig::start().await;
    let mut control = rig.control();
    let reply = rig.apply(r#","idle":{"freezeAfter":"1s"},"golden":true"#).await.unwrap();
    assert_eq!(reply.outcome(), apply_reply::Outcome::Created);
    assert!(reply.warnings.is_empty(), "{:?}", reply.warnings);
    let created = control.create_actor(create("a")).await.unwrap().into_inner();
    assert_eq!(created.state(), ActorState::Suspended);

    let agent = agent::Served::start(rig.folder.path(), FakeNode::new()).await;
    agent.register(&rig.addrs.listen).await;
    node_ready(&mut control).await;
    let awake = control.wake_actor(key("a")).await.unwrap().into_inner();
    assert_eq!((awake.state(), awake.epoch), (ActorState::Running, 1));
    assert_eq!(agent.newest(), reveille_api::Stay(1), "every call quotes it");
    assert!(awake.endpoint.starts_with("10.0.0.1:") && awake.worker == "n1-0");
    // The node said which folders it may run from, and this template's is none of them.
    let forbidden = rig.apply(r#","port":8081"#).await.unwrap().warnings;
    assert!(forbidden[0].contains("no node may run from /"), "{forbidden:?}");
    let egress = r#","port":8081,"egress":[{"cidr":"192.0.2.0/24"}]"#;
    let shut_in = rig.apply(egress).await.unwrap().warnings;
    assert!(shut_in[1].contains("no node lets actors reach 192.0.2.0/24"), "{shut_in:?}");
    let criu = TEMPLATE.replace("EXTRA", "").replace("gvisor", "criu");
    let criu = criu.replace("\"t\"", "\"of-criu\"");
    let applied =
        control.apply(ApplyRequest { manifest: criu, check: false }).await.unwrap().into_inner();
    let warning = "no node has the runtime criu";
    assert!(applied.warnings.iter().any(|said| said.contains(warning)), "{applied:?}");
    let wake = awake.last_wake.unwrap();
    assert_eq!(wake.kind(), reveille_api::proto::WakeKind::Cloned, "the template is golden");
    let phases = wake.phases.unwrap();
    let sum = phases.place_us + phases.fetch_us + phases.restore_us + phases.ready_us;
    assert_eq!(sum, phases.total_us);
    let workers = control.list_workers(ListRequest::default()).await.unwrap().into_inner().items;
    assert_eq!(workers[0].activation.as_ref().unwrap().epoch, 1);

    let asleep = control.suspend_actor(key("a")).await.unwrap().into_inner();
    assert_eq!((asleep.state(), asleep.snapshot.is_empty()), (ActorState::Suspended, false));
    let snapshots = control.list_snapshots(ListRequest::default()).await.unwrap().into_inner();
    assert!(snapshots.items[0].current);
    let logs = LogsRequest { actor: Some(key("a")), follow: false, tail: 0 };
    let mut logs = control.logs(logs).await.unwrap().into_inner();
    assert_eq!(logs.message().await.unwrap().unwrap().data, b"hello\n");
    let stopped = control.stop_actor(key("a")).await.unwrap().into_inner();
    assert_eq!(stopped.state(), ActorState::Stopped);
    let error = control.freeze_actor(key("a")).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(
        error.message().contains("there is no running process of it: it is stopped"),
        "{error}"
    );
    control.delete_actor(key("a")).await.unwrap();
    assert_eq!(control.get_actor(key("a")).await.unwrap_err().code(), Code::NotFound);
    let template = ActorKey { namespace: "demo".into(), name: "t".into() };
    control.delete_template(template).await.unwrap();

    let mut events =
        control.events(EventsRequest { actor: None, follow: false }).await.unwrap().into_inner();
    let mut kinds = Vec::new();
    while let Some(event) = events.message().await.unwrap() {
        assert_eq!(event.sequence, kinds.len() as u64 + 1);
        kinds.push(event.kind);
    }
    assert!(kinds.starts_with(&["Created".into(), "WakeStarted".into(), "Cloned".into()]));
    rig.stop().await;
}

#[tokio::test]
async fn a_router_wakes_holds_and_acknowledges_over_its_stream() {
    let rig = Rig::start().await;
    let mut control = rig.control();
    rig.apply("").await.unwrap();
    control.create_actor(create("a")).await.unwrap();
    let agent = agent::Served::start(rig.folder.path(), FakeNode::new()).await;
    agent.register(&rig.addrs.listen).await;

    let mut routers = RoutersClient::new(rig.addrs.listen.channel());
    let report = |report| RouterReport { report: Some(report) };
    let (reports, stream) = mpsc::channel(8);
    let hello = Hello { router: "r".into(), instance: "i1".into() };
    reports.send(report(router_report::Report::Hello(hello))).await.unwrap();
    let held = Held { bindings: vec![], complete: true };
    reports.send(report(router_report::Report::Held(held))).await.unwrap();
    let session = routers.session(ReceiverStream::new(stream)).await.unwrap();
    let mut commands = session.into_inner();
    let welcome = commands.message().await.unwrap().unwrap().command.unwrap();
    assert!(matches!(welcome, router_command::Command::Welcome(w) if w.report_interval_ms > 0));
    control.create_actor(create("new")).await.unwrap();
    let created = commands.message().await.unwrap().unwrap().command.unwrap();
    assert_eq!(created, router_command::Command::Created(key("new")));

    let wake =
        WakeRequest { actor: Some(key("a")), router_instance: "i1".into(), ..Default::default() };
    let reply = routers.wake(wake.clone()).await.unwrap().into_inner();
    let binding = reply.binding.unwrap();
    assert_eq!((binding.epoch, binding.term, binding.protocol()), (1, 0, Protocol::Http1));
    assert_eq!(reply.policy.unwrap().max_parked, 1000);
    let listed = control.list_routers(ListRequest::default()).await.unwrap().into_inner().items;
    assert_eq!((listed[0].connected, listed[0].bindings), (true, 1));

    let mut suspending = control.clone();
    let suspend = async { suspending.suspend_actor(key("a")).await };
    let acknowledge = async {
        let command = commands.message().await.unwrap().unwrap().command.unwrap();
        let router_command::Command::Policy(policy) = command else { panic!("{command:?}") };
        assert_eq!(policy.max_parked, 1000);
        let command = commands.message().await.unwrap().unwrap().command.unwrap();
        let router_command::Command::Revoke(revoke) = command else { panic!("{command:?}") };
        let Revoke { actor, epoch, term, .. } = revoke;
        let ack = RevokeAck { actor, epoch, term, in_flight: 0, idle_ms: 9_000 };
        reports.send(report(router_report::Report::RevokeAck(ack))).await.unwrap();
    };
    let (suspended, ()) = tokio::join!(suspend, acknowledge);
    assert_eq!(suspended.unwrap().into_inner().state(), ActorState::Suspended);

    let nobody = WakeRequest { actor: Some(key("nobody")), ..wake.clone() };
    let error = routers.wake(nobody).await.unwrap_err();
    let failure = reveille_api::Failure::from_status(&error, reveille_api::Reason::Internal);
    assert_eq!(failure.reason, reveille_api::Reason::ActorNotFound);
    rig.stop().await;
}

#[tokio::test]
async fn what_was_stored_is_there_after_a_restart() {
    let rig = Rig::start().await;
    rig.apply("").await.unwrap();
    rig.control().create_actor(create("a")).await.unwrap();
    let agent = agent::Served::start(rig.folder.path(), FakeNode::new()).await;
    agent.register(&rig.addrs.listen).await;
    rig.control().wake_actor(key("a")).await.unwrap();
    let folder = rig.stop().await;

    let rig = Rig::start_in(folder).await;
    let mut control = rig.control();
    let found = control.get_actor(key("a")).await.unwrap().into_inner();
    assert_eq!((found.state(), found.epoch), (ActorState::Running, 1));
    agent.register(&rig.addrs.listen).await;
    let asleep = control.suspend_actor(key("a")).await.unwrap().into_inner();
    assert_eq!(asleep.state(), ActorState::Suspended);
    rig.stop().await;
}

#[tokio::test]
async fn drain_suspends_what_runs_and_tells_how_far_it_is() {
    let rig = Rig::start().await;
    let mut control = rig.control();
    rig.apply("").await.unwrap();
    let agent = agent::Served::start(rig.folder.path(), FakeNode::new()).await;
    agent.register(&rig.addrs.listen).await;
    for name in ["a", "b"] {
        control.create_actor(create(name)).await.unwrap();
        control.wake_actor(key(name)).await.unwrap();
    }
    let drain = control.drain(DrainRequest { deadline_ms: 10_000 }).await.unwrap();
    let mut progress = drain.into_inner();
    let mut last = DrainProgress::default();
    while let Some(told) = progress.message().await.unwrap() {
        last = told;
    }
    assert_eq!(last, DrainProgress { remaining: 0, suspended: 2, failed: 0 });
    let error = control.wake_actor(key("a")).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    rig.stop().await;
}

#[tokio::test]
async fn mistakes_get_one_clear_sentence() {
    let rig = Rig::start().await;
    let mut control = rig.control();
    let error = control.create_actor(create("a")).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    let said = "template \"t\" does not exist in namespace \"demo\"; apply it first";
    assert_eq!(error.message(), said);
    rig.apply("").await.unwrap();
    assert_eq!(rig.apply("").await.unwrap().outcome(), apply_reply::Outcome::Unchanged);
    let changed = rig.apply(r#","port":9000"#).await.unwrap();
    assert_eq!(changed.outcome(), apply_reply::Outcome::Configured);
    control.create_actor(create("a")).await.unwrap();
    let error = control.create_actor(create("a")).await.unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (Code::AlreadyExists, "actor \"demo/a\" already exists")
    );
    let error = control.get_actor(key("b")).await.unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (Code::NotFound, "actor \"demo/b\" does not exist")
    );
    let error = control.get_actor(key("B!")).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    let template = ActorKey { namespace: "demo".into(), name: "t".into() };
    let error = control.delete_template(template).await.unwrap_err();
    assert_eq!(error.message(), "template \"t\" still has actors (1); delete them first");
    for (extra, said) in [
        (
            r#","wake":{"timeout":"25s"}"#,
            "wake deadline (20s) must not be less than the template's spec.wake.timeout (25s)",
        ),
        (r#","wke":{}"#, "wke"),
    ] {
        let error = rig.apply(extra).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.message().contains(said), "{}", error.message());
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_check_says_what_would_be_refused_and_changes_nothing() {
    let rig = Rig::start().await;
    let mut control = rig.control();
    for (extra, well) in [("", true), (r#","wake":{"timeout":"25s"}"#, false)] {
        let manifest = TEMPLATE.replace("EXTRA", extra);
        let checked = control.apply(ApplyRequest { manifest, check: true }).await;
        assert_eq!(checked.is_ok(), well, "{checked:?}");
    }
    let templates = control.list_templates(ListRequest::default()).await.unwrap().into_inner();
    assert!(templates.items.is_empty(), "{templates:?}");
    rig.stop().await;
}

#[tokio::test]
async fn tcp_is_for_those_who_show_the_token_also_for_health_and_reflection() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest,
    };
    let rig = Rig::start().await;
    let channel = rig.addrs.tcp.as_ref().unwrap().channel();
    let mut control = ControlClient::new(channel.clone());
    let error = control.list_actors(ListRequest::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated);
    let path = rig.folder.path().join("run/token");
    let token = std::fs::read_to_string(&path).unwrap();
    let mut request = Request::new(ListRequest::default());
    let header: tonic::metadata::AsciiMetadataValue =
        format!("Bearer {}", token.trim()).parse().unwrap();
    request.metadata_mut().insert("authorization", header.clone());
    assert!(control.list_actors(request).await.is_ok());
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let shown = |message: HealthCheckRequest| {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", header.clone());
        request
    };
    let mut health = HealthClient::new(channel.clone());
    let check = HealthCheckRequest { service: "reveille.v1.Control".into() };
    let error = health.check(check.clone()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated);
    assert_eq!(health.check(shown(check)).await.unwrap().into_inner().status, 1);
    let list = MessageRequest::ListServices(String::new());
    let list = ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let mut reflection = ServerReflectionClient::new(channel.clone());
    let asked = reflection.server_reflection_info(tokio_stream::once(list)).await;
    assert_eq!(asked.unwrap_err().code(), Code::Unauthenticated);
    // Routers and nodes are not served there at all, and nobody without the token learns even that.
    let wake = RoutersClient::new(channel.clone()).wake(WakeRequest::default()).await;
    assert_eq!(wake.unwrap_err().code(), Code::Unauthenticated);
    let mut wake = Request::new(WakeRequest::default());
    wake.metadata_mut().insert("authorization", header.clone());
    let wake = RoutersClient::new(channel).wake(wake).await;
    assert_eq!(wake.unwrap_err().code(), Code::Unimplemented);
    rig.stop().await;
}

#[tokio::test]
async fn a_tcp_address_that_others_can_reach_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let tcp = Some("0.0.0.0:0".parse().unwrap());
    let error = Config { tcp, ..config(folder.path()) }.build().await.err().unwrap().to_string();
    assert!(error.contains("0.0.0.0:0 is not a loopback address"), "{error}");
}

#[tokio::test]
async fn metrics_are_there_from_the_start_and_reflection_names_the_services() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let rig = Rig::start().await;
    let Some(Address::Tcp(page)) = &rig.addrs.status else { panic!("{:?}", rig.addrs) };
    let mut page = tokio::net::TcpStream::connect(page).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    page.write_all(request).await.unwrap();
    let mut text = String::new();
    page.read_to_string(&mut text).await.unwrap();
    for line in [
        "reveille_controlplane_wakes_total{kind=\"restored\"} 0",
        "reveille_controlplane_wake_failures_total{reason=\"no_capacity\"} 0",
        "reveille_controlplane_actors{state=\"suspended\"} 0",
        "reveille_controlplane_calls_total{service=\"routers\"} 0",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(rig.addrs.listen.channel());
    let answers = reflection.server_reflection_info(tokio_stream::iter([list])).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}")
    };
    assert!(list.service.iter().any(|service| service.name == "reveille.v1.Control"));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn deleted_actors_are_forgotten_while_it_runs() {
    use crate::{
        record::ActorRecord,
        store::{Collection, Expect, Store, memory::MemoryStore},
    };
    let store = Arc::new(MemoryStore::default());
    let records = Records::new(Arc::clone(&store) as _);
    let tasks = Tasks::default();
    tasks.spawn("tombstones", forget_daily(records.clone()));
    for (name, deleted_unix_ms) in [("old", 1), ("new", unix_ms())] {
        let record = ActorRecord::new(crate::testing::key(name), "t".into(), 0);
        records.remove_actor(&record, Expect::Anything, deleted_unix_ms).await.unwrap();
    }
    let left = || {
        let tombs = store.list(Collection::Tombstones, "").unwrap();
        tombs.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
    };
    tokio::time::sleep(DAY - Duration::from_secs(1)).await;
    assert_eq!(left().len(), 2);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(left(), ["demo/new"]);
    tasks.stop().await;
}

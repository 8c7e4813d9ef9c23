//! The agent of a fake node: its server, and its session with the control plane, begun again whenever it breaks.

use std::time::Duration;

use futures::StreamExt;
use reveille_api::proto::{
    Heartbeat, NodeCommand, NodeReport, Register, Runtime, node_agent_server::NodeAgentServer,
    node_command::Command, node_report::Report, nodes_client::NodesClient,
};
use tokio::{sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, transport::Server};

use crate::{
    control::PORT,
    net,
    node::{Machine, WORKERS},
    world::Dice,
};

pub(crate) async fn agent(machine: Machine, name: &'static str, dice: Dice) -> turmoil::Result {
    machine.adopt(turmoil::lookup(machine.name).to_string());
    let incoming = net::listen(PORT).await?.boxed();
    let node = machine.name;
    let server = Server::builder().add_service(NodeAgentServer::new(machine.clone()));
    let channel = net::channel(&format!("control:{PORT}"));
    let sessions = async {
        loop {
            let register = Register {
                node: node.into(),
                instance: format!("{name}-{}", dice.between(0, u64::MAX - 1)),
                address: format!("{name}:{PORT}"),
                workers: WORKERS,
                stay: machine.stay().0,
                runtimes: vec![Runtime { name: "gvisor".into(), version: "1".into() }],
                ..Default::default()
            };
            let _ = session(NodesClient::new(channel.clone()), register).await;
            sleep(Duration::from_millis(dice.between(100, 1_000))).await;
        }
    };
    tokio::select! {
        ended = server.serve_with_incoming(incoming) => Ok(ended?),
        () = sessions => Ok(()),
    }
}

/// Until it breaks.
async fn session(
    mut nodes: NodesClient<tonic::transport::Channel>,
    register: Register,
) -> Result<(), Status> {
    let report = |report| NodeReport { report: Some(report) };
    let (reports, stream) = mpsc::channel(8);
    let _ = reports.send(report(Report::Register(register))).await;
    let mut commands = nodes.session(ReceiverStream::new(stream)).await?.into_inner();
    let Some(NodeCommand { command: Some(Command::Registered(registered)) }) =
        commands.message().await?
    else {
        return Ok(());
    };
    let heartbeats = async {
        while reports.send(report(Report::Heartbeat(Heartbeat::default()))).await.is_ok() {
            sleep(Duration::from_millis(registered.heartbeat_ms)).await;
        }
    };
    let ended = async { while let Ok(Some(_)) = commands.message().await {} };
    tokio::select! {
        () = heartbeats => {}
        () = ended => {}
    }
    Ok(())
}

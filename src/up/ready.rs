//! When a part can be used, and what is said once all can.

use std::{net::SocketAddr, path::Path};

use reveille_api::{ActorKey, proto::ListRequest};

use super::plan::Plan;
use crate::{client, http, tls};

/// A host that names no actor: the router's answer to it proves that Envoy reaches the router.
const NO_ACTOR: &str = "ready.invalid";

/// The control plane answers.
pub(super) async fn control_plane(plan: &Plan) -> Option<client::Control> {
    let mut control = connect(plan).await?;
    control.list_nodes(ListRequest::default()).await.ok()?;
    Some(control)
}

async fn connect(plan: &Plan) -> Option<client::Control> {
    client::Args {
        server: Some(plan.control()),
        data_dir: plan.data_dir.clone(),
        token_file: None,
        tls: tls::Args::default(),
    }
    .connect()
    .await
    .ok()
}

/// The control plane counts the node as ready.
pub(super) async fn node(plan: &Plan) -> Option<()> {
    let reply = connect(plan).await?.list_nodes(ListRequest::default()).await.ok()?;
    reply.into_inner().items.iter().any(|node| node.ready).then_some(())
}

/// The router says so itself: it has its session with the control plane.
pub(super) async fn router(plan: &Plan) -> Option<()> {
    // The others are not started yet.
    let own = "/readyz?only=own";
    let answer = http::request("GET", local(plan.args.status), "localhost", own).await.ok()?;
    (answer.status == 200).then_some(())
}

/// A request goes through Envoy to the router and back, and Envoy has its certificate.
pub(super) async fn envoy(plan: &Plan) -> Option<()> {
    tokio::net::TcpStream::connect(local(plan.args.https)).await.ok()?;
    let answer = http::request("GET", local(plan.args.http), NO_ACTOR, "/").await.ok()?;
    answer.text.to_ascii_lowercase().contains("x-reveille-reason: invalid_host").then_some(())
}

/// The DNS server accepts.
pub(super) async fn dns(plan: &Plan) -> Option<()> {
    tokio::net::TcpStream::connect(local(plan.args.dns)).await.ok().map(drop)
}

/// Where this machine reaches an address that may be "all of them".
pub(super) fn local(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        let v4 = address.is_ipv4();
        address.set_ip(if v4 {
            std::net::Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    address
}

/// What stands on stdout once a request can be served.
pub(super) fn announcement(plan: &Plan, actors: &[ActorKey]) -> String {
    let args = &plan.args;
    let domain = &args.domain;
    let port = match args.http.port() {
        80 => String::new(),
        port => format!(":{port}"),
    };
    let mut text =
        format!("reveille is ready\n  actors   http://<actor>.<namespace>.{domain}{port}/\n");
    for actor in actors {
        text += &format!("           http://{}{port}/\n", domain.host(actor));
    }
    let kind = match args.https_cert {
        None => format!("   (self-signed: curl --cacert {})", plan.https.certificate.display()),
        Some(_) => String::new(),
    };
    text +=
        &format!("           https://<actor>.<namespace>.{domain}:{}/{kind}\n", args.https.port());
    text += &format!("  status   http://{}/statusz\n", local(args.status));
    text += &format!("  dns      {} (udp, tcp), zone {domain}\n", local(args.dns));
    text += &format!("  control  {}{}\n", plan.control(), hint(&plan.data_dir));
    text + "Ctrl-C puts every actor to sleep and ends.\n"
}

/// How the client verbs find a data directory that is not the default one.
fn hint(data_dir: &Path) -> String {
    match data_dir == Path::new(client::DEFAULT_DATA_DIR) {
        true => String::new(),
        false => format!("   (export REVEILLE_DATA_DIR={})", data_dir.display()),
    }
}

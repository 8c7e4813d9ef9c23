//! Wakes/s of a real router and a real control plane, each a process, with a node that does nothing.
//!
//! ```text
//!  this process: ext_proc streams ──▶ router ──▶ control plane (its store on disk) ──▶ a node agent in this process
//! ```
//!
//! Each request is to another actor, and all of them sleep: each makes a wake.

use std::{
    future::ready,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use envoy_types::pb::envoy::{
    config::core::v3::{HeaderMap, HeaderValue},
    service::ext_proc::v3::{
        HttpHeaders, ProcessingRequest, external_processor_client::ExternalProcessorClient,
        processing_request, processing_response::Response,
    },
};
use futures::{StreamExt, TryStreamExt, stream};
use reveille_api::{
    net::Address,
    proto::{ActorKey, ApplyRequest, CreateActorRequest, control_client::ControlClient},
};
use tempfile::TempDir;
use tokio::{net::UnixStream, sync::oneshot, time::Instant};
use tonic::transport::Channel;

use crate::{
    cpu,
    figure::{Line, Reach},
    harness::{cluster::free_address, eventually},
    node::Node,
};

const NAME: &str = "wakes";
const ROUNDS: usize = 5;
/// Woken in each round, on as many workers.
const ACTORS: usize = 1_000;
/// Requests that wait at a time.
const AT_A_TIME: usize = 256;
const PER_SECOND: f64 = 2_000.0;
const START: Duration = Duration::from_secs(20);
const TEMPLATE: &str = r#"{"apiVersion":"reveille.dev/v1alpha1","kind":"ActorTemplate",
    "metadata":{"name":"t","namespace":"demo"},
    "spec":{"runtime":"gvisor","rootfs":{"directory":"/"},"command":["/a"]}}"#;

/// Ends with the benchmark.
struct Role(Child);

impl Role {
    fn start(args: &[&str]) -> Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reveille"));
        command.args(args).args(["--log", "warn"]).stdin(Stdio::null());
        Ok(Self(command.spawn().context("reveille")?))
    }

    fn used(&self) -> f64 {
        cpu::of(self.0.id().cast_signed())
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Stage {
    control_plane: Role,
    router: Role,
    control: Channel,
    ext_proc: Channel,
    _node: Node,
    _dir: TempDir,
}

impl Stage {
    async fn set(workers: u32) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let path = |name: &str| dir.path().join(name);
        let address = |name: &str| Address::Unix(path(name));
        let (control, router) = (address("control.sock"), address("router.sock"));
        let data = dir.path().display().to_string();
        let control_plane =
            Role::start(&["controlplane", "--data-dir", &data, "--listen", &control.to_string()])?;
        listens(&path("control.sock")).await;
        let node = Node::start(dir.path(), &control, workers).await?;
        let (http, status) = (free_address().to_string(), free_address().to_string());
        let router_role = Role::start(&[
            "router",
            "--listen",
            &router.to_string(),
            "--control-plane",
            &control.to_string(),
            "--domain",
            "actors.localhost",
            "--http",
            &http,
            "--status",
            &status,
        ])?;
        listens(&path("router.sock")).await;
        Ok(Self {
            control_plane,
            router: router_role,
            control: control.channel(),
            ext_proc: router.channel(),
            _node: node,
            _dir: dir,
        })
    }

    async fn create_all(&self) -> Result<f64> {
        let mut control = ControlClient::new(self.control.clone());
        control.apply(ApplyRequest { manifest: TEMPLATE.into(), check: false }).await?;
        each(|number| {
            let mut control = control.clone();
            let request = CreateActorRequest { actor: Some(actor(number)), template: "t".into() };
            async move { control.create_actor(request).await.map(drop).map_err(Into::into) }
        })
        .await
    }

    async fn wake_all(&self) -> Result<f64> {
        each(|number| {
            let host = format!("a{number}.demo.actors.localhost");
            request(ExternalProcessorClient::new(self.ext_proc.clone()), host)
        })
        .await
    }

    async fn suspend_all(&self) -> Result<f64> {
        each(|number| {
            let mut control = ControlClient::new(self.control.clone());
            async move { control.suspend_actor(actor(number)).await.map(drop).map_err(Into::into) }
        })
        .await
    }
}

/// Does it for every actor, some at a time; how many were done in a second.
async fn each<F: Future<Output = Result<()>>>(what: impl Fn(usize) -> F) -> Result<f64> {
    let begun = Instant::now();
    let done = stream::iter((0..ACTORS).map(what)).buffer_unordered(AT_A_TIME);
    done.try_for_each(|()| async { Ok(()) }).await?;
    Ok(ACTORS as f64 / begun.elapsed().as_secs_f64())
}

fn actor(number: usize) -> ActorKey {
    ActorKey { namespace: "demo".into(), name: format!("a{number}") }
}

async fn listens(socket: &Path) {
    eventually("it listens", START, || UnixStream::connect(socket)).await;
}

/// One request, as Envoy asks, until it may go on.
async fn request(mut router: ExternalProcessorClient<Channel>, host: String) -> Result<()> {
    let authority = HeaderValue {
        key: ":authority".into(),
        raw_value: host.into_bytes(),
        ..Default::default()
    };
    let headers = HttpHeaders {
        headers: Some(HeaderMap { headers: vec![authority] }),
        end_of_stream: true,
        ..Default::default()
    };
    let asked = ProcessingRequest {
        request: Some(processing_request::Request::RequestHeaders(headers)),
        ..Default::default()
    };
    // Open until it is answered, as Envoy's are.
    let (end, ended) = oneshot::channel::<()>();
    let asked = stream::iter([asked]).chain(stream::once(ended).filter_map(|_| ready(None)));
    let mut answers = router.process(asked).await?.into_inner();
    let answer = answers.message().await?.and_then(|answer| answer.response);
    ensure!(matches!(answer, Some(Response::RequestHeaders(_))), "refused: {answer:?}");
    drop(end);
    ensure!(answers.message().await?.is_none(), "more than one answer");
    Ok(())
}

pub(crate) async fn run() -> Result<Vec<Line>> {
    let stage = Stage::set(ACTORS as u32).await?;
    let created = stage.create_all().await?;
    let (mut woken, mut suspended) = (Vec::new(), Vec::new());
    let (mut control_plane, mut router) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let before = (stage.control_plane.used(), stage.router.used());
        woken.push(stage.wake_all().await?);
        control_plane.push((stage.control_plane.used() - before.0) / ACTORS as f64);
        router.push((stage.router.used() - before.1) / ACTORS as f64);
        suspended.push(stage.suspend_all().await?);
        eprintln!(
            "{NAME} {round}/{ROUNDS}: {:.0} wakes/s, {:.0} suspends/s",
            woken[round - 1],
            suspended[round - 1]
        );
    }
    Ok(vec![
        Line::alone(NAME, "through router and control plane, fake runtime", "1/s", woken)
            .reach("wakes_per_second", Reach::AtLeast(PER_SECOND)),
        Line::alone(NAME, "CPU of a wake in the control plane", "µs", control_plane),
        Line::alone(NAME, "CPU of a wake in the router", "µs", router),
        Line::alone(NAME, "suspends, the same way", "1/s", suspended),
        Line::alone(NAME, "actors created", "1/s", vec![created]),
    ])
}

//! Starts the parts one after another, each when the one before it can be used.

use std::time::Duration;

use reveille_api::{ActorKey, manifest::Spec};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};

use super::{
    keeper::{Parts, State},
    plan::{Part, Plan},
    ready,
};
use crate::{
    cli::apply,
    error::{Error, Result},
    output,
};

/// How long one part may take until it can be used.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

/// Starts everything, and applies the `--apply` files. Gives the actors they name.
pub(super) async fn start(plan: &Plan, parts: &mut Parts) -> Result<Vec<ActorKey>> {
    let state = parts.start(plan, Part::ControlPlane);
    let mut control = usable(Part::ControlPlane, state, || ready::control_plane(plan)).await?;
    for manifest in &plan.manifests {
        let line = apply::apply(&mut control, manifest).await?;
        let _ = output::print(&format!("{line}\n"));
    }
    let state = parts.start(plan, Part::Node);
    usable(Part::Node, state, || ready::node(plan)).await?;
    let state = parts.start(plan, Part::Router);
    usable(Part::Router, state, || ready::router(plan)).await?;
    let state = parts.start(plan, Part::Envoy);
    usable(Part::Envoy, state, || ready::envoy(plan)).await?;
    let state = parts.start(plan, Part::Dns);
    usable(Part::Dns, state, || ready::dns(plan)).await?;

    let actors = plan.manifests.iter().filter(|m| matches!(m.spec, Spec::Actor(_)));
    let keys = actors.filter_map(|m| ActorKey::new(m.namespace()?, &m.metadata.name).ok());
    Ok(keys.collect())
}

/// Asks until the part can be used. One that dies before that will not get better by being started again.
async fn usable<T, F: Future<Output = Option<T>>>(
    part: Part,
    mut state: watch::Receiver<State>,
    probe: impl Fn() -> F,
) -> Result<T> {
    let end = Instant::now() + PATIENCE;
    let asking = async {
        loop {
            match timeout_at(end, probe()).await {
                Ok(Some(answer)) => return Ok(answer),
                Err(_) => return Err(late(part)),
                Ok(None) if Instant::now() >= end => return Err(late(part)),
                Ok(None) => sleep(PAUSE).await,
            }
        }
    };
    tokio::select! {
        outcome = asking => outcome,
        why = died(&mut state) => {
            Err(Error::failed(format!("{} did not start: {why}", part.name())))
        }
    }
}

fn late(part: Part) -> Error {
    let seconds = PATIENCE.as_secs();
    Error::failed(format!(
        "{} is not ready after {seconds} s: its lines above say why (or try --log debug)",
        part.name()
    ))
}

async fn died(state: &mut watch::Receiver<State>) -> String {
    match state.wait_for(|state| matches!(state, State::Ended(_))).await.as_deref() {
        Ok(State::Ended(why)) => why.clone(),
        _ => "it was stopped".into(),
    }
}

//! The router against a control plane that does what the test says ([`fake`]), asked as Envoy asks ([`envoy`]).

mod again;
mod cold;
mod end;
mod envoy;
mod fake;
mod real;
mod rig;
mod session;
mod status;
mod storm;
mod time;
mod traces;
mod warm;

use std::time::Duration;

use reveille_api::{ActorKey, proto};

const HOST: &str = "counter.demo.actors.test";

fn counter() -> ActorKey {
    ActorKey::new("demo", "counter").unwrap()
}

/// Waits until something is so.
async fn eventually<S: std::fmt::Debug + PartialEq>(expected: S, mut now: impl FnMut() -> S) {
    let wait = async {
        while now() != expected {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(10), wait).await.is_err() {
        panic!("it is {:?}, not {expected:?}", now());
    }
}

/// What comes, if it comes soon.
async fn soon<T>(what: &str, coming: impl Future<Output = Option<T>>) -> T {
    let came = tokio::time::timeout(Duration::from_secs(10), coming).await;
    came.unwrap_or_else(|_| panic!("no {what}")).unwrap_or_else(|| panic!("the end, no {what}"))
}

/// A binding of the actor in this epoch and term.
fn binding(actor: &ActorKey, epoch: u64, term: u64) -> proto::Binding {
    proto::Binding {
        actor: Some(actor.into()),
        epoch,
        term,
        endpoint: format!("10.0.0.{epoch}:20000"),
        protocol: proto::Protocol::Http1.into(),
        woken_by: proto::WakeKind::Restored.into(),
    }
}

fn reply(binding: proto::Binding) -> proto::WakeReply {
    let phases = proto::WakePhases {
        place_us: 100,
        fetch_us: 0,
        restore_us: 1_000,
        ready_us: 100,
        total_us: 1_200,
    };
    proto::WakeReply { binding: Some(binding), policy: None, phases: Some(phases) }
}

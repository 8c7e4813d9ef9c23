//! Which answers that are not the actor's are allowed, and when: one table.
//!
//! An answer is explained by a disturbance that overlaps the request and may have this effect. Whatever is not in
//! the table is a fault of the product; nothing is retried here to make it go away.

use crate::{
    history::{Cause, Disturbance, Op, Outcome},
    plan::Part,
};

/// What a client may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    /// A connection to the front that was refused, or ended before its answer.
    Broken,
    /// An answer with this reason.
    Reason(&'static str),
}

/// What clients may see of each disturbance.
fn allowed(cause: Cause) -> &'static [Sight] {
    use Sight::{Broken, Reason};
    match cause {
        // Streams that had begun are cut.
        Cause::Killed(Part::Sandbox) => &[
            Broken,
            Reason("upstream_connect_failed"),
            Reason("upstream_reset"),
            Reason("restore_failed"),
        ],
        Cause::Killed(Part::Node) => &[],
        Cause::Killed(Part::ControlPlane) => &[Reason("control_plane_unavailable")],
        Cause::Killed(Part::Router) => {
            &[Broken, Reason("control_plane_unavailable"), Reason("upstream_reset")]
        }
        Cause::Killed(Part::Envoy | Part::EnvoySupervisor) => &[Broken],
        Cause::Killed(Part::Up | Part::Everything) => &[
            Broken,
            Reason("control_plane_unavailable"),
            Reason("upstream_connect_failed"),
            Reason("upstream_reset"),
        ],
        Cause::Stopped(_) => &[Reason("actor_stopped")],
    }
}

/// What explains that it was not acknowledged, if anything does.
pub(crate) fn explanation<'a>(
    op: &Op,
    disturbances: impl IntoIterator<Item = &'a Disturbance>,
) -> Option<Cause> {
    let seen = |sight: &Sight| match (sight, &op.outcome) {
        (Sight::Broken, Outcome::Broken(_)) => true,
        (Sight::Reason(allowed), Outcome::Refused { reason, .. }) => allowed == reason,
        _ => false,
    };
    let concerns = |disturbance: &Disturbance| match disturbance.cause {
        Cause::Killed(Part::Sandbox) => disturbance.hit.contains(&op.actor),
        Cause::Stopped(actor) => actor == op.actor,
        Cause::Killed(_) => true,
    };
    let mut near = disturbances
        .into_iter()
        .filter(|d| d.begun <= op.completed && op.invoked <= d.over)
        .filter(|d| concerns(d));
    near.find(|d| allowed(d.cause).iter().any(seen)).map(|d| d.cause)
}

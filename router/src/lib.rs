//! The router: holds a request while its actor wakes, and tells Envoy where to send it.
//!
//! ```text
//!               ExtProc: one stream per request           Session: one stream
//!   Envoy ────────────────────────────────▶ ext_proc      ◀─────────────────────▶ control plane
//!     │  ◀── endpoint, or a refusal ───────    │          session ── revoke ──┐       ▲
//!     │                                     router        (activity, acks)    │       │ Wake
//!     │  ◀── ADS (reveille-envoy) ─            │                              ▼       │
//!     │                                        └──▶ table of actors ◀── drains ── wake tasks
//!     │                                             (actor, binding, activation, parking)
//!     └── the request itself ──▶ actor
//! ```
//!
//! | part | is |
//! | --- | --- |
//! | `ext_proc` | the server Envoy asks; the life of its streams is the in-flight count |
//! | `router` | the way of one request; what all parts share |
//! | `table`, `actor` | bindings and waiting requests; a pure state machine for each actor |
//! | `activation`, `binding` | requests in flight of one epoch; where they go |
//! | `again` | requests that could not be connected where they were sent |
//! | `parking`, `policy` | limits of how many may wait: of this router, and of the actor's template |
//! | `wake` | one owned task per waking actor |
//! | `revoke`, `acks` | taking a binding back and acknowledging it |
//! | `session` | the stream with the control plane, begun again for ever |
//! | `vigil` | whether the control plane says anything, while there are wakes |
//! | `answer`, `refusal` | what Envoy is told |
//! | `websocket` | what a handshake lacks over HTTP/2 |
//! | `status`, `metrics`, `progress`, `recent` | what an operator sees |
//!
//! Invariants kept here: a request to a bound actor makes no call and takes no parking place; any number of requests to a
//! sleeping actor make one wake; who leaves frees a place at once and cancels nothing; a binding revoked is given out no
//! more, whichever order reply and revoke arrive in; of the requests that waited no more are at an actor at a time than its
//! template says, in the order they came; bindings outlive the session.
//!
//! Not here: who may wake what and where it runs (control plane), Envoy's configuration (`reveille-envoy`), the data
//! itself, which never passes through this process.

mod acks;
mod activation;
mod actor;
mod again;
mod answer;
mod app;
mod binding;
mod bounded;
mod ext_proc;
mod metrics;
mod parking;
mod policy;
mod progress;
mod recent;
mod refusal;
mod revoke;
mod router;
mod session;
mod status;
mod table;
#[cfg(test)]
mod tests;
mod vigil;
mod wake;
mod websocket;

#[cfg(feature = "model")]
#[doc(hidden)]
pub use actor::model;
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub use app::simulate;
pub use app::{Addrs, App, BuildError, Config, Error, Https, series};

//! The ADS server: it tells every Envoy that connects what [`Resources`](crate::resources::Resources) say, and pushes what changes.
//!
//! ```text
//!                           ┌────────────── one gRPC stream ──────────────┐
//!  watch<Arc<Resources>> ─▶ │ server.rs (driver) ◀──▶ delta.rs | sotw.rs  │ ─▶ Fleet
//!            │              └───────▲──────────────────────▲──────────────┘
//!            └──▶ Catalog (bytes and versions) ────────────┘ sans-IO cores
//! ```
//!
//! Rules, for both protocols:
//!
//! - **Versions never repeat**, not across restarts either: a version is the milliseconds of the Unix clock at
//!   which a content became current, strictly growing, and a prefix of the content's hash.
//! - **No push without a change.** An Envoy that reconnects names the versions it has; those with the hash of
//!   the current content are not sent again, also by a server that has restarted since.
//! - **One response in flight** for each kind of resource: what changes until it is acknowledged is sent after.
//!   A rejected content is not sent again; the next change is.
//! - **Make before break.** Listeners wait until new clusters are acknowledged; with delta, clusters are
//!   removed after the listeners that used them.
//! - A kind that is not served is never answered. What a stream may name is bounded.

mod catalog;
mod delta;
mod fleet;
mod metrics;
mod server;
mod session;
mod sotw;

pub use catalog::Kind;
pub use fleet::{Acked, Envoy, Fleet, Nack, View};
pub use server::AdsServer;

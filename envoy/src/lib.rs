//! Everything Reveille says to Envoy, and the process that Envoy is.
//!
//! ```text
//!                    ┌───────────── router process ─────────────┐
//!   resources::build(Config) ──▶ watch<Arc<Resources>> ──▶ ads::AdsServer ◀── ADS stream ──┐
//!                    └──────────────────┬───────────────────────┘                          │
//!                                       └──▶ ads::Fleet (who is connected, what was NACKed)│
//!                                                                                          │
//!   supervisor::App ── bootstrap.pb ──▶ Envoy (a child process) ────────────────────────────┘
//! ```
//!
//! - [`resources`]: typed builders of the listener and the clusters, and the names that the router and
//!   Envoy must agree on ([`resources::names`]).
//! - [`reply`]: the body of an answer that is not the actor's, the same from Envoy and from the router.
//! - [`certificate`]: that of the HTTPS listener, read again when its files change.
//! - [`bootstrap`]: the little that Envoy must know before it reaches the ADS server.
//! - [`ads`]: the ADS server. A sans-IO core that knows both protocols, and a thin driver.
//! - [`answers`]: what Envoy tells of answers that are not the actor's own.
//! - [`tls`]: how Envoy and a router that is reached by TCP know each other.
//! - [`supervisor`]: starts Envoy, restarts it when it dies, drains and ends it; never leaves one behind.
//!
//! Not here: what a request is answered with (`reveille-router` speaks ext_proc). The contract between the
//! two is in [`resources::names`].

pub mod ads;
pub mod answers;
pub mod bootstrap;
pub mod certificate;
mod proto;
pub mod reply;
pub mod resources;
pub mod supervisor;
pub mod tls;

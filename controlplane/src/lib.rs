//! The control plane: actor records and their life, wake and suspend, placement, idle policy, the store.
//!
//! ```text
//!  routers ──Session, Wake──▶ service ──▶ fleet ──▶ one driver for each active actor
//!  programs ───Control──────▶                         │   lifecycle: state × event → state × effects (pure)
//!  node agents ──Session────▶                         ▼
//!                              store · placement · nodes (calls, reconcile) · routers (bindings, activity) · events
//! ```
//!
//! | module | owns |
//! | --- | --- |
//! | [`lifecycle`] | every transition of an actor; no clock, no I/O |
//! | [`driver`] | one actor: stores what is intended, carries out effects, answers those who wait |
//! | [`fleet`] | finds or starts the driver of an actor |
//! | [`placement`] | workers and pools, the queue of wakes, making room under pressure |
//! | [`nodes`] | which nodes are there, calls that outlast them, setting the records right when one registers |
//! | [`routers`] | who holds which binding, and its use |
//! | [`idle`] | when an unused actor goes to sleep |
//! | [`budget`] | how many wakes a namespace may begin |
//! | [`census`] | how many actors are in which state |
//! | [`catalog`] | templates, pools, creation of actors |
//! | [`store`], [`record`] | durable records with compare-and-set |
//! | [`events`] | what happened, for people |
//! | `explain` | why an actor is as it is, and what a request would meet |
//! | [`pace`] | how long wakes took lately |
//! | [`service`] | the gRPC surface |
//! | [`metrics`], `page` | what an operator sees |
//! | [`app`], [`config`] | putting it together |
//!
//! Invariants kept here: at most one activation of an actor serves (epochs, stored before they are used; at most one
//! driver); a wake is joined by everybody who wants it and cancelled by nobody; no state waits without a deadline;
//! what is committed on a node is never forgotten; idle decisions die with the activity they were based on.
//!
//! Not here: parking and HTTP (router), processes and files of snapshots (node), names (dns).

pub mod app;
pub mod budget;
pub mod catalog;
pub mod census;
pub mod clock;
pub mod config;
pub mod driver;
pub mod events;
mod explain;
pub mod fleet;
pub mod idle;
pub mod lifecycle;
pub mod metrics;
pub mod nodes;
pub mod pace;
mod page;
pub mod placement;
pub mod record;
pub mod routers;
pub mod service;
pub mod store;
pub mod tasks;

#[cfg(test)]
mod testing;

#[cfg(feature = "simulation")]
#[doc(hidden)]
pub use app::simulate;
pub use app::{Addrs, App, BuildError, Error};
pub use config::{Config, Timings};
pub use metrics::series;

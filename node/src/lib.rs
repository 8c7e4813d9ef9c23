//! The node agent: what really runs on one machine.
//!
//! ```text
//!   control plane ──gRPC──▶ server ──▶ actors ──▶ actor (one driver per actor: activate, suspend, …)
//!         ▲                                          │
//!         └── session (registers, beats)             ├─▶ slots      networks: namespaces, veths, endpoints
//!                                                    ├─▶ runtime    sandboxes: runsc, criu
//!                                                    ├─▶ snapshots  images on disk, whole or not there
//!                                                    ├─▶ images     what actors run from, in layers; pulled once
//!                                                    ├─▶ store      the same for all nodes, in chunks: uploads, fetches
//!                                                    ├─▶ record     what the next agent must know
//!                                                    └─▶ readiness  when it answers
//! ```
//!
//! What holds, whatever happens:
//!
//! * Operations of one actor run one after another, and one with an epoch lower than the highest seen is refused.
//! * An endpoint is handed out only after the actor has answered through it, and is closed before anything that keeps
//!   the actor from answering begins. No other activation gets it within ten minutes.
//! * A snapshot exists whole or not at all; until it exists, the process can go on; once it exists, the process never does.
//! * What runs does not need the agent. An agent that starts adopts what serves and removes what does not.
//! * A failed operation leaves nothing behind: no process, interface, namespace, rule, mount or directory.
//!
//! Not here: which actor runs where and when (the control plane), and requests (Envoy and the router).

pub mod checks;
pub mod config;

mod actor;
mod actors;
mod adopt;
mod app;
mod core;
mod fetches;
mod files;
mod golden;
mod images;
mod limits;
mod logs;
mod metrics;
mod process;
mod readiness;
mod record;
mod runtime;
mod server;
mod session;
mod slots;
mod snapshots;
mod stay;
mod store;
mod turns;
mod uploads;

pub use app::{App, Error};
pub use checks::{check_egress, check_network, check_runsc, checks};
pub use config::{BuildError, Config};
pub use metrics::series;
pub use runtime::Error as RuntimeError;
pub use slots::{Cidr, Error as SlotsError, InvalidCidr};

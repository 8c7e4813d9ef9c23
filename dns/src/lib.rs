//! Authoritative DNS for the actor zone: every actor's name is the address of the Envoy front.
//!
//! ```text
//!  datagram ─▶ [`udp`] ─▶ [`limit`] ─┐
//!  TCP, TLS ─▶ [`stream`] ───────────┴─▶ [`message`] ─▶ [`answer`] (pure) ─▶ reply
//!                                                         ▲
//!                    [`fronts`] ── replaces as a whole ── [`Records`]: the zone's data
//! ```
//!
//! | name asked for              | answer                                                            |
//! | --------------------------- | ----------------------------------------------------------------- |
//! | `<actor>.<ns>.<domain>`     | A and AAAA: the fronts; another type: nothing, SOA in authority   |
//! | `<ns>.<domain>`             | exists, has nothing: SOA in authority                             |
//! | `<domain>`                  | SOA, NS; otherwise nothing, SOA in authority                      |
//! | `ns.<domain>`               | A and AAAA: this server, as far as that is told; NS names it      |
//! | another name of the zone    | NXDOMAIN, SOA in authority                                        |
//! | outside the zone            | REFUSED                                                           |
//!
//! A name is answered whether or not there is such an actor: the router says 404, and a new actor is reachable at
//! once. With [`ControlPlane`] those that do not exist are NXDOMAIN, or questions begin wakes ([`names`]). Transfers are refused, `ANY` gets one RRset (RFC 8482), letter case comes back as it was asked (0x20).
//!
//! Messages are read and written by `hickory-server`. The sockets are our own ([`socket`]): its own start a task for each
//! datagram without a bound, set connections none, and reply to what they cannot read, replies among it, before anybody
//! can limit that.
//!
//! [`cluster`] makes a Kubernetes cluster's own DNS ask us. Not here: forwarding, DNSSEC.

mod answer;
mod app;
pub mod certificate;
pub mod cluster;
mod fronts;
mod kubernetes;
mod limit;
mod message;
mod metrics;
mod names;
mod query_log;
mod shared;
mod socket;
mod status;
mod stream;
mod udp;

pub use app::{Addrs, App, BuildError, Config, Error, Tls, series};
pub use fronts::{Fronts, Source};
pub use kubernetes::{InvalidServiceName, ServiceName};
pub use names::ControlPlane;
pub use query_log::STDOUT;

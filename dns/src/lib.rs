//! Authoritative DNS for the actor zone: every actor's name is the address of the Envoy front.
//!
//! ```text
//!  query ──▶ [`handler`] ──▶ [`answer`] (pure) ──▶ reply
//!                               ▲
//!                          [`Records`]: the zone's data, replaced as a whole by [`Fronts::set`]
//! ```
//!
//! | name asked for              | answer                                                            |
//! | --------------------------- | ----------------------------------------------------------------- |
//! | `<actor>.<ns>.<domain>`     | A and AAAA: the fronts; another type: nothing, SOA in authority   |
//! | `<ns>.<domain>`             | exists, has nothing: SOA in authority                             |
//! | `<domain>`                  | SOA, NS; otherwise nothing, SOA in authority                      |
//! | `ns.<domain>`               | A and AAAA: this server, as the NS record names it                |
//! | another name of the zone    | NXDOMAIN, SOA in authority                                        |
//! | outside the zone            | REFUSED                                                           |
//!
//! A name is answered whether or not there is such an actor: the router says 404, and a new actor is reachable at
//! once. Transfers are refused, `ANY` gets one RRset (RFC 8482), letter case comes back as it was asked (0x20).
//!
//! Not here: forwarding, DNSSEC, where the fronts' addresses come from ([`Fronts`] takes them).

pub mod answer;
mod app;
mod handler;

pub use answer::Records;
pub use app::{App, BuildError, Config, Error, Fronts};

//! The configuration, the ADS server and the supervisor, each seen from outside with a real Envoy.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod actor;
mod again;
mod answers;
mod harness;
mod requests;
mod routers;
mod supervised;
mod xds;

//! End to end: the real binary with real Envoy and real gVisor sandboxes.
//!
//! Every test starts a `reveille up` of its own; names are the sentences they prove.

// A test may fail by a panic; clippy sees that only inside `#[test]` functions.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../harness/harness.rs"]
mod harness;
#[path = "../observability/files.rs"]
mod observability_files;
#[path = "../../node/tests/node/oci.rs"]
mod oci;

mod bodies;
mod crashes;
mod explain;
mod failures;
mod fleet;
mod golden;
mod grpc;
mod https;
mod image;
mod names;
mod observability;
mod parking;
mod protocols;
mod reasons;
mod sleep;
mod stale;
mod status;
mod stop;
mod store;
mod story;
mod suspend;
mod timing;
mod tls;
mod top;
mod traces;
mod traffic;

/// The host of actor `counter` in namespace `demo`, which most tests use.
const COUNTER: &str = "counter.demo.actors.localhost";

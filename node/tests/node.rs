//! The node agent on real namespaces, nftables and runsc, driven over its own gRPC interface.

// Helpers of tests are tests too, which the lint does not know.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "node/oci.rs"]
mod oci;
#[path = "node/support.rs"]
mod support;
#[path = "node/token.rs"]
mod token;

#[path = "node/burst.rs"]
mod burst;
#[path = "node/control_plane.rs"]
mod control_plane;
#[path = "node/disk.rs"]
mod disk;
#[path = "node/egress.rs"]
mod egress;
#[path = "node/failure.rs"]
mod failure;
#[path = "node/freeze.rs"]
mod freeze;
#[path = "node/golden.rs"]
mod golden;
#[path = "node/identity.rs"]
mod identity;
#[path = "node/image.rs"]
mod image;
#[path = "node/isolation.rs"]
mod isolation;
#[path = "node/lifecycle.rs"]
mod lifecycle;
#[path = "node/limits.rs"]
mod limits;
#[path = "node/programs.rs"]
mod programs;
#[path = "node/registry.rs"]
mod registry;
#[path = "node/restart.rs"]
mod restart;
#[path = "node/store.rs"]
mod store;
#[path = "node/swap.rs"]
mod swap;

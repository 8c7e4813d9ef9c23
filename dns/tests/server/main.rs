//! The server, asked over real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod answers;
mod fronts;
mod limits;
mod names;
mod rig;
mod sockets;
mod tls;

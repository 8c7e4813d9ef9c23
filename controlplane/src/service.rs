//! The gRPC services: they read requests, ask the [`Fleet`](crate::fleet::Fleet), and write answers. No decision is made
//! here.

pub mod control;
pub mod nodes;
pub mod routers;
mod verbs;
mod view;

//! The gRPC services: they read requests, ask the [`Fleet`](crate::fleet::Fleet), and write answers. No decision is made
//! here.

pub mod control;
mod explain;
pub mod names;
pub mod nodes;
pub mod overview;
pub mod routers;
mod verbs;
mod view;

#[cfg(test)]
pub(crate) use explain::explain as explained;

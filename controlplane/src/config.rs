//! What the control plane is told at its start.

use std::{path::PathBuf, time::Duration};

use reveille_api::{
    Ladder,
    net::{Address, Transport},
};

/// Everything the control plane is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder of the store; made if it is missing.
    pub data_dir: PathBuf,
    /// Our certificate, if parts and programs are to reach us by TCP.
    pub transport: Transport,
    /// Serves everything: programs, routers, node agents.
    pub listen: Address,
    /// With a certificate, serves everything by TLS. Without, it is a loopback address and serves programs that have
    /// the token.
    pub tcp: Option<Address>,
    /// The token of the TCP address; made, with mode 0600, if it is missing.
    pub token_file: PathBuf,
    /// Serves metrics and probes.
    pub status: Option<Address>,
    /// Limits that templates must keep to.
    pub ladder: Ladder,
    /// Wakes that a namespace may begin in a minute; 0 is no limit.
    pub wake_budget: u32,
    /// Clocks of the protocol.
    pub timings: Timings,
}

/// Clocks of the protocol. The defaults are right; tests use shorter ones.
#[derive(Clone, Copy, Debug)]
pub struct Timings {
    /// How often a node says that it is there. Three missed, and it is not ready.
    pub heartbeat: Duration,
    /// A node that is silent for longer has lost its activations.
    pub node_grace: Duration,
    /// How often routers report activity.
    pub report: Duration,
    /// After a start, how long known routers may take to come back before anything is suspended.
    pub settle: Duration,
    /// A router away for longer is gone, with all it had in flight.
    pub router_grace: Duration,
    /// How much longer than the drain deadline a router may take to acknowledge.
    pub ack: Duration,
    /// How long the node may take for a checkpoint.
    pub checkpoint: Duration,
    /// How long deletion waits for nodes; those that are away hear of it when they come back.
    pub purge: Duration,
    /// An actor used less than this ago is not suspended for another one's sake.
    pub preempt_idle: Duration,
    /// After a failed checkpoint, how long until the next try; doubles up to 32 times.
    pub retry: Duration,
    /// At shutdown, how long calls under way may take.
    pub shutdown: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self {
            heartbeat: secs(2),
            node_grace: secs(30),
            report: Duration::from_millis(200),
            settle: secs(10),
            router_grace: secs(60),
            ack: secs(2),
            checkpoint: secs(60),
            purge: secs(10),
            preempt_idle: Duration::from_millis(500),
            retry: secs(5),
            shutdown: secs(5),
        }
    }
}

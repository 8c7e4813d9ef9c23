//! What is pushed to Envoys, and what they say of it.

use reveille_api::metrics::{Closed, Counter, Gauge, Label, Registry};

use super::{catalog::Kind, session::Heard};

impl Label for Kind {
    const KEY: &'static str = "resource";

    fn all() -> Vec<Self> {
        Self::ALL.to_vec()
    }

    fn value(self) -> &'static str {
        self.name()
    }
}

/// Handles to every series.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    pub(super) envoys: Gauge,
    pushes: Closed<Kind, Counter>,
    acks: Closed<Kind, Counter>,
    nacks: Closed<Kind, Counter>,
}

impl Metrics {
    pub(super) fn register(&self, r: &mut Registry) {
        r.register("xds_envoys", "Envoys connected for their configuration", self.envoys.clone());
        r.register("xds_pushes", "Configurations sent to Envoys", self.pushes.clone());
        r.register("xds_acks", "Configurations that an Envoy has accepted", self.acks.clone());
        let help = "Configurations that an Envoy has refused: it goes on with what it had";
        r.register("xds_nacks", help, self.nacks.clone());
    }

    pub(super) fn pushed(&self, type_url: &str) {
        if let Some(kind) = Kind::from_type_url(type_url) {
            self.pushes.get(kind).inc();
        }
    }

    pub(super) fn heard(&self, heard: &Heard) {
        match heard {
            Heard::Acked { kind, .. } => self.acks.get(*kind).inc(),
            Heard::Nacked { kind, .. } => self.nacks.get(*kind).inc(),
        };
    }
}

//! `reveille metrics-reference`: every series there is, as a page. `deploy/observability/METRICS.md` is what it prints.

use reveille_api::metrics::{Described, reference};

use crate::{error::Result, output};

const HEAD: &str = "\
# Metrics

Made by `reveille metrics-reference`; a test compares. Every series is there from the start, as zero, and every label has the values listed
here and no others: none carries the name of an actor or of a client. Of a histogram there are `_bucket`, `_sum` and `_count`.

Each part serves `/metrics` (Prometheus text, OpenMetrics for who accepts it), `/healthz` and `/readyz` at its `--status`. With `reveille up`
one page, that of the router at port 8081, has the series of all parts, and `reveille_part_up{part}`: 1 while a part answers. It is ready when all
are; with `?only=own` it speaks for the router alone.
";

/// Print every series that the parts serve, as Markdown
#[derive(clap::Args, Debug)]
pub(crate) struct Args {}

impl Args {
    pub(crate) fn run(self) -> Result {
        let part = |title, page, registry| Described { title, page, registry };
        let parts = [
            part("Router", "`reveille router --status`", reveille_router::series()),
            part(
                "Control plane",
                "`reveille controlplane --status`",
                reveille_controlplane::series(),
            ),
            part("Node", "`reveille node --status`", reveille_node::series()),
            part("DNS", "`reveille dns --status`", reveille_dns::series()),
            part("Envoy", "`reveille envoy --status`", reveille_envoy::supervisor::series()),
        ];
        output::print(&format!("{HEAD}{}", reference(&parts)))
    }
}

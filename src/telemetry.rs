//! What a part tells a collector (OpenTelemetry, OTLP by gRPC) if it was told of one. Else nothing of this runs.
//!
//! ```text
//!  span ended ─▶ queue (full: lost, counted) ─▶ a batch, each second ─▶ collector
//!                                                 └─ not taken in time: lost, counted
//!  the page of a part's --status ─▶ each quarter of a minute ─▶ collector
//!                                                 └─ likewise
//! ```
//!
//! What is lost the part counts with the rest ([`reveille_api::telemetry`]): so who looks at it elsewhere sees it.
//!
//! Which spans there are: [`reveille_api::trace`]. Envoy sends its own; the router tells it where.

mod collector;
mod metrics;
mod traces;

use std::{convert::Infallible, ffi::OsString, fmt, path::PathBuf, str::FromStr, time::Duration};

use opentelemetry::KeyValue;
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use reveille_api::{net::Address, task};
use reveille_envoy::resources::Traces;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::error::{Error, Result};
use collector::{Collector, Endpoint};

/// How long the last spans may take when a part ends.
const LAST: Duration = Duration::from_secs(2);

/// The flag every part has.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Telemetry")]
pub(crate) struct Args {
    /// OpenTelemetry collector that traces, and the metrics of --status, are sent to, by gRPC, like http://127.0.0.1:4317, or
    /// https://otel.example:4317 for TLS [default: none]
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<Endpoint>,
    /// CAs that the certificate of an https collector may come from, PEM, read at the start [default: the system's]
    #[arg(long, value_name = "FILE")]
    otlp_ca: Option<PathBuf>,
}

/// What those have that say which requests are recorded.
#[derive(clap::Args, Clone, Copy, Debug)]
#[group(skip)]
#[command(next_help_heading = "Telemetry")]
pub(crate) struct TraceArgs {
    /// Part of the requests that is recorded, 0 to 1, where the client's traceparent has not decided it; with --otlp-endpoint
    #[arg(long, value_name = "RATIO", default_value = "1")]
    trace_ratio: Ratio,
}

impl Args {
    /// As flags of a part.
    pub(crate) fn flags(&self) -> Vec<(&'static str, OsString)> {
        let absolute = |file: &PathBuf| std::path::absolute(file).unwrap_or_else(|_| file.clone());
        let at = self.otlp_endpoint.iter().map(|at| ("--otlp-endpoint", at.to_string().into()));
        at.chain(self.otlp_ca.iter().map(|file| ("--otlp-ca", absolute(file).into()))).collect()
    }

    /// Whether it makes sense.
    pub(crate) fn check(&self) -> Result {
        self.collector().map(drop)
    }

    /// Files that a part without privileges must be able to open.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        self.otlp_endpoint.iter().flat_map(|_| self.otlp_ca.clone()).collect()
    }

    fn collector(&self) -> Result<Option<Collector>> {
        match (&self.otlp_endpoint, &self.otlp_ca) {
            (Some(endpoint), ca) => Collector::new(endpoint, ca.clone()).map(Some),
            (None, Some(_)) => Err(Error::usage("--otlp-ca: for --otlp-endpoint https://…")),
            (None, None) => Ok(None),
        }
    }
}

impl TraceArgs {
    /// As flags of the router.
    pub(crate) fn flags(&self) -> [(&'static str, String); 1] {
        [("--trace-ratio", self.trace_ratio.to_string())]
    }

    /// What Envoy is told.
    pub(crate) fn traces(&self, telemetry: &Args) -> Result<Option<Traces>> {
        let per_million = self.trace_ratio.0;
        Ok(telemetry.collector()?.map(|Collector { address, roots }| {
            let roots = roots.map(|roots| roots.pem().to_vec());
            Traces { collector: address, roots, per_million }
        }))
    }
}

/// In millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ratio(u32);

impl FromStr for Ratio {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let ratio: f64 = text.parse().map_err(|_| "write a number from 0 to 1")?;
        let millionths = (ratio * 1e6).round() as u32;
        match (0.0..=1.0).contains(&ratio) {
            true if millionths == 0 && ratio > 0.0 => Err("the least but 0 is 0.000001"),
            true => Ok(Self(millionths)),
            false => Err("write a number from 0 to 1"),
        }
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", f64::from(self.0) / 1e6)
    }
}

/// What is told, until its end.
#[derive(Debug, Default)]
pub(crate) struct Telemetry {
    traces: Option<SdkTracerProvider>,
    /// Ends with this.
    metrics: JoinSet<Infallible>,
}

impl Telemetry {
    /// Begins to tell it. `name` is the part's own, if it has one; `page` is where its metrics are served.
    pub(crate) fn start(
        args: &Args,
        part: &str,
        name: Option<&str>,
        page: Option<Address>,
    ) -> Result<Self> {
        let Some(collector) = args.collector()? else { return Ok(Self::default()) };
        let mut metrics = JoinSet::new();
        let who = who(part, name);
        let attributes = who.iter().map(|(key, value)| KeyValue::new(*key, value.clone()));
        let resource = Resource::builder().with_attributes(attributes).build();
        if let Some(page) = page {
            let tell = metrics::tell(page, collector.clone(), who);
            task::spawn(&mut metrics, "metrics to the collector", tell);
        }
        Ok(Self { traces: Some(traces::start(&collector, resource)?), metrics })
    }

    /// Tells the rest, as far as that is possible soon.
    pub(crate) async fn finish(self) {
        let Self { traces, metrics } = self;
        drop(metrics);
        let Some(traces) = traces else { return };
        let last = tokio::task::spawn_blocking(move || traces.shutdown_with_timeout(LAST));
        match tokio::time::timeout(2 * LAST, last).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(%error, "the last spans were not sent"),
            _ => tracing::warn!("the last spans were not sent in time"),
        }
    }
}

/// No two processes are the same: one without a name of its own is another at each start.
fn who(part: &str, name: Option<&str>) -> metrics::Attributes {
    let instance = name.map_or_else(|| Uuid::now_v7().to_string(), str::to_owned);
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    vec![
        ("service.name", format!("reveille-{part}")),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("service.instance.id", instance),
        ("host.name", host),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_of_a_kind_are_told_apart_by_the_collector() {
        let named = who("envoy", Some("e1"));
        assert!(named.contains(&("service.name", "reveille-envoy".to_owned())), "{named:?}");
        assert!(named.contains(&("service.instance.id", "e1".to_owned())), "{named:?}");
        assert_ne!(who("dns", None), who("dns", None));
    }

    #[test]
    fn a_ratio_is_a_part_of_one() {
        assert_eq!("0.25".parse::<Ratio>().unwrap().to_string(), "0.25");
        assert_eq!("0.00004".parse(), Ok(Ratio(40)));
        for wrong in ["1.1", "-0.1", "NaN", "all", "0.0000004"] {
            assert!(wrong.parse::<Ratio>().is_err(), "{wrong}");
        }
    }
}

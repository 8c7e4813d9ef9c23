//! What a part tells a collector (OpenTelemetry, OTLP by gRPC) if it was told of one. Else nothing of this runs.
//!
//! ```text
//!  span ended ─▶ queue (full: dropped, counted) ─▶ a batch, each second ─▶ collector
//!                                                    └─ not taken in time: lost, counted
//!  the page of a part's --status ─▶ each quarter of a minute ─▶ collector
//! ```
//!
//! Which spans there are: [`reveille_api::trace`]. Envoy sends its own; the router tells it where.

mod metrics;
mod traces;

use std::{convert::Infallible, fmt, str::FromStr, time::Duration};

use opentelemetry::KeyValue;
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use reveille_api::{net::Address, task};
use reveille_envoy::resources::Traces;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::error::Result;

/// How long the last spans may take when a part ends.
const LAST: Duration = Duration::from_secs(2);

/// The flag every part has.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Telemetry")]
pub(crate) struct Args {
    /// OpenTelemetry collector that traces, and the metrics of --status, are sent to, by gRPC, like http://127.0.0.1:4317 [default: none]
    #[arg(long, value_name = "URL")]
    pub(crate) otlp_endpoint: Option<Endpoint>,
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
    pub(crate) fn flags(&self) -> Vec<(&'static str, String)> {
        self.otlp_endpoint.iter().map(|at| ("--otlp-endpoint", at.to_string())).collect()
    }
}

impl TraceArgs {
    /// As flags of the router.
    pub(crate) fn flags(&self) -> [(&'static str, String); 1] {
        [("--trace-ratio", self.trace_ratio.to_string())]
    }

    /// What Envoy is told.
    pub(crate) fn traces(&self, telemetry: &Args) -> Option<Traces> {
        let Endpoint(collector) = telemetry.otlp_endpoint.clone()?;
        Some(Traces { collector, per_million: self.trace_ratio.0 })
    }
}

/// Where a collector is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint(Address);

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("https://") {
            return Err("TLS is not spoken to collectors: run one on this machine, which passes on what it gets".into());
        }
        let address = text.strip_prefix("http://").unwrap_or(text);
        match address.strip_suffix('/').unwrap_or(address).parse() {
            Ok(address @ (Address::Tcp(_) | Address::Name { .. })) => Ok(Self(address)),
            _ => Err("write http://IP:PORT or http://NAME:PORT".into()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.0)
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
        let Some(endpoint) = &args.otlp_endpoint else { return Ok(Self::default()) };
        let mut metrics = JoinSet::new();
        let who = who(part, name);
        let attributes = who.iter().map(|(key, value)| KeyValue::new(*key, value.clone()));
        let resource = Resource::builder().with_attributes(attributes).build();
        if let Some(page) = page {
            let tell = metrics::tell(page, endpoint.0.clone(), who);
            task::spawn(&mut metrics, "metrics to the collector", tell);
        }
        Ok(Self { traces: Some(traces::start(endpoint, resource)?), metrics })
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
    fn a_collector_is_an_address_and_a_ratio_a_part_of_one() {
        for (given, read) in [
            ("http://127.0.0.1:4317", "http://127.0.0.1:4317"),
            ("http://otel.example:4317/", "http://otel.example:4317"),
            ("[::1]:4317", "http://[::1]:4317"),
        ] {
            assert_eq!(given.parse::<Endpoint>().unwrap().to_string(), read);
        }
        for wrong in ["https://otel.example:4317", "http://a:1/v1/traces", "unix:/x", "4317", ""] {
            assert!(wrong.parse::<Endpoint>().is_err(), "{wrong}");
        }
        assert_eq!("0.25".parse::<Ratio>().unwrap().to_string(), "0.25");
        assert_eq!("0.00004".parse(), Ok(Ratio(40)));
        for wrong in ["1.1", "-0.1", "NaN", "all", "0.0000004"] {
            assert!(wrong.parse::<Ratio>().is_err(), "{wrong}");
        }
    }
}

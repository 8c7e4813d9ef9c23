//! The series of a part on their way to the collector: what its page says, each quarter of a minute.
//!
//! The page is the one list of what there is; so nothing is counted a second time for this. A collector that does not take
//! them misses a point in time: the next one has the same counters, further on.
//!
//! A collector's own names: counters without `_total`, which it adds where it writes Prometheus.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::{
        ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient,
    },
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, Sum, metric::Data, number_data_point::Value,
    },
    resource::v1::Resource,
};
use reveille_api::{
    metrics,
    net::Address,
    telemetry::{self, Signal},
};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tonic::transport::Channel;

use super::collector::Collector;
use crate::error::chain;

/// From one export to the next.
const EVERY: Duration = Duration::from_secs(15);
/// Until the first one: by then there is a page.
const FIRST: Duration = Duration::from_secs(2);
/// A collector that takes longer does not get them.
const EXPORT: Duration = Duration::from_secs(3);
/// How often to say so.
const SAY: Duration = Duration::from_secs(60);

/// What is told of who tells it: `service.name` and its like.
pub(super) type Attributes = Vec<(&'static str, String)>;

/// Tells the series of the page there, for ever.
pub(super) async fn tell(
    page: Address,
    collector: Collector,
    attributes: Attributes,
) -> Infallible {
    let mut client = MetricsServiceClient::new(collector.channel(EXPORT));
    let (start, mut said) = (nanos(), None::<Instant>);
    let mut ticks = interval_at(Instant::now() + FIRST, EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Err(untold) = once(&page, &mut client, &attributes, start).await else { continue };
        if said.is_none_or(|said| said.elapsed() >= SAY) {
            said = Some(Instant::now());
            match untold {
                Untold::Page(error) => {
                    tracing::warn!(%error, "our own page cannot be read: the collector gets no metrics");
                }
                Untold::Collector(error) => {
                    tracing::warn!(error, "the collector does not take metrics");
                }
            }
        }
    }
}

/// Why it was told nothing.
enum Untold {
    Page(io::Error),
    Collector(String),
}

async fn once(
    page: &Address,
    client: &mut MetricsServiceClient<Channel>,
    attributes: &Attributes,
    start: u64,
) -> Result<(), Untold> {
    let text = metrics::own(page).await.map_err(Untold::Page)?;
    let told = metrics(&text, Times { start, now: nanos() });
    let points = told.iter().map(points).sum();
    match client.export(request(told, attributes)).await {
        Ok(_) => Ok(()),
        Err(status) => {
            telemetry::lost(Signal::MetricPoints, points);
            Err(Untold::Collector(chain(&status)))
        }
    }
}

fn request(metrics: Vec<Metric>, attributes: &Attributes) -> ExportMetricsServiceRequest {
    let scope = InstrumentationScope { name: "reveille".into(), ..Default::default() };
    let scope = ScopeMetrics { scope: Some(scope), metrics, ..Default::default() };
    let resource = attributes.iter().map(|(key, value)| attribute(key, value)).collect();
    let resource = Resource { attributes: resource, ..Default::default() };
    let of_us = ResourceMetrics {
        resource: Some(resource),
        scope_metrics: vec![scope],
        ..Default::default()
    };
    ExportMetricsServiceRequest { resource_metrics: vec![of_us] }
}

fn points(metric: &Metric) -> usize {
    match &metric.data {
        Some(Data::Sum(sum)) => sum.data_points.len(),
        Some(Data::Gauge(gauge)) => gauge.data_points.len(),
        Some(Data::Histogram(histogram)) => histogram.data_points.len(),
        _ => 0,
    }
}

/// Since when it is counted, and the time of this export.
#[derive(Clone, Copy, Debug)]
struct Times {
    start: u64,
    now: u64,
}

/// One family, as it is read.
#[derive(Default)]
struct Family {
    help: String,
    kind: String,
    /// Of counters and gauges.
    points: Vec<(Labels, f64)>,
    /// Of histograms.
    spread: BTreeMap<Labels, Spread>,
}

type Labels = Vec<(String, String)>;

#[derive(Default)]
struct Spread {
    /// Upper bound, and how many are at or below it.
    buckets: Vec<(f64, f64)>,
    sum: f64,
    count: f64,
}

/// The families of a page in Prometheus text.
fn metrics(page: &str, times: Times) -> Vec<Metric> {
    let mut found: Vec<(String, Family)> = Vec::new();
    for line in page.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
            found.push((name.to_owned(), Family { help: help.to_owned(), ..Family::default() }));
        } else if let Some((_, family)) = found.last_mut() {
            match line.strip_prefix("# TYPE ").and_then(|typed| typed.rsplit_once(' ')) {
                Some((_, kind)) => family.kind = kind.to_owned(),
                None => sample(line, family),
            }
        }
    }
    found.into_iter().map(|(name, family)| family.metric(name, times)).collect()
}

fn sample(line: &str, family: &mut Family) {
    let Some((series, value)) = line.rsplit_once(' ') else { return };
    let Ok(value) = value.parse::<f64>() else { return };
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.trim_end_matches('}')),
        None => (series, ""),
    };
    let pairs = labels.split(',').filter_map(|pair| pair.split_once('='));
    let mut labels: Labels =
        pairs.map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned())).collect();
    if family.kind != "histogram" {
        return family.points.push((labels, value));
    }
    let bound = labels.iter().position(|(key, _)| key == "le").map(|at| labels.remove(at).1);
    let spread = family.spread.entry(labels).or_default();
    match bound.map(|bound| bound.parse::<f64>()) {
        Some(Ok(bound)) => spread.buckets.push((bound, value)),
        Some(Err(_)) => {}
        None if name.ends_with("_sum") => spread.sum = value,
        None => spread.count = value,
    }
}

impl Family {
    fn metric(self, name: String, times: Times) -> Metric {
        let temporality = AggregationTemporality::Cumulative.into();
        let data = match self.kind.as_str() {
            "histogram" => {
                let points = self.spread.into_iter().map(|(labels, s)| s.point(&labels, times));
                Data::Histogram(Histogram {
                    data_points: points.collect(),
                    aggregation_temporality: temporality,
                })
            }
            kind => {
                let points = self.points.iter().map(|(labels, value)| NumberDataPoint {
                    attributes: attributes(labels),
                    start_time_unix_nano: times.start,
                    time_unix_nano: times.now,
                    value: Some(Value::AsDouble(*value)),
                    ..Default::default()
                });
                let data_points = points.collect();
                match kind {
                    "counter" => Data::Sum(Sum {
                        data_points,
                        aggregation_temporality: temporality,
                        is_monotonic: true,
                    }),
                    _ => Data::Gauge(Gauge { data_points }),
                }
            }
        };
        let unit = if name.contains("_seconds") {
            "s"
        } else if name.contains("_bytes") {
            "By"
        } else {
            ""
        };
        // What reads OTLP into Prometheus adds the suffix itself.
        let name = name.strip_suffix("_total").map(str::to_owned).unwrap_or(name);
        Metric {
            name,
            description: self.help,
            unit: unit.into(),
            data: Some(data),
            ..Default::default()
        }
    }
}

impl Spread {
    /// Buckets are told one above the other here, and side by side there.
    fn point(self, labels: &Labels, times: Times) -> HistogramDataPoint {
        let mut below = 0.0;
        let counts = self.buckets.iter().map(|(_, up_to)| {
            let count = up_to - below;
            below = *up_to;
            count as u64
        });
        let bucket_counts = counts.collect();
        let bounds = self.buckets.iter().map(|(bound, _)| *bound).filter(|bound| bound.is_finite());
        HistogramDataPoint {
            attributes: attributes(labels),
            start_time_unix_nano: times.start,
            time_unix_nano: times.now,
            count: self.count as u64,
            sum: Some(self.sum),
            bucket_counts,
            explicit_bounds: bounds.collect(),
            ..Default::default()
        }
    }
}

fn attributes(labels: &Labels) -> Vec<KeyValue> {
    labels.iter().map(|(key, value)| attribute(key, value)).collect()
}

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..Default::default() }
}

fn nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::metrics::v1::{
        ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    };

    use super::*;

    const PAGE: &str = "\
# HELP reveille_x_wakes_total Wakes.
# TYPE reveille_x_wakes_total counter
reveille_x_wakes_total{kind=\"restored\",phase=\"a\"} 3
# HELP reveille_x_parked Parked.
# TYPE reveille_x_parked gauge
reveille_x_parked 7
# HELP reveille_x_took_seconds Time.
# TYPE reveille_x_took_seconds histogram
reveille_x_took_seconds_sum{kind=\"a\"} 1.5
reveille_x_took_seconds_count{kind=\"a\"} 6
reveille_x_took_seconds_bucket{le=\"0.1\",kind=\"a\"} 1
reveille_x_took_seconds_bucket{le=\"1.0\",kind=\"a\"} 4
reveille_x_took_seconds_bucket{le=\"+Inf\",kind=\"a\"} 6
";

    #[test]
    fn each_family_is_told_as_what_it_is() {
        let told = metrics(PAGE, Times { start: 1, now: 2 });
        let names: Vec<_> = told.iter().map(|metric| metric.name.as_str()).collect();
        assert_eq!(names, ["reveille_x_wakes", "reveille_x_parked", "reveille_x_took_seconds"]);
        let Some(Data::Sum(sum)) = &told[0].data else { panic!("{told:?}") };
        assert!(sum.is_monotonic);
        assert_eq!(sum.data_points[0].value, Some(Value::AsDouble(3.0)));
        assert_eq!(sum.data_points[0].attributes.len(), 2);
        let Some(Data::Gauge(gauge)) = &told[1].data else { panic!("{told:?}") };
        assert_eq!(gauge.data_points[0].value, Some(Value::AsDouble(7.0)));
        let Some(Data::Histogram(histogram)) = &told[2].data else { panic!("{told:?}") };
        let point = &histogram.data_points[0];
        assert_eq!((point.count, point.sum), (6, Some(1.5)));
        assert_eq!(point.explicit_bounds, [0.1, 1.0]);
        assert_eq!(point.bucket_counts, [1, 3, 2]);
        assert_eq!(told[2].unit, "s");
    }

    /// A collector that passes on what it gets.
    struct Collector(tokio::sync::mpsc::Sender<ExportMetricsServiceRequest>);

    #[tonic::async_trait]
    impl MetricsService for Collector {
        async fn export(
            &self,
            request: tonic::Request<ExportMetricsServiceRequest>,
        ) -> Result<tonic::Response<ExportMetricsServiceResponse>, tonic::Status> {
            let _ = self.0.send(request.into_inner()).await;
            Ok(tonic::Response::new(ExportMetricsServiceResponse::default()))
        }
    }

    struct Part(metrics::Registry);

    impl metrics::Watched for Part {
        fn registry(&self) -> &metrics::Registry {
            &self.0
        }

        fn unready(&self) -> Option<&'static str> {
            None
        }
    }

    #[tokio::test]
    async fn a_collector_gets_what_the_page_says_and_who_says_it() {
        let mut registry = metrics::Registry::with_prefix("reveille_x");
        let wakes = metrics::Counter::<u64>::default();
        registry.register("wakes", "Wakes", wakes.clone());
        wakes.inc_by(5);
        let mut tasks = tokio::task::JoinSet::new();
        let page = metrics::listen(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let at = page.address().unwrap();
        let routes = metrics::routes(std::sync::Arc::new(Part(registry)));
        reveille_api::task::spawn(&mut tasks, "page", async move {
            metrics::serve(page, routes, Default::default()).await;
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let collector = super::Collector { address, roots: None };
        let (sender, mut received) = tokio::sync::mpsc::channel(8);
        let serve = tonic::transport::Server::builder()
            .add_service(MetricsServiceServer::new(Collector(sender)))
            .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
        reveille_api::task::spawn(&mut tasks, "collector", async move { drop(serve.await) });
        let who = vec![("service.name", "reveille-router".to_owned())];
        reveille_api::task::spawn(&mut tasks, "tell", async move {
            match tell(at, collector, who).await {}
        });
        let request =
            tokio::time::timeout(Duration::from_secs(30), received.recv()).await.unwrap().unwrap();
        let of_us = &request.resource_metrics[0];
        let service = &of_us.resource.as_ref().unwrap().attributes[0];
        assert_eq!(*service, attribute("service.name", "reveille-router"));
        let told = &of_us.scope_metrics[0].metrics[0];
        let Some(Data::Sum(sum)) = &told.data else { panic!("{told:?}") };
        assert_eq!((told.name.as_str(), told.description.as_str()), ("reveille_x_wakes", "Wakes."));
        assert_eq!(sum.data_points[0].value, Some(Value::AsDouble(5.0)));
    }
}

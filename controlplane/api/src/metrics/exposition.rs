//! Metrics as text: OpenMetrics for who asks for it, otherwise the older Prometheus text, which everything reads.

use prometheus_client::{encoding::text, registry::Registry};

/// The `content-type` of OpenMetrics, and what an `Accept` header names it by.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The `content-type` of the older text.
pub const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The registry for this `Accept` header, with its content type.
pub fn exposition(registry: &Registry, accept: Option<&str>) -> (&'static str, String) {
    let text = open_metrics(registry);
    if accept.is_some_and(|accept| accept.contains("application/openmetrics-text")) {
        return (OPEN_METRICS, text);
    }
    (PROMETHEUS, prometheus(&text))
}

fn open_metrics(registry: &Registry) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = text::encode(&mut text, registry);
    text
}

/// The older format names a counter with its suffix also where it is described, and has no end mark.
fn prometheus(open_metrics: &str) -> String {
    let mut out = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = described.split_once(' ');
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|typed| typed.split_once(' '))
        {
            let suffix = if kind == "counter" { "_total" } else { "" };
            let help = help.take().map_or("", |(_, help)| help);
            out.push_str(&format!("# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

    use super::*;

    #[test]
    fn each_format_is_given_to_who_understands_it() {
        let mut registry = Registry::default();
        registry.register("wakes", "Wakes begun", Counter::<u64>::default());
        registry.register("parked", "Requests parked", Gauge::<i64>::default());
        let (kind, text) = exposition(&registry, Some("application/openmetrics-text;q=0.5, */*"));
        assert_eq!(kind, OPEN_METRICS);
        assert!(
            text.contains("# TYPE wakes counter\nwakes_total 0\n") && text.ends_with("# EOF\n")
        );
        let (kind, text) = exposition(&registry, Some("*/*"));
        assert_eq!(kind, PROMETHEUS);
        assert_eq!(
            text,
            "# HELP wakes_total Wakes begun.\n# TYPE wakes_total counter\nwakes_total 0\n\
             # HELP parked Requests parked.\n# TYPE parked gauge\nparked 0\n"
        );
    }
}

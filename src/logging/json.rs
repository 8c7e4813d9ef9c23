//! A line of JSON for each event: what it says, and what the spans it is in say, side by side.
//!
//! ```json
//! {"actor":"demo/counter","level":"INFO","message":"an actor serves","part":"node","target":"reveille_node::…",
//!  "timestamp":"2026-11-20T10:00:00.123456Z","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736"}
//! ```

use std::fmt;

use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormattedFields,
        format::{FormatEvent, JsonFields, Writer},
    },
    registry::LookupSpan,
};

/// Of this part.
pub(super) struct Lines {
    pub(super) part: &'static str,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> FormatEvent<S, JsonFields> for Lines {
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Map::new();
        let spans = context.event_scope().into_iter().flat_map(|scope| scope.from_root());
        for span in spans {
            let extensions = span.extensions();
            let Some(fields) = extensions.get::<FormattedFields<JsonFields>>() else { continue };
            let Ok(fields) = serde_json::from_str::<Map<String, Value>>(fields) else { continue };
            // The name of a task is that of its span.
            let own = |key: String| if key == "name" { span.name().to_owned() } else { key };
            line.extend(fields.into_iter().map(|(key, value)| (own(key), value)));
        }
        event.record(&mut Fields(&mut line));
        let metadata = event.metadata();
        for (key, value) in [
            ("timestamp", jiff::Timestamp::now().to_string()),
            ("level", metadata.level().to_string()),
            ("target", metadata.target().to_owned()),
            ("part", self.part.to_owned()),
        ] {
            line.insert(key.to_owned(), value.into());
        }
        writeln!(writer, "{}", Value::Object(line))
    }
}

struct Fields<'a>(&'a mut Map<String, Value>);

impl Fields<'_> {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

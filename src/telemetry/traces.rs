//! Spans on their way to the collector: a bounded queue, a deadline for each call, and a count of all that is lost.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use opentelemetry::{Context, global::BoxedTracer, trace::TracerProvider};
use opentelemetry_otlp::{SpanExporter as Otlp, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, Span, SpanData,
        SpanExporter, SpanProcessor,
    },
};
use reveille_api::{
    telemetry::{self, Signal},
    trace,
};
use tokio::time::Instant;

use super::collector::Collector;
use crate::error::{Error, Result};

/// Spans that wait to be sent, and those of one call.
const QUEUE: usize = 4096;
const BATCH: usize = 512;
/// How long a span may wait.
const WAIT: Duration = Duration::from_secs(1);
/// A collector that takes longer has lost them.
const EXPORT: Duration = Duration::from_secs(3);
/// How often to say that it has.
const SAY: Duration = Duration::from_secs(60);

/// From now on the spans of this process go there.
pub(super) fn start(collector: &Collector, resource: Resource) -> Result<SdkTracerProvider> {
    let exporter = Otlp::builder()
        .with_tonic()
        .with_channel(collector.channel(EXPORT))
        .with_timeout(EXPORT)
        .build()
        .map_err(|error| Error::because("--otlp-endpoint", &error))?;
    let provider = provider(exporter, resource);
    trace::record_by(BoxedTracer::new(Box::new(provider.tracer("reveille"))));
    Ok(provider)
}

fn provider(exporter: impl SpanExporter + 'static, resource: Resource) -> SdkTracerProvider {
    let config = BatchConfigBuilder::default()
        .with_max_queue_size(QUEUE)
        .with_max_export_batch_size(BATCH)
        .with_scheduled_delay(WAIT)
        .build();
    let waiting = Arc::<AtomicUsize>::default();
    let exporter = Counted { exporter, waiting: Arc::clone(&waiting), said: Mutex::default() };
    let queue = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
    SdkTracerProvider::builder()
        // What the parent says; without one there is no span.
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOff)))
        .with_resource(resource)
        .with_span_processor(Bounded { queue, waiting })
        .build()
}

/// The queue, which never holds more than it has room for: so each span that is lost is known here.
#[derive(Debug)]
struct Bounded {
    queue: BatchSpanProcessor,
    /// Spans in the queue, or of the batch that is made.
    waiting: Arc<AtomicUsize>,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.queue.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.waiting.fetch_add(1, Ordering::AcqRel) < QUEUE {
            return self.queue.on_end(span);
        }
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        telemetry::lost(Signal::Spans, 1);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.queue.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.queue.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.queue.set_resource(resource);
    }
}

/// Counts what the collector did not take, and says so now and then.
#[derive(Debug)]
struct Counted<E> {
    exporter: E,
    waiting: Arc<AtomicUsize>,
    said: Mutex<Option<Instant>>,
}

impl<E> Counted<E> {
    fn lost(&self, spans: usize, error: &OTelSdkError) {
        telemetry::lost(Signal::Spans, spans);
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_none_or(|said| said.elapsed() >= SAY) {
            *said = Some(Instant::now());
            tracing::warn!(spans, %error, "the collector does not take spans");
        }
    }
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        self.waiting.fetch_sub(spans, Ordering::AcqRel);
        if let Err(error) = self.exporter.export(batch).await {
            self.lost(spans, &error);
        }
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use opentelemetry::trace::{SpanBuilder, SpanContext, TraceContextExt, Tracer};
    use reveille_api::trace::Traceparent;

    use super::*;

    /// Takes calls and never answers.
    #[derive(Debug)]
    struct Deaf;

    impl SpanExporter for Deaf {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            pending().await
        }
    }

    #[test]
    fn a_collector_that_does_not_answer_holds_nobody_up() {
        let provider = provider(Deaf, Resource::builder_empty().build());
        let tracer = provider.tracer("test");
        let client = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let client: SpanContext = client.parse::<Traceparent>().unwrap().into();
        let client = Context::new().with_remote_span_context(client);
        // The first batch is taken, and never ends; then the queue is full.
        for _ in 0..3 * QUEUE {
            drop(tracer.build_with_context(SpanBuilder::from_name("span"), &client));
        }
        let lost = telemetry::losses(Signal::Spans);
        let (least, most) = (2 * QUEUE - BATCH, 2 * QUEUE);
        assert!((least..=most).contains(&(lost as usize)), "{lost}");
        let ended = provider.shutdown_with_timeout(Duration::from_millis(100));
        assert!(ended.is_err(), "they cannot have been sent");
    }
}

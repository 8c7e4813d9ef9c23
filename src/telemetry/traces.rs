//! Spans on their way to the collector: a bounded queue, a deadline for each call, and a count of what is lost.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use opentelemetry::{global::BoxedTracer, trace::TracerProvider};
use opentelemetry_otlp::{SpanExporter as Otlp, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, SpanData, SpanExporter,
    },
};
use reveille_api::trace;
use tokio::time::Instant;

use super::Endpoint;
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
pub(super) fn start(endpoint: &Endpoint, resource: Resource) -> Result<SdkTracerProvider> {
    let exporter = Otlp::builder()
        .with_tonic()
        .with_endpoint(endpoint.to_string())
        .with_timeout(EXPORT)
        .build()
        .map_err(|error| Error::because(format!("--otlp-endpoint {endpoint}"), &error))?;
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
    let counted = Counted { exporter, lost: Mutex::default() };
    SdkTracerProvider::builder()
        // What the parent says; without one there is no span.
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOff)))
        .with_resource(resource)
        .with_span_processor(BatchSpanProcessor::builder(counted).with_batch_config(config).build())
        .build()
}

/// Counts what the collector did not take, and says so now and then. (What does not even find room in the queue, the
/// library says.)
#[derive(Debug)]
struct Counted<E> {
    exporter: E,
    lost: Mutex<Lost>,
}

#[derive(Debug, Default)]
struct Lost {
    spans: u64,
    said: Option<Instant>,
}

impl<E> Counted<E> {
    fn lost(&self, spans: usize, error: &OTelSdkError) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.spans += spans as u64;
        if lost.said.is_none_or(|said| said.elapsed() >= SAY) {
            lost.said = Some(Instant::now());
            tracing::warn!(lost = lost.spans, %error, "the collector does not take spans");
        }
    }
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
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

    use opentelemetry::{
        Context,
        trace::{SpanBuilder, SpanContext, TraceContextExt, Tracer},
    };
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
        for _ in 0..3 * QUEUE {
            drop(tracer.build_with_context(SpanBuilder::from_name("span"), &client));
        }
        let ended = provider.shutdown_with_timeout(Duration::from_millis(100));
        assert!(ended.is_err(), "they cannot have been sent");
    }
}

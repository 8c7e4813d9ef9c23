//! The trace of a request, as the parts hand it on, and the spans that each of them adds to it.
//!
//! ```text
//!            traceparent         metadata of its              WakeRequest            ActivateRequest
//!  client ──────────────▶ Envoy ── ext_proc stream ──▶ router ───────────▶ control plane ──────────▶ node
//!                           │                          route               Routers/Wake              NodeAgent/Activate
//!                           └── traceparent ──▶ actor   └ wake              └ wake                    ├ fetch
//!                                                                             ├ place                 ├ restore
//!                                                                             └ activate              └ ready
//! ```
//!
//! A way down is in a trace if a user asked for it who is in one (`TRACEPARENT`): `reveille suspend` ─▶ `Control/SuspendActor` ─▶
//! `suspend` (`drain`, `checkpoint`) ─▶ `NodeAgent/Suspend`.
//!
//! Envoy, or who called it, decides whether a request is recorded; no part begins a trace of its own. A wake belongs to the
//! trace of the first who asked for it; the spans of those who joined it link to it.
//!
//! A [`Span`] that nobody records (nothing is exported, or this request is not recorded) is what was received, handed on:
//! so the log lines of a wake name its trace all the same. Without a trace it is nothing, and costs nothing.

use std::{fmt, str::FromStr, sync::OnceLock};

use opentelemetry::{
    Context, KeyValue,
    global::{BoxedSpan, BoxedTracer},
    trace::{
        Span as _, SpanBuilder, SpanContext, SpanId, Status, TraceContextExt, TraceFlags, TraceId,
        TraceState, Tracer,
    },
};
use tracing::field::DisplayValue;

pub use opentelemetry::trace::SpanKind as Kind;

use crate::{ActorKey, Reason};

/// The header, and the key in a call's metadata.
pub const HEADER: &str = "traceparent";

static TRACER: OnceLock<BoxedTracer> = OnceLock::new();

/// From now on spans are recorded. Once in a process, by whoever exports them.
pub fn record_by(tracer: BoxedTracer) {
    let _ = TRACER.set(tracer);
}

/// True when spans are recorded at all.
pub fn is_recording() -> bool {
    TRACER.get().is_some()
}

/// A place in a trace, as [W3C](https://www.w3.org/TR/trace-context/) writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traceparent {
    trace: TraceId,
    span: SpanId,
    flags: TraceFlags,
}

/// Not what W3C writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no traceparent")]
pub struct InvalidTraceparent;

impl FromStr for Traceparent {
    type Err = InvalidTraceparent;

    fn from_str(text: &str) -> Result<Self, InvalidTraceparent> {
        let mut parts = text.split('-');
        let mut next = |digits: usize| {
            let hex = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
            let part = parts.next().filter(|part| part.len() == digits && part.bytes().all(hex));
            part.and_then(|part| u128::from_str_radix(part, 16).ok()).ok_or(InvalidTraceparent)
        };
        let (version, trace, span, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
        // Later versions may add to it, and what is here stays as it is.
        let whole = version == 0 && parts.next().is_none() || (1..0xff).contains(&version);
        if !whole || trace == 0 || span == 0 {
            return Err(InvalidTraceparent);
        }
        let flags = TraceFlags::NOT_SAMPLED.with_sampled(flags & 1 == 1);
        Ok(Self { trace: trace.into(), span: SpanId::from(span as u64), flags })
    }
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace, span, flags } = self;
        write!(f, "00-{trace}-{span}-{flags:02x}")
    }
}

impl Traceparent {
    /// The same place, of which nobody records anything.
    #[must_use]
    pub fn unrecorded(self) -> Self {
        Self { flags: TraceFlags::NOT_SAMPLED, ..self }
    }

    /// The field `trace_id` of log lines.
    pub fn trace_id(self) -> DisplayValue<TraceId> {
        tracing::field::display(self.trace)
    }
}

impl From<&SpanContext> for Traceparent {
    fn from(context: &SpanContext) -> Self {
        let (trace, span) = (context.trace_id(), context.span_id());
        Self { trace, span, flags: context.trace_flags() }
    }
}

impl From<Traceparent> for SpanContext {
    fn from(Traceparent { trace, span, flags }: Traceparent) -> Self {
        Self::new(trace, span, flags, true, TraceState::NONE)
    }
}

/// One step of a request in this part. It ends when this is dropped.
#[derive(Debug, Default)]
pub struct Span(Option<Box<Followed>>);

#[derive(Debug)]
struct Followed {
    /// The span itself, or the last one before it that is recorded.
    at: Traceparent,
    recorded: Option<BoxedSpan>,
}

impl Span {
    /// Of no trace.
    pub const fn none() -> Self {
        Self(None)
    }

    /// What comes after `parent`, if there is one.
    pub fn after(parent: Option<Traceparent>, name: &'static str, kind: Kind) -> Self {
        let Some(parent) = parent else { return Self::none() };
        let tracer = TRACER.get().filter(|_| parent.flags.is_sampled());
        let recorded = tracer.map(|tracer| {
            let context = Context::new().with_remote_span_context(parent.into());
            tracer.build_with_context(SpanBuilder::from_name(name).with_kind(kind), &context)
        });
        let at = recorded.as_ref().map_or(parent, |span| span.span_context().into());
        Self(Some(Box::new(Followed { at, recorded })))
    }

    /// A step of this one.
    pub fn child(&self, name: &'static str, kind: Kind) -> Self {
        Self::after(self.traceparent(), name, kind)
    }

    /// What the next part is told.
    pub fn traceparent(&self) -> Option<Traceparent> {
        self.0.as_ref().map(|followed| followed.at)
    }

    /// The same as a message has it: empty without a trace.
    pub fn header(&self) -> String {
        self.traceparent().map(|at| at.to_string()).unwrap_or_default()
    }

    /// The field `trace_id` of log lines.
    pub fn trace_id(&self) -> Option<DisplayValue<TraceId>> {
        self.traceparent().map(Traceparent::trace_id)
    }

    /// True when somebody will see it.
    pub fn is_recorded(&self) -> bool {
        self.0.as_ref().is_some_and(|followed| followed.recorded.is_some())
    }

    /// Which actor it is about.
    #[must_use]
    pub fn of(mut self, actor: &ActorKey) -> Self {
        self.set("reveille.actor", actor);
        self
    }

    /// An attribute. No header, query or variable of anybody may be one.
    pub fn set(&mut self, key: &'static str, value: impl fmt::Display) {
        if let Some(span) = self.recorded() {
            span.set_attribute(KeyValue::new(key, value.to_string()));
        }
    }

    /// It waited for what that one did.
    pub fn link(&mut self, to: Traceparent) {
        if let Some(span) = self.recorded() {
            span.add_link(to.into(), Vec::new());
        }
    }

    /// It came to this.
    pub fn fail(&mut self, reason: Reason) {
        self.set("reveille.reason", reason);
        if let Some(span) = self.recorded().filter(|_| reason.http_status() >= 500) {
            span.set_status(Status::error(reason.to_string()));
        }
    }

    fn recorded(&mut self) -> Option<&mut BoxedSpan> {
        self.0.as_mut()?.recorded.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_read_is_handed_on_as_it_was() {
        let read: Traceparent = SAMPLED.parse().unwrap();
        assert_eq!(read.to_string(), SAMPLED);
        assert_eq!(SpanContext::from(read).trace_id().to_string(), SAMPLED[3..35]);
        assert_eq!(Traceparent::from(&SpanContext::from(read)), read);
        let later = format!("01{}-more", &SAMPLED[2..]);
        assert_eq!(later.parse(), Ok(read));
    }

    #[test]
    fn what_is_none_is_not_taken_for_one() {
        let cases = [
            "",
            "00",
            "00-1-2-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ];
        for case in cases {
            assert_eq!(case.parse::<Traceparent>(), Err(InvalidTraceparent), "{case}");
        }
    }

    #[test]
    fn a_span_that_nobody_records_hands_on_what_was_received() {
        let received = SAMPLED.parse().unwrap();
        let mut span = Span::after(Some(received), "route", Kind::Server);
        span.set("key", "value");
        span.fail(Reason::Internal);
        assert!(!span.is_recorded());
        assert_eq!(span.child("wake", Kind::Client).header(), SAMPLED);
        assert_eq!(Span::none().child("wake", Kind::Client).header(), "");
    }
}

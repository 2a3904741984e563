//! Spans of pairings to a collector, by OTLP over HTTP.

use std::{
    env,
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use gatepass_protocol::ids::TRACES;
use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_otlp::{ExporterBuildError, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanEvents, SpanExporter, SpanLinks},
};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tracing::{
    Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    layer::Context,
    registry::LookupSpan,
};

use crate::AnyLayer;

/// Spans that may wait to be sent. What is more is dropped and counted: a trace is never worth memory or time of a login.
const WAITING: usize = 8_192;
/// Spans that are sent at a time, at most.
const BATCH: usize = 512;
/// Spans are sent this long after the first one of a batch has ended.
const GATHER: Duration = Duration::from_millis(500);
/// How long a collector may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there are no traces.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// The address of the collector, or another of its variables, is of no use.
    #[error("the environment variables of OpenTelemetry (OTEL_EXPORTER_OTLP_...) are not usable: {0}")]
    Exporter(#[from] ExporterBuildError),
    /// Not a number from 0 to 1.
    #[error("OTEL_TRACES_SAMPLER_ARG is {0:?}, and must be a number from 0 to 1: the part of all pairings to trace")]
    Part(String),
}

/// The layer that turns spans of pairings into spans of OpenTelemetry.
#[derive(Debug)]
pub(crate) struct Pairings {
    ended: mpsc::Sender<SpanData>,
    dropped: Arc<AtomicU64>,
    /// Trace ids below this are kept. Everybody decides alike, so a trace is whole or not there.
    below: u64,
    scope: InstrumentationScope,
}

/// What is to be sent, once it is told to.
#[derive(Debug)]
pub struct Sending {
    ended: mpsc::Receiver<SpanData>,
    exporter: opentelemetry_otlp::SpanExporter,
    dropped: Arc<AtomicU64>,
}

/// What is being sent in the background.
#[derive(Debug)]
pub struct Sender(JoinHandle<()>);

/// The layer and what sends for it, as the environment says; but to this `http://` address, path and all, where it is given.
pub fn start(service: &'static str, collector: Option<&str>) -> Result<(Option<AnyLayer>, Sending), TracesError> {
    let part = match env::var("OTEL_TRACES_SAMPLER_ARG") {
        Ok(text) => text.parse().ok().filter(|part| (0.0..=1.0).contains(part)).ok_or(TracesError::Part(text))?,
        Err(_) => 1.0,
    };
    let client = HyperClient::with_default_connector(PATIENCE, None);
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_http().with_http_client(client);
    let mut exporter = match collector {
        Some(url) => exporter.with_endpoint(url).build()?,
        None => exporter.build()?,
    };
    exporter.set_resource(&Resource::builder().with_service_name(service).build());
    let (sender, ended) = mpsc::channel(WAITING);
    let dropped = Arc::<AtomicU64>::default();
    let layer = Pairings {
        ended: sender,
        dropped: dropped.clone(),
        below: (part * u64::MAX as f64) as u64,
        scope: InstrumentationScope::builder("gatepass").with_version(env!("CARGO_PKG_VERSION")).build(),
    };
    let layer = layer.with_filter(Targets::new().with_target(TRACES, LevelFilter::TRACE));
    Ok((Some(layer.boxed()), Sending { ended, exporter, dropped }))
}

impl Sending {
    /// Begins to send, inside a Tokio runtime.
    pub fn start(mut self) -> Sender {
        Sender(tokio::spawn(async move {
            let mut batch = Vec::new();
            while let Some(first) = self.ended.recv().await {
                batch.push(first);
                let gather =
                    async { while batch.len() < BATCH && self.ended.recv_many(&mut batch, BATCH).await > 0 {} };
                let _ = timeout(GATHER, gather).await;
                if let Err(error) = self.exporter.export(std::mem::take(&mut batch)).await {
                    tracing::warn!(%error, "the collector did not take traces");
                }
                let dropped = self.dropped.swap(0, Relaxed);
                if dropped > 0 {
                    tracing::warn!(dropped, "spans were not sent: the collector does not keep up");
                }
            }
        }))
    }
}

impl Sender {
    /// Waits until what has ended so far is sent, as long as a collector may take: for a program that is about to end.
    pub async fn flush(self) {
        // Its channel stays open as long as the layer does, so this waits for the batch that is being gathered.
        let mut task = self.0;
        let _ = timeout(2 * GATHER, &mut task).await;
        task.abort();
    }
}

/// A span that has not ended.
struct Open {
    trace: TraceId,
    id: SpanId,
    parent: SpanId,
    begun: SystemTime,
    attributes: Vec<KeyValue>,
}

#[derive(Default)]
struct Fields {
    trace: Option<TraceId>,
    attributes: Vec<KeyValue>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "trace" => self.trace = TraceId::from_hex(value).ok(),
            name => self.attributes.push(KeyValue::new(format!("gatepass.{name}"), value.to_owned())),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.attributes.push(KeyValue::new(format!("gatepass.{}", field.name()), value));
    }
}

impl<S> Layer<S> for Pairings
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let Some(span) = context.span(id) else { return };
        let Some(trace) = fields.trace.filter(|trace| self.is_kept(trace)) else { return };
        let parent =
            span.parent().and_then(|parent| parent.extensions().get::<Open>().map(|open| (open.trace, open.id)));
        let parent = parent.filter(|(of, _)| *of == trace).map_or(SpanId::INVALID, |(_, id)| id);
        let id = SpanId::from(getrandom::u64().unwrap_or(1));
        let begun = SystemTime::now();
        span.extensions_mut().insert(Open { trace, id, parent, begun, attributes: fields.attributes });
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut extensions = span.extensions_mut();
        let Some(open) = extensions.get_mut::<Open>() else { return };
        let mut fields = Fields::default();
        values.record(&mut fields);
        open.attributes.extend(fields.attributes);
    }

    fn on_close(&self, id: span::Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let Some(open) = span.extensions_mut().remove::<Open>() else { return };
        let refused = open.attributes.iter().any(|attribute| attribute.key.as_str() == "gatepass.refused");
        let data = SpanData {
            span_context: SpanContext::new(open.trace, open.id, TraceFlags::SAMPLED, false, TraceState::default()),
            parent_span_id: open.parent,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: span.name().into(),
            start_time: open.begun,
            end_time: SystemTime::now(),
            attributes: open.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: if refused { Status::error("") } else { Status::Unset },
            instrumentation_scope: self.scope.clone(),
        };
        if self.ended.try_send(data).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}

impl Pairings {
    fn is_kept(&self, trace: &TraceId) -> bool {
        // The id is a hash, so any part of it is as good as a die.
        let [.., a, b, c, d, e, f, g, h] = trace.to_bytes();
        u64::from_be_bytes([a, b, c, d, e, f, g, h]) <= self.below
    }
}

//! The listener that the Collector hands on to what it has understood, as OTLP in JSON.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, Uri, header::CONTENT_TYPE},
    routing::{MethodRouter, post},
};
use serde_json::Value;
use tokio::sync::oneshot;

use super::{Net, eventually};

/// Everything that the Collector has understood so far, one entry for each export, in the order of arrival.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// `ExportMetricsServiceRequest`s.
    pub metrics: Vec<Value>,
    /// `ExportTraceServiceRequest`s.
    pub traces: Vec<Value>,
    /// `ExportLogsServiceRequest`s.
    pub logs: Vec<Value>,
}

/// Listens until it is dropped.
pub(super) struct Sink {
    address: SocketAddr,
    received: Arc<Mutex<Received>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

// === impl Received ===

impl Received {
    /// Every metric of that name, from every export.
    pub fn metrics_named(&self, name: &str) -> Vec<&Value> {
        children(
            &self.metrics,
            ["resourceMetrics", "scopeMetrics", "metrics"],
        )
        .into_iter()
        .filter(|metric| metric["name"] == name)
        .collect()
    }

    /// Every span, from every export.
    pub fn spans(&self) -> Vec<&Value> {
        children(&self.traces, ["resourceSpans", "scopeSpans", "spans"])
    }

    /// Every log record, from every export.
    pub fn log_records(&self) -> Vec<&Value> {
        children(&self.logs, ["resourceLogs", "scopeLogs", "logRecords"])
    }

    /// Every resource with metrics, spans or log records, from every export, with repetitions.
    pub fn resources(&self) -> Vec<&Value> {
        let metrics = elements(self.metrics.iter(), "resourceMetrics");
        let spans = elements(self.traces.iter(), "resourceSpans");
        let logs = elements(self.logs.iter(), "resourceLogs");
        metrics
            .into_iter()
            .chain(spans)
            .chain(logs)
            .map(|entry| &entry["resource"])
            .collect()
    }
}

/// The attributes of a resource, a span or a point, with numbers as texts.
///
/// # Panics
/// An attribute has no key or no value.
pub fn attributes(of: &Value) -> BTreeMap<String, String> {
    let all = of["attributes"].as_array().into_iter().flatten();
    all.map(|pair| {
        let value = pair["value"].as_object().expect("a value");
        let value = value.values().next().expect("a value");
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        (pair["key"].as_str().expect("a key").to_owned(), value)
    })
    .collect()
}

fn children<'a>(exports: &'a [Value], path: [&str; 3]) -> Vec<&'a Value> {
    path.into_iter()
        .fold(exports.iter().collect(), |level, key| {
            elements(level.into_iter(), key)
        })
}

fn elements<'a>(parents: impl Iterator<Item = &'a Value>, key: &str) -> Vec<&'a Value> {
    parents
        .filter_map(|parent| parent[key].as_array())
        .flatten()
        .collect()
}

// === impl Sink ===

impl Sink {
    pub(super) fn start(net: &Net) -> Self {
        let listener = net
            .within(|| TcpListener::bind((net.address(), 0)))
            .expect("a listener for the Collector");
        let address = listener.local_addr().expect("the listener's address");
        let received = Arc::new(Mutex::new(Received::default()));
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&received);
        let thread = std::thread::Builder::new()
            .name("collector-sink".into())
            .spawn(move || serve(listener, shared, stopped))
            .expect("start a thread");
        Self {
            address,
            received,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn received(&self) -> MutexGuard<'_, Received> {
        lock(&self.received)
    }

    pub(super) fn wait_for<T>(
        &self,
        what: &str,
        limit: Duration,
        probe: impl Fn(&Received) -> Option<T>,
    ) -> T {
        eventually(&format!("{what} from the Collector"), limit, || {
            probe(&self.received())
        })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // Either may fail only when the thread has panicked, which has been printed.
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn lock(received: &Mutex<Received>) -> MutexGuard<'_, Received> {
    received.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(listener: TcpListener, received: Arc<Mutex<Received>>, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        listener
            .set_nonblocking(true)
            .expect("a non-blocking listener");
        let listener =
            tokio::net::TcpListener::from_std(listener).expect("a listener of the runtime");
        tokio::select! {
            served = axum::serve(listener, router(received)).into_future() => served.expect("it never ends"),
            _ = stopped => {}
        }
    });
}

fn router(received: Arc<Mutex<Received>>) -> Router {
    Router::new()
        .route("/v1/metrics", kept(|of| &mut of.metrics))
        .route("/v1/traces", kept(|of| &mut of.traces))
        .route("/v1/logs", kept(|of| &mut of.logs))
        .fallback(async |uri: Uri| (StatusCode::NOT_FOUND, format!("nothing is kept of {uri}")))
        .layer(DefaultBodyLimit::disable())
        .with_state(received)
}

/// Keeps exports of one kind.
fn kept(of: fn(&mut Received) -> &mut Vec<Value>) -> MethodRouter<Arc<Mutex<Received>>> {
    post(
        async move |State(received): State<Arc<Mutex<Received>>>, body: Bytes| {
            let export = serde_json::from_slice(&body)
                .map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
            of(&mut lock(&received)).push(export);
            Ok::<_, (StatusCode, String)>(([(CONTENT_TYPE, "application/json")], "{}"))
        },
    )
}

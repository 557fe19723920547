//! Tests over real connections to flowcar's own sink.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use opentelemetry_proto::tonic::{
    logs::v1::LogRecord,
    metrics::v1::{AggregationTemporality, metric::Data, number_data_point::Value},
    trace::v1::Span,
};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
    time::timeout,
};

use super::*;
use crate::{
    flow::{
        CloseReason, Monotonic, Outcome, Role, RttKind, SeriesId, SpanTime, TraceIdentity, Volume,
        example::closed as flow,
    },
    histogram::Histogram,
    otlp::transport::{ExportRequest, Transport},
    sink::{Received, Sink},
    snapshot::{Peer, Series, SeriesKey},
};

mod answers;
mod exemplars;
mod failures;
mod headers;
mod proxy;
mod speech;
mod tls;
mod virtual_time;
mod zones;

const LIMIT: Duration = Duration::from_secs(20);

/// What is logged.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    /// Logs into it, in this thread, while the guard lives.
    pub(super) fn logging(&self) -> tracing::subscriber::DefaultGuard {
        let writer = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("no panic").clone()).expect("text")
    }
}

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn config(vars: &[(&str, &str)]) -> Config {
    let vars = vars.iter();
    Config::from_vars(vars.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
        .expect("good settings")
}

fn start(endpoint: &str, vars: &[(&str, &str)]) -> Exporter {
    let mut all = vec![("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)];
    all.extend(vars);
    Exporter::start(&config(&all), "ebpf", Some("web")).expect("an endpoint is set")
}

fn snapshot(at: u64, bytes_sent: u64) -> Snapshot {
    let key = SeriesKey::Flows {
        container: None,
        role: Role::Client,
        peer: Peer::Address([10, 0, 0, 2].into()),
        server_port: Some(8080),
    };
    let series = Series {
        volume: Volume {
            bytes_sent,
            ..Default::default()
        },
        ..Default::default()
    };
    Snapshot {
        start_unix_ns: 1_000,
        at_unix_ns: at,
        series: BTreeMap::from([(key, series)]),
        lost: BTreeMap::new(),
        unattributed: Default::default(),
        dropped: Default::default(),
        listeners: BTreeMap::new(),
        containers: BTreeMap::new(),
        books: Default::default(),
        self_metrics: SelfMetrics::default(),
    }
}

fn anchor() -> Anchor {
    Anchor::new(Monotonic(0), 1_700_000_000_000_000_000)
}

async fn sink() -> (Sink, mpsc::Receiver<Received>) {
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    Sink::start(any, any).await.expect("a free port")
}

async fn next(received: &mut mpsc::Receiver<Received>) -> Received {
    let next = timeout(LIMIT, received.recv()).await;
    next.expect("an export in time").expect("a sink")
}

fn sent_bytes(export: &Received) -> i64 {
    let Received::Metrics(export) = export else {
        panic!("{export:?}")
    };
    io_sent(export)
}

/// The value of `flowcar.tcp.io` for what was sent.
fn io_sent(
    export: &opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest,
) -> i64 {
    let metrics = &export.resource_metrics[0].scope_metrics[0].metrics;
    let io = metrics
        .iter()
        .find(|metric| metric.name == "flowcar.tcp.io");
    match io.and_then(|metric| metric.data.as_ref()) {
        // After the zero that it starts with.
        Some(Data::Sum(sum)) => match sum.data_points.last().expect("a point").value {
            Some(Value::AsInt(int)) => int,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn spans(export: Received) -> Vec<Span> {
    let Received::Traces(mut export) = export else {
        panic!("{export:?}")
    };
    let resource = export.resource_spans[0]
        .resource
        .as_ref()
        .expect("a resource");
    let names: Vec<_> = resource.attributes.iter().map(|a| a.key.as_str()).collect();
    assert!(names.contains(&"service.name"), "{names:?}");
    export.resource_spans.remove(0).scope_spans.remove(0).spans
}

/// The log records of an export.
fn log_records(export: Received) -> Vec<LogRecord> {
    let Received::Logs(mut export) = export else {
        panic!("{export:?}")
    };
    let resource = export.resource_logs[0]
        .resource
        .as_ref()
        .expect("a resource");
    let names: Vec<_> = resource.attributes.iter().map(|a| a.key.as_str()).collect();
    assert!(names.contains(&"service.name"), "{names:?}");
    export
        .resource_logs
        .remove(0)
        .scope_logs
        .remove(0)
        .log_records
}

#[tokio::test]
async fn each_signal_arrives_by_each_transport_and_compression() {
    let (sink, mut received) = sink().await;
    for packing in ["none", "gzip", "zstd"] {
        for (protocol, endpoint) in [("grpc", sink.grpc()), ("http/protobuf", sink.http())] {
            let mut exporter = start(
                &format!("http://{endpoint}"),
                &[
                    ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                    ("OTEL_EXPORTER_OTLP_COMPRESSION", packing),
                    ("OTEL_LOGS_EXPORTER", "otlp"),
                ],
            );
            exporter.metrics(snapshot(2_000, 42));
            assert_eq!(
                sent_bytes(&next(&mut received).await),
                42,
                "{protocol} {packing}"
            );
            exporter.flow(&flow(9), &anchor());
            let mut exports = [next(&mut received).await, next(&mut received).await];
            exports.sort_by_key(|export| matches!(export, Received::Logs(_)));
            let [spans, logs] = exports.map(|export| match export {
                logs @ Received::Logs(_) => log_records(logs).remove(0).trace_id,
                traces => spans(traces).remove(0).trace_id,
            });
            let id = TraceIdentity::of_handshake(9, 7, Role::Client).trace_id;
            assert_eq!(spans, id.to_be_bytes(), "{protocol} {packing}");
            assert_eq!(logs, id.to_be_bytes(), "{protocol} {packing}");
            assert!(exporter.flush(LIMIT).await);
            let self_metrics = exporter.self_metrics();
            let expected = ["metrics", "traces", "logs"].map(|signal| ((signal, "success"), 1));
            let expected = BTreeMap::from(expected);
            assert_eq!(self_metrics.exports, expected, "{protocol} {packing}");
            let exports: u64 = self_metrics
                .export_duration
                .values()
                .map(Histogram::count)
                .sum();
            let waiting = (self_metrics.span_queue.items, self_metrics.log_queue.items);
            assert_eq!((waiting, exports), ((0, 0), 3));
            assert_eq!(self_metrics.exported["traces"], 1, "{protocol} {packing}");
            assert_eq!(self_metrics.exported["logs"], 1, "{protocol} {packing}");
            assert!(self_metrics.exported["metrics"] > 5, "{protocol} {packing}");
            // A connection for each signal.
            assert_eq!(exporter.own_sockets().len(), 3, "{protocol} {packing}");
        }
    }
}

#[tokio::test]
async fn flush_sends_waiting_items_at_once() {
    let (sink, mut received) = sink().await;
    let endpoint = format!("http://{}", sink.grpc());
    let mut exporter = start(&endpoint, &[("OTEL_LOGS_EXPORTER", "otlp")]);
    for isn in 0..1_200 {
        exporter.flow(&flow(isn), &anchor());
    }
    exporter.metrics(snapshot(2_000, 1));
    assert!(exporter.flush(LIMIT).await);
    let (mut count, mut logs, mut metrics) = (0, 0, 0);
    while let Ok(export) = received.try_recv() {
        match export {
            Received::Metrics(_) => metrics += 1,
            traces @ Received::Traces(_) => count += spans(traces).len(),
            records @ Received::Logs(_) => logs += log_records(records).len(),
        }
    }
    assert_eq!((count, logs, metrics), (1_200, 1_200, 1));
}

/// Log records are for those who ask for them, with spans or without; an open flow has a span at the end, and no log record.
#[tokio::test]
async fn log_records_are_of_flows_that_have_ended_where_asked_for() {
    const TIME: SpanTime = SpanTime {
        start_unix_ns: 0,
        end_unix_ns: 60_000_000_000,
    };
    let (sink, mut received) = sink().await;
    let endpoint = format!("http://{}", sink.grpc());
    let cut = InterimSpan {
        number: 0,
        time: TIME,
        volume: Volume::default(),
    };
    for (settings, expected) in [
        (&[][..], (4, 0)),
        (&[("OTEL_LOGS_EXPORTER", "none")][..], (4, 0)),
        (&[("OTEL_LOGS_EXPORTER", "otlp")][..], (4, 2)),
        (
            &[
                ("OTEL_LOGS_EXPORTER", "otlp"),
                ("OTEL_TRACES_EXPORTER", "none"),
            ][..],
            (0, 2),
        ),
    ] {
        let mut exporter = start(&endpoint, settings);
        exporter.flow(&flow(1), &anchor());
        exporter.parent(&flow(2), TIME, &anchor());
        let open = Flow {
            outcome: None,
            ..flow(3)
        };
        exporter.interim(&open, &cut, &anchor());
        exporter.parent(&open, TIME, &anchor());
        assert!(exporter.flush(LIMIT).await);
        let (mut all_spans, mut all_records) = (Vec::new(), Vec::new());
        while let Ok(export) = received.try_recv() {
            match export {
                logs @ Received::Logs(_) => all_records.extend(log_records(logs)),
                traces => all_spans.extend(spans(traces)),
            }
        }
        assert_eq!(
            (all_spans.len(), all_records.len()),
            expected,
            "{settings:?}"
        );
        // The end is that of the span, by the wall clock where interim spans name it.
        for record in &all_records {
            let mut spans = all_spans.iter();
            if let Some(span) = spans.find(|span| span.span_id == record.span_id) {
                assert_eq!(record.time_unix_nano, span.end_time_unix_nano);
            }
        }
    }
}

#[tokio::test]
async fn exports_resume_when_the_receiver_returns() {
    // No other test listens on this address.
    let listener = TcpListener::bind("127.0.0.77:0")
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("its address");
    drop(listener);
    let mut exporter = start(&format!("http://{address}"), &[("FLOWCAR_SPAN_QUEUE", "2")]);
    exporter.metrics(snapshot(2_000, 1));
    for isn in 0..3 {
        exporter.flow(&flow(isn), &anchor());
    }
    let failed = async {
        loop {
            let exports = exporter.self_metrics().exports;
            let failed = |signal| exports.contains_key(&(signal, "failure"));
            if failed("metrics") && failed("traces") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, failed).await.expect("both signals failed");
    exporter.metrics(snapshot(3_000, 5));

    let any = "127.0.0.1:0".parse().expect("an address");
    let (_sink, mut received) = Sink::start(address, any)
        .await
        .expect("the port is free again");
    assert!(exporter.flush(LIMIT).await);
    let mut newest = None;
    let mut ids = Vec::new();
    while let Ok(export) = received.try_recv() {
        match export {
            metrics @ Received::Metrics(_) => newest = Some(sent_bytes(&metrics)),
            Received::Logs(_) => panic!("log records are off by default"),
            traces @ Received::Traces(_) => {
                ids.extend(spans(traces).into_iter().map(|span| span.span_id))
            }
        }
    }
    assert_eq!(newest, Some(5), "the newer report replaced the older one");
    let mut by_rank: Vec<_> = (0..3)
        .map(|isn| TraceIdentity::of_handshake(isn, 7, Role::Client))
        .collect();
    by_rank.sort_by_key(|trace| trace.trace_id as u64);
    let mut expected: Vec<_> = by_rank[..2]
        .iter()
        .map(|trace| trace.span_id.to_be_bytes().to_vec())
        .collect();
    ids.sort();
    expected.sort();
    assert_eq!(ids, expected, "a fair sample of one second's spans is kept");
    assert_eq!(
        exporter.self_metrics().spans_dropped,
        BTreeMap::from([("queue_full", 1)])
    );
}

#[tokio::test]
async fn unsent_items_at_shutdown_are_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    // The kernel accepts the connection; nothing answers.
    let logs = [("OTEL_LOGS_EXPORTER", "otlp")];
    let mut exporter = start(&format!("http://{address}"), &logs);
    exporter.flow(&flow(1), &anchor());
    assert!(!exporter.flush(Duration::from_millis(50)).await);
    let self_metrics = exporter.self_metrics();
    let lost = BTreeMap::from([("shutdown", 1)]);
    assert_eq!(self_metrics.spans_dropped, lost);
    assert_eq!(self_metrics.logs_dropped, lost);
    assert_eq!(self_metrics.span_queue.items, 0);
    assert_eq!(self_metrics.log_queue.items, 0);
}

#[tokio::test]
async fn never_reached_receiver_is_not_waited_for_by_default() {
    let listener = TcpListener::bind("127.0.0.78:0")
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("its address");
    drop(listener);
    // Accepts connections (the kernel does) and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let silent_at = silent.local_addr().expect("its address");
    let (untrusted, _front) = tls::untrusted().await;
    let (sink, _received) = sink().await;
    let ssh = speech::serve_bytes(b"SSH-2.0-OpenSSH_9.2\r\n").await;
    let closing = speech::serve_bytes(b"").await;
    let page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>";
    let web = speech::serve_bytes(page).await;
    let both = &["grpc", "http/protobuf"][..];
    for (endpoint, protocols) in [
        (format!("http://{address}"), both),
        ("http://no-such-host.invalid:4317".to_owned(), both),
        (format!("https://{untrusted}"), both),
        (format!("http://{silent_at}"), both),
        // Receivers and others that speak another protocol.
        (format!("http://{}", sink.http()), &both[..1]),
        (format!("http://{}", sink.grpc()), &both[1..]),
        (format!("https://{}", sink.grpc()), both),
        (format!("http://{untrusted}"), both),
        (format!("http://{ssh}"), both),
        (format!("http://{web}"), both),
        // A forwarder whose receiver is away.
        (format!("http://{closing}"), both),
    ] {
        for protocol in protocols {
            let lines = Lines::default();
            let logged = lines.logging();
            let settings = [
                ("OTEL_EXPORTER_OTLP_PROTOCOL", *protocol),
                ("OTEL_LOGS_EXPORTER", "otlp"),
            ];
            let mut exporter = start(&endpoint, &settings);
            exporter.metrics(snapshot(2_000, 1));
            exporter.flow(&flow(1), &anchor());
            // Far more than the test may take.
            let long = Duration::from_secs(600);
            let flushed = exporter.flush_with(long, Patience::IfEverThere);
            let flushed = timeout(LIMIT, flushed).await;
            assert!(!flushed.expect("no wait"), "{endpoint} {protocol}");
            drop(logged);
            let text = lines.text();
            let lost = "metrics, spans, log records are lost: no receiver of OTLP was ever reached";
            assert_eq!(
                text.matches(lost).count(),
                1,
                "{endpoint} {protocol}: {text}"
            );
            assert!(!text.contains("raise"), "there is no time to raise: {text}");
            let self_metrics = exporter.self_metrics();
            for dropped in [self_metrics.spans_dropped, self_metrics.logs_dropped] {
                assert_eq!(dropped, BTreeMap::from([("shutdown", 1)]), "{endpoint}");
            }
        }
    }
}

#[tokio::test]
async fn spans_and_log_records_above_the_rate_are_counted() {
    let (sink, _received) = sink().await;
    let endpoint = format!("http://{}", sink.grpc());
    let settings = [
        ("FLOWCAR_SPANS_PER_SECOND", "1"),
        ("OTEL_LOGS_EXPORTER", "otlp"),
    ];
    let mut exporter = start(&endpoint, &settings);
    for isn in 0..13 {
        exporter.flow(&flow(isn), &anchor());
    }
    // Ten seconds' worth of tokens at once, and at most the tokens of the time since.
    let self_metrics = exporter.self_metrics();
    for dropped in [self_metrics.spans_dropped, self_metrics.logs_dropped] {
        let dropped = dropped["rate_limit"];
        assert!((2..=3).contains(&dropped), "{dropped}");
    }
}

/// A span that interim spans name as their parent stays among any number of ordinary ones, and above the rate the interim spans are
/// those of the flows whose own spans stay.
#[tokio::test]
async fn parents_of_interim_spans_are_kept() {
    const TIME: SpanTime = SpanTime {
        start_unix_ns: 0,
        end_unix_ns: 60_000_000_000,
    };
    let (sink, mut received) = sink().await;
    let endpoint = format!("http://{}", sink.grpc());
    // Of ten tokens nine are of high priority.
    let mut exporter = start(&endpoint, &[("FLOWCAR_SPANS_PER_SECOND", "1")]);
    for isn in 0..500 {
        exporter.flow(&flow(isn), &anchor());
    }
    let long: Vec<_> = (1_000..1_009).map(flow).collect();
    long.iter()
        .for_each(|flow| exporter.parent(flow, TIME, &anchor()));
    exporter.flush(LIMIT).await;
    let kept: BTreeSet<_> = spans(next(&mut received).await)
        .into_iter()
        .map(|span| span.span_id)
        .collect();
    for flow in &long {
        let id = flow.trace.span_id.to_be_bytes().to_vec();
        assert!(kept.contains(&id), "{kept:?}");
    }

    let mut exporter = start(&endpoint, &[("FLOWCAR_SPANS_PER_SECOND", "1")]);
    let cut = InterimSpan {
        number: 0,
        time: TIME,
        volume: Volume::default(),
    };
    let open: Vec<_> = (0..100).map(flow).collect();
    open.iter()
        .for_each(|flow| exporter.interim(flow, &cut, &anchor()));
    exporter.flush(LIMIT).await;
    let mut by_rank: Vec<_> = open.iter().map(|flow| flow.trace).collect();
    by_rank.sort_by_key(|trace| trace.trace_id as u64);
    let parents: BTreeSet<_> = spans(next(&mut received).await)
        .into_iter()
        .map(|span| span.parent_span_id)
        .collect();
    let least = by_rank[..parents.len()].iter();
    let least = least.map(|trace| trace.span_id.to_be_bytes().to_vec());
    assert_eq!(parents, least.collect());
}

#[tokio::test]
async fn a_receiver_may_listen_on_a_socket_of_this_host() {
    let (sink, mut received) = sink().await;
    let dir = tempfile::tempdir().expect("a folder");
    for (protocol, to) in [("grpc", sink.grpc()), ("http/protobuf", sink.http())] {
        let path = dir.path().join(to.port().to_string());
        let listener = tokio::net::UnixListener::bind(&path).expect("a socket");
        let front = tokio::spawn(async move {
            loop {
                let (mut inside, _) = listener.accept().await.expect("a connection");
                tokio::spawn(async move {
                    let mut outside = tokio::net::TcpStream::connect(to).await.expect("the sink");
                    let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
                });
            }
        });
        let endpoint = format!("unix://{}", path.display());
        let mut exporter = start(&endpoint, &[("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)]);
        exporter.metrics(snapshot(2_000, 42));
        assert_eq!(sent_bytes(&next(&mut received).await), 42, "{protocol}");
        exporter.flow(&flow(9), &anchor());
        assert_eq!(spans(next(&mut received).await).len(), 1, "{protocol}");
        assert!(exporter.own_sockets().is_empty(), "it is no TCP");
        front.abort();
    }
}

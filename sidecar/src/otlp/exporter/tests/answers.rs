//! What follows from a receiver's answers, by a scripted one over HTTP.

use super::*;

/// A request's body, as the scripted receiver saw it.
type Seen = mpsc::UnboundedReceiver<Bytes>;

/// An HTTP receiver that gives these answers, one for each request, and then keeps silent.
async fn scripted(answers: Vec<Vec<u8>>) -> (String, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    let (hand, seen) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut answers = answers.into_iter();
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = Vec::new();
            let body = loop {
                if let Some(body) = body_of(&request) {
                    break body;
                }
                if stream.read_buf(&mut request).await.expect("a request") == 0 {
                    panic!("half a request");
                }
            };
            hand.send(body).expect("the test receives");
            let Some(answer) = answers.next() else {
                return std::future::pending().await;
            };
            stream.write_all(&answer).await.expect("a written answer");
        }
    });
    (format!("http://{address}"), seen)
}

/// The body of a whole request.
fn body_of(request: &[u8]) -> Option<Bytes> {
    let head = request.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&request[..head]).to_lowercase();
    let length = text.split("content-length: ").nth(1)?.lines().next()?;
    let body = &request[head..];
    (body.len() >= length.parse().ok()?).then(|| Bytes::copy_from_slice(body))
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    [head.as_bytes(), body].concat()
}

async fn seen(requests: &mut Seen) -> Bytes {
    let next = timeout(LIMIT, requests.recv()).await;
    next.expect("a request in time").expect("a receiver")
}

const HTTP: (&str, &str) = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
const NO_METRICS: (&str, &str) = ("OTEL_METRICS_EXPORTER", "none");
const NO_TRACES: (&str, &str) = ("OTEL_TRACES_EXPORTER", "none");
const LOGS: (&str, &str) = ("OTEL_LOGS_EXPORTER", "otlp");

#[tokio::test]
async fn retry_after_of_the_receiver_is_respected() {
    let away = answer("503 Service Unavailable", "retry-after: 1\r\n", b"");
    let (endpoint, mut requests) = scripted(vec![away, answer("200 OK", "", b"")]).await;
    let exporter = start(&endpoint, &[HTTP, NO_TRACES]);
    exporter.metrics(snapshot(2_000, 1));
    seen(&mut requests).await;
    let refused = Instant::now();
    seen(&mut requests).await;
    // Without the header the second try would have come within half a second.
    assert!(
        refused.elapsed() >= Duration::from_millis(900),
        "{:?}",
        refused.elapsed()
    );
    assert!(exporter.flush(LIMIT).await);
    let expected = BTreeMap::from([(("metrics", "failure"), 1), (("metrics", "success"), 1)]);
    assert_eq!(exporter.self_metrics().exports, expected);
}

#[tokio::test]
async fn slow_receiver_is_waited_for() {
    let away = answer("503 Service Unavailable", "retry-after: 1\r\n", b"");
    let (endpoint, _requests) = scripted(vec![away, answer("200 OK", "", b"")]).await;
    let exporter = start(&endpoint, &[HTTP, NO_TRACES]);
    exporter.metrics(snapshot(2_000, 1));
    assert!(exporter.flush_with(LIMIT, Patience::IfEverThere).await);
}

#[tokio::test]
async fn permanently_refused_export_is_not_resent() {
    let no = answer("400 Bad Request", "", b"no");
    let (endpoint, mut requests) = scripted(vec![no, answer("200 OK", "", b"")]).await;
    let mut exporter = start(&endpoint, &[HTTP, ("OTEL_METRICS_EXPORTER", "none")]);
    exporter.flow(&flow(1), &anchor());
    assert!(!exporter.flush(LIMIT).await, "lost");
    seen(&mut requests).await;
    let self_metrics = exporter.self_metrics();
    assert_eq!(self_metrics.spans_dropped, BTreeMap::from([("refused", 1)]));
    assert_eq!(
        self_metrics.exports,
        BTreeMap::from([(("traces", "refused"), 1)])
    );
}

/// What the receiver takes only later is not lost; what it never takes is, and the log says so once for each signal.
#[tokio::test]
async fn last_exports_are_delivered_only_if_all_of_them_was_taken() {
    let protobuf = "content-type: application/x-protobuf\r\n";
    // A partial success with three rejected, and one with none and a message.
    let partial = answer("200 OK", protobuf, &[0x0a, 2, 0x08, 3]);
    let warning = answer("200 OK", protobuf, &[0x0a, 3, 0x12, 1, b'w']);
    let fine = answer("200 OK", "", b"");
    let refusal = |status| answer(status, "", b"no");
    for (answers, taken) in [
        (vec![fine.clone()], true),
        (vec![warning], true),
        (vec![refusal("503 Service Unavailable"), fine.clone()], true),
        (vec![refusal("400 Bad Request")], false),
        (vec![refusal("401 Unauthorized")], false),
        (vec![refusal("404 Not Found")], false),
        (vec![partial], false),
        (vec![refusal("308 Permanent Redirect")], false),
        // A single span or log record is not split.
        (vec![refusal("413 Content Too Large")], false),
    ] {
        let name = String::from_utf8_lossy(&answers[0]).into_owned();
        for settings in [
            &[HTTP, NO_METRICS][..],
            &[HTTP, NO_TRACES][..],
            &[HTTP, NO_METRICS, NO_TRACES, LOGS][..],
        ] {
            // A report is split down to its points.
            let splits = name.contains("413") && !settings.contains(&NO_METRICS);
            let answers = if splits {
                vec![answers[0].clone(); 1_000]
            } else {
                answers.clone()
            };
            let (endpoint, _requests) = scripted(answers).await;
            let mut exporter = start(&endpoint, settings);
            let lines = Lines::default();
            let logged = lines.logging();
            exporter.metrics(snapshot(2_000, 1));
            exporter.flow(&flow(1), &anchor());
            assert_eq!(exporter.flush(LIMIT).await, taken, "{settings:?} {name}");
            drop(logged);
            let lost = lines
                .text()
                .matches("are lost: the receiver refused")
                .count();
            assert_eq!(lost, usize::from(!taken), "{settings:?} {name}");
        }
    }
}

/// No more is counted as rejected than was sent, and nothing twice, whatever the receiver counts.
#[tokio::test]
async fn partial_success_is_counted() {
    let protobuf = "content-type: application/x-protobuf\r\n";
    let mut points = None;
    // The rejected count, the points that are rejected, and the spans.
    for (count, metrics, traces) in [
        (0, Some(0), 0),
        (1, Some(1), 1),
        (3, Some(3), 1),
        (100_000, None, 1),
        (i64::MAX, None, 1),
        (-5, Some(0), 0),
        (i64::MIN, Some(0), 0),
    ] {
        // ExportMetricsServiceResponse { partial_success { rejected_data_points: count, error_message: "old" } },
        // by hand from the protobuf wire format.
        let mut partial = vec![0x08];
        prost::encoding::encode_varint(count.cast_unsigned(), &mut partial);
        partial.extend([0x12, 3, b'o', b'l', b'd']);
        let length = u8::try_from(partial.len()).expect("short");
        let partial = answer(
            "200 OK",
            protobuf,
            &[&[0x0a, length], &partial[..]].concat(),
        );
        let (endpoint, _requests) = scripted(vec![partial; 6]).await;
        let mut exporter = start(&endpoint, &[HTTP, LOGS]);
        for round in 1..=2 {
            exporter.metrics(snapshot(2_000 * round, 1));
            assert_eq!(exporter.flush(LIMIT).await, traces == 0, "{count}");
            exporter.flow(&flow(1), &anchor());
            assert_eq!(exporter.flush(LIMIT).await, traces == 0, "{count}");
        }
        let self_metrics = exporter.self_metrics();
        let read = |of: &BTreeMap<&str, u64>, signal| of.get(signal).copied().unwrap_or(0);
        let rejected = |signal| read(&self_metrics.rejected, signal);
        let exported = |signal| read(&self_metrics.exported, signal);
        for signal in ["traces", "logs"] {
            let found = (rejected(signal), exported(signal));
            assert_eq!(found, (2 * traces, 2 * (1 - traces)), "{count} {signal}");
        }
        let all = rejected("metrics") + exported("metrics");
        let points = *points.get_or_insert(all);
        let expected = metrics.map_or(points, |each| 2 * each);
        assert_eq!((rejected("metrics"), all), (expected, points), "{count}");
        let outcome = if traces == 0 { "success" } else { "partial" };
        let expected = ["metrics", "traces", "logs"].map(|signal| ((signal, outcome), 2));
        assert_eq!(self_metrics.exports, BTreeMap::from(expected), "{count}");
    }
}

#[tokio::test]
async fn unacknowledged_deltas_are_resent_unchanged() {
    let away = answer("503 Service Unavailable", "", b"");
    let fine = answer("200 OK", "", b"");
    let answers = vec![fine.clone(), away, fine.clone(), fine];
    let (endpoint, mut requests) = scripted(answers).await;
    let delta = ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta");
    let exporter = start(&endpoint, &[HTTP, NO_TRACES, delta]);
    exporter.metrics(snapshot(2_000, 10));
    let first = seen(&mut requests).await;
    assert!(exporter.flush(LIMIT).await);
    exporter.metrics(snapshot(3_000, 15));
    let second = seen(&mut requests).await;
    exporter.metrics(snapshot(4_000, 18));
    let again = seen(&mut requests).await;
    assert_eq!(second, again, "the same points with the same times");
    let last = seen(&mut requests).await;
    let values: Vec<_> = [first, second, last].into_iter().map(delta_of).collect();
    assert_eq!(
        values,
        [(1_000, 2_000, 10), (2_000, 3_000, 5), (3_000, 4_000, 3)]
    );
}

/// Start, end and value of `flowcar.tcp.io` for what was sent.
fn delta_of(body: Bytes) -> (u64, u64, i64) {
    let export =
        opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest::decode(
            body,
        )
        .expect("a request");
    let metrics = &export.resource_metrics[0].scope_metrics[0].metrics;
    let io = metrics
        .iter()
        .find(|metric| metric.name == "flowcar.tcp.io");
    let Some(Data::Sum(sum)) = io.and_then(|metric| metric.data.as_ref()) else {
        panic!("no flowcar.tcp.io")
    };
    assert_eq!(sum.aggregation_temporality(), AggregationTemporality::Delta);
    let point = &sum.data_points[0];
    (
        point.start_time_unix_nano,
        point.time_unix_nano,
        io_sent(&export),
    )
}

#[tokio::test]
async fn headers_are_sent_with_both_signals() {
    let (endpoint, mut requests) = scripted_heads().await;
    let headers = ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=a%20b%2541");
    let mut exporter = start(&endpoint, &[HTTP, headers]);
    exporter.metrics(snapshot(2_000, 1));
    exporter.flow(&flow(1), &anchor());
    for _ in 0..2 {
        let head = timeout(LIMIT, requests.recv())
            .await
            .expect("in time")
            .expect("a request");
        assert!(
            head.contains("x-tenant: a b%41\r\n"),
            "decoded once: {head}"
        );
        assert!(head.contains("user-agent: flowcar/"), "{head}");
    }
}

/// An HTTP receiver that shows the heads of requests and never answers.
async fn scripted_heads() -> (String, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    let (hand, seen) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let hand = hand.clone();
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.windows(4).any(|four| four == b"\r\n\r\n") {
                    stream.read_buf(&mut request).await.expect("a request");
                }
                let _ = hand.send(String::from_utf8_lossy(&request).to_lowercase());
                std::future::pending::<()>().await;
            });
        }
    });
    (format!("http://{address}"), seen)
}

/// A partial success with nothing rejected is a warning; a page is no success; a redirect is reported with its target.
#[tokio::test]
async fn receiver_answers_are_logged_by_kind() {
    let page = answer(
        "200 OK",
        "content-type: text/html\r\n",
        b"<html>Sign\nin</html>",
    );
    let elsewhere = "location: https://me:s3cret@o.example/v1/metrics?token=s3cret\r\n";
    let moved = answer("308 Permanent Redirect", elsewhere, b"");
    let raw = |text: &str| text.as_bytes().to_vec();
    let crowded = "x: y\r\n".repeat(200);
    let crowded = raw(&format!("HTTP/1.1 200 OK\r\n{crowded}\r\n"));
    let twice = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\ncontent-length: 5\r\n\r\n";
    let chunk = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n\r\n";
    let malformed = "the answer is no valid HTTP (";
    for (printed, retryable, words) in [
        (crowded, true, malformed),
        (raw(twice), true, malformed),
        (raw(chunk), true, malformed),
        (raw("HTTP/1.1 000 Odd\r\n\r\n"), true, malformed),
        (
            raw("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx"),
            true,
            "the connection ended before the whole answer came (",
        ),
        (
            raw("HTTP/1.1 200 OK\r\ncontent-le"),
            true,
            "; check the receiver's log, and what else on the path closes connections",
        ),
        (page, true, "\"<html>Sign\\nin</html>\""),
        (
            answer("200 OK", "content-type: text/html\r\n", b""),
            true,
            "a success and not OTLP (content type \"text/html\", without a body)",
        ),
        (
            moved,
            false,
            "redirects to \"https://(hidden)@o.example/v1/metrics?(hidden)\" (HTTP 308)",
        ),
    ] {
        let (endpoint, _requests) = scripted(vec![printed]).await;
        let target = config(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint), HTTP]);
        let target = target.export.metrics.expect("a target");
        let mut transport = Remote::new(Signal::Metrics, target, ExporterSockets::default());
        let error = transport
            .send(ExportRequest::encoded(Bytes::from_static(b"x")))
            .await
            .expect_err("no success");
        assert_eq!(error.retryable(), retryable, "{error}");
        let error = error.to_string();
        assert!(error.contains(words), "{error}");
        assert!(!error.contains("s3cret"), "{error}");
    }
}

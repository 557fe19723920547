use std::{io::Write as _, time::Duration};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    metrics::v1::{
        ExponentialHistogram, ExponentialHistogramDataPoint, Metric, ResourceMetrics, ScopeMetrics,
        exponential_histogram_data_point::Buckets, metric::Data,
    },
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, span::SpanKind},
};
use prost::Message;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::*;

const LIMIT: Duration = Duration::from_secs(20);

async fn start() -> (Sink, mpsc::Receiver<Received>) {
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    Sink::start(any, any).await.expect("a free port")
}

fn service(name: &str) -> Option<Resource> {
    let value = Some(AnyValue {
        value: Some(Value::StringValue(name.to_owned())),
    });
    let attribute = KeyValue {
        key: "service.name".to_owned(),
        value,
        ..Default::default()
    };
    Some(Resource {
        attributes: vec![attribute],
        ..Default::default()
    })
}

fn traces(name: &str) -> ExportTraceServiceRequest {
    let span = Span {
        trace_id: vec![0xab; 16],
        span_id: vec![0xcd; 8],
        name: name.to_owned(),
        kind: SpanKind::Client.into(),
        start_time_unix_nano: 1_000_000_000,
        end_time_unix_nano: 1_020_400_000,
        ..Default::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: service("web"),
            scope_spans: vec![ScopeSpans {
                spans: vec![span],
                ..Default::default()
            }],
            ..Default::default()
        }],
    }
}

async fn post(sink: &Sink, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> (u16, String) {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let mut request = hyper::Request::post(format!("http://{}{path}", sink.http()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request
        .body(Full::new(Bytes::from(body)))
        .expect("a request");
    let answer = client.request(request).await.expect("an answer");
    let status = answer.status().as_u16();
    let text = answer
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    (status, String::from_utf8(text.to_vec()).expect("a text"))
}

/// The head and the body of the answer to a request that is written as it is.
async fn raw(sink: &Sink, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(sink.http()).await.expect("it listens");
    stream.write_all(request.as_bytes()).await.expect("written");
    stream.shutdown().await.expect("written");
    let mut answer = String::new();
    let ended = timeout(LIMIT, stream.read_to_string(&mut answer)).await;
    ended.expect("in time").expect("a text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    (head.to_owned(), body.to_owned())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

#[tokio::test]
async fn json_request_is_accepted_and_printed_unchanged() {
    let (sink, mut received) = start().await;
    let sent = r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"abababababababababababababababab",
        "spanId":"cdcdcdcdcdcdcdcd","name":"tcp 8080","kind":3,"startTimeUnixNano":"1","endTimeUnixNano":"2"}]}]}]}"#;
    let json = [("content-type", "application/json")];
    let answer = post(&sink, "/v1/traces", &json, sent.as_bytes().to_vec()).await;
    assert_eq!(answer, (200, "{}".to_owned()));
    let export = timeout(LIMIT, received.recv())
        .await
        .expect("in time")
        .expect("an export");
    let line: serde_json::Value = serde_json::from_str(&json_line(&export)).expect("JSON");
    let span = &line["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
    assert_eq!(span["traceId"], "abababababababababababababababab");
    assert_eq!(span["name"], "tcp 8080");
}

#[tokio::test]
async fn invalid_otlp_is_refused() {
    let (sink, mut received) = start().await;
    let status = async |path, headers: &[(&str, &str)], body: &[u8]| {
        post(&sink, path, headers, body.to_vec()).await.0
    };
    assert_eq!(status("/v1/traces", &[], b"\xff garbage").await, 400);
    assert_eq!(status("/v1/profiles", &[], b"").await, 404);
    let packed = |with| [("content-encoding", with)];
    assert_eq!(status("/v1/traces", &packed("br"), b"").await, 415);
    assert_eq!(status("/v1/traces", &packed("gzip"), b"no gzip").await, 400);
    assert_eq!(status("/v1/traces", &packed("zstd"), b"no zstd").await, 400);
    let bomb = zstd::bulk::compress(&vec![0; MOST_BODY + 1], 1).expect("memory");
    assert_eq!(status("/v1/traces", &packed("zstd"), &bomb).await, 413);
    assert!(received.try_recv().is_err(), "nothing of it is handed on");
    assert_eq!(
        status("/v1/traces", &[], &traces("x").encode_to_vec()).await,
        200
    );
}

#[tokio::test]
async fn refusal_names_what_is_taken() {
    let (sink, _received) = start().await;
    let encoded = |with| [("content-encoding", with)];
    let nowhere = "/v1/profiles is none of /v1/metrics, /v1/traces and /v1/logs";
    let large = format!("more than {MOST_BODY} bytes");
    let answer = post(&sink, "/v1/profiles", &[], Vec::new()).await;
    assert_eq!(answer, (404, nowhere.to_owned()));
    let answer = post(&sink, "/v1/logs", &encoded("br"), Vec::new()).await;
    assert_eq!(answer, (415, "br is neither gzip nor zstd".to_owned()));
    for (encoding, body) in [
        ("gzip", gzip(&vec![0; MOST_BODY + 1])),
        (
            "zstd",
            zstd::bulk::compress(&vec![0; MOST_BODY + 1], 1).expect("memory"),
        ),
    ] {
        let answer = post(&sink, "/v1/traces", &encoded(encoding), body).await;
        assert_eq!(answer, (413, large.clone()), "{encoding}");
    }
    let (head, body) = raw(&sink, "GET /v1/traces HTTP/1.1\r\nhost: s\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 405 "), "{head}");
    assert!(head.contains("\r\nallow: POST\r\n"), "{head}");
    assert_eq!(body, "POST it");
}

#[tokio::test]
async fn packed_request_is_unpacked() {
    let (sink, mut received) = start().await;
    let sent = traces("packed");
    let plain = sent.encode_to_vec();
    let half = plain.len() / 2;
    let zstd = |part: &[u8]| zstd::bulk::compress(part, 1).expect("memory");
    for (encoding, body) in [
        ("identity", plain.clone()),
        ("gzip", gzip(&plain)),
        ("zstd", zstd(&plain)),
        // RFC 1952 and RFC 8878 allow several, one after the other.
        (
            "gzip",
            [gzip(&plain[..half]), gzip(&plain[half..])].concat(),
        ),
        (
            "zstd",
            [zstd(&plain[..half]), zstd(&plain[half..])].concat(),
        ),
    ] {
        let encoded = [("content-encoding", encoding)];
        let answer = post(&sink, "/v1/traces", &encoded, body).await;
        assert_eq!(answer, (200, String::new()), "{encoding}");
        let export = timeout(LIMIT, received.recv()).await;
        let export = export.expect("in time").expect("an export");
        assert_eq!(export, Received::Traces(sent.clone()), "{encoding}");
    }
    for (encoding, mut body) in [("gzip", gzip(&plain)), ("zstd", zstd(&plain))] {
        body.truncate(body.len() - 9);
        let encoded = [("content-encoding", encoding)];
        let (status, _) = post(&sink, "/v1/traces", &encoded, body).await;
        assert_eq!(status, 400, "{encoding} that ends early");
    }
    assert!(received.try_recv().is_err(), "nothing of it is handed on");
}

#[tokio::test]
async fn connections_end_with_the_sink() {
    let (sink, _received) = start().await;
    let mut stream = TcpStream::connect(sink.http()).await.expect("it listens");
    let request = "POST /v1/logs HTTP/1.1\r\nhost: s\r\ncontent-length: 0\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.expect("an answer");
    assert_eq!(&first, b"HTTP/1.1 200");
    drop(sink);
    let mut rest = Vec::new();
    let ended = timeout(LIMIT, stream.read_to_end(&mut rest)).await;
    ended.expect("in time").expect("the end");
}

#[tokio::test]
async fn json_log_record_is_accepted_and_printed() {
    let (sink, mut received) = start().await;
    let sent = r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"traceId":"abababababababababababababababab",
        "spanId":"cdcdcdcdcdcdcdcd","timeUnixNano":"1","severityNumber":9,"severityText":"INFO","eventName":"flow\u001bclosed",
        "attributes":[{"key":"server.port","value":{"intValue":"8080"}}]},{"body":{"stringValue":"words"}}]}]}]}"#;
    let json = [("content-type", "application/json")];
    let answer = post(&sink, "/v1/logs", &json, sent.as_bytes().to_vec()).await;
    assert_eq!(answer, (200, "{}".to_owned()));
    let export = timeout(LIMIT, received.recv()).await;
    let export = export.expect("in time").expect("an export");
    let line: serde_json::Value = serde_json::from_str(&json_line(&export)).expect("JSON");
    let record = &line["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];
    assert_eq!(record["traceId"], "abababababababababababababababab");
    let ids = format!("trace {} span {}", "ab".repeat(16), "cd".repeat(8));
    let expected = format!(
        "logs of (no service.name)\n  INFO  flowclosed  {ids}  server.port=8080\n        words  \n"
    );
    assert_eq!(text(&export), expected);
}

#[test]
fn span_line_cannot_move_the_cursor() {
    let text = text(&Received::Traces(traces("tcp\u{1b}[2J 8080")));
    assert!(!text.contains('\u{1b}'), "{text:?}");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "spans of web");
    let ids = format!("trace {} span {}", "ab".repeat(16), "cd".repeat(8));
    assert!(
        lines[1].contains("20.4ms") && lines[1].contains(&ids),
        "{text}"
    );
}

#[test]
fn histogram_is_drawn_with_its_quantiles() {
    // Nine values in (4.645 ms, 5.066 ms] and one five doublings above.
    let mut bucket_counts = vec![0; 41];
    (bucket_counts[0], bucket_counts[40]) = (9, 1);
    let point = ExponentialHistogramDataPoint {
        count: 10,
        scale: 3,
        positive: Some(Buckets {
            offset: -62,
            bucket_counts,
        }),
        ..Default::default()
    };
    let metric = Metric {
        name: "flowcar.tcp.rtt".to_owned(),
        unit: "s".to_owned(),
        data: Some(Data::ExponentialHistogram(ExponentialHistogram {
            data_points: vec![point],
            ..Default::default()
        })),
        ..Default::default()
    };
    let export = ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: service("web"),
            scope_metrics: vec![ScopeMetrics {
                metrics: vec![metric],
                ..Default::default()
            }],
            ..Default::default()
        }],
    };
    let text = text(&Received::Metrics(export));
    let line = text.lines().nth(1).expect("a line");
    assert!(line.contains("flowcar.tcp.rtt"), "{line}");
    assert!(line.contains('█') && line.contains('▁'), "{line}");
    // Rank 5 of 10 is five ninths into the first bucket: 2^((-62 + 5/9) / 8) s = 4.87 ms.
    assert!(line.contains("p50 4.87ms"), "{line}");
    // 2^((-62 + 41) / 8) s = 162 ms.
    assert!(line.contains("p99  162ms"), "{line}");
}

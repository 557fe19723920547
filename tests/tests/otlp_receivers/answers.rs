//! Answers that are no success, and how flowcar logs them.

use std::{collections::BTreeMap, time::Duration};

use flowcar::{flow::Role, snapshot::SelfMetrics};
use hyper::Response;
use tonic::Code;

use crate::{
    answering::{Answering, Asked, grpc, grpc_of, grpc_refusal, http, taken},
    sample::{LIMIT, export, flow, snapshot},
    scripted::Answer,
};

/// The status of a success.
const OK: &[(&str, &[u8])] = &[("grpc-status", b"0")];

const HTML: &[u8] = b"<html><body>Please sign in</body></html>";

/// A report and a span to a receiver that gives this answer once and takes what comes after it, with one try only or until
/// all is settled.
fn outcome(
    protocol: &str,
    answer: impl Fn(&Asked) -> Response<Answer> + Send + Sync + 'static,
) -> (SelfMetrics, usize) {
    let settings = [("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)];
    export("web", &settings, async |start| {
        let seen = std::sync::Mutex::new(BTreeMap::new());
        let receiver = Answering::start(move |asked| {
            let mut seen = seen.lock().expect("no panic");
            let times = seen.entry(asked.metrics).or_insert(0);
            *times += 1;
            if *times == 1 {
                answer(asked)
            } else {
                taken(asked)
            }
        })
        .await;
        let mut exporter = start(&receiver.endpoint());
        let (flow, anchor) = flow(Role::Client, 1, 2);
        exporter.flow(&flow, &anchor);
        exporter.metrics(snapshot());
        assert!(exporter.flush(LIMIT).await);
        (exporter.self_metrics(), receiver.count())
    })
}

fn count(self_metrics: &SelfMetrics, outcome: &'static str) -> u64 {
    ["metrics", "traces"]
        .iter()
        .filter_map(|signal| self_metrics.exports.get(&(*signal, outcome)))
        .sum()
}

#[test]
fn non_otlp_success_is_retried() {
    let page = [("content-type", "text/html")];
    let json = [("content-type", "application/json")];
    for (protocol, name) in [
        ("http/protobuf", "page"),
        ("http/protobuf", "json"),
        ("http/protobuf", "unnamed"),
        ("http/protobuf", "garbage"),
        ("grpc", "page"),
        ("grpc", "garbage"),
        ("grpc", "no status"),
        ("grpc", "no message"),
        ("grpc", "status alone"),
        ("grpc", "too long"),
        ("grpc", "cut short"),
        ("grpc", "packed, unnamed"),
        ("grpc", "packed"),
        ("grpc", "odd flag"),
    ] {
        let (self_metrics, requests) = outcome(protocol, move |_| match (protocol, name) {
            (_, "page") => http(200, &page, HTML),
            (_, "json") => http(200, &json, b"{\"partialSuccess\":{}}"),
            (_, "unnamed") => http(200, &[], HTML),
            ("grpc", "garbage") => grpc(b"\xff\xff garbage"),
            ("grpc", "no message") => grpc_of(b"", &[], OK),
            ("grpc", "status alone") => grpc_of(b"", OK, &[]),
            // 5 MiB are announced.
            ("grpc", "too long") => grpc_of(b"\0\0\x50\0\0aaaaaaaa", &[], OK),
            ("grpc", "cut short") => grpc_of(b"\0\0\0\0\x14aaa", &[], OK),
            ("grpc", "packed, unnamed") => grpc_of(b"\x01\0\0\0\x03aaa", &[], OK),
            ("grpc", "packed") => grpc_of(b"\x01\0\0\0\x03aaa", &[("grpc-encoding", b"gzip")], OK),
            ("grpc", "odd flag") => grpc_of(b"\x07\0\0\0\0", &[], OK),
            ("grpc", _) => http(200, &[("content-type", "application/grpc")], b"\0\0\0\0\0"),
            _ => http(
                200,
                &[("content-type", "application/x-protobuf")],
                b"\xff\xff",
            ),
        });
        assert_eq!(
            count(&self_metrics, "failure"),
            2,
            "{protocol} {name}: {:?}",
            self_metrics.exports
        );
        assert_eq!(
            count(&self_metrics, "success"),
            2,
            "{protocol} {name}: {:?}",
            self_metrics.exports
        );
        assert_eq!(
            count(&self_metrics, "partial"),
            0,
            "{protocol} {name}: {:?}",
            self_metrics.exports
        );
        assert_eq!(requests, 4, "{protocol} {name}");
        assert!(
            self_metrics.spans_dropped.is_empty(),
            "{:?}",
            self_metrics.spans_dropped
        );
    }
}

/// A field that does not decode changes nothing about the others, in headers or in trailers.
#[test]
fn undecodable_grpc_field_is_left_out() {
    const UNAVAILABLE: (&str, &[u8]) = ("grpc-status", b"14");
    const DETAILS: &str = "grpc-status-details-bin";
    let success: &[u8] = b"\0\0\0\0\0";
    for field in [
        (DETAILS, &b"!!!"[..]),
        (DETAILS, b"a b"),
        (DETAILS, b"QQx"),
        (DETAILS, b"___-"),
        (DETAILS, b"AAA=,BBB="),
        ("grpc-message", b"%FF busy"),
        ("grpc-message", b"%C3%28"),
        ("grpc-message", b"\xff\xfe"),
    ] {
        let refusal = [UNAVAILABLE, field];
        let (grpc_status, encoding) = (OK[0], ("grpc-encoding", &b"gzip"[..]));
        let encoded = [&refusal[..], &[encoding]].concat();
        let taken = vec![grpc_status, field];
        for (name, failed, framed, headers, trailers) in [
            ("headers", 2, &b""[..], refusal.to_vec(), Vec::new()),
            ("trailers", 2, b"", Vec::new(), refusal.to_vec()),
            ("headers with an encoding", 2, b"", encoded, Vec::new()),
            ("a success", 0, success, Vec::new(), taken.clone()),
            (
                "a success with an encoding",
                0,
                success,
                vec![encoding],
                taken,
            ),
        ] {
            let (self_metrics, requests) =
                outcome("grpc", move |_| grpc_of(framed, &headers, &trailers));
            let found = ["failure", "success"].map(|outcome| count(&self_metrics, outcome));
            assert_eq!(found, [failed, 2], "{field:?} in {name}");
            assert_eq!(requests as u64, failed + 2, "{field:?} in {name}");
            let dropped = &self_metrics.spans_dropped;
            assert!(dropped.is_empty(), "{field:?} in {name}: {dropped:?}");
        }
    }
}

#[test]
fn partial_success_without_rejections_is_a_success() {
    // partial_success { error_message: "old" }, by hand from the wire format, and one that is not UTF-8.
    let warning: &[u8] = &[0x0a, 5, 0x12, 3, b'o', b'l', b'd'];
    let not_utf8: &[u8] = &[0x0a, 4, 0x12, 2, 0xff, 0xfe];
    for (protocol, warning) in [
        ("grpc", warning),
        ("grpc", not_utf8),
        ("http/protobuf", warning),
        ("http/protobuf", not_utf8),
    ] {
        let (self_metrics, requests) = outcome(protocol, move |asked| {
            if asked.grpc {
                grpc(warning)
            } else {
                http(200, &[], warning)
            }
        });
        let expected = BTreeMap::from([(("metrics", "success"), 1), (("traces", "success"), 1)]);
        assert_eq!(
            (self_metrics.exports, requests),
            (expected, 2),
            "{protocol}"
        );
        assert!(
            self_metrics.rejected.is_empty(),
            "{:?}",
            self_metrics.rejected
        );
    }
}

#[test]
fn a_redirect_is_not_followed() {
    for protocol in ["grpc", "http/protobuf"] {
        for status in [301, 302, 303, 307, 308] {
            export(
                "web",
                &[("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)],
                async |start| {
                    let elsewhere = Answering::start(taken).await;
                    let target = format!("{}/v1/metrics", elsewhere.endpoint());
                    let receiver =
                        Answering::start(move |_| http(status, &[("location", &target)], b""))
                            .await;
                    let mut exporter = start(&receiver.endpoint());
                    let (flow, anchor) = flow(Role::Client, 1, 2);
                    exporter.flow(&flow, &anchor);
                    exporter.metrics(snapshot());
                    assert!(!exporter.flush(LIMIT).await, "the receiver took nothing");
                    let self_metrics = exporter.self_metrics();
                    let expected =
                        BTreeMap::from([(("metrics", "refused"), 1), (("traces", "refused"), 1)]);
                    assert_eq!(self_metrics.exports, expected, "{protocol} {status}");
                    assert_eq!(self_metrics.spans_dropped, BTreeMap::from([("refused", 1)]));
                    assert_eq!((receiver.count(), elsewhere.count()), (2, 0));
                },
            );
        }
    }
}

/// How `flowcar export` logs a receiver's message, in either format.
#[test]
fn a_receiver_cannot_write_lines_into_the_log() {
    const FORGERY: &str = "full\n2026-01-01T00:00:00.000000Z  INFO forged\r\x1b[31m\u{202e}";
    for (protocol, format) in [
        ("grpc", "text"),
        ("grpc", "json"),
        ("http/protobuf", "text"),
        ("http/protobuf", "json"),
    ] {
        let log = export("web", &[], async |_| {
            let receiver = Answering::start(move |asked| {
                if asked.grpc {
                    return grpc_refusal(Code::InvalidArgument, FORGERY, Vec::new());
                }
                http(400, &[], FORGERY.as_bytes())
            })
            .await;
            let mut child = flowcar_tests::flowcar::bare().expect("cargo build --bins");
            child
                .arg("export")
                .env_clear()
                .env("FLOWCAR_SOURCE", "inet_diag")
                .env("FLOWCAR_LOG_FORMAT", format)
                .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
                .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint())
                .stderr(std::process::Stdio::piped());
            let mut child = child.spawn().expect("flowcar starts");
            let asked = async {
                while receiver.count() == 0 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            let asked = tokio::time::timeout(LIMIT, asked).await;
            let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it runs");
            let output = tokio::task::spawn_blocking(move || {
                let mut log = Vec::new();
                let stderr = child.stderr.as_mut().expect("a pipe, as asked for");
                std::io::Read::read_to_end(stderr, &mut log).expect("its log");
                child.wait().expect("a child can be waited for");
                log
            });
            let log = output.await.expect("its log");
            asked.expect("a request");
            String::from_utf8(log).expect("text")
        });
        assert!(log.contains("forged"), "{protocol} {format}: {log}");
        let forged = log.lines().find(|line| line.starts_with("2026-01-01"));
        assert_eq!(forged, None, "{protocol} {format}");
        let odd = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
        assert!(!log.contains(odd), "{protocol} {format}: {log:?}");
    }
}

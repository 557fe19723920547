//! `flowcar check --send` tries the receivers, and names the setting to change if they speak another protocol.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;

/// A sink on free ports of this name. Killed on drop, so that a panic leaves nothing running.
struct Running {
    child: Child,
    grpc: String,
    http: String,
}

impl Running {
    fn start(name: &str) -> Self {
        let any = format!("{name}:0");
        let child = Command::new(env!("CARGO_BIN_EXE_flowcar"))
            .args(["sink", "--grpc", &any, "--http", &any])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.expect("a sink");
        let mut line = String::new();
        let stderr = child.stderr.take().expect("a pipe");
        BufReader::new(stderr).read_line(&mut line).expect("a line");
        let mut words = line.split_whitespace();
        let mut behind = |word: &str| {
            words.find(|other| *other == word);
            words.nth(1).unwrap_or_else(|| panic!("{line}")).to_owned()
        };
        let (grpc, http) = (behind("gRPC"), behind("HTTP"));
        Self { child, grpc, http }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have exited.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// With socket dumps alone, so that the tests need no capability.
fn check(words: &[&str], settings: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_flowcar"))
        .arg("check")
        .args(words)
        .env("FLOWCAR_SOURCE", "inet_diag")
        .envs(settings.iter().copied())
        .output()
        .expect("an answer")
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn line<'a>(report: &'a Value, name: &str) -> (&'a str, &'a str) {
    let lines = report["checks"].as_array().expect("checks");
    let line = lines.iter().find(|line| line["name"] == name);
    let line = line.unwrap_or_else(|| panic!("no {name}: {report:#}"));
    let text = |field: &str| line[field].as_str().expect("a text");
    (text("state"), text("text"))
}

#[test]
fn accepting_receiver_is_reported() {
    let sink = Running::start("localhost");
    for (protocol, address) in [("grpc", &sink.grpc), ("http/protobuf", &sink.http)] {
        let endpoint = format!("http://{address}");
        let settings = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_LOGS_EXPORTER", "otlp"),
        ];
        let output = check(&["--send", "--format", "json"], &settings);
        let report = report(&output);
        for name in ["send metrics", "send spans", "send log records"] {
            let (state, text) = line(&report, name);
            assert_eq!(state, "ok", "{protocol}: {text}");
            assert!(
                text.contains(&endpoint) && text.contains("took an empty export"),
                "{text}"
            );
        }
        assert_eq!(output.status.code(), Some(0), "{report:#}");
    }
}

#[test]
fn absent_receiver_is_reported() {
    for protocol in ["grpc", "http/protobuf"] {
        let settings = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ];
        let output = check(&["--send", "--format", "json"], &settings);
        let report = report(&output);
        for name in ["send metrics", "send spans"] {
            let (state, text) = line(&report, name);
            assert_eq!(state, "no", "{protocol}: {text}");
            assert!(text.contains("check that the receiver runs"), "{text}");
        }
        assert_eq!(output.status.code(), Some(69), "{report:#}");
        assert_eq!(report["source"], "inet_diag", "flows can still be followed");
    }
}

/// A partial success: `partial_success { rejected: 5 }` by hand from the wire format, with a message or without.
#[test]
fn rejecting_receiver_is_reported() {
    const PLAIN: &[u8] = &[0x0a, 2, 0x08, 5];
    const EXPLAINED: &[u8] = &[0x0a, 7, 0x08, 5, 0x12, 3, b'o', b'l', b'd'];
    for (answer, explained) in [(PLAIN, ""), (EXPLAINED, "; its message is \"old\"")] {
        let endpoint = answering(answer);
        let settings = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_TRACES_EXPORTER", "none"),
        ];
        let output = check(&["--send", "--format", "json"], &settings);
        let report = report(&output);
        let (state, text) = line(&report, "send metrics");
        let expected = format!("rejects 5 points of an empty export{explained}; check its log");
        assert!(
            state == "no" && text.ends_with(&expected),
            "{state}: {text}"
        );
        assert_eq!(output.status.code(), Some(69), "{report:#}");
    }
}

/// The endpoint of an HTTP receiver that answers one request with success and this body.
fn answering(body: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("its address"));
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a connection");
        let mut reader = BufReader::new(stream);
        let (mut line, mut length) = (String::new(), 0);
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line).expect("a header");
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a number");
            }
        }
        let mut request = vec![0; length];
        reader.read_exact(&mut request).expect("a request");
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let answer = [head.as_bytes(), body].concat();
        reader.get_mut().write_all(&answer).expect("an answer");
    });
    endpoint
}

/// The kernel accepts its connections, and nothing answers.
#[test]
fn silent_receiver_is_reported_within_the_timeout() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = format!("http://{}", silent.local_addr().expect("its address"));
    // A limit of 0 is none for exports, and not for somebody who waits for the verdict.
    for (protocol, limit, reported) in [
        ("grpc", "300", "no answer within 300ms"),
        ("http/protobuf", "300", "no answer within 300ms"),
        ("grpc", "0", "no answer within 10s"),
    ] {
        let settings = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", limit),
            ("OTEL_TRACES_EXPORTER", "none"),
        ];
        let output = check(&["--send", "--format", "json"], &settings);
        let report = report(&output);
        let (state, text) = line(&report, "send metrics");
        assert_eq!(state, "no", "{protocol} {limit}: {text}");
        assert!(text.contains(reported), "{protocol} {limit}: {text}");
    }
}

#[test]
fn wrong_protocol_is_reported_with_the_setting_to_change() {
    let sink = Running::start("127.0.0.1");
    for (protocol, address, reported) in [
        (
            "grpc",
            &sink.http,
            "it speaks HTTP here: set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or use port 4317",
        ),
        (
            "http/protobuf",
            &sink.grpc,
            "it speaks gRPC here: set OTEL_EXPORTER_OTLP_PROTOCOL=grpc, or use port 4318",
        ),
    ] {
        let endpoint = format!("http://{address}");
        let settings = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ];
        let output = check(&["--send", "--format", "json"], &settings);
        let report = report(&output);
        for name in ["send metrics", "send spans"] {
            let (state, text) = line(&report, name);
            assert_eq!(state, "no", "{protocol}: {text}");
            assert!(text.contains(reported), "{protocol}: {text}");
        }
        assert_eq!(output.status.code(), Some(69), "{report:#}");
    }
}

#[test]
fn nothing_is_sent_without_the_option() {
    let output = check(&["--format", "json"], &[]);
    let report = report(&output);
    let lines = report["checks"].as_array().expect("checks");
    let sent = |line: &&Value| {
        line["name"]
            .as_str()
            .is_some_and(|name| name.starts_with("send"))
    };
    assert_eq!(lines.iter().filter(sent).count(), 0);
    assert!(
        line(&report, "settings")
            .1
            .ends_with("(not tried: --send does)")
    );
    let off = [("OTEL_SDK_DISABLED", "true")];
    let output = check(&["--send", "--format", "json"], &off);
    let report = self::report(&output);
    assert_eq!(line(&report, "send metrics"), ("info", "not exported"));
    assert_eq!(output.status.code(), Some(0));
}

/// Without a receiver: the settings alone say it.
#[test]
fn headers_without_encryption_are_reported() {
    for (endpoint, part) in [
        ("http://collector:4317", Some("others may read it")),
        ("http://localhost:4317", Some("any process may listen")),
        ("https://collector:4317", None),
    ] {
        let settings = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=s3cret"),
        ];
        let output = check(&["--format", "json"], &settings);
        let report = report(&output);
        let lines = report["checks"].as_array().expect("checks");
        let texts = lines.iter().filter_map(|line| line["text"].as_str());
        let found: Vec<_> = texts
            .filter(|text| text.contains("goes without encryption"))
            .collect();
        assert_eq!(found.len(), usize::from(part.is_some()), "{report:#}");
        assert!(
            found.iter().all(|text| text.contains(part.unwrap_or(""))),
            "{report:#}"
        );
        assert!(!format!("{output:?}").contains("s3cret"), "{report:#}");
    }
}

//! `flowcar check --send` tries the receivers, and tells which setting to change where they speak something else.

use std::{
    io::{BufRead as _, BufReader},
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
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Of sockets alone, so that nothing depends on rights.
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
fn a_receiver_that_takes_it_is_told_so() {
    let sink = Running::start("localhost");
    for (protocol, address) in [("grpc", &sink.grpc), ("http/protobuf", &sink.http)] {
        let endpoint = format!("http://{address}");
        let settings = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ];
        let output = check(&["--send", "--format", "json"], &settings);
        let report = report(&output);
        for name in ["send metrics", "send spans"] {
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
fn a_receiver_that_is_not_there_is_told_so() {
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
        assert_eq!(report["source"], "inet_diag", "following is another matter");
    }
}

#[test]
fn a_receiver_that_speaks_something_else_is_told_with_the_setting_to_change() {
    let sink = Running::start("127.0.0.1");
    for (protocol, address, told) in [
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
            assert!(text.contains(told), "{protocol}: {text}");
        }
        assert_eq!(output.status.code(), Some(69), "{report:#}");
    }
}

#[test]
fn nothing_is_sent_unless_it_is_asked_for() {
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

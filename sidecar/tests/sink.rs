//! `flowcar sink -o FILE` writes what comes, one OTLP request in JSON on each line.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use flowcar::{
    config::Config,
    otlp::exporter::Exporter,
    snapshot::{SelfMetrics, Snapshot},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Killed on drop, so that a panic leaves nothing running.
struct Running(Child);

impl Running {
    /// A sink that writes to a file, and its addresses for gRPC and HTTP.
    fn start(path: &Path) -> (Self, [String; 2]) {
        let any = "127.0.0.1:0";
        let child = Command::new(env!("CARGO_BIN_EXE_flowcar"))
            .args([
                "sink", "--grpc", any, "--http", any, "--format", "json", "-o",
            ])
            .arg(path)
            .stderr(Stdio::piped())
            .spawn();
        let mut child = Self(child.expect("a sink"));
        let mut line = String::new();
        let stderr = child.0.stderr.take().expect("a pipe");
        BufReader::new(stderr).read_line(&mut line).expect("a line");
        let mut ports = line
            .split_whitespace()
            .filter(|word| word.starts_with("127.0.0.1:"))
            .map(str::to_owned);
        let ports = [(); 2].map(|()| ports.next().expect("two addresses"));
        (child, ports)
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).expect("a signal");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have exited.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn json_lines_of_both_transports_are_written_to_a_file() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("exports.jsonl");
    let (mut child, ports) = Running::start(&path);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        for (protocol, address) in [("grpc", &ports[0]), ("http/protobuf", &ports[1])] {
            let vars = [
                ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}")),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.to_owned()),
            ];
            let vars = vars.map(|(name, value)| (name.to_owned(), value));
            let config = Config::from_vars(vars).expect("good settings");
            let exporter = Exporter::start(&config, "ebpf", Some("web")).expect("an endpoint");
            exporter.metrics(Snapshot {
                start_unix_ns: 1,
                at_unix_ns: 2,
                series: Default::default(),
                unattributed: Default::default(),
                dropped: Default::default(),
                listeners: BTreeMap::new(),
                containers: BTreeMap::new(),
                lost: Default::default(),
                books: Default::default(),
                self_metrics: SelfMetrics::default(),
            });
            assert!(exporter.flush(Duration::from_secs(20)).await, "{protocol}");
        }
    });
    child.signal(Signal::SIGTERM);
    assert!(child.0.wait().expect("a status").success());
    let text = fs::read_to_string(&path).expect("the file");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    for line in lines {
        let export: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let scope = &export["resourceMetrics"][0]["scopeMetrics"][0]["scope"];
        assert_eq!(scope["name"], "flowcar", "{line}");
    }
}

/// Answered requests are in the file, even if SIGTERM comes with the requests.
#[test]
fn answered_requests_are_written_before_exit() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("exports.jsonl");
    let (mut child, [_, http]) = Running::start(&path);
    let request = "POST /v1/metrics HTTP/1.1\r\nhost: sink\r\ncontent-type: application/json\r\n\
                   connection: close\r\ncontent-length: 2\r\n\r\n{}";
    let mut senders: Vec<_> = (0..48)
        .map(|_| TcpStream::connect(&http).expect("a connection"))
        .collect();
    // A stopped sink finds all of it at once when it continues.
    child.signal(Signal::SIGSTOP);
    for sender in &mut senders {
        sender.write_all(request.as_bytes()).expect("a request");
    }
    child.signal(Signal::SIGTERM);
    child.signal(Signal::SIGCONT);
    let answered = senders.into_iter().filter_map(|mut sender| {
        let mut answer = String::new();
        // It may have exited with the request unread.
        sender.read_to_string(&mut answer).ok()?;
        answer.starts_with("HTTP/1.1 200").then_some(())
    });
    let answered = answered.count();
    assert!(child.0.wait().expect("a status").success());
    let written = fs::read_to_string(&path).expect("the file").lines().count();
    assert!(
        written >= answered,
        "{answered} answered, {written} written"
    );
}

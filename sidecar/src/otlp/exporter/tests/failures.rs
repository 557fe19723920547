//! The errors of exports: what happened, whom it is about, and the variable that corrects it.

use tokio::{
    net::{TcpSocket, TcpStream},
    time::sleep,
};

use super::{speech::serve_bytes, *};
use crate::{clock, otlp::error::ExportError};

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const TIMEOUT: &str = "OTEL_EXPORTER_OTLP_TIMEOUT";
const HTTP_PROXY: &str = "HTTP_PROXY";

/// The error of the first export of a signal with these settings.
async fn failed(signal: Signal, vars: &[(&str, &str)]) -> ExportError {
    let target = config(vars).export.of(signal).cloned();
    let target = target.expect("a target");
    let mut transport = Remote::new(signal, target, ExporterSockets::default());
    let request = ExportRequest::encoded(Bytes::from_static(b"x"));
    transport.send(request).await.expect_err("no success")
}

/// A server that accepts connections and never answers.
async fn mute() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            kept.push(listener.accept().await.expect("a connection"));
        }
    });
    address
}

/// A server whose kernel drops SYNs: its queue of connections is full.
async fn full() -> (SocketAddr, Vec<TcpStream>, TcpListener) {
    let socket = TcpSocket::new_v4().expect("a socket");
    let any = "127.0.0.1:0".parse().expect("an address");
    socket.bind(any).expect("a free port");
    let listener = socket.listen(0).expect("a listener");
    let address = listener.local_addr().expect("its address");
    let mut waiting = Vec::new();
    let second = Duration::from_millis(500);
    while let Ok(stream) = timeout(second, TcpStream::connect(address)).await {
        waiting.push(stream.expect("a connection"));
    }
    (address, waiting, listener)
}

/// A gRPC receiver that resets the first stream (RFC 9113 section 6.4).
async fn resetting() -> SocketAddr {
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const REFUSED_STREAM: &[u8] = &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 7];
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        stream.write_all(SETTINGS).await.expect("written");
        let mut seen = Vec::new();
        // The headers of stream 1.
        let headers = |seen: &[u8]| {
            seen.windows(6)
                .any(|of| of[0] == 1 && of[2..] == [0, 0, 0, 1])
        };
        while !headers(&seen) {
            stream.read_buf(&mut seen).await.expect("a request");
        }
        stream.write_all(REFUSED_STREAM).await.expect("written");
        std::future::pending::<()>().await;
    });
    address
}

/// Each phase has a sentence of its own.
#[tokio::test]
async fn unanswered_export_is_reported_by_phase() {
    let silent = mute().await;
    let (dropping, _waiting, _listener) = full().await;
    let connected =
        "no answer within 300ms; check the receiver's load, or raise OTEL_EXPORTER_OTLP_TIMEOUT";
    let handshake = "the TLS handshake was not answered within 300ms; check that the port in OTEL_EXPORTER_OTLP_ENDPOINT speaks TLS, and the receiver's load";
    let unconnected = "no TCP connection within 300ms; check OTEL_EXPORTER_OTLP_ENDPOINT, and whether a packet filter or a network policy on the path drops packets";
    for (scheme, address, expected) in [
        ("http", silent, connected),
        ("https", silent, handshake),
        ("http", dropping, unconnected),
        ("https", dropping, unconnected),
    ] {
        for protocol in ["grpc", "http/protobuf"] {
            for signal in [Signal::Metrics, Signal::Traces] {
                let endpoint = format!("{scheme}://{address}");
                let vars = [
                    (ENDPOINT, &*endpoint),
                    (PROTOCOL, protocol),
                    (TIMEOUT, "300"),
                ];
                let error = failed(signal, &vars).await;
                assert!(error.retryable(), "{error}");
                // What was not sent cannot have been taken.
                assert_eq!(error.outcome_unknown(), expected == connected, "{error}");
                let error = error.to_string();
                assert!(error.ends_with(expected), "{protocol} {signal:?}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn reset_stream_is_reported() {
    let endpoint = format!("http://{}", resetting().await);
    let error = failed(Signal::Metrics, &[(ENDPOINT, &endpoint)]).await;
    assert!(error.retryable() && error.outcome_unknown(), "{error}");
    let error = error.to_string();
    assert!(
        error.contains(": the receiver reset the stream (refused stream"),
        "{error}"
    );
    assert!(
        error.ends_with("; check the receiver's load and its log"),
        "{error}"
    );
}

/// A request that a proxy forwards may be answered by the proxy.
#[tokio::test]
async fn forwarding_proxy_is_named() {
    let logs = "check the receiver's log, and ";
    for (answer, what, remedy) in [
        (
            "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n",
            "the receiver or the proxy answered HTTP 502; ",
            logs,
        ),
        (
            "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n",
            "the receiver or the proxy answered HTTP 403; ",
            "check OTEL_EXPORTER_OTLP_HEADERS, and ",
        ),
        (
            "HTTP/1.1 302 Found\r\nlocation: http://login.test/\r\ncontent-length: 0\r\n\r\n",
            "the receiver or the proxy redirects to \"http://login.test/\" (HTTP 302)",
            "set OTEL_EXPORTER_OTLP_ENDPOINT to where the receiver is, and ",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 0\r\n\r\n",
            "the answer is a success and not OTLP (",
            "and that no proxy answers in its place, and ",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx",
            "the connection ended before the whole answer came (",
            "closes connections, and ",
        ),
        (
            "",
            "the proxy closed the connection without an answer (",
            "); ",
        ),
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n",
            "the proxy answered HTTP 407; ",
            "",
        ),
    ] {
        let address = serve_bytes(answer.as_bytes()).await;
        let proxy = format!("http://me:s3cret@{address}");
        let vars = [
            (ENDPOINT, "http://collector.test:4318"),
            (PROTOCOL, "http/protobuf"),
            (HTTP_PROXY, &*proxy),
        ];
        for signal in [Signal::Metrics, Signal::Traces] {
            let error = failed(signal, &vars).await.to_string();
            let through = format!(
                "/v1/{} through the proxy http://{address}: {what}",
                signal.name()
            );
            let named = if answer.contains("407") {
                "check HTTP_PROXY, or name the receiver's host in NO_PROXY".to_owned()
            } else {
                format!("{remedy}check the proxy http://{address}, which HTTP_PROXY names")
            };
            assert!(error.contains(&through), "{error}");
            assert!(
                error.ends_with(&named) && !error.contains("s3cret"),
                "{error}"
            );
        }
    }
}

/// A proxy that does not answer is asked again by each try, for as long as the first time.
#[tokio::test]
async fn silent_proxy_is_asked_again() {
    let proxy = format!("http://{}", mute().await);
    for (endpoint, protocol) in [
        ("http://collector.test:4317", "grpc"),
        ("https://collector.test:4318", "http/protobuf"),
    ] {
        let vars = [
            (ENDPOINT, endpoint),
            (PROTOCOL, protocol),
            (HTTP_PROXY, &*proxy),
            ("HTTPS_PROXY", &*proxy),
            (TIMEOUT, "300"),
        ];
        let target = config(&vars).export.metrics.expect("a target");
        let mut transport = Remote::new(Signal::Metrics, target, ExporterSockets::default());
        for _ in 0..3 {
            let began = clock::now();
            let request = ExportRequest::encoded(Bytes::from_static(b"x"));
            let error = transport.send(request).await.expect_err("no answer");
            assert!(began.elapsed() >= Duration::from_millis(250), "{error}");
            assert!(error.retryable() && !error.outcome_unknown(), "{error}");
            let error = error.to_string();
            let expected = "did not answer within 300ms when asked to connect to the receiver";
            assert!(error.contains(expected), "{error}");
        }
    }
}

/// The variable of a signal alone wins, and is the one that corrects the error.
#[tokio::test]
async fn remedy_names_the_variable_in_force() {
    let silent = format!("http://{}", mute().await);
    let tls = format!("https://{}", mute().await);
    let answering =
        async |answer: &'static str| format!("http://{}", serve_bytes(answer.as_bytes()).await);
    let forbids = answering("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await;
    let absent = answering("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
    let nobody = "http://127.0.0.1:1";
    let folder = tempfile::tempdir().expect("a folder");
    let headers_file = folder.path().join("headers");
    std::fs::write(&headers_file, "a=b\n").expect("a file");
    let headers_file = headers_file.to_str().expect("a path");
    for (vars, remedy) in [
        (
            &[(ENDPOINT, silent.as_str()), (TRACES_ENDPOINT, nobody)][..],
            "that OTEL_EXPORTER_OTLP_TRACES_ENDPOINT names it",
        ),
        (
            &[(ENDPOINT, nobody)],
            "that OTEL_EXPORTER_OTLP_ENDPOINT names it",
        ),
        (
            &[
                (ENDPOINT, &silent),
                ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "200"),
            ],
            "raise OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
        ),
        (
            &[
                (ENDPOINT, &silent),
                (TIMEOUT, "200"),
                ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "9"),
            ],
            "raise OTEL_EXPORTER_OTLP_TIMEOUT",
        ),
        (
            &[(TRACES_ENDPOINT, &tls), (TIMEOUT, "200")],
            "check that the port in OTEL_EXPORTER_OTLP_TRACES_ENDPOINT speaks TLS, and the receiver's load",
        ),
        (
            &[
                (ENDPOINT, &forbids),
                ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a=b"),
                ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
            ],
            "check OTEL_EXPORTER_OTLP_TRACES_HEADERS",
        ),
        (
            &[
                (ENDPOINT, &forbids),
                ("OTEL_EXPORTER_OTLP_TRACES_HEADERS_FILE", headers_file),
                ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
            ],
            "check the file that OTEL_EXPORTER_OTLP_TRACES_HEADERS_FILE names",
        ),
        (
            &[
                (ENDPOINT, &absent),
                ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
            ],
            "check OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        ),
        (
            &[
                (ENDPOINT, &forbids),
                ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
            ],
            "set OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf, or use port 4317",
        ),
    ] {
        let error = failed(Signal::Traces, vars).await.to_string();
        assert!(error.ends_with(remedy), "{error}");
    }
}

/// Without a timeout nothing fails, so the wait itself is logged: after half a minute, and then once a minute.
#[tokio::test(start_paused = true)]
async fn wait_without_a_limit_is_logged() {
    let endpoint = format!("http://{}", mute().await);
    let lines = Lines::default();
    let _logging = lines.logging();
    let of = |limit: &str| {
        let vars = [(ENDPOINT, &*endpoint), (TIMEOUT, limit)];
        let target = config(&vars).export.metrics.expect("a target");
        Remote::new(Signal::Metrics, target, ExporterSockets::default())
    };
    let request = || ExportRequest::encoded(Bytes::from_static(b"x"));
    let mut limited = of("40000");
    assert!(limited.send(request()).await.is_err());
    assert_eq!(lines.text(), "");
    let mut unlimited = of("0");
    for (seconds, expected) in [(29, 0), (35, 1), (35, 1), (100, 3)] {
        let send = unlimited.send(request());
        assert!(timeout(Duration::from_secs(seconds), send).await.is_err());
        // The clock may be ahead of the connection.
        let warned = lines
            .text()
            .matches("still waiting: cannot export metrics to")
            .count();
        assert_eq!(warned, expected, "{seconds} {}", lines.text());
        sleep(Duration::from_millis(1)).await;
    }
    let text = lines.text();
    assert!(
        text.contains(
            ": no answer within 30s; check the receiver, or set a limit with OTEL_EXPORTER_OTLP_TIMEOUT"
        ),
        "{text}"
    );
}

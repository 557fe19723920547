//! Receivers that speak another protocol than the configured one: the error names the setting to change.

use std::path::Path;

use super::{
    tls::{files, front},
    *,
};

/// A server that waits for the first bytes, sends this, and closes.
pub(super) async fn serve_bytes(words: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(words).await;
            // Unread data would cause a RST, which may overtake the bytes.
            let _ = stream.shutdown().await;
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        }
    });
    address
}

/// The error of the first export of metrics to this address.
async fn reported(scheme: &str, protocol: &str, address: SocketAddr, dir: &Path) -> String {
    let endpoint = format!("{scheme}://localhost:{}", address.port());
    let vars = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
    ];
    let mut target = config(&vars).export.metrics.expect("a target");
    target.tls.authorities = Some(dir.join("servers.crt"));
    let mut transport = Remote::new(Signal::Metrics, target, ExporterSockets::default());
    let outcome = transport.send(ExportRequest::encoded(Bytes::new())).await;
    let error = outcome.expect_err("another protocol");
    assert!(error.retryable(), "the receiver may be corrected: {error}");
    error.to_string()
}

#[tokio::test]
async fn server_kind_is_detected_by_its_first_bytes() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    files(dir);
    let (sink, _received) = sink().await;
    let (grpc_tls, _front) = front(dir, b"h2", sink.grpc()).await;
    let (http_tls, _other) = front(dir, b"http/1.1", sink.http()).await;
    let strict =
        serve_bytes(b"HTTP/1.1 505 HTTP Version Not Supported\r\nContent-Length: 0\r\n\r\n").await;
    let nginx = serve_bytes(
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 48\r\n\r\nThe plain HTTP request was sent to HTTPS port...",
    )
    .await;
    let ssh = serve_bytes(b"SSH-2.0-OpenSSH_9.2\r\n").await;
    let mute = serve_bytes(b"").await;

    let to_http =
        "it speaks HTTP here: set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or use port 4317";
    let to_grpc = "it speaks gRPC here: set OTEL_EXPORTER_OTLP_PROTOCOL=grpc, or use port 4318";
    let to_tls = "it speaks TLS here: begin OTEL_EXPORTER_OTLP_ENDPOINT with https://";
    let to_plain = "without TLS here: begin OTEL_EXPORTER_OTLP_ENDPOINT with http://";
    let nobody =
        "sends \"SSH-2.0-OpenSSH_9.2\": check host and port in OTEL_EXPORTER_OTLP_ENDPOINT";
    let silent = "it closed the connection without an answer";
    let (grpc, http) = ("grpc", "http/protobuf");
    for (scheme, protocol, address, expected) in [
        ("http", grpc, sink.http(), to_http),
        ("http", grpc, strict, to_http),
        ("http", grpc, grpc_tls, to_tls),
        ("http", grpc, http_tls, to_tls),
        ("http", grpc, nginx, to_tls),
        ("http", grpc, ssh, nobody),
        ("http", grpc, mute, silent),
        ("http", http, sink.grpc(), to_grpc),
        ("http", http, grpc_tls, to_tls),
        ("http", http, http_tls, to_tls),
        ("http", http, nginx, to_tls),
        ("http", http, ssh, nobody),
        ("http", http, mute, silent),
        ("https", grpc, sink.grpc(), to_plain),
        ("https", grpc, strict, to_plain),
        ("https", grpc, http_tls, to_http),
        ("https", grpc, ssh, nobody),
        ("https", grpc, mute, silent),
        ("https", http, sink.http(), to_plain),
        ("https", http, sink.grpc(), to_plain),
        ("https", http, grpc_tls, to_grpc),
        ("https", http, ssh, nobody),
        ("https", http, mute, silent),
    ] {
        let reported = reported(scheme, protocol, address, dir).await;
        println!("{scheme} {protocol}: {reported}");
        assert!(
            reported.contains(expected),
            "{scheme} {protocol}: {reported}"
        );
    }
}

//! Receivers that speak something else than the settings say: what is told names the setting to change.

use std::path::Path;

use super::{
    tls::{files, front},
    *,
};

/// A server that waits for the first bytes, says this, and closes.
async fn says(words: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(words).await;
            // What is unread would make it a reset, which may overtake the words.
            let _ = stream.shutdown().await;
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        }
    });
    address
}

/// What the first export of metrics to this address says.
async fn told(scheme: &str, protocol: &str, address: SocketAddr, dir: &Path) -> String {
    let endpoint = format!("{scheme}://localhost:{}", address.port());
    let vars = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
    ];
    let mut target = config(&vars).export.metrics.expect("a target");
    target.tls.authorities = Some(dir.join("servers.crt"));
    let mut transport = transport::metrics(target, OwnSockets::default());
    let outcome = transport.send(Default::default()).await;
    let error = outcome.expect_err("it speaks something else");
    assert!(error.retryable(), "it may be set right: {error}");
    error.to_string()
}

#[tokio::test]
async fn each_kind_of_server_is_told_by_what_it_says() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    files(dir);
    let (sink, _received) = sink().await;
    let (grpc_tls, _front) = front(dir, b"h2", sink.grpc()).await;
    let (http_tls, _other) = front(dir, b"http/1.1", sink.http()).await;
    let strict =
        says(b"HTTP/1.1 505 HTTP Version Not Supported\r\nContent-Length: 0\r\n\r\n").await;
    let nginx = says(
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 48\r\n\r\nThe plain HTTP request was sent to HTTPS port...",
    )
    .await;
    let ssh = says(b"SSH-2.0-OpenSSH_9.2\r\n").await;
    let mute = says(b"").await;

    let to_http =
        "it speaks HTTP here: set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or use port 4317";
    let to_grpc = "it speaks gRPC here: set OTEL_EXPORTER_OTLP_PROTOCOL=grpc, or use port 4318";
    let to_tls = "it speaks TLS here: begin OTEL_EXPORTER_OTLP_ENDPOINT with https://";
    let to_plain = "without TLS here: begin OTEL_EXPORTER_OTLP_ENDPOINT with http://";
    let nobody = "says \"SSH-2.0-OpenSSH_9.2\": check host and port in OTEL_EXPORTER_OTLP_ENDPOINT";
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
        let told = told(scheme, protocol, address, dir).await;
        println!("{scheme} {protocol}: {told}");
        assert!(told.contains(expected), "{scheme} {protocol}: {told}");
    }
}

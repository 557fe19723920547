//! IPv6 addresses with zones, which the resolver of glibc refuses where they are not link-local.

use super::*;

#[tokio::test]
async fn zone_is_an_interface_of_this_host() {
    let listener = TcpListener::bind("[::1]:0").await.expect("IPv6");
    let port = listener.local_addr().expect("its address").port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2p1\r\n").await;
        }
    });
    for protocol in ["grpc", "http/protobuf"] {
        for (zone, expected) in [
            ("%25lo", "it sends \"SSH-2.0-OpenSSH_9.2p1\""),
            ("%lo", "it sends \"SSH-2.0-OpenSSH_9.2p1\""),
            ("%251", "it sends \"SSH-2.0-OpenSSH_9.2p1\""),
            (
                "%25absent0",
                "no connection (there is no interface absent0); name an interface of this host or pod behind the % in",
            ),
        ] {
            let endpoint = format!("http://[::1{zone}]:{port}");
            let vars = [
                ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ];
            let target = config(&vars).export.metrics.expect("a target");
            let mut transport = Remote::new(Signal::Metrics, target, ExporterSockets::default());
            let outcome = transport.send(ExportRequest::encoded(Bytes::new())).await;
            let error = outcome.expect_err(zone);
            assert!(error.retryable(), "{error}");
            let error = error.to_string();
            assert!(error.contains(expected), "{protocol} {endpoint}: {error}");
        }
    }
}

//! The Collector behind TLS and mTLS, by either transport, with a client certificate that is replaced meanwhile.

use std::{fs, path::Path, time::Duration};

use flowcar_tests::peers::{Authority, Collector, CollectorOptions, Pair, Tls};
use serde_json::Value;

use crate::{
    sample::{LIMIT, export, report_at},
    totals::{io, last_of_sums},
};

fn write(dir: &Path, pair: &Pair) {
    fs::write(dir.join("client.key"), &pair.key).expect("a file");
    fs::write(dir.join("client.crt"), &pair.certificate).expect("a file");
}

#[test]
fn collector_takes_metrics_over_mtls_while_certificates_change() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let collector = Collector::start_with(CollectorOptions {
        tls: Some(Tls {
            server: servers.server(&["127.0.0.1", "localhost"]),
            client_ca: Some(clients.certificate().to_owned()),
        }),
        ..Default::default()
    });
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    fs::write(dir.join("ca.crt"), servers.certificate()).expect("a file");
    write(dir, &clients.client("flowcar", "pods"));
    let file = |name: &str| dir.join(name).to_str().expect("a path").to_owned();
    let (ca, certificate, key) = (file("ca.crt"), file("client.crt"), file("client.key"));
    let mut bytes = 0;
    for (protocol, endpoint) in [
        ("grpc", collector.grpc_endpoint()),
        ("http/protobuf", collector.http_endpoint()),
    ] {
        let settings = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", ca.as_str()),
            (
                "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
                certificate.as_str(),
            ),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", key.as_str()),
        ];
        let self_metrics = export("web", &settings, async |start| {
            let exporter = start(&endpoint);
            for report in 0..20u64 {
                bytes += 1;
                exporter.metrics(report_at(bytes, bytes));
                if report % 5 == 4 {
                    write(dir, &clients.client("flowcar", "pods"));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            assert!(
                exporter.flush(LIMIT).await,
                "{:?}",
                exporter.self_metrics().exports
            );
            exporter.self_metrics()
        });
        let outcomes: Vec<_> = self_metrics.exports.keys().collect();
        assert_eq!(
            outcomes,
            [&("metrics", "success")],
            "{protocol}: {:?}",
            self_metrics.exports
        );
        let understood = collector.received_metrics().into_iter();
        let understood: Vec<_> = understood
            .map(|request: Value| serde_json::from_value(request).expect("OTLP"))
            .collect();
        assert_eq!(
            last_of_sums(&io(&understood)),
            i64::try_from(bytes).expect("few")
        );
    }
}

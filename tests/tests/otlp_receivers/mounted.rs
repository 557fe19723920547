//! Certificates that an injected sidecar finds in its mount: a missing or wrong one does not stop the process, which would keep
//! the application's containers from starting, and are taken once they are right.

use std::{fs, path::Path, time::Duration};

use flowcar_tests::{
    exporting::Exporting,
    flowcar,
    peers::{Authority, Collector, CollectorOptions, Pair, Tls, eventually},
};

const WITHIN: Duration = Duration::from_secs(120);

/// As the kubelet: by a rename.
fn put(dir: &Path, name: &str, content: &str) {
    let next = dir.join("next");
    fs::write(&next, content).expect("a file");
    fs::rename(next, dir.join(name)).expect("a file");
}

/// The sidecar with this folder where the injector mounts certificates, in a mount namespace of its own.
fn start(dir: &Path, endpoint: &str) -> Exporting {
    let script = "mount -t tmpfs none /run; mkdir /run/flowcar-tls; mount --bind \"$1\" /run/flowcar-tls; exec \"$2\" export";
    let unshare = ["unshare", "--mount", "--propagation", "private"];
    let shell = ["sh", "-ec", script, "sh", dir.to_str().expect("UTF-8")];
    let command = flowcar::started_by(&[&unshare[..], &shell].concat());
    let mut command = command.expect("cargo build --bins");
    command.envs([
        ("FLOWCAR_SOURCE", "inet_diag"),
        ("FLOWCAR_POD_UID", "8c1f"),
        ("FLOWCAR_LOG", "info"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "500"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/run/flowcar-tls/ca.crt"),
        (
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
            "/run/flowcar-tls/tls.crt",
        ),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/run/flowcar-tls/tls.key"),
    ]);
    Exporting::start(&mut command)
}

#[test]
fn wrong_certificates_do_not_block_the_pod_and_are_read_again() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let collector = Collector::start_with(CollectorOptions {
        tls: Some(Tls {
            server: servers.server(&["127.0.0.1"]),
            client_ca: Some(clients.certificate().to_owned()),
        }),
        ..Default::default()
    });
    let self_metrics: Pair = clients.client("flowcar", "pods");
    let other = clients.client("another", "pods");
    let right = [
        ("ca.crt", servers.certificate()),
        ("tls.crt", self_metrics.certificate.as_str()),
        ("tls.key", self_metrics.key.as_str()),
    ];
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    // The file, and what is in it; nothing where it is missing.
    let rows: [(&str, Option<&str>); 9] = [
        ("ca.crt", None),
        ("ca.crt", Some("")),
        ("ca.crt", Some("no PEM")),
        ("ca.crt", Some(broken)),
        ("ca.crt", Some(&self_metrics.key)),
        ("tls.crt", Some("no PEM")),
        ("tls.key", None),
        ("tls.key", Some(&self_metrics.certificate)),
        // Each of the two is right.
        ("tls.key", Some(&other.key)),
    ];
    for (wrong, content) in rows {
        let dir = tempfile::tempdir().expect("a folder");
        for (name, text) in right {
            put(dir.path(), name, text);
        }
        match content {
            None => fs::remove_file(dir.path().join(wrong)).expect("a file"),
            Some(text) => put(dir.path(), wrong, text),
        }
        let mut sidecar = start(dir.path(), &collector.grpc_endpoint());
        let line = sidecar.reported("exports fail until");
        assert!(
            line.contains(&format!("/run/flowcar-tls/{wrong}")),
            "{content:?}: {line}"
        );
        let before = collector.received_metrics().len();
        for (name, text) in right {
            put(dir.path(), name, text);
        }
        eventually(&format!("an export with {wrong} set right"), WITHIN, || {
            (collector.received_metrics().len() > before).then_some(())
        });
        sidecar.stop();
    }
}

//! TLS and mTLS to the test's own receiver, with certificates that change during exports.

use std::{fs, path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, crypto::ring, server::WebPkiClientVerifier};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::certs::{authorities, chain, private_key};

/// An authority, and what it signs, as files in a folder.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        let issuer = Issuer::new(params, key);
        Self { issuer, pem }
    }

    /// Writes `NAME.crt` and `NAME.key` for localhost and collector.test.
    pub(super) fn sign(&self, dir: &Path, name: &str, usage: ExtendedKeyUsagePurpose) {
        let mut params = CertificateParams::new(["localhost", "collector.test"].map(str::to_owned))
            .expect("a name");
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).expect("a file");
        fs::write(dir.join(format!("{name}.crt")), certificate.pem()).expect("a file");
    }

    pub(super) fn write(&self, dir: &Path, name: &str) {
        fs::write(dir.join(name), &self.pem).expect("a file");
    }
}

/// Terminates TLS on a port and forwards to the sink; it reads its certificates for each connection.
pub(super) async fn front(
    dir: &Path,
    alpn: &'static [u8],
    to: SocketAddr,
) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    let dir = dir.to_owned();
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let acceptor = acceptor(&dir, alpn);
            tokio::spawn(async move {
                let Ok(mut inside) = acceptor.accept(stream).await else {
                    return;
                };
                let mut outside = tokio::net::TcpStream::connect(to).await.expect("the sink");
                let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
            });
        }
    });
    (address, task)
}

/// A receiver with an untrusted certificate.
pub(super) async fn untrusted() -> (SocketAddr, JoinHandle<()>) {
    let dir = tempfile::tempdir().expect("a folder");
    files(dir.path());
    let (acceptor, listener) = (
        acceptor(dir.path(), b"h2"),
        TcpListener::bind("127.0.0.1:0").await.expect("a free port"),
    );
    let address = listener.local_addr().expect("its address");
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let _ = acceptor.accept(stream).await;
        }
    });
    (address, task)
}

fn acceptor(dir: &Path, alpn: &[u8]) -> TlsAcceptor {
    let provider = Arc::new(ring::default_provider());
    let clients = authorities(&dir.join("clients.crt")).expect("authorities");
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(clients), Arc::clone(&provider));
    let (certificate, key) = (dir.join("server.crt"), dir.join("server.key"));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier.build().expect("a verifier"))
        .with_single_cert(
            chain(&certificate).expect("a chain"),
            private_key(&key).expect("a key"),
        )
        .expect("a pair");
    config.alpn_protocols = vec![alpn.to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// Both ends' files: the server's by one authority, the client's by another.
pub(super) fn files(dir: &Path) -> (Authority, Authority) {
    let (servers, clients) = (Authority::new(), Authority::new());
    servers.write(dir, "servers.crt");
    clients.write(dir, "clients.crt");
    servers.sign(dir, "server", ExtendedKeyUsagePurpose::ServerAuth);
    clients.sign(dir, "client", ExtendedKeyUsagePurpose::ClientAuth);
    (servers, clients)
}

fn start_tls(address: SocketAddr, protocol: &str, dir: &Path, mutual: bool) -> Exporter {
    let file = |name: &str| dir.join(name).to_str().expect("a path").to_owned();
    let endpoint = format!("https://localhost:{}", address.port());
    let (servers, certificate, key) = (file("servers.crt"), file("client.crt"), file("client.key"));
    let mut vars = vec![
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", &servers),
    ];
    if mutual {
        vars.push(("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &certificate));
        vars.push(("OTEL_EXPORTER_OTLP_CLIENT_KEY", &key));
    }
    start(&endpoint, &vars)
}

const BOTH: [(&str, &[u8]); 2] = [("grpc", b"h2"), ("http/protobuf", b"http/1.1")];

#[tokio::test]
async fn certificates_are_replaced_while_exports_continue() {
    for (protocol, alpn) in BOTH {
        let dir = tempfile::tempdir().expect("a folder");
        let dir = dir.path();
        files(dir);
        let (sink, mut received) = sink().await;
        let to = if protocol == "grpc" {
            sink.grpc()
        } else {
            sink.http()
        };
        let (address, _front) = front(dir, alpn, to).await;
        let mut exporter = start_tls(address, protocol, dir, true);
        for round in 1..=4u32 {
            exporter.metrics(snapshot(1_000 + u64::from(round), u64::from(round)));
            assert_eq!(sent_bytes(&next(&mut received).await), i64::from(round));
            exporter.flow(&flow(round), &anchor());
            assert_eq!(spans(next(&mut received).await).len(), 1);
            if round == 2 {
                // Half of a replacement: the old pair stays in use.
                fs::write(dir.join("client.key"), "half a k").expect("a file");
            } else {
                // Other authorities and other pairs at both ends.
                files(dir);
            }
        }
        // The last answer may be in flight.
        let settled = async {
            while exporter.self_metrics().exports.values().sum::<u64>() < 8 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LIMIT, settled).await.expect("eight exports");
        let expected = BTreeMap::from([(("metrics", "success"), 4), (("traces", "success"), 4)]);
        assert_eq!(
            exporter.self_metrics().exports,
            expected,
            "{protocol}: no export failed"
        );
    }
}

#[tokio::test]
async fn untrusted_receiver_or_client_is_a_clear_error() {
    for (protocol, alpn) in BOTH {
        let dir = tempfile::tempdir().expect("a folder");
        let dir = dir.path();
        files(dir);
        let (sink, _received) = sink().await;
        let to = if protocol == "grpc" {
            sink.grpc()
        } else {
            sink.http()
        };
        let (address, _front) = front(dir, alpn, to).await;
        // Without a client certificate.
        let error = first_error(address, protocol, dir, false).await;
        assert!(
            error.contains("the TLS handshake fails"),
            "{protocol}: {error}"
        );
        assert!(
            error.contains("no client certificate shown"),
            "{protocol}: {error}"
        );
        // With the wrong authority.
        Authority::new().write(dir, "servers.crt");
        let error = first_error(address, protocol, dir, true).await;
        assert!(
            error.contains("invalid peer certificate"),
            "{protocol}: {error}"
        );
        let file = dir.join("servers.crt").display().to_string();
        assert!(error.contains(&file), "{protocol}: {error}");
        assert!(
            error.contains("check OTEL_EXPORTER_OTLP_CERTIFICATE"),
            "{protocol}: {error}"
        );
        // With a file that was removed after the start.
        fs::remove_file(dir.join("client.crt")).expect("a file");
        let error = first_error(address, protocol, dir, true).await;
        let file = dir.join("client.crt").display().to_string();
        assert!(
            error.contains(&format!("{file} cannot be read")),
            "{protocol}: {error}"
        );
    }
}

/// The error of the first export to `address`.
async fn first_error(address: SocketAddr, protocol: &str, dir: &Path, mutual: bool) -> String {
    let file = |name: &str| dir.join(name);
    let mut target = config(&[
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            &format!("https://localhost:{}", address.port()),
        ),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
    ])
    .export
    .metrics
    .expect("a target");
    target.tls.authorities = Some(file("servers.crt"));
    target.tls.client = mutual.then(|| crate::certs::ClientFiles {
        certificate: file("client.crt"),
        key: file("client.key"),
    });
    let mut transport = Remote::new(Signal::Metrics, target, ExporterSockets::default());
    let outcome = transport.send(ExportRequest::encoded(Bytes::new())).await;
    outcome.expect_err("no trust").to_string()
}

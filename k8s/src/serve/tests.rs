//! The whole server on real sockets, and malicious clients.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Semaphore, watch},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{App, Certificate, serve_admin, serve_admission};
use crate::{
    certs::Material, clock, cluster::ClusterView, config::Settings, events::Events,
    metrics::Metrics,
};

/// How long what takes a moment may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// RFC 9113, section 3.4, and an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

struct Server {
    address: SocketAddr,
    app: Arc<App>,
    client: Arc<rustls::ClientConfig>,
    stop: watch::Sender<bool>,
}

// === impl Server ===

impl Server {
    /// Serves with certificates of its own, and without an API server to ask.
    async fn start() -> Self {
        crate::descriptors::raise_limit();
        let nowhere = "http://127.0.0.1:9".parse().expect("a URL");
        let client = kube::Client::try_from(kube::Config::new(nowhere)).expect("a client");
        let metrics = Metrics::default();
        let (cluster, _) = ClusterView::new(client.clone(), "flowcar-system", true);
        let (events, _) = Events::new(client, "test".to_owned(), metrics.clone());
        let names = ["127.0.0.1".to_owned()];
        let day = Duration::from_secs(86_400);
        let material = Material::make(&names, clock::wall_time(), day, day).expect("certificates");
        let certificate = Certificate::default();
        certificate
            .load(&material.to_secret())
            .expect("it can be served");
        let app = Arc::new(App {
            settings: Settings::default(),
            cluster,
            events,
            metrics,
            certificate,
            draining: watch::channel(false).1,
            large: Semaphore::new(1),
            timeout: Duration::from_secs(5),
        });
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = socket.local_addr().expect("an address");
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(serve_admission(socket, app.clone(), stopped, LIMIT));
        Self {
            address,
            app,
            client: client_of(&material.bundle()),
            stop,
        }
    }

    /// A connection from 127.0.0.`host`.
    async fn connect(&self, host: u8) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("a socket");
        let from = SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0));
        socket.bind(from).expect("an address of loopback");
        socket.connect(self.address).await.expect("it accepts")
    }

    async fn secured(&self, host: u8) -> TlsStream<TcpStream> {
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        let connector = TlsConnector::from(self.client.clone());
        let stream = self.connect(host).await;
        connector.connect(name, stream).await.expect("a handshake")
    }

    /// A connection that has sent these bytes.
    async fn message(&self, host: u8, words: &[u8]) -> TlsStream<TcpStream> {
        let mut stream = self.secured(host).await;
        // The server may have evicted it by then.
        drop(stream.write_all(words).await);
        drop(stream.flush().await);
        stream
    }

    /// Asks for a pod to be injected, in a review of at least so many bytes, and is answered.
    async fn injects(&self, host: u8, bytes: usize) {
        let review = review(bytes);
        let head = format!(
            "POST /admit?timeout=5s HTTP/1.1\r\nhost: w\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            review.len()
        );
        let words = [head.as_bytes(), review.as_bytes()].concat();
        let answer = until_ended(self.message(host, &words).await).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
        let answer: Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(answer["response"]["patchType"], "JSONPatch");
    }

    fn metric(&self, line: &str) -> f64 {
        let text = self.app.metrics.render();
        let found = text.lines().find_map(|found| found.strip_prefix(line));
        found
            .and_then(|value| value.trim().parse().ok())
            .unwrap_or_default()
    }

    fn closed(&self, reason: &str) -> f64 {
        self.metric(&format!(
            "flowcar_connections_closed_total{{reason=\"{reason}\"}}"
        ))
    }
}

fn client_of(bundle: &str) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(authority.expect("PEM")).expect("an authority");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions of TLS")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

fn review(bytes: usize) -> String {
    let object = json!({
        "metadata": {"name": "p", "annotations": {"flowcar.io/inject": "enabled"}},
        "spec": {"containers": [{"name": "app", "env": [{"name": "A", "value": "v".repeat(bytes)}]}]},
    });
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {"uid": "u", "kind": {"kind": "Pod"}, "namespace": "shop", "object": object},
    });
    review.to_string()
}

/// Reads until the server closes the connection; returns what came.
async fn until_ended(mut stream: impl tokio::io::AsyncRead + Unpin) -> String {
    let mut all = Vec::new();
    let ended = tokio::time::timeout(LIMIT, stream.read_to_end(&mut all)).await;
    // An error is a close, too: without TLS's close_notify, or a reset.
    drop(ended.expect("the server ends it"));
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test]
async fn many_idle_connections_block_nobody() {
    let server = Server::start().await;
    let mut crowd = Vec::new();
    for n in 0..1_100 {
        // Half of them from the honest client's address, as behind one node's.
        let host = if n % 2 == 0 {
            1
        } else {
            66 + u8::try_from(n % 20).expect("small")
        };
        crowd.push(server.secured(host).await);
        if n % 100 == 0 {
            server.injects(1, 0).await;
        }
    }
    server.injects(1, 0).await;
    server.injects(2, 0).await;
    assert!(server.closed("no_room") > 0.0);
    for stream in crowd {
        until_ended(stream).await;
    }
    assert!(server.closed("idle") > 0.0);
    server.injects(1, 0).await;
}

#[tokio::test]
async fn every_silent_client_is_disconnected() {
    let server = Server::start().await;
    let head = b"POST /admit HTTP/1.1\r\nhost: w\r\ncontent-length: 5000\r\n\r\n{";
    // HEADERS of stream 1 without END_HEADERS, of which no CONTINUATION follows.
    let headers = [PREFACE, b"\0\0\x01\x01\0\0\0\0\x01\x82"].concat();
    // A whole head of HTTP/2 (POST, /admit, https), and no body.
    let body = [PREFACE, b"\0\0\x0a\x01\x04\0\0\0\x01\x83\x87\x04\x06/admit"].concat();
    let bare = server.connect(66).await;
    let mut hello = server.connect(66).await;
    hello
        .write_all(b"\x16\x03\x01\x02\0\x01")
        .await
        .expect("written");
    let silent = [
        server.secured(66).await,
        server.message(66, PREFACE).await,
        server.message(66, &PREFACE[..9]).await,
        server.message(66, &headers).await,
        server.message(66, &body).await,
        server.message(66, &head[..30]).await,
        // Requests that are not reviews prove nothing.
        server
            .message(66, b"GET / HTTP/1.1\r\nhost: w\r\n\r\n")
            .await,
    ];
    let late = until_ended(server.message(66, head).await).await;
    assert!(late.starts_with("HTTP/1.1 408 "), "{late}");
    until_ended(bare).await;
    until_ended(hello).await;
    for stream in silent {
        until_ended(stream).await;
    }
    assert_eq!(server.closed("handshake"), 2.0);
    assert_eq!(
        server.metric("flowcar_admission_unread_total{reason=\"late\"}"),
        2.0
    );
}

#[tokio::test]
async fn slow_bodies_delay_nobody() {
    const LARGE: usize = 400 << 10;
    let server = Server::start().await;
    let head = b"POST /admit HTTP/1.1\r\nhost: w\r\ncontent-length: 8000000\r\n\r\n";
    let part = |bytes: usize| [&head[..], &vec![b' '; bytes]].concat();
    let mut slow = Vec::new();
    for _ in 0..10 {
        slow.push(server.message(66, &part(300 << 10)).await);
    }
    server.injects(1, LARGE).await;
    assert_eq!(
        server.metric("flowcar_admission_unread_total{reason=\"late\"}"),
        0.0
    );
    for stream in slow {
        let came = until_ended(stream).await;
        assert!(came.starts_with("HTTP/1.1 408 "), "{came}");
    }
    // And more than there is memory for, from many addresses.
    let mut slow = Vec::new();
    for n in 0..10 {
        slow.push(server.message(66 + n, &part(5 << 20)).await);
    }
    server.injects(1, LARGE).await;
    assert!(server.closed("no_room") > 0.0);
}

#[tokio::test]
async fn stop_closes_idle_connections_and_drains_requests() {
    let server = Server::start().await;
    let idle = server.secured(66).await;
    let review = review(0);
    let head = format!(
        "POST /admit HTTP/1.1\r\nhost: w\r\ncontent-length: {}\r\n\r\n",
        review.len()
    );
    let mut busy = server.message(1, head.as_bytes()).await;
    // Its request has begun once the server has read the head: its task runs in each of these turns.
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.stop.send_replace(true);
    until_ended(idle).await;
    busy.write_all(review.as_bytes()).await.expect("it goes on");
    let answer = until_ended(busy).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn admin_answers_what_there_is() {
    let server = Server::start().await;
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = socket.local_addr().expect("an address");
    tokio::spawn(serve_admin(socket, server.app.clone()));
    let ask = async |what: &str| {
        let mut stream = TcpStream::connect(address).await.expect("it accepts");
        let request = format!("{what} HTTP/1.1\r\nhost: w\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("written");
        let answer = until_ended(stream).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        (head.to_lowercase(), body.to_owned())
    };
    for (what, status, expected) in [
        ("GET /healthz", "200", "ok\n"),
        ("GET /readyz", "503", "the namespaces are not known yet\n"),
        ("GET /", "404", "there are /metrics, /healthz and /readyz\n"),
        ("HEAD /healthz", "200", ""),
    ] {
        let (head, body) = ask(what).await;
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{head}");
        assert!(head.contains("content-type: text/plain; charset=utf-8"));
        assert_eq!(body, expected, "{what}");
    }
    let (head, body) = ask("GET /metrics").await;
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"));
    assert!(body.ends_with("# EOF\n"), "{body}");
    let (head, _) = ask("POST /healthz").await;
    assert!(head.starts_with("http/1.1 405 "), "{head}");
    assert!(head.contains("allow: get,head"), "{head}");
}

//! Exports through a proxy: one that works, and those that do not.

use std::sync::Mutex;

use rcgen::ExtendedKeyUsagePurpose;
use tokio::{net::TcpStream, task::JoinHandle};

use super::*;

/// A receiver's host that only the proxy can find.
const HOST: &str = "collector.test";

/// `Aladdin:open sesame` (RFC 7617).
const CREDENTIALS: &str = "basic qwxhzgrpbjpvcgvuihnlc2ftzq==";

/// The requests to the proxy, in lower case.
type Heads = Arc<Mutex<Vec<String>>>;

/// A proxy that reaches every host at `to`, for clients with the password. The receiver's first bytes it sends together with its
/// own answer.
async fn proxy(to: SocketAddr) -> (SocketAddr, Heads, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    let heads = Heads::default();
    let noted = Arc::clone(&heads);
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            tokio::spawn(serve(stream, to, Arc::clone(&noted)));
        }
    });
    (address, heads, task)
}

async fn serve(mut stream: TcpStream, to: SocketAddr, heads: Heads) {
    let mut asked = Vec::new();
    while !asked.windows(4).any(|four| four == b"\r\n\r\n") {
        if stream.read_buf(&mut asked).await.expect("a request") == 0 {
            return;
        }
    }
    let head = String::from_utf8_lossy(&asked).to_lowercase();
    let known = head.contains(CREDENTIALS);
    let tunnel = head.starts_with("connect ");
    heads.lock().expect("a lock").push(head);
    if !known {
        let no = b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\nproxy-authenticate: Basic\r\n\r\n";
        let _ = stream.write_all(no).await;
        return;
    }
    let mut receiver = TcpStream::connect(to).await.expect("a receiver");
    if tunnel {
        let mut answer = b"HTTP/1.1 200 Connection established\r\n\r\n".to_vec();
        let at_once = receiver.read_buf(&mut answer);
        let _ = timeout(Duration::from_millis(300), at_once).await;
        let _ = stream.write_all(&answer).await;
    } else {
        receiver.write_all(&asked).await.expect("written");
    }
    let _ = tokio::io::copy_bidirectional(&mut stream, &mut receiver).await;
}

/// A proxy that refuses a tunnel names where it sends its clients instead.
#[tokio::test]
async fn refused_tunnel_is_reported_with_its_status_and_target() {
    let login = "Location: http://me:s3cret@login.test/?token=s3cret\r\n";
    for (status, headers, expected) in [
        (
            "302 Found",
            login,
            "answered 302 when asked to connect to collector.test:4444: it redirects to \"http://(hidden)@login.test/?(hidden)\"",
        ),
        (
            "308 Permanent Redirect",
            "",
            "answered 308 when asked to connect to collector.test:4444)",
        ),
        (
            "403 Forbidden",
            login,
            "answered 403 when asked to connect to collector.test:4444)",
        ),
        (
            "407 Proxy Authentication Required",
            "",
            "collector.test:4444: it wants user and password",
        ),
    ] {
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n{headers}\r\n");
        let address = speech::serve_bytes(answer.leak().as_bytes()).await;
        let proxy = format!("http://{address}");
        let endpoint = format!("http://{HOST}:4444");
        let vars = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
            ("HTTP_PROXY", &proxy),
        ];
        let target = config(&vars).export.metrics.expect("a target");
        let mut transport = Remote::new(Signal::Metrics, target, ExporterSockets::default());
        let outcome = transport
            .send(ExportRequest::encoded(Bytes::from_static(b"x")))
            .await;
        let error = outcome.expect_err(status).to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("s3cret"), "{error}");
    }
}

fn through<'a>(proxy: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let vars = [
        ("ALL_PROXY", proxy),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=s3cret"),
    ];
    vars.iter().chain(more).copied().collect()
}

#[tokio::test]
async fn both_signals_arrive_through_a_proxy_with_and_without_tls() {
    let dir = tempfile::tempdir().expect("a folder");
    let authority = tls::Authority::new();
    authority.write(dir.path(), "clients.crt");
    authority.sign(dir.path(), "server", ExtendedKeyUsagePurpose::ServerAuth);
    authority.sign(dir.path(), "client", ExtendedKeyUsagePurpose::ClientAuth);
    let file = |name: &str| dir.path().join(name).to_str().expect("a path").to_owned();
    let (trusted, certificate, key) = (file("clients.crt"), file("client.crt"), file("client.key"));
    for (scheme, protocol, alpn) in [
        ("http", "grpc", None),
        ("http", "http/protobuf", None),
        ("https", "grpc", Some(&b"h2"[..])),
        ("https", "http/protobuf", Some(b"http/1.1")),
    ] {
        let (sink, mut received) = sink().await;
        let plain = if protocol == "grpc" {
            sink.grpc()
        } else {
            sink.http()
        };
        let (to, _front) = match alpn {
            Some(alpn) => {
                let (to, front) = tls::front(dir.path(), alpn, plain).await;
                (to, Some(front))
            }
            None => (plain, None),
        };
        let (address, heads, _proxy) = proxy(to).await;
        let proxy = format!("http://Aladdin:open%20sesame@{address}");
        let vars = through(
            &proxy,
            &[
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                ("OTEL_EXPORTER_OTLP_CERTIFICATE", &trusted),
                ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &certificate),
                ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &key),
            ],
        );
        let mut exporter = start(&format!("{scheme}://{HOST}:4444?t=1"), &vars);
        exporter.metrics(snapshot(2_000, 42));
        assert_eq!(
            sent_bytes(&next(&mut received).await),
            42,
            "{scheme} {protocol}"
        );
        exporter.flow(&flow(9), &anchor());
        assert_eq!(
            spans(next(&mut received).await).len(),
            1,
            "{scheme} {protocol}"
        );
        assert!(exporter.flush(LIMIT).await);
        let heads = heads.lock().expect("a lock").clone();
        assert_eq!(
            heads.len(),
            2,
            "{scheme} {protocol}: a connection for each signal"
        );
        for (head, signal) in heads.iter().zip(["metrics", "traces"]) {
            if (scheme, protocol) == ("http", "http/protobuf") {
                let start = format!("post http://{HOST}:4444/v1/{signal}?t=1 http/1.1\r\n");
                assert!(head.starts_with(&start), "{head}");
                assert!(head.contains(&format!("host: {HOST}:4444\r\n")), "{head}");
            } else {
                assert!(
                    head.starts_with(&format!("connect {HOST}:4444 http/1.1\r\n")),
                    "{head}"
                );
                assert!(
                    !head.contains("s3cret"),
                    "the receiver's headers are not the proxy's: {head}"
                );
            }
        }
        assert_eq!(
            exporter.own_sockets().len(),
            2,
            "its connections to the proxy are its own"
        );
    }
}

#[tokio::test]
async fn refusing_proxy_is_named() {
    let (sink, _received) = sink().await;
    let (asks, _heads, _proxy) = proxy(sink.grpc()).await;
    let forbids = {
        let (url, _) = scripted_proxy(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await;
        url
    };
    let babbles = scripted_proxy(b"SSH-2.0-OpenSSH_9.6\r\n").await.0;
    let ended_unseen = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        format!("http://{}", listener.local_addr().expect("its address"))
    };
    for (proxy, why) in [
        (
            format!("http://{asks}"),
            "answered 407 when asked to connect to collector.test:4317: it wants user and password",
        ),
        (
            format!("http://me:s3cret@{asks}"),
            "answered 407 when asked to connect to collector.test:4317: it does not take this user and password",
        ),
        (
            forbids,
            "answered 403 when asked to connect to collector.test:4317",
        ),
        (babbles, "does not answer as an HTTP proxy"),
        (ended_unseen, "no connection to http://127.0.0.1:"),
    ] {
        let vars = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector.test:4317"),
            ("HTTP_PROXY", &proxy),
        ];
        let target = config(&vars).export.metrics.expect("a target");
        let mut transport = Remote::new(Signal::Metrics, target, ExporterSockets::default());
        let error = transport
            .send(ExportRequest::encoded(Bytes::new()))
            .await
            .expect_err(why);
        let reported = error.to_string();
        assert!(
            reported.contains("no connection through the proxy (") && reported.contains(why),
            "{reported}"
        );
        assert!(
            reported.ends_with("check HTTP_PROXY, or name the receiver's host in NO_PROXY"),
            "{reported}"
        );
        assert!(
            error.retryable() && !reported.contains("s3cret"),
            "{reported}"
        );
    }
}

/// A proxy that sends the same answer to every client.
async fn scripted_proxy(answer: &'static [u8]) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    let task = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut asked = [0; 4096];
            let _ = stream.read(&mut asked).await;
            let _ = stream.write_all(answer).await;
        }
    });
    (url, task)
}

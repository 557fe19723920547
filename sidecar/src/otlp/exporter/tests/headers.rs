//! Headers from a file that changes during exports.

use std::{fs, path::Path};

use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};

use super::*;

/// A receiver of either transport that passes on one header of each request, and refuses all.
async fn receiver() -> (String, mpsc::UnboundedReceiver<Option<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    let (hand, seen) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let hand = hand.clone();
            let answer = service_fn(move |request: Request<Incoming>| {
                let header = request.headers().get("authorization");
                let header = header.map(|value| value.to_str().expect("a text").to_owned());
                let _ = hand.send(header);
                let answer = Response::builder()
                    .status(400)
                    .body(Full::new(Bytes::new()))
                    .expect("an answer");
                async { Ok::<_, std::convert::Infallible>(answer) }
            });
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    });
    (url, seen)
}

/// A change of the file, and the header of the requests after it.
type Step = (fn(&Path), &'static str);

fn replace(path: &Path, content: &str) {
    let next = path.with_extension("next");
    fs::write(&next, content).expect("a file");
    fs::rename(&next, path).expect("a file");
}

#[tokio::test]
async fn changed_headers_file_is_read_again() {
    for protocol in ["grpc", "http/protobuf"] {
        for signal in ["metrics", "traces"] {
            let dir = tempfile::tempdir().expect("a folder");
            let path = dir.path().join("headers");
            fs::write(&path, "authorization=Bearer%20first\n").expect("a file");
            let file = path.to_str().expect("a path");
            let (url, mut seen) = receiver().await;
            let other = if signal == "metrics" {
                "OTEL_TRACES_EXPORTER"
            } else {
                "OTEL_METRICS_EXPORTER"
            };
            let vars = [
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                // The file wins.
                ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=none"),
                ("OTEL_EXPORTER_OTLP_HEADERS_FILE", file),
                (other, "none"),
            ];
            let mut exporter = start(&url, &vars);
            let steps: [Step; 6] = [
                (|_| {}, "Bearer first"),
                (
                    |path| replace(path, "authorization=Bearer%20second"),
                    "Bearer second",
                ),
                // In place, as a shell does.
                (
                    |path| fs::write(path, "authorization=Bearer%20third,x=1").expect("a file"),
                    "Bearer third",
                ),
                (
                    |path| fs::remove_file(path).expect("a file"),
                    "Bearer third",
                ),
                (
                    |path| fs::write(path, "half a header").expect("a file"),
                    "Bearer third",
                ),
                (
                    |path| replace(path, "authorization=Bearer%20fourth"),
                    "Bearer fourth",
                ),
            ];
            for (number, (change, expected)) in (1..).zip(steps) {
                change(&path);
                if signal == "metrics" {
                    exporter.metrics(snapshot(1_000 + number, number));
                } else {
                    exporter.flow(&flow(u32::try_from(number).expect("small")), &anchor());
                }
                let header = timeout(LIMIT, seen.recv())
                    .await
                    .expect("a request in time");
                let header = header.expect("a receiver");
                assert_eq!(header.as_deref(), Some(expected), "{protocol} {signal}");
                assert!(!exporter.flush(LIMIT).await, "refused");
            }
        }
    }
}

//! A receiver that gives a test's answers, by gRPC and HTTP on one port, and counts requests.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use http_body_util::BodyExt as _;
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderName, HeaderValue},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::net::TcpListener;
use tonic::{Code, Status};

use crate::scripted::Answer;

/// Makes the answer to a request of so many bytes.
type Make = Arc<dyn Fn(&Asked) -> Response<Answer> + Send + Sync>;

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) grpc: bool,
    pub(super) metrics: bool,
    /// The request message, unpacked.
    pub(super) body: Bytes,
}

/// The receiver. It ends with the runtime that it was started on.
#[derive(Clone)]
pub(super) struct Answering {
    address: SocketAddr,
    make: Make,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Answering {
    pub(super) async fn start(
        make: impl Fn(&Asked) -> Response<Answer> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let this = Self {
            address: listener.local_addr().expect("its address"),
            make: Arc::new(make),
            asked: Arc::default(),
        };
        let server = this.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let server = server.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| server.clone().answer(request));
                    // A client may close in the middle.
                    let _ = auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        this
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many requests came so far.
    pub(super) fn count(&self) -> usize {
        self.asked.lock().expect("no panic").len()
    }

    /// The requests that came so far.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no panic").clone()
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.expect("a whole request").to_bytes();
        let kind = head.headers.get(CONTENT_TYPE);
        let grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        let asked = Asked {
            grpc,
            metrics: head.uri.path().to_lowercase().contains("metrics"),
            // A gRPC message follows five bytes of frame.
            body: if grpc { body.slice(5..) } else { body },
        };
        let answer = (self.make)(&asked);
        self.asked.lock().expect("no panic").push(asked);
        Ok(answer)
    }
}

/// An HTTP answer.
pub(super) fn http(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Response<Answer> {
    let data = (!body.is_empty()).then(|| body.to_vec());
    let mut answer = Response::new(Answer::of(data));
    *answer.status_mut() = StatusCode::from_u16(status).expect("a status");
    for (name, value) in headers {
        let name: HeaderName = name.parse().expect("a name");
        let value = HeaderValue::from_str(value).expect("a value");
        answer.headers_mut().insert(name, value);
    }
    answer
}

/// A gRPC success with this message.
pub(super) fn grpc(message: &[u8]) -> Response<Answer> {
    let length = u32::try_from(message.len()).expect("short").to_be_bytes();
    let framed = [[0].as_slice(), &length, message].concat();
    let mut answer = Response::new(Answer::of([framed]).and_trailers());
    let kind = HeaderValue::from_static("application/grpc");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

/// A gRPC answer with these bytes for its message, these headers and these trailers; without trailers it ends with its headers.
pub(super) fn grpc_of(
    framed: &[u8],
    headers: &[(&str, &[u8])],
    trailers: &[(&str, &[u8])],
) -> Response<Answer> {
    let fields = |all: &[(&str, &[u8])]| {
        let mut fields = HeaderMap::new();
        for (name, value) in all {
            let name: HeaderName = name.parse().expect("a name");
            fields.append(name, HeaderValue::from_bytes(value).expect("a value"));
        }
        fields
    };
    let body = Answer::of((!framed.is_empty()).then(|| framed.to_vec()));
    let mut answer = Response::new(if trailers.is_empty() {
        body
    } else {
        body.with_trailers(fields(trailers))
    });
    *answer.headers_mut() = fields(headers);
    let kind = HeaderValue::from_static("application/grpc");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

/// A gRPC refusal with these details (google.rpc.Status), if any.
pub(super) fn grpc_refusal(code: Code, message: &str, details: Vec<u8>) -> Response<Answer> {
    Status::with_details(code, message, details.into()).into_http()
}

/// The success that the request's protocol has.
pub(super) fn taken(asked: &Asked) -> Response<Answer> {
    if asked.grpc {
        grpc(b"")
    } else {
        http(200, &[], b"")
    }
}

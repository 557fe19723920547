//! A receiver that answers each request by a script, by gRPC and HTTP on one port.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http_body_util::BodyExt as _;
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::{Body, Bytes, Frame, Incoming},
    header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use opentelemetry_proto::tonic::collector::{
    metrics::v1::{
        ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
    },
    trace::v1::ExportTraceServiceRequest,
};
use prost::Message as _;
use tokio::net::TcpListener;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// The treatment of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Taken.
    Take,
    /// 503 with Retry-After, or UNAVAILABLE with RetryInfo: a second.
    Unavailable,
    /// 429 with Retry-After, or RESOURCE_EXHAUSTED with RetryInfo: a second.
    Throttled,
    /// Taken but for two items.
    Partly,
    /// Taken, and the answer is no protobuf.
    Garbage,
    /// Never answered.
    Hang,
    /// Taken, and the connection is reset in the middle of the answer.
    Reset,
}

/// All that can go wrong, once each.
pub(super) const EVERYTHING: [Step; 7] = [
    Step::Unavailable,
    Step::Throttled,
    Step::Hang,
    Step::Partly,
    Step::Reset,
    Step::Garbage,
    Step::Take,
];

/// The pause that it asks for.
pub(super) const ALONE: Duration = Duration::from_secs(1);

/// What has been seen so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    steps: [VecDeque<Step>; 2],
    left_alone_until: [Option<Instant>; 2],
    /// Requests that came during a pause that it had asked for.
    pub(super) impatient: usize,
    /// Taken, in their order.
    pub(super) metrics: Vec<ExportMetricsServiceRequest>,
    /// Taken, in their order.
    pub(super) traces: Vec<ExportTraceServiceRequest>,
}

/// The receiver. It ends with the runtime that it was started on.
#[derive(Clone, Debug)]
pub(super) struct Scripted {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

impl Scripted {
    /// Treats the requests of each signal by `steps`, and takes all later ones.
    pub(super) async fn start(steps: &[Step]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let steps: VecDeque<_> = steps.iter().copied().collect();
        let seen = Arc::new(Mutex::new(Seen {
            steps: [steps.clone(), steps],
            ..Default::default()
        }));
        let scripted = Self { address, seen };
        let server = scripted.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let server = server.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| server.clone().answer(request));
                    // It breaks connections itself.
                    let _ = auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        scripted
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Reads what it has received.
    pub(super) fn with<T>(&self, read: impl FnOnce(&mut Seen) -> T) -> T {
        read(&mut self.seen.lock().expect("no panic"))
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.expect("a whole request").to_bytes();
        let kind = head.headers.get(CONTENT_TYPE);
        let grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        let metrics = head.uri.path().to_lowercase().contains("metrics");
        // A gRPC message follows five bytes of frame.
        let body = if grpc { body.slice(5..) } else { body };
        let step = self.with(|seen| seen.take(metrics, body));
        if step == Step::Hang {
            return std::future::pending().await;
        }
        Ok(if grpc { by_grpc(step) } else { by_http(step) })
    }
}

impl Seen {
    fn take(&mut self, metrics: bool, body: Bytes) -> Step {
        let signal = usize::from(metrics);
        let step = self.steps[signal].pop_front().unwrap_or(Step::Take);
        let now = Instant::now();
        if self.left_alone_until[signal].is_some_and(|until| now < until) {
            self.impatient += 1;
        }
        self.left_alone_until[signal] =
            matches!(step, Step::Unavailable | Step::Throttled).then(|| now + ALONE);
        if matches!(
            step,
            Step::Take | Step::Partly | Step::Garbage | Step::Reset
        ) {
            if metrics {
                self.metrics
                    .push(ExportMetricsServiceRequest::decode(body).expect("metrics"));
            } else {
                self.traces
                    .push(ExportTraceServiceRequest::decode(body).expect("spans"));
            }
        }
        step
    }
}

/// `partial_success` has the same tags for both signals.
fn partly() -> Vec<u8> {
    let answer = ExportMetricsServiceResponse {
        partial_success: Some(ExportMetricsPartialSuccess {
            rejected_data_points: 2,
            error_message: "two are odd".to_owned(),
        }),
    };
    answer.encode_to_vec()
}

const GARBAGE: &[u8] = b"\xff\xff\xff garbage";

fn by_http(step: Step) -> Response<Answer> {
    let body = match step {
        Step::Partly => Answer::of([partly()]),
        Step::Garbage => Answer::of([GARBAGE.to_vec()]),
        Step::Reset => Answer::broken(b"half of".to_vec()),
        _ => Answer::default(),
    };
    let mut answer = Response::new(body);
    let busy = match step {
        Step::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Step::Throttled => StatusCode::TOO_MANY_REQUESTS,
        _ => return answer,
    };
    *answer.status_mut() = busy;
    let wait = ALONE.as_secs().to_string();
    let wait = HeaderValue::from_str(&wait).expect("digits");
    answer.headers_mut().insert(RETRY_AFTER, wait);
    answer
}

fn by_grpc(step: Step) -> Response<Answer> {
    let code = match step {
        Step::Unavailable => Code::Unavailable,
        Step::Throttled => Code::ResourceExhausted,
        _ => {
            let message = match step {
                Step::Partly => partly(),
                Step::Garbage => GARBAGE.to_vec(),
                _ => Vec::new(),
            };
            let length = u32::try_from(message.len()).expect("short").to_be_bytes();
            let framed = [[0].as_slice(), &length, &message].concat();
            let mut answer = Response::new(if step == Step::Reset {
                Answer::broken(framed[..3].to_vec())
            } else {
                Answer::of([framed]).and_trailers()
            });
            let kind = HeaderValue::from_static("application/grpc");
            answer.headers_mut().insert(CONTENT_TYPE, kind);
            return answer;
        }
    };
    let details = ErrorDetails::with_retry_info(Some(ALONE));
    Status::with_error_details(code, "busy", details).into_http()
}

/// A body, frame by frame.
#[derive(Debug, Default)]
pub(super) struct Answer(VecDeque<io::Result<Frame<Bytes>>>);

impl Answer {
    pub(super) fn of(data: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let frames = data.into_iter().map(|data| Ok(Frame::data(data.into())));
        Self(frames.collect())
    }

    fn broken(data: Vec<u8>) -> Self {
        let mut answer = Self::of([data]);
        answer
            .0
            .push_back(Err(io::ErrorKind::ConnectionReset.into()));
        answer
    }

    pub(super) fn and_trailers(self) -> Self {
        let name = "grpc-status".parse().expect("a name");
        self.with_trailers(HeaderMap::from_iter([(
            name,
            HeaderValue::from_static("0"),
        )]))
    }

    pub(super) fn with_trailers(mut self, trailers: HeaderMap) -> Self {
        self.0.push_back(Ok(Frame::trailers(trailers)));
        self
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(self.0.pop_front())
    }
}

//! Answers that are HTTP/2 and not gRPC: a proxy's page, its refusal, a redirect. HTTP's status is more specific than the gRPC
//! status that stands for it.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderName},
};
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use tonic::{body::Body, transport::Channel};
use tower_service::Service;

use super::given::Given;
use crate::{
    clock,
    otlp::{answer, body, error::Cause},
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// A channel that passes gRPC answers only, made safe for tonic.
#[derive(Clone, Debug)]
pub(super) struct Checked {
    channel: Channel,
    /// The encoding of messages that is asked for.
    accepted: Option<HeaderValue>,
    given: Given,
}

/// The error about an answer that is no gRPC.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{cause}")]
pub(super) struct Foreign {
    pub(super) cause: Cause,
    pub(super) retry_after: Option<Duration>,
}

impl Checked {
    pub(super) const fn new(channel: Channel, accepted: Option<HeaderValue>, given: Given) -> Self {
        Self {
            channel,
            accepted,
            given,
        }
    }
}

impl Service<Request<Body>> for Checked {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.channel.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (given, accepted) = (self.given.clone(), self.accepted.clone());
        let answer = self.channel.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            let grpc = is_grpc(&answer);
            let (mut head, body) = answer.into_parts();
            if grpc {
                given.head(head.status, &mut head.headers);
                keep_encoding(&mut head.headers, accepted.as_ref());
                return Ok(Response::from_parts(head, safe(body, given)));
            }
            // Half a page shows who answered as well as a whole one.
            let body = body::read(body).await.unwrap_or_default();
            let answer = Response::from_parts(head, body);
            let (cause, retry_after) = if answer.status() == StatusCode::OK {
                (answer::not_grpc(&answer), None)
            } else {
                answer::http_failure(&answer, clock::wall_time())
            };
            Err(Foreign { cause, retry_after }.into())
        })
    }
}

/// The body, with safe trailers.
fn safe(body: Body, given: Given) -> Body {
    Body::new(body.map_frame(move |frame| match frame.into_trailers() {
        Ok(mut trailers) => {
            given.fields(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }))
}

/// tonic refuses any other encoding by its name, though a refusal has no message, and messages need not be packed.
fn keep_encoding(headers: &mut HeaderMap, accepted: Option<&HeaderValue>) {
    if headers.get(GRPC_ENCODING) != accepted {
        headers.remove(GRPC_ENCODING);
    }
}

/// Whether it has a gRPC status, or announces one.
fn is_grpc(answer: &Response<Body>) -> bool {
    let headers = answer.headers();
    let kind = headers.get(CONTENT_TYPE);
    let grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    grpc || headers.contains_key("grpc-status")
}

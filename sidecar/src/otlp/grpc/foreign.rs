//! Answers that are HTTP/2 and not gRPC: a proxy's page, its refusal, a redirect. HTTP's status is more specific than the gRPC
//! status that stands for it.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, StatusCode, header::CONTENT_TYPE};
use tonic::{body::Body, transport::Channel};
use tower_service::Service;

use crate::{
    clock,
    otlp::{answer, body, error::Cause},
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A channel that passes gRPC answers only.
#[derive(Clone, Debug)]
pub(super) struct Checked(Channel);

/// The error about an answer that is no gRPC.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{cause}")]
pub(super) struct Foreign {
    pub(super) cause: Cause,
    pub(super) retry_after: Option<Duration>,
}

impl Checked {
    pub(super) const fn new(channel: Channel) -> Self {
        Self(channel)
    }
}

impl Service<Request<Body>> for Checked {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            if is_grpc(&answer) {
                return Ok(answer);
            }
            let (head, body) = answer.into_parts();
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

/// Whether it has a gRPC status, or announces one.
fn is_grpc(answer: &Response<Body>) -> bool {
    let headers = answer.headers();
    let kind = headers.get(CONTENT_TYPE);
    let grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    grpc || headers.contains_key("grpc-status")
}

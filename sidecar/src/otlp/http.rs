//! OTLP over HTTP, in protobuf.

use std::io::Write;

use async_trait::async_trait;
use bytes::Bytes;
use flate2::write::GzEncoder;
use http::{
    Request, Response,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, USER_AGENT},
};
use http_body_util::Full;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};

use super::{
    USER_AGENT_NAME,
    answer::{self, PROTOBUF},
    body,
    connect::{Connector, in_time},
    error::{Accepted, Cause, ExportError},
    no_answer::{late, no_answer},
    speech::{Mismatch, Speech, expects_tls},
    transport::{ExportRequest, Transport},
};
use crate::{
    clock,
    config::{Compression, Signal},
};

/// Posts to one target. It follows no redirect, which may lose the body or leak the headers.
#[derive(Clone, Debug)]
pub(super) struct Http {
    signal: Signal,
    connector: Connector,
    client: Client<Connector, Full<Bytes>>,
}

impl Http {
    pub(super) fn new(signal: Signal, connector: Connector) -> Self {
        let client = Client::builder(TokioExecutor::new()).build(connector.clone());
        Self {
            signal,
            connector,
            client,
        }
    }

    /// Decodes the answer of a success.
    pub(super) fn accepted(&self, answer: &Response<Bytes>) -> Result<Accepted, ExportError> {
        answer::http_accepted(answer).map_err(|cause| self.error(cause))
    }

    /// Sends a request with the target's headers; any status but success is an error.
    pub(super) async fn post(
        &self,
        mut request: Request<Bytes>,
    ) -> Result<Response<Bytes>, ExportError> {
        let target = self.connector.target();
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(USER_AGENT_NAME));
        let self_metrics = self.connector.headers();
        let self_metrics =
            self_metrics.map_err(|error| self.error(Cause::Setup(error.to_string())))?;
        for (name, value) in &self_metrics {
            headers.insert(name, value.clone());
        }
        let answered = in_time(target, self.receive(request)).await;
        let answered = answered.map_err(|cause| late(cause, &self.connector));
        let answer = answered.flatten().map_err(|cause| self.error(cause))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        if target.endpoint.scheme_str() == Some("http") && expects_tls(answer.body()) {
            return Err(self.error(Cause::Mismatch(Mismatch {
                wanted: target.protocol,
                speech: Speech::Tls,
                without_tls: false,
            })));
        }
        let (cause, retry_after) = answer::http_failure(&answer, clock::wall_time());
        Err(self.error(cause).after(retry_after))
    }

    async fn receive(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Cause> {
        let request = request.map(Full::new);
        let answer = self.client.request(request).await;
        let answer = answer.map_err(|error| no_answer(&error, &self.connector))?;
        let (head, body) = answer.into_parts();
        let body = body::read(body).await;
        let body = body.map_err(|error| no_answer(&error, &self.connector))?;
        Ok(Response::from_parts(head, body))
    }

    fn error(&self, cause: Cause) -> ExportError {
        ExportError::new(self.signal, self.connector.target(), cause)
    }
}

#[async_trait]
impl Transport for Http {
    async fn send(&mut self, request: ExportRequest) -> Result<Accepted, ExportError> {
        let target = self.connector.target();
        let (body, encoding) = pack(request.encoded, target.compression);
        let mut request = Request::post(target.endpoint.clone())
            .body(body)
            .expect("a URL that was parsed makes a request");
        request.headers_mut().insert(CONTENT_TYPE, PROTOBUF);
        if let Some(encoding) = encoding {
            let encoding = HeaderValue::from_static(encoding);
            request.headers_mut().insert(CONTENT_ENCODING, encoding);
        }
        self.accepted(&self.post(request).await?)
    }
}

fn pack(body: Bytes, compression: Option<Compression>) -> (Bytes, Option<&'static str>) {
    match compression {
        None => (body, None),
        Some(Compression::Gzip) => {
            let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
            let packed = encoder.write_all(&body).and_then(|()| encoder.finish());
            (
                packed.expect("memory takes every write").into(),
                Some("gzip"),
            )
        }
        Some(Compression::Zstd) => {
            let packed = zstd::bulk::compress(&body, zstd::DEFAULT_COMPRESSION_LEVEL);
            (
                packed.expect("memory takes every write").into(),
                Some("zstd"),
            )
        }
    }
}

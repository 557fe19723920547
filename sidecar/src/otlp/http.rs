//! OTLP by HTTP, in protobuf.

use std::{
    io::Write,
    sync::Once,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use flate2::write::GzEncoder;
use http::{
    Request, Response,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT},
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use prost::Message;

use super::{
    USER_AGENT_NAME,
    error::{Accepted, Cause, ExportError, root},
};
use crate::config::{Compression, Signal, Target};

const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");

/// Bytes of an answer that are read: what OpenTelemetry's own clients take.
const MOST_ANSWER: usize = 4 << 20;

/// The longest time that a receiver is left alone for because it asked to be.
const MOST_RETRY_AFTER: Duration = Duration::from_secs(600);

/// Posts to one target.
#[derive(Clone, Debug)]
pub(super) struct Http {
    signal: Signal,
    target: Target,
    client: reqwest::Client,
}

/// What OTLP answers when it does not take a request.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(string, tag = "2")]
    message: String,
}

impl Http {
    pub(super) fn new(signal: Signal, target: Target) -> Result<Self, ExportError> {
        install_crypto();
        let client = reqwest::Client::builder()
            .timeout(target.timeout)
            // A request that was moved by a redirect may lose its body or take its headers to a stranger.
            .redirect(reqwest::redirect::Policy::none())
            // The environment is read by `config` alone; gRPC knows no proxy either.
            .no_proxy()
            .build();
        match client {
            Ok(client) => Ok(Self {
                signal,
                target,
                client,
            }),
            Err(error) => {
                let cause = Cause::Setup(root(&error));
                Err(ExportError::new(signal, &target, cause))
            }
        }
    }

    /// Sends metrics.
    pub(super) async fn export(
        &self,
        request: ExportMetricsServiceRequest,
    ) -> Result<Accepted, ExportError> {
        let body = request.encode_to_vec();
        let (body, encoding) = pack(body, self.target.compression);
        let mut request = Request::post(self.target.endpoint.clone())
            .body(body)
            .expect("a URL that was parsed makes a request");
        request.headers_mut().insert(CONTENT_TYPE, PROTOBUF);
        if let Some(encoding) = encoding {
            let encoding = HeaderValue::from_static(encoding);
            request.headers_mut().insert(CONTENT_ENCODING, encoding);
        }
        let answer = self.send(request).await?;
        let partial = |answer: ExportMetricsServiceResponse| {
            let partial = answer.partial_success.unwrap_or_default();
            (partial.rejected_data_points, partial.error_message)
        };
        Ok(accepted(answer.body(), partial))
    }

    /// Sends a request with the target's headers; any status but success is an error.
    pub(super) async fn send(
        &self,
        mut request: Request<Bytes>,
    ) -> Result<Response<Bytes>, ExportError> {
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(USER_AGENT_NAME));
        for (name, value) in self.target.headers.iter() {
            headers.insert(name.clone(), value.clone());
        }
        let answer = match self.receive(request).await {
            Ok(answer) => answer,
            Err(error) if error.is_timeout() => {
                return Err(self.error(Cause::Timeout(self.target.timeout)));
            }
            Err(error) => return Err(self.error(Cause::Unreachable(root(&error)))),
        };
        if answer.status().is_success() {
            return Ok(answer);
        }
        let retry_after = retry_after(answer.headers(), SystemTime::now());
        let cause = Cause::Http {
            status: answer.status().as_u16(),
            message: message(&answer),
        };
        Err(self.error(cause).after(retry_after))
    }

    async fn receive(&self, request: Request<Bytes>) -> Result<Response<Bytes>, reqwest::Error> {
        let mut received = self.client.execute(request.try_into()?).await?;
        let mut body = Vec::new();
        while let Some(chunk) = received.chunk().await? {
            let room = MOST_ANSWER - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() >= room {
                break;
            }
        }
        let mut answer = Response::new(body.into());
        *answer.status_mut() = received.status();
        *answer.headers_mut() = std::mem::take(received.headers_mut());
        Ok(answer)
    }

    fn error(&self, cause: Cause) -> ExportError {
        ExportError::new(self.signal, &self.target, cause)
    }
}

/// What a success says. One that does not decode is a success all the same: sending again would count twice.
pub(super) fn accepted<T: Message + Default>(
    body: &[u8],
    partial: impl FnOnce(T) -> (i64, String),
) -> Accepted {
    match T::decode(body) {
        Ok(answer) => {
            let (rejected, message) = partial(answer);
            Accepted {
                rejected: rejected.try_into().unwrap_or(0),
                message,
            }
        }
        Err(error) => Accepted {
            rejected: 0,
            message: format!("its answer does not decode ({error})"),
        },
    }
}

fn pack(body: Vec<u8>, compression: Option<Compression>) -> (Bytes, Option<&'static str>) {
    match compression {
        None => (body.into(), None),
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

fn message(answer: &Response<Bytes>) -> String {
    let is_protobuf = answer.headers().get(CONTENT_TYPE) == Some(&PROTOBUF);
    match RpcStatus::decode(answer.body().as_ref()) {
        Ok(status) if is_protobuf => status.message,
        _ => String::from_utf8_lossy(answer.body()).into_owned(),
    }
}

/// `Retry-After` in seconds or as a date (RFC 9110 section 10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?;
            date.duration_since(now).unwrap_or_default()
        }
    };
    Some(wait.min(MOST_RETRY_AFTER))
}

/// The HTTP client takes the process's cryptography, and there may be only one.
fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // It fails only when somebody was quicker, whose choice is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        let now = httpdate::parse_http_date("Fri, 31 Dec 1999 23:59:00 GMT").expect("a date");
        let wait = |text: &str| {
            let text = HeaderValue::from_str(text).expect("a header");
            retry_after(&HeaderMap::from_iter([(RETRY_AFTER, text)]), now)
        };
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(
            wait("Fri, 31 Dec 1999 23:59:59 GMT"),
            Some(Duration::from_secs(59))
        );
        assert_eq!(wait("Fri, 31 Dec 1999 23:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("99999999"), Some(MOST_RETRY_AFTER));
        assert_eq!(wait("soon"), None);
    }
}

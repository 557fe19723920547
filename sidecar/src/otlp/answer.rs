//! What receivers answer. Whatever they send, nothing here fails or takes long. Pure.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{
    HeaderMap, Response,
    header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};
use opentelemetry_proto::tonic::collector::{
    metrics::v1::ExportMetricsServiceResponse, trace::v1::ExportTraceServiceResponse,
};
use prost::Message;
use tonic::Status;
use tonic_types::StatusExt as _;

use super::error::{Accepted, Cause};
use crate::config::Signal;

/// The content type of OTLP in protobuf.
pub(super) const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");

/// The longest time that a receiver is left alone for because it asked to be.
const MOST_RETRY_AFTER: Duration = Duration::from_secs(600);

/// What OTLP answers by HTTP when it does not take a request.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(string, tag = "2")]
    message: String,
}

/// What a success says. One that does not decode is a success all the same: sending again would count twice.
pub fn accepted(signal: Signal, body: &[u8]) -> Accepted {
    let partial = match signal {
        Signal::Metrics => ExportMetricsServiceResponse::decode(body).map(|answer| {
            let partial = answer.partial_success.unwrap_or_default();
            (partial.rejected_data_points, partial.error_message)
        }),
        Signal::Traces => ExportTraceServiceResponse::decode(body).map(|answer| {
            let partial = answer.partial_success.unwrap_or_default();
            (partial.rejected_spans, partial.error_message)
        }),
    };
    match partial {
        Ok((rejected, message)) => Accepted {
            rejected: rejected.try_into().unwrap_or(0),
            message,
        },
        Err(error) => Accepted {
            rejected: 0,
            message: format!("its answer does not decode ({error})"),
        },
    }
}

/// Why a receiver did not take a request by HTTP, and for how long it is to be left alone.
pub fn http_failure(answer: &Response<Bytes>, now: SystemTime) -> (Cause, Option<Duration>) {
    let cause = Cause::Http {
        status: answer.status().as_u16(),
        message: message(answer),
    };
    (cause, retry_after(answer.headers(), now))
}

/// The same by gRPC.
pub fn grpc_failure(status: &Status) -> (Cause, Option<Duration>) {
    let retry_info = status.get_details_retry_info();
    let cause = Cause::Grpc {
        code: status.code(),
        message: status.message().to_owned(),
        retry_info: retry_info.is_some(),
    };
    let asked = retry_info.and_then(|info| info.retry_delay);
    (cause, asked.map(|asked| asked.min(MOST_RETRY_AFTER)))
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

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use tonic::{Code, metadata::MetadataMap};
    use tonic_types::{ErrorDetails, StatusExt as _};

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

    #[test]
    fn retry_info_is_read_and_bounded() {
        let asked = |delay| {
            let details = ErrorDetails::with_retry_info(Some(delay));
            let status = Status::with_error_details(Code::ResourceExhausted, "full", details);
            grpc_failure(&status).1
        };
        assert_eq!(
            asked(Duration::from_millis(1500)),
            Some(Duration::from_millis(1500))
        );
        assert_eq!(asked(Duration::from_secs(1 << 40)), Some(MOST_RETRY_AFTER));
    }

    proptest! {
        #[test]
        fn no_answer_is_too_odd(
            body in vec(any::<u8>(), 0..600),
            status in 100u16..600,
            header in vec(any::<u8>(), 0..40),
            protobuf: bool,
            code in 0i32..40,
        ) {
            for signal in [Signal::Metrics, Signal::Traces] {
                // A negative count of what was rejected is none.
                prop_assert!(accepted(signal, &body).rejected <= i64::MAX as u64);
            }
            let mut answer = Response::new(Bytes::from(body.clone()));
            *answer.status_mut() = http::StatusCode::from_u16(status).expect("three digits");
            if let Ok(header) = HeaderValue::from_bytes(&header) {
                answer.headers_mut().insert(RETRY_AFTER, header);
            }
            if protobuf {
                answer.headers_mut().insert(CONTENT_TYPE, PROTOBUF);
            }
            let (_, wait) = http_failure(&answer, SystemTime::now());
            prop_assert!(wait.is_none_or(|wait| wait <= MOST_RETRY_AFTER));
            let status = Status::with_details_and_metadata(
                Code::from_i32(code), "odd", body.into(), MetadataMap::new());
            let (_, wait) = grpc_failure(&status);
            prop_assert!(wait.is_none_or(|wait| wait <= MOST_RETRY_AFTER));
        }
    }
}

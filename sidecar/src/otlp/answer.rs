//! Answers of receivers. No answer makes this code fail or run long. Pure.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{
    HeaderMap, Response,
    header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};
use prost::Message;
use tonic::Status;

use super::{
    error::{Accepted, Cause},
    quote::Quoted,
    redirect,
};
/// The content type of OTLP in protobuf.
pub(super) const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");

/// The answer to an export of any signal: the tags are the same. Texts are bytes here and below, as what is not UTF-8 in one, perhaps cut
/// in the middle of a character, is no reason to discard the rest.
#[derive(Clone, PartialEq, Message)]
struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    /// Rejected points, spans or log records.
    #[prost(int64, tag = "1")]
    rejected: i64,
    #[prost(bytes = "bytes", tag = "2")]
    error_message: Bytes,
}

/// google.rpc.Status: OTLP's answer to a refused request, as HTTP's body or as gRPC's details.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(bytes = "bytes", tag = "2")]
    message: Bytes,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Detail>,
}

/// google.protobuf.Any
#[derive(Clone, PartialEq, Message)]
struct Detail {
    #[prost(bytes = "bytes", tag = "1")]
    type_url: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// google.rpc.RetryInfo
#[derive(Clone, Copy, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

/// google.protobuf.Duration. prost's own type overflows on the negation of the least value.
#[derive(Clone, Copy, PartialEq, Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// Decodes the answer of a success.
///
/// # Errors
/// It is no OTLP message. Then it is unknown who answered, and whether the request was taken.
pub fn accepted(body: &[u8]) -> Result<Accepted, Cause> {
    Ok(partial_success(body)?.unwrap_or_default())
}

/// The partial success in the answer of a success, if there is one. A negative count of rejected items is 0.
fn partial_success(body: &[u8]) -> Result<Option<Accepted>, Cause> {
    let answer = ExportResponse::decode(body).map_err(|_| unknown(body))?;
    Ok(answer.partial_success.map(|partial| Accepted {
        rejected: partial.rejected.try_into().unwrap_or(0),
        message: String::from_utf8_lossy(&partial.error_message).into_owned(),
    }))
}

fn unknown(body: &[u8]) -> Cause {
    Cause::NotOtlp(format!("it begins {}", beginning(body)))
}

/// Decodes the answer of a success over HTTP. Its content type is protobuf, or it has none: then its body is empty, or has a partial success
/// in it, as text may decode by chance, as unknown fields. An empty body may also have the other content type of OTLP, JSON. Any other
/// content type is of somebody who is no receiver, such as a web server that answers every request with an empty page.
///
/// # Errors
/// It is no OTLP message.
pub fn http_accepted(answer: &Response<Bytes>) -> Result<Accepted, Cause> {
    let body = answer.body();
    match answer.headers().get(CONTENT_TYPE) {
        Some(kind) if is_json(kind) && body.is_empty() => Ok(Accepted::default()),
        Some(kind) if !is_protobuf(kind) => Err(not_otlp(kind, body)),
        None if !body.is_empty() => partial_success(body)?.ok_or_else(|| unknown(body)),
        _ => accepted(body),
    }
}

/// The error about a success over gRPC that is no gRPC, such as a proxy's page.
pub(super) fn not_grpc(answer: &Response<Bytes>) -> Cause {
    match answer.headers().get(CONTENT_TYPE) {
        Some(kind) => not_otlp(kind, answer.body()),
        None => unknown(answer.body()),
    }
}

fn not_otlp(kind: &HeaderValue, body: &[u8]) -> Cause {
    let kind = String::from_utf8_lossy(kind.as_bytes());
    let kind = Quoted(&kind);
    Cause::NotOtlp(if body.is_empty() {
        format!("content type {kind}, without a body")
    } else {
        format!("content type {kind}, it begins {}", beginning(body))
    })
}

/// The first words of a body.
fn beginning(body: &[u8]) -> String {
    const SHOWN: usize = 60;
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * SHOWN)]);
    let words: String = text.chars().take(SHOWN).collect();
    Quoted(&words).to_string()
}

/// `application/x-protobuf`, or the name without `x-`, with parameters or without.
fn is_protobuf(kind: &HeaderValue) -> bool {
    is_one_of(kind, &["application/x-protobuf", "application/protobuf"])
}

/// `application/json`, with parameters or without.
fn is_json(kind: &HeaderValue) -> bool {
    is_one_of(kind, &["application/json"])
}

fn is_one_of(kind: &HeaderValue, names: &[&str]) -> bool {
    let kind = kind.to_str().unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    names.iter().any(|name| kind.eq_ignore_ascii_case(name))
}

/// Why a receiver refused a request over HTTP, and how long it asks flowcar to wait.
pub fn http_failure(answer: &Response<Bytes>, now: SystemTime) -> (Cause, Option<Duration>) {
    let status = answer.status().as_u16();
    let cause = if redirect::is_redirect(status) {
        let target = redirect::target(answer.headers());
        Cause::Redirect { status, target }
    } else {
        let message = message(answer);
        Cause::Http { status, message }
    };
    (cause, retry_after(answer.headers(), now))
}

/// The same over gRPC.
pub fn grpc_failure(status: &Status) -> (Cause, Option<Duration>) {
    let retry_info = retry_info(status.details());
    let cause = Cause::Grpc {
        code: status.code(),
        message: status.message().to_owned(),
        retry_info: retry_info.is_some(),
    };
    let asked = retry_info.and_then(|info| info.retry_delay);
    (cause, asked.map(Delay::positive))
}

/// The RetryInfo in gRPC's details, if there is one.
fn retry_info(details: &[u8]) -> Option<RetryInfo> {
    let details = RpcStatus::decode(details).ok()?.details.into_iter();
    let mut infos = details.filter(|of| of.type_url.ends_with(b"/google.rpc.RetryInfo"));
    RetryInfo::decode(infos.next()?.value).ok()
}

impl Delay {
    /// A negative duration is zero.
    fn positive(self) -> Duration {
        let whole = u64::try_from(self.seconds).unwrap_or(0);
        let part = u64::try_from(self.nanos).unwrap_or(0);
        if self.seconds < 0 || self.nanos < 0 {
            return Duration::ZERO;
        }
        Duration::from_secs(whole).saturating_add(Duration::from_nanos(part))
    }
}

fn message(answer: &Response<Bytes>) -> String {
    let is_protobuf = answer.headers().get(CONTENT_TYPE).is_some_and(is_protobuf);
    match RpcStatus::decode(answer.body().as_ref()) {
        Ok(status) if is_protobuf => String::from_utf8_lossy(&status.message).into_owned(),
        _ => String::from_utf8_lossy(answer.body()).into_owned(),
    }
}

/// `Retry-After` in seconds or as a date (RFC 9110 section 10.2.3). More seconds than a number holds are still many;
/// a date in the past asks for nothing.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use tonic::{Code, metadata::MetadataMap};
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Fri, 31 Dec 1999 23:59:00 GMT").expect("a date");
        for (text, seconds) in [
            ("7", Some(7)),
            ("0", Some(0)),
            ("007", Some(7)),
            ("18446744073709551615", Some(u64::MAX)),
            ("99999999999999999999999999999999", Some(u64::MAX)),
            ("Fri, 31 Dec 1999 23:59:59 GMT", Some(59)),
            ("Friday, 31-Dec-99 23:59:59 GMT", Some(59)),
            ("Fri Dec 31 23:59:59 1999", Some(59)),
            ("Fri, 31 Dec 1999 23:59:00 GMT", Some(0)),
            ("Fri, 31 Dec 1999 23:00:00 GMT", Some(0)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("-5", None),
            ("+5", None),
            ("1.5", None),
            ("", None),
            ("soon", None),
            ("5 seconds", None),
        ] {
            let value = HeaderValue::from_str(text).expect("a header");
            let wait = retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value)]), now);
            assert_eq!(wait, seconds.map(Duration::from_secs), "{text:?}");
        }
        let odd = HeaderValue::from_bytes(b"\xff\xfe").expect("a header");
        let headers = HeaderMap::from_iter([(RETRY_AFTER, odd)]);
        assert_eq!(retry_after(&headers, now), None);
    }

    #[test]
    fn retry_info_is_read() {
        /// google.protobuf.Duration in google.rpc.RetryInfo in google.rpc.Status, by hand from the wire format.
        fn status(seconds: Option<i64>, nanos: Option<i32>, message: &[u8]) -> Status {
            fn field(number: u8, body: &[u8]) -> Vec<u8> {
                let length = u8::try_from(body.len()).expect("short");
                [&[number << 3 | 2, length], body].concat()
            }
            fn varint(number: u8, value: u64) -> Vec<u8> {
                let mut bytes = vec![number << 3];
                prost::encoding::encode_varint(value, &mut bytes);
                bytes
            }
            let seconds = seconds.map_or(Vec::new(), |value| varint(1, value.cast_unsigned()));
            let nanos = nanos.map_or(Vec::new(), |value| {
                varint(2, i64::from(value).cast_unsigned())
            });
            let info = field(1, &[seconds, nanos].concat());
            let any = [
                field(1, b"type.googleapis.com/google.rpc.RetryInfo"),
                field(2, &info),
            ]
            .concat();
            let details = [varint(1, 8), field(2, message), field(3, &any)].concat();
            Status::with_details(Code::ResourceExhausted, "full", details.into())
        }
        for (seconds, nanos, millis) in [
            (Some(1), Some(500_000_000), 1_500),
            (Some(7), None, 7_000),
            (None, Some(20_000_000), 20),
            (None, None, 0),
            (Some(0), Some(0), 0),
            (Some(-5), None, 0),
            (None, Some(-1), 0),
            (Some(-5), Some(-1), 0),
            (Some(i64::MIN), Some(i32::MIN), 0),
        ] {
            for message in [&b"full"[..], b"", b"\xff\xfe"] {
                let (cause, wait) = grpc_failure(&status(seconds, nanos, message));
                let Cause::Grpc { retry_info, .. } = cause else {
                    panic!("{cause:?}");
                };
                assert!(retry_info, "{seconds:?} {nanos:?} {message:?}");
                let expected = Duration::from_millis(millis);
                assert_eq!(wait, Some(expected), "{seconds:?} {nanos:?} {message:?}");
            }
        }
        let (_, huge) = grpc_failure(&status(Some(i64::MAX), Some(i32::MAX), b""));
        assert!(huge.is_some_and(|huge| huge > Duration::from_secs(1 << 40)));
        let without = ErrorDetails::with_retry_info(None);
        let without = Status::with_error_details(Code::ResourceExhausted, "full", without);
        assert_eq!(grpc_failure(&without).1, None);
    }

    #[test]
    fn only_an_otlp_message_is_a_success() {
        // partial_success { rejected: 3, error_message: "old" }, by hand from the wire format.
        let partial: &[u8] = &[0x0a, 7, 0x08, 3, 0x12, 3, b'o', b'l', b'd'];
        let warning: &[u8] = &[0x0a, 5, 0x12, 3, b'o', b'l', b'd'];
        let negative: &[u8] = &[
            0x0a, 11, 0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
        ];
        let not_utf8: &[u8] = &[0x0a, 6, 0x08, 3, 0x12, 2, 0xff, 0xfe];
        let protobuf = Some("application/x-protobuf");
        // Rejected, or none where it is no success.
        for (kind, body, rejected) in [
            (protobuf, &b""[..], Some(0)),
            (None, b"", Some(0)),
            (Some("Application/X-Protobuf; a=b"), b"", Some(0)),
            (Some("application/json; charset=utf-8"), b"", Some(0)),
            // nginx: `return 200`.
            (Some("text/html"), b"", None),
            (Some("text/plain"), b"", None),
            (Some("application/octet-stream"), b"", None),
            (Some(""), b"", None),
            (protobuf, partial, Some(3)),
            (None, partial, Some(3)),
            (Some("Application/X-Protobuf; a=b"), partial, Some(3)),
            (Some("application/protobuf"), partial, Some(3)),
            (protobuf, warning, Some(0)),
            (protobuf, not_utf8, Some(3)),
            (None, not_utf8, Some(3)),
            (protobuf, negative, Some(0)),
            (Some("text/html"), b"<html>Sign in</html>", None),
            (None, b"<html>Sign in</html>", None),
            (protobuf, b"<html>Sign in</html>", None),
            (Some("application/json"), b"{}", None),
            (None, b"{}", None),
            (protobuf, b"{\"partialSuccess\":{}}", None),
            (Some("text/plain"), b"ok", None),
            (protobuf, b"ok", None),
            // Decodes as an unknown field.
            (Some("text/plain"), b"accepted\n", None),
            (None, b"accepted\n", None),
            // A later field of OTLP's, perhaps.
            (protobuf, &[0x10, 1], Some(0)),
            (None, &[0x10, 1], None),
            (None, &[0x0a, 0], Some(0)),
            (protobuf, b"\xff\xff\xff garbage", None),
            (protobuf, &partial[..5], None),
            (Some("text/plain"), partial, None),
        ] {
            let mut answer = Response::new(Bytes::from_static(body));
            if let Some(kind) = kind {
                let kind = HeaderValue::from_static(kind);
                answer.headers_mut().insert(CONTENT_TYPE, kind);
            }
            let accepted = http_accepted(&answer);
            let reported = accepted.as_ref().ok().map(|accepted| accepted.rejected);
            assert_eq!(reported, rejected, "{kind:?} {body:?}: {accepted:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_answer_never_panics(
            body in vec(any::<u8>(), 0..600),
            status in 100u16..600,
            header in vec(any::<u8>(), 0..40),
            protobuf: bool,
            code in 0i32..40,
        ) {
            // A negative count of rejected items is 0.
            if let Ok(accepted) = accepted(&body) {
                prop_assert!(accepted.rejected <= i64::MAX as u64);
            }
            let mut answer = Response::new(Bytes::from(body.clone()));
            *answer.status_mut() = http::StatusCode::from_u16(status).expect("three digits");
            if let Ok(header) = HeaderValue::from_bytes(&header) {
                answer.headers_mut().insert(RETRY_AFTER, header);
            }
            if protobuf {
                answer.headers_mut().insert(CONTENT_TYPE, PROTOBUF);
            }
            let (cause, _) = http_failure(&answer, crate::clock::wall_time());
            prop_assert!(!cause.to_string().contains(|c: char| c.is_control()));
            let status = Status::with_details_and_metadata(
                Code::from_i32(code), "odd", body.into(), MetadataMap::new());
            let (cause, _) = grpc_failure(&status);
            prop_assert!(!cause.to_string().contains(|c: char| c.is_control()));
        }
    }
}

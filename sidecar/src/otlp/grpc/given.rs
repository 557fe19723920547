//! The gRPC status of an answer, in its headers or trailers. It is made safe before tonic parses it, which panics at details that are
//! not base64, and discards the code beside a message that is not UTF-8. And it is kept: tonic has a status of its own for an answer
//! that it cannot read.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode, percent_encode};
use tonic::{Code, Status, metadata::MetadataMap};

const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// The statuses of the newest answer. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Given(Arc<Mutex<Statuses>>);

#[derive(Clone, Copy, Debug, Default)]
struct Statuses {
    /// None before the answer.
    http: Option<StatusCode>,
    /// None where the answer has none, or none yet.
    grpc: Option<Code>,
}

// === impl Given ===

impl Given {
    /// A request is about to be sent.
    pub(super) fn forget(&self) {
        *self.lock() = Statuses::default();
    }

    /// Keeps the statuses of an answer's head, and makes its headers safe.
    pub(super) fn head(&self, status: StatusCode, headers: &mut HeaderMap) {
        self.lock().http = Some(status);
        self.fields(headers);
    }

    /// Keeps the status in headers or trailers, if there is one, and makes them safe.
    pub(super) fn fields(&self, fields: &mut HeaderMap) {
        mend_message(fields);
        mend_details(fields);
        if let Some(status) = Status::from_header_map(fields) {
            self.lock().grpc = Some(status.code());
        }
    }

    /// Whether the answer is a success by all that was seen of it.
    pub(super) fn is_success(&self) -> bool {
        let Statuses { http, grpc } = *self.lock();
        match grpc {
            Some(code) => code == Code::Ok,
            None => http == Some(StatusCode::OK),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Statuses> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is not UTF-8 in the message is replaced (U+FFFD).
fn mend_message(fields: &mut HeaderMap) {
    let Some(message) = fields.get(MESSAGE) else {
        return;
    };
    let bytes: Cow<'_, [u8]> = percent_decode(message.as_bytes()).into();
    if let Cow::Owned(text) = String::from_utf8_lossy(&bytes) {
        let encoded = percent_encode(text.as_bytes(), NON_ALPHANUMERIC).to_string();
        let encoded = HeaderValue::try_from(encoded).expect("letters, digits and % make a header");
        fields.insert(MESSAGE, encoded);
    }
}

/// Of several details, in several fields or joined by commas, the first that is base64 stays.
fn mend_details(fields: &mut HeaderMap) {
    let all = fields.get_all(DETAILS).into_iter();
    let mut parts = all.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let kept = parts.find_map(|part| as_details(part.trim_ascii()));
    fields.remove(DETAILS);
    if let Some(kept) = kept {
        fields.insert(DETAILS, kept);
    }
}

/// The text as a header, if tonic decodes it.
fn as_details(text: &[u8]) -> Option<HeaderValue> {
    let value = HeaderValue::from_bytes(text).ok()?;
    let alone = HeaderMap::from_iter([(DETAILS, value.clone())]);
    let decoded = MetadataMap::from_headers(alone)
        .get_bin(DETAILS.as_str())?
        .to_bytes();
    decoded
        .is_ok_and(|bytes| !bytes.is_empty())
        .then_some(value)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn fields(all: &[(&'static str, &[u8])]) -> HeaderMap {
        let all = all.iter().map(|(name, value)| {
            let value = HeaderValue::from_bytes(value).expect("a header");
            (HeaderName::from_static(name), value)
        });
        let mut fields = HeaderMap::new();
        for (name, value) in all {
            fields.append(name, value);
        }
        fields
    }

    #[test]
    fn undecodable_details_leave_code_and_message() {
        for (values, expected) in [
            (&[&b"aGk"[..]][..], &b"hi"[..]),
            (&[b"aGk="], b"hi"),
            (&[b" aGk= "], b"hi"),
            (&[b"!!!"], b""),
            (&[b"a b"], b""),
            (&[b"QQx"], b""),
            (&[b"QQ==QQ"], b""),
            // base64url
            (&[b"___-"], b""),
            (&[b"\xff\xfe"], b""),
            (&[b""], b""),
            (&[b","], b""),
            (&[b"aGk=,BBB="], b"hi"),
            (&[b"!!!, aGk="], b"hi"),
            (&[b",aGk="], b"hi"),
            (&[b"!!!", b"aGk="], b"hi"),
            (&[b"aGk=", b"!!!"], b"hi"),
        ] {
            let mut all = vec![("grpc-status", &b"8"[..]), ("grpc-message", b"full")];
            all.extend(
                values
                    .iter()
                    .map(|value| ("grpc-status-details-bin", *value)),
            );
            let (mut fields, given) = (fields(&all), Given::default());
            given.fields(&mut fields);
            let status = Status::from_header_map(&fields).expect("a status");
            let found = (status.code(), status.message(), status.details());
            assert_eq!(
                found,
                (Code::ResourceExhausted, "full", expected),
                "{values:?}"
            );
            assert!(!given.is_success());
        }
    }

    #[test]
    fn message_that_is_not_utf8_leaves_the_code() {
        for (message, expected) in [
            (&b"%FF busy"[..], "\u{fffd} busy"),
            (b"%C3%28%25 x", "\u{fffd}(% x"),
            (b"\xff\xfe", "\u{fffd}\u{fffd}"),
            (b"gro%C3%9F 100%", "gro\u{df} 100%"),
            (b"%zz%", "%zz%"),
        ] {
            let mut fields = fields(&[("grpc-status", b"14"), ("grpc-message", message)]);
            Given::default().fields(&mut fields);
            let status = Status::from_header_map(&fields).expect("a status");
            let found = (status.code(), status.message());
            assert_eq!(found, (Code::Unavailable, expected), "{message:?}");
        }
    }

    #[test]
    fn success_is_by_grpc_status_before_that_of_http() {
        for (http, grpc, success) in [
            (200, None, true),
            (503, None, false),
            (200, Some(&b"0"[..]), true),
            (503, Some(b"0"), true),
            (200, Some(b"14"), false),
            (200, Some(b"abc"), false),
        ] {
            let given = Given::default();
            let all = grpc.map(|code| ("grpc-status", code));
            let http = StatusCode::from_u16(http).expect("a status");
            given.head(http, &mut fields(all.as_slice()));
            assert_eq!(given.is_success(), success, "{http} {grpc:?}");
            given.forget();
            assert!(!given.is_success(), "nothing was seen");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_status_never_panics(
            code in vec(any::<u8>(), 0..4),
            message in vec(any::<u8>(), 0..40),
            details in vec(any::<u8>(), 0..40),
        ) {
            let names = ["grpc-status", "grpc-message", "grpc-status-details-bin"];
            let mut fields = HeaderMap::new();
            for (name, value) in names.into_iter().zip([code, message, details]) {
                if let Ok(value) = HeaderValue::from_bytes(&value) {
                    fields.insert(name, value);
                }
            }
            Given::default().fields(&mut fields);
            Status::from_header_map(&fields);
        }
    }
}

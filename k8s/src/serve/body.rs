//! Bodies of requests, read within bounds, and of answers, which hold their memory until they are sent.

use std::sync::Arc;

use axum::body::{Body, HttpBody};
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt;
use tokio::time::Instant;

use super::connections::{Charge, ConnectionPermit};

/// The largest review that is read, in bytes. The API server's own limit on objects is 3 MiB, and a review
/// carries up to two of them.
pub const MAX_BODY: usize = 10 << 20;

/// Larger bodies are decoded on another thread, so that they delay no other request, and one after the other, as each
/// costs many times its size in memory.
pub(super) const INLINE_BODY: usize = 256 << 10;

/// How much of a body that is too large is read on all the same, in bytes: a client that still writes when the
/// connection is closed does not see the answer.
const DRAIN: usize = 4 * MAX_BODY;

/// What a request costs besides its body, in bytes: its head, its task and its answer.
const REQUEST: usize = 16 << 10;

/// Why a request has no body to answer.
#[derive(Debug)]
pub(super) enum Unread {
    TooLarge,
    Late,
    Broken,
    NoRoom,
}

/// What is written of an answer, and the memory that it holds.
struct Held {
    text: String,
    _charge: Charge,
}

// === impl Unread ===

impl Unread {
    /// The reason as a metric attribute.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Late => "late",
            Self::Broken => "broken",
            Self::NoRoom => "no_room",
        }
    }

    pub(super) fn words(&self) -> (StatusCode, &'static str) {
        match self {
            Self::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "a review has at most 10 MiB\n",
            ),
            Self::Late => (
                StatusCode::REQUEST_TIMEOUT,
                "the body took longer than the API server waits\n",
            ),
            Self::Broken => (StatusCode::BAD_REQUEST, "the body ended early\n"),
            Self::NoRoom => (StatusCode::SERVICE_UNAVAILABLE, "too much is in progress\n"),
        }
    }
}

/// Reads a whole body until `deadline`, and holds the memory that it takes.
pub(super) async fn read(
    body: Body,
    permit: &Arc<ConnectionPermit>,
    deadline: Instant,
) -> Result<(Bytes, Charge), Unread> {
    let charge = permit.charge(REQUEST).ok_or(Unread::NoRoom)?;
    let bytes = tokio::time::timeout_at(deadline, collect(body, &charge))
        .await
        .unwrap_or(Err(Unread::Late))?;
    Ok((bytes, charge))
}

async fn collect(mut body: Body, charge: &Charge) -> Result<Bytes, Unread> {
    let most = usize::try_from(body.size_hint().upper().unwrap_or_default()).unwrap_or(usize::MAX);
    if most > DRAIN {
        return Err(Unread::TooLarge);
    }
    // A length is only a promise: memory for a large body is allocated after its first bytes.
    let mut bytes = BytesMut::with_capacity(most.min(INLINE_BODY));
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() else {
            continue;
        };
        length += data.len();
        if length > DRAIN {
            break;
        }
        if length > MAX_BODY {
            continue;
        }
        if !charge.grow(data.len()) {
            return Err(Unread::NoRoom);
        }
        if length > bytes.capacity() {
            bytes.reserve(
                most.min(MAX_BODY)
                    .saturating_sub(bytes.len())
                    .max(data.len()),
            );
        }
        bytes.extend_from_slice(&data);
    }
    if length > MAX_BODY {
        return Err(Unread::TooLarge);
    }
    Ok(bytes.freeze())
}

/// The body of an answer. The memory is held until it is written or its connection ends.
pub(super) fn held(text: String, charge: Charge) -> Body {
    let held = Held {
        text,
        _charge: charge,
    };
    Bytes::from_owner(held).into()
}

// === impl Held ===

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::{
        super::connections::{Connections, Limits},
        *,
    };
    use crate::client::Source;

    #[tokio::test]
    async fn answer_holds_its_memory_until_it_is_written() {
        let connections = Connections::new(Limits {
            total: 1,
            per_source: 1,
            memory: 1000,
        });
        let source = Source::of(Ipv4Addr::LOCALHOST.into());
        let permit = Arc::new(connections.admit(source));
        let mut body = held("answer".to_owned(), permit.charge(1000).expect("room"));
        let frame = body.frame().await.expect("a frame").expect("no error");
        drop(body);
        assert!(permit.charge(1).is_none(), "its bytes still wait");
        assert_eq!(frame.into_data().expect("data"), "answer");
        assert!(permit.charge(1000).is_some());
    }
}

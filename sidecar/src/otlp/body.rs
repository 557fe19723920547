//! The body of an answer, as far as any answer has to go.

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Body;

/// Bytes of an answer that are read: what OpenTelemetry's own clients take.
const MOST_ANSWER: usize = 4 << 20;

/// Reads a body, cut off where it is longer than any answer has to be.
///
/// # Errors
/// The body broke.
pub(super) async fn read<B: Body<Data = Bytes> + Unpin>(mut body: B) -> Result<Bytes, B::Error> {
    let mut all = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        let room = MOST_ANSWER - all.len();
        all.extend_from_slice(&data[..data.len().min(room)]);
        if data.len() >= room {
            break;
        }
    }
    Ok(all.into())
}

//! The body of an answer, up to a bound.

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Body;

/// The most bytes of an answer that are read: the bound of OpenTelemetry's own clients.
const MOST_ANSWER: usize = 4 << 20;

/// Reads a body, cut off at the bound.
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

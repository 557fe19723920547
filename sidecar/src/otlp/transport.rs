//! What sends requests: the client of each protocol is one.

use async_trait::async_trait;
use bytes::Bytes;
use opentelemetry_sdk::trace::SpanData;

use super::{
    error::{Accepted, ExportError},
    resource::Resource,
};

/// A request of one signal.
#[derive(Clone, Debug)]
pub(super) struct ExportRequest {
    /// The request message.
    pub(super) encoded: Bytes,
    /// The spans in it, for an exporter that encodes them itself; of other signals none.
    pub(super) spans: Vec<SpanData>,
    /// The resource of these spans.
    pub(super) resource: Option<Resource>,
}

/// Sends requests, one at a time.
#[async_trait]
pub(super) trait Transport: Send + 'static {
    /// Sends a request once and waits for the result. The caller ensures that the receiver takes as much at once.
    async fn send(&mut self, request: ExportRequest) -> Result<Accepted, ExportError>;
}

// === impl ExportRequest ===

impl ExportRequest {
    /// A request of what is sent only as it is encoded here.
    pub(super) const fn encoded(encoded: Bytes) -> Self {
        Self {
            encoded,
            spans: Vec::new(),
            resource: None,
        }
    }
}

//! Splits encoded requests into parts that receivers take: gRPC's take 4 MiB by default, proxies less. Pure.

use bytes::Bytes;
use opentelemetry_proto::tonic::{
    collector::{metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest},
    metrics::v1::{Metric, ResourceMetrics, ScopeMetrics},
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message as _;

use super::points::{self, framed};
use crate::config::Signal;

/// The most bytes of a request before compression, unless a single item is larger: a quarter of gRPC's default limit
/// (4 MiB decompressed), and nginx's default limit (1 MiB).
pub(super) const MOST_BYTES: usize = 1_000_000;

/// One request, or a part of it, encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// The whole request message.
    pub(super) body: Bytes,
    /// Points or spans in it.
    pub(super) items: usize,
}

/// The request for metrics in parts of at most `most` bytes, or of one point; each with its resources, their scopes and the
/// descriptions of its metrics.
pub(super) fn metrics(request: ExportMetricsServiceRequest, most: usize) -> Vec<Chunk> {
    let mut packer = Packer {
        most,
        parts: Vec::new(),
        resources: Vec::new(),
        held: Vec::new(),
        size: 0,
    };
    for resource in request.resource_metrics {
        for scope in resource.scope_metrics {
            let frame = ResourceMetrics {
                resource: resource.resource.clone(),
                scope_metrics: vec![ScopeMetrics {
                    metrics: Vec::new(),
                    scope: scope.scope,
                    schema_url: scope.schema_url,
                }],
                schema_url: resource.schema_url.clone(),
            };
            for metric in scope.metrics {
                packer.add(&frame, metric);
            }
            packer.close(&frame);
        }
    }
    packer.finish();
    packer.parts
}

/// Packs metrics into parts.
struct Packer {
    most: usize,
    parts: Vec<Chunk>,
    /// The next part's finished scopes.
    resources: Vec<ResourceMetrics>,
    /// The next part's metrics of the current scope.
    held: Vec<Metric>,
    /// Bytes of both, encoded.
    size: usize,
}

impl Packer {
    /// Adds a metric of the current scope, of which `frame` is all but the metrics.
    fn add(&mut self, frame: &ResourceMetrics, mut metric: Metric) {
        loop {
            let all = points::count(&metric);
            if all == 0 {
                return;
            }
            // Two more lengths grow with the content.
            let scope = match self.held.is_empty() {
                true => framed(framed(framed(frame.encoded_len()))),
                false => 0,
            };
            let rest = points::split_off(&mut metric, 0);
            let head = scope + framed(framed(metric.encoded_len()));
            metric = rest;
            let mut fit = points::fitting(&metric, self.most.saturating_sub(self.size + head));
            if fit == 0 && self.held.is_empty() && self.resources.is_empty() {
                fit = 1;
            }
            let rest = points::split_off(&mut metric, fit);
            if fit > 0 {
                self.size += scope + framed(metric.encoded_len());
                self.held.push(metric);
            }
            if fit == all {
                return;
            }
            self.close(frame);
            self.finish();
            metric = rest;
        }
    }

    /// Finishes the current scope, in this part.
    fn close(&mut self, frame: &ResourceMetrics) {
        if !self.held.is_empty() {
            let mut resource = frame.clone();
            resource.scope_metrics[0].metrics = std::mem::take(&mut self.held);
            self.resources.push(resource);
        }
    }

    /// Finishes the current part.
    fn finish(&mut self) {
        self.size = 0;
        if self.resources.is_empty() {
            return;
        }
        let request = ExportMetricsServiceRequest {
            resource_metrics: std::mem::take(&mut self.resources),
        };
        let scopes = request
            .resource_metrics
            .iter()
            .flat_map(|of| &of.scope_metrics);
        let items = scopes.flat_map(|of| &of.metrics).map(points::count).sum();
        self.parts.push(Chunk {
            body: request.encode_to_vec().into(),
            items,
        });
    }
}

/// The request for spans in parts of at most `most` bytes, or of one span, in their order.
pub(super) fn traces(request: ExportTraceServiceRequest, most: usize) -> Vec<Chunk> {
    let mut parts = Vec::new();
    for resource in request.resource_spans {
        for scope in resource.scope_spans {
            let frame = ResourceSpans {
                resource: resource.resource.clone(),
                scope_spans: vec![ScopeSpans {
                    spans: Vec::new(),
                    scope: scope.scope,
                    schema_url: scope.schema_url,
                }],
                schema_url: resource.schema_url.clone(),
            };
            spans_of_scope(&frame, scope.spans, most, &mut parts);
        }
    }
    parts
}

fn spans_of_scope(frame: &ResourceSpans, spans: Vec<Span>, most: usize, parts: &mut Vec<Chunk>) {
    let empty = framed(framed(framed(frame.encoded_len())));
    let mut held: Vec<Span> = Vec::new();
    let mut size = empty;
    for span in spans {
        let more = framed(span.encoded_len());
        if size + more > most && !held.is_empty() {
            parts.push(spans_part(frame, std::mem::take(&mut held)));
            size = empty;
        }
        size += more;
        held.push(span);
    }
    if !held.is_empty() {
        parts.push(spans_part(frame, held));
    }
}

fn spans_part(frame: &ResourceSpans, spans: Vec<Span>) -> Chunk {
    let items = spans.len();
    let mut resource = frame.clone();
    resource.scope_spans[0].spans = spans;
    let request = ExportTraceServiceRequest {
        resource_spans: vec![resource],
    };
    Chunk {
        body: request.encode_to_vec().into(),
        items,
    }
}

impl Chunk {
    /// Bytes of the encoded request.
    pub(super) const fn len(&self) -> usize {
        self.body.len()
    }

    /// Splits a part of several items that is larger than `most` into smaller ones.
    pub(super) fn cut(&self, signal: Signal, most: usize) -> Vec<Self> {
        let ours = "what was encoded here decodes";
        match signal {
            Signal::Metrics => {
                let request = ExportMetricsServiceRequest::decode(self.body.clone());
                metrics(request.expect(ours), most)
            }
            Signal::Traces => {
                let request = ExportTraceServiceRequest::decode(self.body.clone());
                traces(request.expect(ours), most)
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! Splits encoded requests into parts that receivers take: gRPC's take 4 MiB by default, proxies less. Pure.

use bytes::Bytes;
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    logs::v1::{ResourceLogs, ScopeLogs},
    metrics::v1::{Metric, ResourceMetrics, ScopeMetrics},
    trace::v1::{ResourceSpans, ScopeSpans},
};
use prost::Message;

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
    /// Points, spans or log records in it.
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
            of_scope(&frame, scope.spans, most, &mut parts, |frame, spans| {
                let mut resource = frame.clone();
                resource.scope_spans[0].spans = spans;
                ExportTraceServiceRequest {
                    resource_spans: vec![resource],
                }
            });
        }
    }
    parts
}

/// The request for log records in parts of at most `most` bytes, or of one log record, in their order.
pub(super) fn logs(request: ExportLogsServiceRequest, most: usize) -> Vec<Chunk> {
    let mut parts = Vec::new();
    for resource in request.resource_logs {
        for scope in resource.scope_logs {
            let frame = ResourceLogs {
                resource: resource.resource.clone(),
                scope_logs: vec![ScopeLogs {
                    log_records: Vec::new(),
                    scope: scope.scope,
                    schema_url: scope.schema_url,
                }],
                schema_url: resource.schema_url.clone(),
            };
            let records = scope.log_records;
            of_scope(&frame, records, most, &mut parts, |frame, records| {
                let mut resource = frame.clone();
                resource.scope_logs[0].log_records = records;
                ExportLogsServiceRequest {
                    resource_logs: vec![resource],
                }
            });
        }
    }
    parts
}

/// Adds the items of one scope in parts. `frame` is their resource with that scope and no item; `fill` makes a request of it.
fn of_scope<F: Message, I: Message, R: Message>(
    frame: &F,
    items: Vec<I>,
    most: usize,
    parts: &mut Vec<Chunk>,
    fill: impl Fn(&F, Vec<I>) -> R,
) {
    let empty = framed(framed(framed(frame.encoded_len())));
    let mut part = |items: Vec<I>| {
        let count = items.len();
        parts.push(Chunk {
            body: fill(frame, items).encode_to_vec().into(),
            items: count,
        });
    };
    let mut held: Vec<I> = Vec::new();
    let mut size = empty;
    for item in items {
        let more = framed(item.encoded_len());
        if size + more > most && !held.is_empty() {
            part(std::mem::take(&mut held));
            size = empty;
        }
        size += more;
        held.push(item);
    }
    if !held.is_empty() {
        part(held);
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
            Signal::Logs => {
                let request = ExportLogsServiceRequest::decode(self.body.clone());
                logs(request.expect(ours), most)
            }
        }
    }
}

#[cfg(test)]
mod tests;

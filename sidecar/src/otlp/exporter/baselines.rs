//! The baselines of deltas: the last report that the receiver acknowledged, and for points that it refused then, the one
//! before.

use std::{collections::HashSet, sync::Arc};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest, metrics::v1::Metric,
};
use prost::Message as _;

use crate::{
    otlp::{
        points::{self, PointId, ResourceId},
        split::Chunk,
    },
    snapshot::Snapshot,
};

/// The most older reports that are kept for points that were refused since.
const MOST_HELD: usize = 4;

/// The baseline of deltas; none for deltas since the start.
type Baseline = Option<Arc<Snapshot>>;

/// The baselines of every point.
#[derive(Debug, Default)]
pub(super) struct Baselines {
    latest: Baseline,
    /// Points with an older baseline, the oldest first.
    held: Vec<(Baseline, HashSet<PointId>)>,
}

impl Baselines {
    /// The request that `encode` makes for each baseline, with the points of that baseline.
    pub(super) fn encode(
        &self,
        encode: impl Fn(Option<&Snapshot>) -> ExportMetricsServiceRequest,
    ) -> ExportMetricsServiceRequest {
        let mut request = encode(self.latest.as_deref());
        if self.held.is_empty() {
            return request;
        }
        retain(&mut request, |id| !self.is_held(id));
        for (baseline, ids) in &self.held {
            let mut older = encode(baseline.as_deref());
            retain(&mut older, |id| ids.contains(id));
            add(&mut request, older);
        }
        request
    }

    /// The receiver took all of the report but these parts. Returns how many points it will never get: if there are too many
    /// baselines, the oldest is dropped.
    pub(super) fn acknowledge(&mut self, report: Arc<Snapshot>, refused: &[Chunk]) -> usize {
        let refused: HashSet<_> = refused.iter().flat_map(ids).collect();
        for (_, held) in &mut self.held {
            held.retain(|id| refused.contains(id));
        }
        let new = refused.into_iter().filter(|id| !self.is_held(id));
        let new: HashSet<_> = new.collect();
        self.held.push((self.latest.replace(report), new));
        self.held.retain(|(_, ids)| !ids.is_empty());
        if self.held.len() <= MOST_HELD {
            return 0;
        }
        let (_, evicted) = self.held.remove(0);
        let count = evicted.len();
        self.held[0].1.extend(evicted);
        count
    }

    fn is_held(&self, id: &PointId) -> bool {
        self.held.iter().any(|(_, ids)| ids.contains(id))
    }
}

/// The points of a part.
fn ids(part: &Chunk) -> Vec<PointId> {
    let mut request = ExportMetricsServiceRequest::decode(part.body.clone())
        .expect("what was encoded here decodes");
    metrics(&mut request)
        .flat_map(|(resource, of)| {
            let ids = of
                .iter()
                .flat_map(move |metric| points::ids(resource, metric));
            ids.collect::<Vec<_>>()
        })
        .collect()
}

fn retain(request: &mut ExportMetricsServiceRequest, keep: impl Fn(&PointId) -> bool) {
    for (resource, metrics) in metrics(request) {
        metrics.retain_mut(|metric| points::retain(resource, metric, &keep));
    }
}

/// Adds the metrics of another request of the same resources and scopes: both are of one report.
fn add(to: &mut ExportMetricsServiceRequest, mut from: ExportMetricsServiceRequest) {
    for ((_, to), (_, from)) in metrics(to).zip(metrics(&mut from)) {
        to.append(from);
    }
}

/// The metrics of each scope, and its resource.
fn metrics(
    request: &mut ExportMetricsServiceRequest,
) -> impl Iterator<Item = (ResourceId, &mut Vec<Metric>)> {
    let resources = request.resource_metrics.iter_mut();
    resources.flat_map(|resource| {
        let id = ResourceId::of(resource);
        let scopes = resource.scope_metrics.iter_mut();
        scopes.map(move |scope| (id, &mut scope.metrics))
    })
}

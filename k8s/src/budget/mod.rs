//! What a namespace lets its pods ask for: LimitRanges and ResourceQuotas, as the API server will judge by them.
//!
//! A pod that is admitted without the sidecar has to be admitted with it. [`Budgets`] judges the pod with the sidecar
//! and compares that with its judgement of the pod as it came.

mod demand;
mod quota;
mod ranges;
mod watch;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

pub(crate) use demand::{Amounts, Demand, amounts, is_best_effort, of_containers, of_running};
use quota::Quota;
pub(crate) use ranges::Bounds;
use ranges::LimitRange;
pub use watch::BudgetView;

const NANO: i128 = 1_000_000_000;

/// The LimitRanges and ResourceQuotas of one namespace.
#[derive(Clone, Debug, Default)]
pub struct Budgets {
    ranges: Vec<Arc<LimitRange>>,
    quotas: Vec<Arc<Quota>>,
}

/// Why one of them refuses a pod, as a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    LimitRange(String),
    Quota(String),
}

// === impl Budgets ===

impl Budgets {
    /// Reads a LimitRange or a ResourceQuota, in place of one of the same name; any other object is ignored.
    pub fn add(&mut self, object: &Value) {
        match object.get("kind").and_then(Value::as_str) {
            Some("LimitRange") => {
                let range = LimitRange::read(object);
                self.ranges.retain(|other| other.name() != range.name());
                self.ranges.push(Arc::new(range));
            }
            Some("ResourceQuota") => {
                let quota = Quota::read(object);
                let before = self
                    .quotas
                    .iter()
                    .position(|other| other.name() == quota.name());
                let before = before.map(|at| self.quotas.remove(at));
                self.quotas.push(Arc::new(quota.after(before.as_deref())));
            }
            _ => {}
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.quotas.is_empty()
    }

    /// What a container's request and limit of this resource have to keep to.
    pub(crate) fn bounds(&self, resource: &str) -> Bounds {
        let mut bounds = Bounds::default();
        for range in &self.ranges {
            range.bound(resource, &mut bounds);
        }
        bounds
    }

    /// Whether a container needs a limit on this resource.
    pub(crate) fn wants_limit(&self, resource: &str) -> bool {
        let bounds = self.bounds(resource);
        bounds.max.is_some()
            || bounds.ratio.is_some()
            || self.quotas.iter().any(|quota| quota.wants_limit(resource))
    }

    /// The resources of containers that LimitRanges name.
    pub(crate) fn resources(&self) -> BTreeSet<&str> {
        let all = self.ranges.iter().flat_map(|range| range.resources());
        all.map(String::as_str).collect()
    }

    /// Why `pod` is refused with this container in it and not without it.
    pub(crate) fn violation(
        &self,
        without: &Value,
        pod: &Value,
        container: &Value,
    ) -> Option<Violation> {
        let before = self.violations(without, None);
        let now = self.violations(pod, Some(container));
        now.into_iter()
            .find(|violation| !before.contains(violation))
    }

    fn violations(&self, pod: &Value, container: Option<&Value>) -> Vec<Violation> {
        let demand = Demand::of_pod(pod);
        let mut violations = Vec::new();
        let container = container.map(Demand::of_container);
        for range in &self.ranges {
            range.violations(container.as_ref(), &demand, &mut violations);
        }
        for quota in &self.quotas {
            quota.violations(pod, &demand, &mut violations);
        }
        violations
    }
}

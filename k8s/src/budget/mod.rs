//! What a namespace lets its pods ask for: LimitRanges and ResourceQuotas, as the API server will judge by them.
//!
//! A pod that is admitted without the sidecar has to be admitted with it. [`Budgets`] judges the pod with the sidecar
//! and compares that with its judgement of the pod as it came.

mod demand;
mod quota;
mod ranges;
mod watch;

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use demand::list;
pub(crate) use demand::{Amounts, Demand, amounts, is_best_effort, of_containers, of_running};
use quota::Quota;
pub(crate) use ranges::Bounds;
use ranges::LimitRange;
use serde_json::{Value, json};
pub use watch::BudgetView;

use crate::quantity::format_nanos;

const NANO: i128 = 1_000_000_000;

/// Where a pod's containers are.
const CONTAINER_LISTS: [&str; 2] = ["/spec/containers", "/spec/initContainers"];

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
        let whose = "the sidecar's";
        let before = self.violations(without, &[], whose);
        let now = self.violations(pod, &[Demand::of_container(container)], whose);
        now.into_iter()
            .find(|violation| !before.contains(violation))
    }

    /// Why a pod is refused as it is, as a sentence.
    pub(crate) fn refusal(&self, pod: &Value) -> Option<String> {
        let all = CONTAINER_LISTS.map(|field| list(pod, field));
        let containers: Vec<_> = all
            .into_iter()
            .flatten()
            .map(Demand::of_container)
            .collect();
        let mut violations = self.violations(pod, &containers, "the pod's").into_iter();
        violations.next().map(Violation::into_sentence)
    }

    /// The same namespace without a pod that its quotas count.
    pub(crate) fn without(&self, pod: &Value) -> Self {
        let quotas = self.quotas.iter().map(|quota| Arc::new(quota.without(pod)));
        Self {
            ranges: self.ranges.clone(),
            quotas: quotas.collect(),
        }
    }

    /// A pod with the requests and limits that the API server and its LimitRanger plugin fill in before webhooks see it.
    pub(crate) fn filled_in<'a>(&self, pod: &'a Value) -> Cow<'a, Value> {
        let mut pod = Cow::Borrowed(pod);
        if self.ranges.is_empty() {
            return pod;
        }
        for field in CONTAINER_LISTS {
            if list(&pod, field).is_empty() {
                continue;
            }
            let containers = pod
                .to_mut()
                .pointer_mut(field)
                .and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten() {
                if let Some(container) = container.as_object_mut() {
                    let resources = container.entry("resources").or_insert(Value::Null);
                    *resources = self.with_defaults(resources);
                }
            }
        }
        pod
    }

    /// A container's resources with the defaults of LimitRanges.
    pub(crate) fn with_defaults(&self, resources: &Value) -> Value {
        let field = |name: &str| resources.get(name).and_then(Value::as_object).cloned();
        let (requests, limits) = (field("requests"), field("limits"));
        let (mut requests, mut limits) = (requests.unwrap_or_default(), limits.unwrap_or_default());
        for (name, limit) in &limits {
            requests.entry(name).or_insert_with(|| limit.clone());
        }
        for name in self.resources() {
            let bounds = self.bounds(name);
            let defaults = [
                (&mut limits, bounds.default),
                (&mut requests, bounds.default_request),
            ];
            for (list, default) in defaults {
                if let Some(default) = default {
                    let amount = || json!(format_nanos(default));
                    list.entry(name).or_insert_with(amount);
                }
            }
        }
        let mut filled = resources.as_object().cloned().unwrap_or_default();
        for (name, list) in [("requests", requests), ("limits", limits)] {
            if !list.is_empty() {
                filled.insert(name.to_owned(), Value::Object(list));
            }
        }
        Value::Object(filled)
    }

    fn violations(&self, pod: &Value, containers: &[Demand], whose: &str) -> Vec<Violation> {
        let demand = Demand::of_pod(pod);
        let mut violations = Vec::new();
        for range in &self.ranges {
            range.violations(containers, &demand, &mut violations);
        }
        for quota in &self.quotas {
            quota.violations(pod, &demand, whose, &mut violations);
        }
        violations
    }
}

// === impl Violation ===

impl Violation {
    fn into_sentence(self) -> String {
        match self {
            Self::LimitRange(why) | Self::Quota(why) => why,
        }
    }
}

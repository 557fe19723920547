//! The sidecar's resources, fitted to what the namespace's LimitRanges and ResourceQuotas admit.

use serde_json::{Map, Value, json};

use super::{
    Skip,
    resources::{self, CPU_FLOOR, MEMORY_FLOOR},
    view,
};
use crate::{
    annotations::Overrides,
    budget::{Amounts, Bounds, Budgets, Demand, Violation, amounts, is_best_effort, of_containers},
    config::Settings,
    quantity,
};

/// What the sidecar may leave on the node's disk where that is limited: its log, with room.
const STORAGE: i128 = (128 << 20) * NANO;
/// With a limit below this, the log alone could have the pod evicted.
const STORAGE_FLOOR: i128 = (32 << 20) * NANO;

const NANO: i128 = 1_000_000_000;

/// All that the sizes depend on.
pub(super) struct Fitting<'a> {
    pub(super) pod: &'a Value,
    pub(super) native: bool,
    pub(super) budgets: &'a Budgets,
    pub(super) overrides: &'a Overrides,
    pub(super) settings: &'a Settings,
}

/// The attempts, in their order.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    /// What was asked for.
    AsAsked,
    /// Within the bounds for containers, with a limit where one is wanted.
    Bounded,
    /// The same, with limits as low as the requests.
    Lowered,
    /// Nothing: the pod asks for nothing either, and is to stay among those that do.
    Nothing,
}

/// Request and limit of one resource, in nano-units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    request: i128,
    limit: Option<i128>,
}

// === impl Fitting ===

impl Fitting<'_> {
    /// The container with resources that are admitted, `asked` where those are.
    ///
    /// # Errors
    /// The [`Skip`] with the reason against the last attempt, where all fail.
    pub(super) fn fit(&self, container: &Value, notes: &mut Vec<String>) -> Result<Value, Skip> {
        if self.budgets.is_empty() {
            return Ok(container["resources"].clone());
        }
        let mut last = None;
        for attempt in [
            Attempt::AsAsked,
            Attempt::Bounded,
            Attempt::Lowered,
            Attempt::Nothing,
        ] {
            let Some(resources) = self.attempt(attempt, &container["resources"]) else {
                continue;
            };
            match self.violation(container, &resources) {
                None => {
                    let asked = &container["resources"];
                    notes.extend(self.overruled(asked, &resources));
                    return Ok(resources);
                }
                // The reason against the lowest resources that the sidecar could run with.
                Some(_) if attempt == Attempt::Nothing => {}
                Some(violation) => last = Some(violation),
            }
        }
        Err(match last {
            Some(Violation::Quota(why)) => Skip::Quota { why },
            Some(Violation::LimitRange(why)) => Skip::LimitRange { why },
            None => Skip::LimitRange {
                why: "the namespace's LimitRange leaves too little for the sidecar".to_owned(),
            },
        })
    }

    /// Why the pod is refused with this container, after what the LimitRanger plugin fills in.
    fn violation(&self, container: &Value, resources: &Value) -> Option<Violation> {
        let mut container = container.clone();
        container["resources"] = self.budgets.with_defaults(resources);
        let mut pod = self.pod.clone();
        let field = if self.native {
            "initContainers"
        } else {
            "containers"
        };
        let list = &mut pod["spec"][field];
        match list.as_array_mut() {
            Some(list) => list.insert(0, container.clone()),
            None => *list = json!([container]),
        }
        self.budgets
            .violation(self.pod, &pod, &container)
            .or_else(|| above_its_limit(&container))
            .or_else(|| self.above_the_pods(&pod, &container))
    }

    /// Why the API server refuses the container in a pod with a budget of its own (`validatePodResources` in
    /// `kubernetes/pkg/apis/core/validation/validation.go`), which the pod without the sidecar keeps to.
    fn above_the_pods(&self, pod: &Value, container: &Value) -> Option<Violation> {
        let of = |list: &str| amounts(&pod["spec"]["resources"][list]);
        let (requests, limits) = (
            of_containers(pod).requests,
            Demand::of_container(container).limits,
        );
        let before = of_containers(self.pod).requests;
        let over =
            |used: &Amounts, name: &str, budget| used.get(name).is_some_and(|used| *used > budget);
        let request = of("requests")
            .into_iter()
            .find(|(name, budget)| over(&requests, name, *budget) && !over(&before, name, *budget));
        let limit = || {
            let mut all = of("limits").into_iter();
            all.find(|(name, budget)| over(&limits, name, *budget))
        };
        let (name, budget) = request.or_else(limit)?;
        let budget = quantity::readable(&name, budget);
        Some(Violation::LimitRange(format!(
            "the namespace's LimitRange wants more {name} for the sidecar than the pod's own budget of {budget} leaves"
        )))
    }

    /// Whether LimitRanger gives a container without a limit one that is not known: it takes the first default that it lists.
    fn is_uncertain(&self, limits: &Map<String, Value>) -> bool {
        let mut names = self.budgets.resources().into_iter();
        names.any(|name| {
            !limits.contains_key(name) && self.budgets.bounds(name).has_several_defaults
        })
    }

    fn attempt(&self, attempt: Attempt, asked: &Value) -> Option<Value> {
        if attempt == Attempt::Nothing {
            return is_best_effort(self.pod).then(|| json!({}));
        }
        let (mut requests, mut limits) = (
            view::map(asked, "/requests").clone(),
            view::map(asked, "/limits").clone(),
        );
        for name in self.budgets.resources() {
            // Devices and huge pages: LimitRanger would give some to a sidecar that does not set them.
            if !matches!(name, "cpu" | "memory" | "ephemeral-storage") {
                requests.insert(name.to_owned(), json!("0"));
                limits.insert(name.to_owned(), json!("0"));
            }
        }
        if attempt == Attempt::AsAsked && self.is_uncertain(&limits) {
            return None;
        }
        if attempt != Attempt::AsAsked {
            for name in ["cpu", "memory", "ephemeral-storage"] {
                self.bound(name, attempt, (&mut requests, &mut limits))?;
            }
        }
        Some(json!({ "requests": requests, "limits": limits }))
    }

    /// Those of the namespace, and the pod's own limit.
    fn bounds(&self, name: &str) -> Bounds {
        let mut bounds = self.budgets.bounds(name);
        let own = amounts(&self.pod["spec"]["resources"]["limits"]);
        if let Some(own) = own.get(name) {
            bounds.max = Some(bounds.max.map_or(*own, |max| max.min(*own)));
        }
        bounds
    }

    fn bound(
        &self,
        name: &str,
        attempt: Attempt,
        (requests, limits): (&mut Map<String, Value>, &mut Map<String, Value>),
    ) -> Option<()> {
        let bounds = self.bounds(name);
        let amount = |list: &Map<String, Value>| list.get(name)?.as_str().and_then(quantity::parse);
        let asked = Size {
            request: amount(requests).unwrap_or_default(),
            limit: amount(limits),
        };
        if name == "ephemeral-storage" && bounds == Bounds::default() {
            return Some(());
        }
        let floor = match name {
            "cpu" => CPU_FLOOR,
            "memory" => MEMORY_FLOOR,
            _ => STORAGE_FLOOR,
        };
        let wants_limit = self.budgets.wants_limit(name) || bounds.default.is_some();
        let limit = asked.limit.or_else(|| {
            let own = match name {
                "cpu" => quantity::parse(&self.settings.config.guaranteed_cpu).unwrap_or(floor),
                _ => STORAGE,
            };
            wants_limit.then(|| bounds.default.unwrap_or(own))
        });
        let is_guaranteed = resources::is_guaranteed(self.pod);
        let size = Size {
            limit: limit.map(|limit| match attempt {
                Attempt::Lowered if is_guaranteed => floor,
                Attempt::Lowered => asked.request.max(floor),
                _ => limit,
            }),
            ..asked
        };
        let is_equal = is_guaranteed && name != "ephemeral-storage";
        let size = size.within(&bounds, is_equal, unit(name));
        if size
            .limit
            .is_some_and(|limit| limit < floor.min(limit_floor(name)))
        {
            return None;
        }
        let write = |list: &mut Map<String, Value>, nanos: i128| {
            if amount(list) != Some(nanos) {
                list.insert(name.to_owned(), json!(quantity::format_nanos(nanos)));
            }
        };
        write(requests, size.request);
        if let Some(limit) = size.limit {
            write(limits, limit);
        }
        Some(())
    }

    /// Reported only where an annotation or the operator asked for something else.
    fn overruled(&self, asked: &Value, given: &Value) -> Option<String> {
        let is_changed = resources::KEYS.iter().any(|(list, name, key)| {
            self.overrides.get(*key).is_some() && asked[list][name] != given[list][name]
        });
        is_changed.then(|| {
            "the sidecar's resources are what the namespace's LimitRange or ResourceQuota admits"
                .to_owned()
        })
    }
}

/// A limit that a LimitRange fills in can be below the request: the API server refuses such a container.
fn above_its_limit(container: &Value) -> Option<Violation> {
    let demand = Demand::of_container(container);
    let mut limits = demand.limits.iter();
    let (name, limit) = limits.find(|(name, limit)| {
        demand
            .requests
            .get(*name)
            .is_some_and(|request| request > *limit)
    })?;
    let limit = quantity::readable(name, *limit);
    Some(Violation::LimitRange(format!(
        "the namespace's LimitRange limits {name} of a container to {limit}, below the sidecar's request"
    )))
}

/// What is not divided, in nano-units: the API server warns of fractions of a byte, and takes no CPU below 1m.
fn unit(name: &str) -> i128 {
    match name {
        "cpu" => NANO / 1_000,
        _ => NANO,
    }
}

/// The least limit that the sidecar can start with, in nano-units.
pub(super) fn limit_floor(name: &str) -> i128 {
    match name {
        "cpu" => NANO / 200,
        "memory" => (16 << 20) * NANO,
        _ => STORAGE_FLOOR,
    }
}

/// The quotient, no less than the exact one, of what is not negative.
fn rounded_up(amount: i128, divisor: i128) -> i128 {
    amount / divisor + i128::from(amount % divisor != 0)
}

// === impl Size ===

impl Size {
    /// Within the bounds; the request in whole `unit`s.
    fn within(self, bounds: &Bounds, equal: bool, unit: i128) -> Self {
        let least = bounds.min.unwrap_or_default();
        let most = |amount: i128| bounds.max.map_or(amount, |max| amount.min(max));
        let limit = self
            .limit
            .map(|limit| most(limit.max(self.request).max(least)));
        if let Some(limit) = limit.filter(|_| equal) {
            return Self {
                request: limit,
                limit: Some(limit),
            };
        }
        let mut request = most(self.request.max(least));
        if let (Some(limit), Some(ratio)) = (limit, bounds.ratio) {
            // Rounded up: a request that is a nano-unit too low is refused.
            let lowest = rounded_up(limit.saturating_mul(NANO), ratio.max(1));
            request = request.max(rounded_up(lowest, unit) * unit);
        }
        let request = limit.map_or(request, |limit| request.min(limit));
        Self { request, limit }
    }
}

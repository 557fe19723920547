//! The sidecar's resources, and the pod's quality of service.

use std::ops::RangeInclusive;

use serde_json::{Map, Value, json};

use super::view;
use crate::{
    annotations::{Key, Overrides, RESOURCES, Resource},
    budget::{of_containers, of_running},
    config::Settings,
    quantity,
};

/// The lowest CPU limit that the sidecar gets unless somebody asks for less, in nano-units: starting takes some 50 ms of it.
pub(super) const CPU_FLOOR: i128 = 10_000_000;
/// The same of memory.
pub(super) const MEMORY_FLOOR: i128 = (32 << 20) * 1_000_000_000;

/// Where each override lands: the list, the resource, the override.
pub(super) const KEYS: [(&str, &str, Key); 4] = [
    ("requests", "cpu", Key::CpuRequest),
    ("limits", "cpu", Key::CpuLimit),
    ("requests", "memory", Key::MemoryRequest),
    ("limits", "memory", Key::MemoryLimit),
];

/// The `resources` of the sidecar. Requests are always set; in a Guaranteed pod limits equal them.
pub(super) fn resources(
    pod: &Value,
    native: bool,
    overrides: &Overrides,
    settings: &Settings,
    notes: &mut Vec<String>,
) -> Value {
    let guaranteed = is_guaranteed(pod);
    let mut requests = Map::new();
    let mut limits = Map::new();
    for resource in &RESOURCES {
        let (request, limit) = if guaranteed {
            let both = resource.guaranteed(overrides, settings);
            (both.clone(), Some(both))
        } else {
            resource.fitting(pod, native, overrides, notes)
        };
        requests.insert(resource.name.to_owned(), json!(request));
        if let Some(limit) = limit {
            limits.insert(resource.name.to_owned(), json!(limit));
        }
    }
    json!({ "requests": requests, "limits": limits })
}

/// The least and the most that flowcar gives its sidecar of a resource where no annotation asks for another amount, in nano-units: its
/// own values and the operator's.
pub(super) fn own_range(name: &str, settings: &Settings) -> RangeInclusive<i128> {
    let resource = RESOURCES.iter().find(|resource| resource.name == name);
    let values = resource.into_iter().flat_map(|resource| {
        let guaranteed = (name == "cpu").then_some(settings.config.guaranteed_cpu.as_str());
        let of = |key| settings.defaults.get(key);
        [
            Some(resource.default_request),
            resource.default_limit,
            guaranteed,
            of(resource.request),
            of(resource.limit),
        ]
    });
    let amounts: Vec<_> = values.flatten().filter_map(quantity::parse).collect();
    let of = |amount: Option<&i128>| amount.copied().unwrap_or_default();
    of(amounts.iter().min())..=of(amounts.iter().max())
}

/// Kubernetes' rule (`pkg/apis/core/v1/helper/qos/qos.go`): every container, init containers too, has limits
/// for both resources and requests that are equal or, before defaulting, absent.
pub(super) fn is_guaranteed(pod: &Value) -> bool {
    if has_pod_resources(pod) {
        return false;
    }
    let mut containers = view::all_containers(pod).peekable();
    containers.peek().is_some()
        && containers.all(|container| {
            RESOURCES.iter().all(|resource| {
                let limit = amount(container, "limits", resource.name);
                let request = amount(container, "requests", resource.name);
                limit.is_some_and(|limit| {
                    limit > 0 && request.is_none_or(|request| request == limit)
                })
            })
        })
}

/// A pod that budgets as a whole decides its class by that alone, but its containers must fit the budget.
pub(super) fn has_pod_resources(pod: &Value) -> bool {
    ["/spec/resources/requests", "/spec/resources/limits"]
        .iter()
        .any(|field| !view::map(pod, field).is_empty())
}

pub(super) fn amount(owner: &Value, field: &str, resource: &str) -> Option<i128> {
    match view::map(owner, &format!("/resources/{field}")).get(resource)? {
        Value::String(text) => quantity::parse(text),
        Value::Number(number) => quantity::parse(&number.to_string()),
        _ => None,
    }
}

// === impl Resource ===

impl Resource {
    /// One value for request and limit: the limit asked for, else the operator's or the larger request.
    fn guaranteed(&self, overrides: &Overrides, settings: &Settings) -> String {
        let least = if self.name == "cpu" {
            settings.config.guaranteed_cpu.as_str()
        } else {
            self.default_request
        };
        let request = self.request(overrides);
        let default = if quantity::parse(request) > quantity::parse(least) {
            request
        } else {
            least
        };
        self.limit(overrides).unwrap_or(default).to_owned()
    }

    /// Request and limit, lowered to what a pod-level budget leaves: over budget, the API server would refuse
    /// the pod.
    fn fitting(
        &self,
        pod: &Value,
        native: bool,
        overrides: &Overrides,
        notes: &mut Vec<String>,
    ) -> (String, Option<String>) {
        let (request, limit) = (self.request(overrides), self.limit(overrides));
        let spec = pod.get("spec").unwrap_or(&Value::Null);
        let ceiling = amount(spec, "limits", self.name);
        let budget = amount(spec, "requests", self.name).or(ceiling);
        // A native sidecar runs beside every init container, a regular one beside those that stay.
        let used = if native {
            of_containers(pod)
        } else {
            of_running(pod)
        };
        let used = used.requests.get(self.name).copied().unwrap_or_default();
        let lowered = |wanted: &str, most: Option<i128>| match (quantity::parse(wanted), most) {
            (Some(nanos), Some(most)) if nanos > most => quantity::format_nanos(most.max(0)),
            _ => wanted.to_owned(),
        };
        let fits = lowered(request, budget.map(|budget| budget - used));
        if fits != request {
            let fits = quantity::parse(&fits).unwrap_or_default();
            let fits = quantity::readable(self.name, fits);
            notes.push(format!(
                "the sidecar's {} request is {fits}, what the pod's own budget leaves",
                self.name
            ));
        }
        (fits, limit.map(|limit| lowered(limit, ceiling)))
    }
}

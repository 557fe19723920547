//! ResourceQuotas: what all pods of a namespace may ask for together
//! (`kubernetes/pkg/quota/v1/evaluator/core/pods.go`).

use serde_json::Value;

use super::{
    Violation,
    demand::{Amounts, Demand, amounts, is_best_effort, list},
};
use crate::text::clip;

/// One ResourceQuota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quota {
    name: String,
    hard: Amounts,
    used: Amounts,
    scopes: Vec<QuotaScope>,
}

/// Which pods it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
struct QuotaScope {
    name: String,
    operator: String,
    values: Vec<String>,
}

/// Quotas on these require a request or limit of every container.
const SET_BY_ALL: [(&str, &str, bool); 6] = [
    ("cpu", "cpu", false),
    ("memory", "memory", false),
    ("requests.cpu", "cpu", false),
    ("requests.memory", "memory", false),
    ("limits.cpu", "cpu", true),
    ("limits.memory", "memory", true),
];

// === impl Quota ===

impl Quota {
    pub(crate) fn read(object: &Value) -> Self {
        let field = |pointer: &str| object.pointer(pointer).map(amounts).unwrap_or_default();
        let text = |value: &Value, name: &str| {
            let text = value.get(name).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        // The status holds what is enforced, a moment after it is written into the spec.
        let mut hard = field("/spec/hard");
        hard.extend(field("/status/hard"));
        let plain = list(object, "/spec/scopes").iter().map(|name| QuotaScope {
            name: name.as_str().unwrap_or_default().to_owned(),
            operator: "Exists".to_owned(),
            values: Vec::new(),
        });
        let selected = list(object, "/spec/scopeSelector/matchExpressions");
        let selected = selected.iter().map(|expression| QuotaScope {
            name: text(expression, "scopeName"),
            operator: text(expression, "operator"),
            values: list(expression, "/values")
                .iter()
                .filter_map(|value| value.as_str().map(str::to_owned))
                .collect(),
        });
        Self {
            name: text(object.get("metadata").unwrap_or(&Value::Null), "name"),
            hard,
            used: field("/status/used"),
            scopes: plain.chain(selected).collect(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// As it is once it replaces another one: what is used stays, where a manifest does not say it.
    pub(super) fn after(mut self, before: Option<&Self>) -> Self {
        if let Some(before) = before.filter(|_| self.used.is_empty()) {
            self.used.clone_from(&before.used);
        }
        self
    }

    /// Whether containers have to have a limit on this resource.
    pub(super) fn wants_limit(&self, resource: &str) -> bool {
        self.hard.contains_key(&format!("limits.{resource}"))
    }

    fn is_of(&self, pod: &Value) -> bool {
        self.scopes.iter().all(|scope| scope.is_of(pod))
    }

    /// As it is without a pod that is counted in it.
    pub(super) fn without(&self, pod: &Value) -> Self {
        let mut quota = self.clone();
        if self.is_of(pod) {
            let demand = Demand::of_pod(pod);
            for (resource, used) in &mut quota.used {
                *used = (*used - wanted(resource, &demand)).max(0);
            }
        }
        quota
    }

    /// Why it refuses a pod that asks for so much; `whose` demand there may be no room for, in words.
    pub(super) fn violations(
        &self,
        pod: &Value,
        demand: &Demand,
        whose: &str,
        to: &mut Vec<Violation>,
    ) {
        if !self.is_of(pod) {
            return;
        }
        let name = clip(&self.name, 30);
        for (hard, resource, is_limit) in SET_BY_ALL {
            if self.hard.contains_key(hard) && !is_set_by_all(pod, resource, is_limit) {
                let why = format!("ResourceQuota {name} wants {hard} of every container");
                to.push(Violation::Quota(why));
            }
        }
        for (resource, hard) in &self.hard {
            let wanted = wanted(resource, demand);
            let used = self.used.get(resource).copied().unwrap_or_default();
            if wanted > 0 && used + wanted > *hard {
                let what = match resource.as_str() {
                    "pods" | "count/pods" => "another pod".to_owned(),
                    _ => format!("{whose} {resource}"),
                };
                let why = format!("ResourceQuota {name} has no room for {what}");
                to.push(Violation::Quota(why));
            }
        }
    }
}

fn is_set_by_all(pod: &Value, resource: &str, is_limit: bool) -> bool {
    let containers = list(pod, "/spec/containers").iter();
    containers
        .chain(list(pod, "/spec/initContainers"))
        .map(Demand::of_container)
        .all(|demand| {
            let list = if is_limit {
                demand.limits
            } else {
                demand.requests
            };
            list.contains_key(resource)
        })
}

/// How much of a quota's resource a pod takes.
fn wanted(resource: &str, demand: &Demand) -> i128 {
    let of = |list: &Amounts, name: &str| list.get(name).copied().unwrap_or_default();
    match resource {
        "pods" | "count/pods" => super::NANO,
        "cpu" | "memory" | "ephemeral-storage" => of(&demand.requests, resource),
        _ => match resource.split_once('.') {
            Some(("requests", name)) => of(&demand.requests, name),
            Some(("limits", name)) => of(&demand.limits, name),
            _ if resource.starts_with("hugepages-") => of(&demand.requests, resource),
            _ => 0,
        },
    }
}

// === impl QuotaScope ===

impl QuotaScope {
    fn is_of(&self, pod: &Value) -> bool {
        let deadline = pod.pointer("/spec/activeDeadlineSeconds");
        let is_terminating = deadline.is_some_and(Value::is_number);
        match self.name.as_str() {
            "Terminating" => is_terminating,
            "NotTerminating" => !is_terminating,
            "BestEffort" => is_best_effort(pod),
            "NotBestEffort" => !is_best_effort(pod),
            "PriorityClass" => self.has_priority(pod),
            "CrossNamespacePodAffinity" => has_foreign_affinity(pod),
            // Scopes of volumes, and unknown scopes.
            _ => false,
        }
    }

    fn has_priority(&self, pod: &Value) -> bool {
        let class = pod
            .pointer("/spec/priorityClassName")
            .and_then(Value::as_str);
        let class = class.filter(|class| !class.is_empty());
        let is_listed = || class.is_some_and(|class| self.values.iter().any(|v| v == class));
        match self.operator.as_str() {
            "In" => is_listed(),
            "NotIn" => !is_listed(),
            "DoesNotExist" => class.is_none(),
            _ => class.is_some(),
        }
    }
}

fn has_foreign_affinity(pod: &Value) -> bool {
    let is_foreign = |term: &Value| {
        let term = term.get("podAffinityTerm").unwrap_or(term);
        !list(term, "/namespaces").is_empty()
            || term.get("namespaceSelector").is_some_and(Value::is_object)
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        ["required", "preferred"].iter().any(|how| {
            let field =
                format!("/spec/affinity/{kind}/{how}DuringSchedulingIgnoredDuringExecution");
            list(pod, &field).iter().any(is_foreign)
        })
    })
}

//! LimitRanges: what each container, and each pod, may ask for
//! (`PodValidateLimitFunc` in `kubernetes/plugin/pkg/admission/limitranger/admission.go`).

use serde_json::Value;

use super::{
    NANO, Violation,
    demand::{Amounts, Demand, amounts, list},
};
use crate::{
    quantity::{format_nanos, readable},
    text::clip,
};

/// One LimitRange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LimitRange {
    name: String,
    containers: Vec<Item>,
    pods: Vec<Item>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    min: Amounts,
    max: Amounts,
    default: Amounts,
    default_request: Amounts,
    ratio: Amounts,
}

/// The bounds of all LimitRanges on one resource of a container, in nano-units.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) min: Option<i128>,
    pub(crate) max: Option<i128>,
    /// The limit of a container that has none.
    pub(crate) default: Option<i128>,
    pub(crate) default_request: Option<i128>,
    /// LimitRanges have different defaults, and the first to be applied counts.
    pub(crate) has_several_defaults: bool,
    /// The most that a limit may be of its request, in thousand-millionths.
    pub(crate) ratio: Option<i128>,
}

// === impl LimitRange ===

impl LimitRange {
    pub(crate) fn read(object: &Value) -> Self {
        let items = |kind: &str| {
            list(object, "/spec/limits")
                .iter()
                .filter(|item| item["type"] == kind)
                .map(Item::read)
                .collect()
        };
        let name = object.pointer("/metadata/name").and_then(Value::as_str);
        Self {
            name: name.unwrap_or_default().to_owned(),
            containers: items("Container"),
            pods: items("Pod"),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Adds its bounds on this resource of a container to those of others.
    pub(super) fn bound(&self, resource: &str, bounds: &mut Bounds) {
        let tighter =
            |mine: &mut Option<i128>, theirs: Option<&i128>, better: fn(i128, i128) -> i128| {
                if let Some(theirs) = theirs {
                    *mine = Some(mine.map_or(*theirs, |mine| better(mine, *theirs)));
                }
            };
        for item in &self.containers {
            tighter(&mut bounds.min, item.min.get(resource), i128::max);
            tighter(&mut bounds.max, item.max.get(resource), i128::min);
            tighter(&mut bounds.ratio, item.ratio.get(resource), i128::min);
            let several = item.default.get(resource).zip(bounds.default);
            bounds.has_several_defaults |= several.is_some_and(|(one, other)| *one != other);
            tighter(&mut bounds.default, item.default.get(resource), i128::min);
            let request = item.default_request.get(resource);
            tighter(&mut bounds.default_request, request, i128::min);
        }
    }

    /// The resources of a container that it names.
    pub(super) fn resources(&self) -> impl Iterator<Item = &String> {
        self.containers.iter().flat_map(|item| {
            let lists = [&item.min, &item.max, &item.ratio, &item.default];
            let lists = lists.into_iter().chain([&item.default_request]);
            lists.flat_map(Amounts::keys)
        })
    }

    /// Why it refuses these containers, which are all that is checked of the pod's, and the pod.
    pub(super) fn violations(&self, containers: &[Demand], pod: &Demand, to: &mut Vec<Violation>) {
        for container in containers {
            for item in &self.containers {
                item.violations(&self.name, "container", container, to);
            }
        }
        for item in &self.pods {
            item.violations(&self.name, "pod, all its containers together,", pod, to);
        }
    }
}

// === impl Item ===

impl Item {
    fn read(item: &Value) -> Self {
        let field = |name: &str| item.get(name).map(amounts).unwrap_or_default();
        Self {
            min: field("min"),
            max: field("max"),
            default: field("default"),
            default_request: field("defaultRequest"),
            ratio: field("maxLimitRequestRatio"),
        }
    }

    fn violations(&self, range: &str, whose: &str, demand: &Demand, to: &mut Vec<Violation>) {
        let mut violates = |rule: &str, resource: &str, bound: String| {
            let range = clip(range, 30);
            let why = format!("LimitRange {range} wants {resource} of a {whose} {rule} {bound}");
            to.push(Violation::LimitRange(why));
        };
        for (name, least) in &self.min {
            let (request, limit) = (demand.requests.get(name), demand.limits.get(name));
            if request.is_none_or(|request| request < least)
                || limit.is_some_and(|limit| limit < least)
            {
                violates("of at least", name, readable(name, *least));
            }
        }
        for (name, most) in &self.max {
            let (request, limit) = (demand.requests.get(name), demand.limits.get(name));
            if limit.is_none_or(|limit| limit > most)
                || request.is_some_and(|request| request > most)
            {
                violates("of at most", name, readable(name, *most));
            }
        }
        for (name, ratio) in &self.ratio {
            let of = |list: &Amounts| list.get(name).copied().filter(|amount| *amount > 0);
            let fits = match (of(&demand.requests), of(&demand.limits)) {
                (Some(request), Some(limit)) => {
                    limit.saturating_mul(NANO) <= ratio.saturating_mul(request)
                }
                _ => false,
            };
            if !fits {
                violates("limited to request times", name, format_nanos(*ratio));
            }
        }
    }
}

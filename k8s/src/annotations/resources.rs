//! Requests and limits of the sidecar: what holds where nobody sets them, and which pairs contradict each other.

use super::{Key, Overrides};
use crate::quantity;

/// The names of a resource and of the overrides that set it, and flowcar's own values.
pub(crate) struct Resource {
    pub(crate) name: &'static str,
    pub(crate) request: Key,
    pub(crate) limit: Key,
    pub(crate) default_request: &'static str,
    pub(crate) default_limit: Option<&'static str>,
}

pub(crate) const RESOURCES: [Resource; 2] = [
    Resource {
        name: "cpu",
        request: Key::CpuRequest,
        limit: Key::CpuLimit,
        default_request: "10m",
        default_limit: None,
    },
    Resource {
        name: "memory",
        request: Key::MemoryRequest,
        limit: Key::MemoryLimit,
        default_request: "32Mi",
        default_limit: Some("128Mi"),
    },
];

/// The API server refuses a request above its limit: `own` values that make such a pair, among themselves or with
/// `defaults`, are dropped. Returns the names of these resources.
pub(crate) fn drop_contradictions(own: &mut Overrides, defaults: &Overrides) -> Vec<&'static str> {
    let mut dropped = Vec::new();
    for resource in &RESOURCES {
        if resource.contradicts(&own.clone().or(defaults)) {
            own.forget(resource.request);
            own.forget(resource.limit);
            dropped.push(resource.name);
        }
    }
    dropped
}

// === impl Resource ===

impl Resource {
    /// The request; where only the limit is set, no more than that.
    pub(crate) fn request<'a>(&self, overrides: &'a Overrides) -> &'a str
    where
        Self: 'a,
    {
        let own = self.default_request;
        let limit = overrides.get(self.limit);
        let lower = limit.filter(|limit| quantity::parse(limit) < quantity::parse(own));
        overrides.get(self.request).or(lower).unwrap_or(own)
    }

    pub(crate) fn limit<'a>(&self, overrides: &'a Overrides) -> Option<&'a str> {
        overrides.get(self.limit).or(self.default_limit)
    }

    pub(crate) fn contradicts(&self, overrides: &Overrides) -> bool {
        let request = quantity::parse(self.request(overrides));
        let limit = self.limit(overrides).and_then(quantity::parse);
        matches!((request, limit), (Some(request), Some(limit)) if request > limit)
    }
}

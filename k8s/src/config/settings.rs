//! A configuration that was checked: what annotations may choose, and what holds where they choose nothing.

use kube::core::{Selector, SelectorExt as _};
use serde_json::{Map, Value};

use super::{Config, NAMESPACE_NAME};
use crate::annotations::{
    Annotation, Key, Limits, Overrides, Permissions, Problem, drop_contradictions, identity_of,
};

/// A configuration that was checked, with what follows from it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The configuration as the operator wrote it.
    pub config: Config,
    /// The defaults that stand behind a pod's own overrides.
    pub defaults: Overrides,
    /// What annotations may decide.
    pub permissions: Permissions,
    /// What of that is locked or bounded.
    pub limits: Limits,
    /// The namespaces in which the API server asks the webhook.
    pub namespaces: Selector,
    /// Names this configuration and this version of flowcar: 16 hexadecimal digits.
    pub hash: String,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Config::default()
            .check()
            .expect("a test holds the default configuration valid")
    }
}

impl Settings {
    /// Whether no pod of this namespace is injected: it is flowcar's own, or the operator excludes it by name.
    pub(crate) fn excludes(&self, namespace: &str, own: &str) -> bool {
        let excluded = &self.config.excluded_namespaces;
        namespace == own || excluded.iter().any(|name| name == namespace)
    }

    /// Whether the operator leaves a namespace with these labels out: the API server does not ask the webhook there. A namespace of which
    /// nothing is known, without the label that the API server writes, is not left out.
    pub(crate) fn leaves_out(&self, labels: &Map<String, Value>) -> bool {
        let known = labels.contains_key(NAMESPACE_NAME);
        let texts = labels.iter();
        let texts =
            texts.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
        known && !self.namespaces.matches(&texts.collect())
    }

    /// Reads the overrides of one pod, on top of the operator's defaults, and every problem among them.
    #[must_use]
    pub fn overrides(&self, annotations: &Map<String, Value>) -> (Overrides, Vec<Problem>) {
        self.overrides_in(&Map::new(), annotations)
    }

    /// The same in a namespace, whose defaults come before the operator's.
    #[must_use]
    pub fn overrides_in(
        &self,
        namespace: &Map<String, Value>,
        annotations: &Map<String, Value>,
    ) -> (Overrides, Vec<Problem>) {
        let (mut own, mut problems) = self.limited(annotations);
        let (of_namespace, _) = self.of_namespace(namespace);
        let behind = of_namespace.clone().or(&self.defaults);
        problems.extend(contradictions(&mut own, &behind));
        let given = own.or(&of_namespace).with_identity_of(&self.defaults);
        (given.or(&self.defaults), problems)
    }

    /// The errors in a namespace's defaults, in words. The author of a pod did not make them, so strict mode denies no
    /// pod for them.
    #[must_use]
    pub fn namespace_errors(&self, namespace: &Map<String, Value>) -> Vec<String> {
        let (_, problems) = self.of_namespace(namespace);
        problems
            .iter()
            .map(|problem| format!("on the namespace: {problem}"))
            .collect()
    }

    fn of_namespace(&self, namespace: &Map<String, Value>) -> (Overrides, Vec<Problem>) {
        let (mut overrides, mut problems) = self.limited(namespace);
        problems.extend(contradictions(&mut overrides, &self.defaults));
        (overrides, problems)
    }

    /// What these annotations decide, within the operator's limits.
    fn limited(&self, annotations: &Map<String, Value>) -> (Overrides, Vec<Problem>) {
        let (mut overrides, mut problems) = Overrides::parse(annotations, &self.permissions);
        problems.extend(self.limits.apply(&mut overrides));
        (overrides, problems)
    }

    /// Whether a sidecar may have this setting: it is the operator's own value, or one that annotations may set.
    #[must_use]
    pub fn allows(&self, row: &'static Annotation, value: &str) -> bool {
        let may_be_printed = row.kind.accepts(value) && self.limits.allow(row, value);
        let is_reachable = row.key != Key::Endpoint || self.permissions.allows_endpoint(value);
        self.defaults.get(row.key) == Some(value) || (may_be_printed && is_reachable)
    }

    /// Whether the operator bounds what annotations may choose of this key.
    #[must_use]
    pub fn bounds(&self, key: Key) -> bool {
        let are_listed = key == Key::Endpoint && !self.permissions.endpoints.is_empty();
        are_listed || self.limits.bound(key)
    }

    /// Whether the operator bounds where telemetry goes.
    #[must_use]
    pub fn bounds_endpoints(&self) -> bool {
        !self.permissions.endpoints.is_empty() || self.limits.bounds_endpoints()
    }

    /// Whether a sidecar may have these attributes besides those that identify a pod.
    #[must_use]
    pub fn allows_attributes(&self, attributes: &str) -> bool {
        let identity: Vec<_> = identity_of(attributes).collect();
        let others = attributes
            .split(',')
            .filter(|pair| !identity.contains(pair));
        let others: Vec<_> = others.collect();
        let is_operators = self.defaults.get(Key::ResourceAttributes) == Some(attributes);
        is_operators || others.is_empty() || self.limits.allow_attributes(&others.join(","))
    }

    /// Whether the attributes that identify a pod are the operator's own.
    #[must_use]
    pub fn are_own_identity(&self, attributes: &str) -> bool {
        let operators = self
            .defaults
            .get(Key::ResourceAttributes)
            .unwrap_or_default();
        let known: Vec<_> = identity_of(operators).collect();
        identity_of(attributes).all(|pair| known.contains(&pair))
    }
}

/// Drops requests above their limits, and reports them.
fn contradictions(
    own: &mut Overrides,
    defaults: &Overrides,
) -> impl Iterator<Item = Problem> + use<> {
    let dropped = drop_contradictions(own, defaults).into_iter();
    dropped.map(|resource| Problem::RequestAboveLimit { resource })
}

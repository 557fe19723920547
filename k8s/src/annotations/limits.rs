//! What the operator lets annotations set: which are locked, which are bounded, and that a pod cannot set another one's
//! identity.
//!
//! It holds for pods, workloads and namespaces, and not for the operator's own defaults.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Annotation, Key, Kind, Overrides, PREFIX, Problem, TABLE,
    identity::{is_identity, name_of},
};
use crate::{quantity, text::nearest};

/// The operator's limits as written, under the names of annotations without their prefix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written<'a> {
    pub(crate) locked: &'a [String],
    pub(crate) minimum: &'a BTreeMap<String, String>,
    pub(crate) maximum: &'a BTreeMap<String, String>,
    pub(crate) allowed: &'a BTreeMap<String, Vec<String>>,
    pub(crate) require_tls: bool,
}

/// The operator's limits.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    locked: BTreeSet<Key>,
    minimum: BTreeMap<Key, String>,
    maximum: BTreeMap<Key, String>,
    allowed: BTreeMap<Key, Vec<String>>,
    require_tls: bool,
}

/// What is locked with what: by the second, a pod would get around the first.
const IMPLIED: [(Key, Key); 3] = [
    // The pod's own volume replaces the node's directory of the socket.
    (Key::Endpoint, Key::EndpointVolume),
    (Key::CaSecret, Key::CaConfigMap),
    (Key::CaConfigMap, Key::CaSecret),
];

// === impl Limits ===

impl Limits {
    /// Reads the operator's limits, and describes every error in them.
    pub(crate) fn read(written: Written<'_>) -> (Self, Vec<String>) {
        let mut errors = Vec::new();
        let mut limits = Self {
            require_tls: written.require_tls,
            ..Self::default()
        };
        for name in written.locked {
            if let Some(row) = named("locked", name, &mut errors) {
                limits.locked.insert(row.key);
                let implied = IMPLIED.iter().filter(|(key, _)| *key == row.key);
                limits.locked.extend(implied.map(|(_, with)| *with));
            }
        }
        for (field, from, into) in [
            ("minimum", written.minimum, &mut limits.minimum),
            ("maximum", written.maximum, &mut limits.maximum),
        ] {
            for (name, value) in from {
                let Some(row) = named(field, name, &mut errors) else {
                    continue;
                };
                // A bound that no annotation can reach is a mistyped one.
                match amount(row.kind, value).filter(|_| row.kind.accepts(value)) {
                    Some(_) => drop(into.insert(row.key, value.clone())),
                    None => errors.push(format!(
                        "{field}: {name}={value:?}: expected {}, of an annotation that is an amount; others are bounded by `allowed`",
                        row.kind
                    )),
                }
            }
        }
        errors.extend(limits.empty_ranges());
        for (name, values) in written.allowed {
            let Some(row) = named("allowed", name, &mut errors) else {
                continue;
            };
            if row.key == Key::Endpoint {
                errors.push("allowed: endpoints are in `allowedEndpoints`".to_owned());
            }
            let wrong = values.iter().filter(|value| !row.kind.accepts(value));
            errors.extend(
                wrong.map(|value| format!("allowed: {name} has {value:?}: expected {}", row.kind)),
            );
            limits.allowed.insert(row.key, values.clone());
        }
        (limits, errors)
    }

    /// The amounts that no annotation could have.
    fn empty_ranges(&self) -> impl Iterator<Item = String> + '_ {
        self.minimum.iter().filter_map(|(key, least)| {
            let row = Annotation::of(*key);
            let most = self.maximum.get(key)?;
            (amount(row.kind, least) > amount(row.kind, most)).then(|| {
                let name = row.name.trim_start_matches(PREFIX);
                format!("minimum: {name}={least:?} is more than maximum, {most:?}: no annotation could have a value")
            })
        })
    }

    /// Removes the values that the operator does not allow, and reports each with its reason.
    pub(crate) fn apply(&self, overrides: &mut Overrides) -> Vec<Problem> {
        let mut problems = Vec::new();
        for row in &TABLE {
            let Some(value) = overrides.get(row.key) else {
                continue;
            };
            if let Some(problem) = self.against(row, value) {
                problems.push(problem);
                overrides.forget(row.key);
            } else if row.key == Key::ResourceAttributes {
                let (kept, refused) = self.attributes(value);
                problems.extend(refused.into_iter().map(|key| Problem::Identity { key }));
                match kept.is_empty() {
                    true => overrides.forget(row.key),
                    false => overrides.set(row.key, kept),
                }
            }
        }
        problems
    }

    /// Whether an annotation may have this value.
    pub(crate) fn allow(&self, row: &'static Annotation, value: &str) -> bool {
        self.against(row, value).is_none()
    }

    /// The most that an annotation may ask for of an amount, in its own unit: nothing where it is locked. `None` where it
    /// has no bound.
    pub(crate) fn most(&self, key: Key) -> Option<i128> {
        if self.locked.contains(&key) {
            return Some(0);
        }
        amount(Annotation::of(key).kind, self.maximum.get(&key)?)
    }

    /// The least that an annotation may ask for of an amount, in its own unit: more than any where it is locked. `None` where it has
    /// no bound.
    pub(crate) fn least(&self, key: Key) -> Option<i128> {
        if self.locked.contains(&key) {
            return Some(i128::MAX);
        }
        amount(Annotation::of(key).kind, self.minimum.get(&key)?)
    }

    /// Whether annotations may have some values of this key only, or none.
    pub(crate) fn bound(&self, key: Key) -> bool {
        let bounds = [&self.minimum, &self.maximum];
        self.locked.contains(&key)
            || bounds.iter().any(|bounds| bounds.contains_key(&key))
            || self.allowed.contains_key(&key)
            || (key == Key::Endpoint && self.require_tls)
    }

    /// Whether it is bound where telemetry goes.
    pub(crate) fn bounds_endpoints(&self) -> bool {
        self.require_tls || self.locked.contains(&Key::Endpoint)
    }

    /// Whether an annotation may set these attributes, which do not identify a pod.
    pub(crate) fn allow_attributes(&self, text: &str) -> bool {
        self.allow(Annotation::of(Key::ResourceAttributes), text)
            && self.attributes(text).1.is_empty()
    }

    fn against(&self, row: &'static Annotation, value: &str) -> Option<Problem> {
        if self.locked.contains(&row.key) {
            return Some(Problem::Locked { row });
        }
        if row.key == Key::Endpoint && self.require_tls && !is_secure(value) {
            return Some(Problem::TlsRequired {
                endpoint: value.to_owned(),
            });
        }
        let out_of_bounds = |bound: String| Problem::OutOfBounds {
            row,
            value: value.to_owned(),
            bound,
        };
        let of = |bounds: &BTreeMap<Key, String>| {
            let text = bounds.get(&row.key)?;
            Some((text.clone(), amount(row.kind, text)?))
        };
        let asked = amount(row.kind, value);
        if let (Some((text, least)), Some(asked)) = (of(&self.minimum), asked)
            && asked < least
        {
            return Some(out_of_bounds(format!("at least {text}")));
        }
        if let (Some((text, most)), Some(asked)) = (of(&self.maximum), asked)
            && asked > most
        {
            return Some(out_of_bounds(format!("at most {text}")));
        }
        let allowed = self.allowed.get(&row.key)?;
        (!allowed.iter().any(|one| is_one(row.kind, one, value)))
            .then(|| out_of_bounds(format!("only {}", allowed.join(" | "))))
    }

    /// The attributes that the pod may set, and the names of the others.
    fn attributes(&self, text: &str) -> (String, Vec<String>) {
        let names_itself = !self.locked.contains(&Key::ServiceName)
            && !self.allowed.contains_key(&Key::ServiceName);
        let (mut kept, mut refused) = (Vec::new(), Vec::new());
        for pair in text.split(',') {
            let name = name_of(pair);
            if is_identity(&name) || (name == "service.name" && !names_itself) {
                refused.push(name);
            } else {
                kept.push(pair);
            }
        }
        (kept.join(","), refused)
    }
}

/// Whether nobody between pod and receiver can read the telemetry.
pub(crate) fn is_secure(endpoint: &str) -> bool {
    let endpoint = endpoint.to_ascii_lowercase();
    endpoint.starts_with("https://") || endpoint.starts_with("unix://")
}

/// The value as a number, for kinds that are one.
fn amount(kind: Kind, value: &str) -> Option<i128> {
    match kind {
        Kind::Integer { .. } => value.parse().ok(),
        Kind::Cpu | Kind::Memory => quantity::parse(value),
        _ => None,
    }
}

/// A Secret that is allowed without a key is allowed with any.
fn is_one(kind: Kind, allowed: &str, value: &str) -> bool {
    let name = value.split_once('/').map_or(value, |(name, _)| name);
    allowed == value || (kind == Kind::SecretRef && allowed == name)
}

fn named(field: &str, name: &str, errors: &mut Vec<String>) -> Option<&'static Annotation> {
    if name == "inject" {
        errors.push(format!(
            "{field}: `inject` is the pod's own; leave namespaces out by webhook.namespaceSelector"
        ));
        return None;
    }
    let found = Annotation::named(&format!("{PREFIX}{name}"));
    if found.is_none() {
        let names = TABLE.iter().map(|row| &row.name[PREFIX.len()..]);
        let meant = nearest(name, names);
        let meant = meant.map_or_else(String::new, |name| format!("; did you mean {name:?}?"));
        errors.push(format!(
            "{field} has {name:?}: no annotation has this name{meant}"
        ));
    }
    found
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;

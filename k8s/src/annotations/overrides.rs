//! Annotations of one pod, parsed.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    Annotation, Key, OWN_MARKS, Problem, TABLE, identity_of, problem::unknown_key, socket_path,
    with_values,
};

/// The valid overrides of one pod. A value that was refused is absent, so its default holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    values: BTreeMap<Key, String>,
}

/// What the operator lets annotations decide.
#[derive(Clone, Debug, Default)]
pub struct Permissions {
    /// `flowcar.io/image` and `flowcar.io/command` are honoured.
    pub image_and_command: bool,
    /// Patterns of endpoints; empty allows every one. See [`Permissions::allows_endpoint`].
    pub endpoints: Vec<String>,
}

// === impl Overrides ===

impl Overrides {
    /// Reads every annotation of flowcar, and reports each problem. Annotations of others are not read,
    /// nor is [`Key::Inject`] judged here: what it means also depends on the namespace.
    #[must_use]
    pub fn parse(
        annotations: &Map<String, Value>,
        permissions: &Permissions,
    ) -> (Self, Vec<Problem>) {
        let mut parsed = Self::default();
        let mut problems = Vec::new();
        for (name, value) in annotations {
            if OWN_MARKS.contains(&name.as_str()) {
                continue;
            }
            let Some(row) = Annotation::named(name) else {
                if let Some(nearest) = unknown_key(name) {
                    problems.push(Problem::UnknownKey {
                        name: name.clone(),
                        nearest,
                    });
                }
                continue;
            };
            if row.key == Key::Inject {
                continue;
            }
            match check(row, value, permissions) {
                Ok(value) => drop(parsed.values.insert(row.key, value)),
                Err(problem) => problems.push(problem),
            }
        }
        (parsed, problems)
    }

    /// The value of `key`, if one was given and is valid.
    #[must_use]
    pub fn get(&self, key: Key) -> Option<&str> {
        self.values.get(&key).map(String::as_str)
    }

    /// These overrides, and `defaults` for keys that they do not set.
    #[must_use]
    pub fn or(mut self, defaults: &Self) -> Self {
        for (key, value) in &defaults.values {
            self.values.entry(*key).or_insert_with(|| value.clone());
        }
        self
    }

    /// Replaces the value of `key`.
    pub(super) fn set(&mut self, key: Key, value: String) {
        self.values.insert(key, value);
    }

    /// Adds to the attributes, where there are any, the operator's own that identify the pod.
    #[must_use]
    pub(crate) fn with_identity_of(mut self, defaults: &Self) -> Self {
        let key = Key::ResourceAttributes;
        if let (Some(own), Some(operators)) = (self.get(key), defaults.get(key)) {
            let all: Vec<_> = own.split(',').chain(identity_of(operators)).collect();
            let all = all.join(",");
            self.set(key, all);
        }
        self
    }

    /// Forgets the value of `key`, so that its default holds.
    pub fn forget(&mut self, key: Key) {
        self.values.remove(&key);
    }

    /// The environment variables that the overrides set as they are, in the table's order.
    pub fn env(&self) -> impl Iterator<Item = (&'static str, &str)> {
        TABLE
            .iter()
            .filter_map(|row| Some((row.env?, self.get(row.key)?)))
    }
}

fn check(
    row: &'static Annotation,
    value: &Value,
    permissions: &Permissions,
) -> Result<String, Problem> {
    let text = match value {
        Value::String(text) => text.clone(),
        other => {
            return Err(Problem::InvalidValue {
                row,
                value: other.to_string(),
            });
        }
    };
    if row.needs_permission && !permissions.image_and_command {
        return Err(Problem::NotPermitted { row });
    }
    if !row.kind.accepts(&text) {
        return Err(Problem::InvalidValue { row, value: text });
    }
    if row.key == Key::Endpoint && !permissions.allows_endpoint(&text) {
        return Err(Problem::EndpointNotAllowed { endpoint: text });
    }
    Ok(text)
}

// === impl Permissions ===

impl Permissions {
    /// Whether a pod may send its telemetry to `endpoint`.
    ///
    /// A pattern is a URL whose host may start with `*.`, which stands for one or more labels. Scheme and
    /// port must be equal, ports left out being the scheme's own; a path in the pattern is a prefix.
    #[must_use]
    pub fn allows_endpoint(&self, endpoint: &str) -> bool {
        self.endpoints.is_empty()
            || self
                .endpoints
                .iter()
                .any(|pattern| endpoint_matches(pattern, endpoint))
    }
}

fn endpoint_matches(pattern: &str, endpoint: &str) -> bool {
    if let (Some(pattern), Some(path)) = (socket_path(pattern), socket_path(endpoint)) {
        return pattern == path;
    }
    let (pattern, endpoint) = (&with_values(pattern), &with_values(endpoint));
    // `*` is no host character of a URL: parse the pattern with a label instead.
    let any_host = pattern.contains("://*.");
    let pattern = pattern.replacen("://*.", "://", 1);
    let (Ok(pattern), Ok(endpoint)) = (url::Url::parse(&pattern), url::Url::parse(endpoint)) else {
        return false;
    };
    let (Some(wanted), Some(host)) = (pattern.host_str(), endpoint.host_str()) else {
        return false;
    };
    let host_ok = if any_host {
        host.strip_suffix(wanted)
            .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
    } else {
        host == wanted
    };
    host_ok
        && pattern.scheme() == endpoint.scheme()
        && pattern.port_or_known_default() == endpoint.port_or_known_default()
        && path_is_under(pattern.path(), endpoint.path())
}

fn path_is_under(prefix: &str, path: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

//! The operator's configuration of injection, read from one YAML file.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::Selector;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

mod scalar;
mod settings;

pub use settings::Settings;

use crate::annotations::{
    INJECT, Key, Kind, Limits, Overrides, PREFIX, Permissions, RESOURCES, Written, is_secure,
};

/// The node's cgroup tree. Its parts are named by the kubelet's cgroup driver and root (`kubepods.slice`, `kubepods`,
/// `kubelet.slice/...`), which the webhook cannot know, and a `hostPath` that is not there would keep the pod from starting:
/// this is the narrowest that works on every node. A container sees the names and figures of other pods' cgroups by it.
const CGROUP_TREE: &str = "/sys/fs/cgroup";

/// The label that the API server gives every namespace.
pub(crate) const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// The version of flowcar, which names the default image.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The operator's wishes. Every field has a default, so an empty file is a valid configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// The sidecar's image.
    pub image: String,
    /// Repositories that other webhooks rewrite the sidecar's image to, such as mirrors: a container from there still counts
    /// as flowcar's.
    pub image_mirrors: Vec<String>,
    /// `Always`, `IfNotPresent` or `Never`; Kubernetes' own default where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,
    /// Secrets that the sidecar's image is pulled with, by name; each is added to the pods that have it not, and
    /// has to be in their namespaces.
    pub image_pull_secrets: Vec<String>,
    /// Defaults for any annotation but `inject`, under its name without the prefix. Numbers and booleans are
    /// read as text: Helm makes them of `sampling: 100` and `exchange: on`.
    #[serde(deserialize_with = "scalar::map")]
    pub defaults: BTreeMap<String, String>,
    /// CPU request and limit of the sidecar in a Guaranteed pod that does not set them. Loading the
    /// programs under a much tighter limit takes seconds.
    #[serde(deserialize_with = "scalar::one")]
    pub guaranteed_cpu: String,
    /// Deny pods with invalid annotations instead of warning.
    pub strict: bool,
    /// Honour `flowcar.io/image` and `flowcar.io/command`.
    pub allow_image_and_command: bool,
    /// Endpoints that pods may choose; empty for any. See [`Permissions::allows_endpoint`].
    pub allowed_endpoints: Vec<String>,
    /// Annotations that only `defaults` decide, by their names without the prefix.
    pub locked: Vec<String>,
    /// The least that annotations may ask for, by their names without the prefix.
    #[serde(deserialize_with = "scalar::map")]
    pub minimum: BTreeMap<String, String>,
    /// The most that annotations may ask for, by their names without the prefix.
    #[serde(deserialize_with = "scalar::map")]
    pub maximum: BTreeMap<String, String>,
    /// The only values that annotations may have, by their names without the prefix. A Secret without a key stands for all
    /// of its keys.
    #[serde(deserialize_with = "scalar::lists")]
    pub allowed: BTreeMap<String, Vec<String>>,
    /// Telemetry goes to `https://` and `unix://` only.
    pub require_tls: bool,
    /// Whether pods get a native sidecar.
    pub native_sidecar: NativeSidecar,
    /// Namespaces that are never injected, besides flowcar's own.
    pub excluded_namespaces: Vec<String>,
    /// The namespaces in which the API server asks the webhook. The chart copies `webhook.namespaceSelector`, so that no pod
    /// elsewhere counts as missed.
    pub namespace_selector: LabelSelector,
    /// Runtime classes whose pods have a kernel of their own, each a name or its beginning.
    pub sandboxed_runtime_classes: Vec<String>,
    /// What of the node's cgroup tree the sidecar mounts: `/sys/fs/cgroup`, or the part of it that has all pods where every
    /// node names it alike, such as `/sys/fs/cgroup/kubepods.slice`.
    pub host_cgroup_path: String,
    /// What Pod Security enforces in namespaces without a label (the API server's own default).
    pub pod_security_default: Level,
}

/// `imagePullPolicy` of the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "Kubernetes' own names")]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// Whether pods get a native sidecar: an init container that keeps running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NativeSidecar {
    /// Where the API server is 1.29 or later.
    Auto,
    /// Always.
    Always,
    /// Never: a regular container, and no Jobs.
    Never,
}

/// A Pod Security level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "Kubernetes' own names")]
pub enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// Why a configuration was refused, with every error.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not YAML, or not of this shape.
    #[error(
        "the configuration cannot be read: {0}; compare it with the chart's values.schema.json"
    )]
    Shape(#[from] serde_yaml_ng::Error),
    /// Values that no pod could carry.
    #[error("the configuration has errors: {}", .0.join("; "))]
    Values(Vec<String>),
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        let strings = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        Self {
            image: format!("ghcr.io/flowcar/flowcar:{VERSION}"),
            image_mirrors: Vec::new(),
            image_pull_policy: None,
            image_pull_secrets: Vec::new(),
            defaults: BTreeMap::new(),
            guaranteed_cpu: "100m".to_owned(),
            strict: false,
            allow_image_and_command: false,
            allowed_endpoints: Vec::new(),
            locked: Vec::new(),
            minimum: BTreeMap::new(),
            maximum: BTreeMap::new(),
            allowed: BTreeMap::new(),
            require_tls: false,
            native_sidecar: NativeSidecar::Auto,
            excluded_namespaces: strings(&["kube-system", "kube-public", "kube-node-lease"]),
            namespace_selector: LabelSelector::default(),
            sandboxed_runtime_classes: strings(&[
                "gvisor",
                "runsc",
                "kata",
                "firecracker",
                "cloud-hypervisor",
            ]),
            host_cgroup_path: CGROUP_TREE.to_owned(),
            pod_security_default: Level::Privileged,
        }
    }
}

impl Config {
    /// Reads YAML (or JSON) text. Empty text is the default configuration.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn parse(text: &str) -> Result<Settings, ConfigError> {
        let config: Option<Self> = serde_yaml_ng::from_str(text)?;
        config.unwrap_or_default().check()
    }

    /// Checks every value and works out what follows from them.
    ///
    /// # Errors
    /// [`ConfigError::Values`] with every error.
    pub fn check(self) -> Result<Settings, ConfigError> {
        let (defaults, mut errors) = self.parse_defaults();
        if !Kind::Image.accepts(&self.image) {
            errors.push(format!("image={:?} is no image reference", self.image));
        }
        for mirror in &self.image_mirrors {
            if !Kind::Image.accepts(&format!("{mirror}:tag")) {
                errors.push(format!(
                    "imageMirrors has {mirror:?}: expected a repository, without tag and digest"
                ));
            }
        }
        for name in &self.image_pull_secrets {
            // `name/key` is a reference too, but not to a whole Secret.
            if name.contains('/') || !Kind::SecretRef.accepts(name) {
                errors.push(format!(
                    "imagePullSecrets has {name:?}: expected the name of a Secret"
                ));
            }
        }
        if !Kind::Cpu.accepts(&self.guaranteed_cpu) {
            errors.push(format!(
                "guaranteedCpu={:?}: expected {}",
                self.guaranteed_cpu,
                Kind::Cpu
            ));
        }
        for pattern in &self.allowed_endpoints {
            if !Kind::Url.accepts(&pattern.replacen("://*.", "://", 1)) {
                errors.push(format!(
                    "allowedEndpoints has {pattern:?}: expected a URL, its host may start with `*.`"
                ));
            }
        }
        if !is_cgroup_path(&self.host_cgroup_path) {
            errors.push(format!(
                "hostCgroupPath={:?}: expected /sys/fs/cgroup or a path below it",
                self.host_cgroup_path
            ));
        }
        let (limits, wrong) = Limits::read(Written {
            locked: &self.locked,
            minimum: &self.minimum,
            maximum: &self.maximum,
            allowed: &self.allowed,
            require_tls: self.require_tls,
        });
        errors.extend(wrong);
        if self.require_tls && !defaults.get(Key::Endpoint).is_some_and(is_secure) {
            errors.push(
                "requireTls: defaults.endpoint has to be an https:// or unix:// address, as it holds where a pod names none"
                    .to_owned(),
            );
        }
        let namespaces = Selector::try_from(self.namespace_selector.clone());
        let namespaces = namespaces.unwrap_or_else(|error| {
            errors.push(format!("namespaceSelector: {error}"));
            Selector::default()
        });
        if !errors.is_empty() {
            return Err(ConfigError::Values(errors));
        }
        let permissions = Permissions {
            image_and_command: self.allow_image_and_command,
            endpoints: self.allowed_endpoints.clone(),
        };
        Ok(Settings {
            hash: self.hash(),
            defaults,
            permissions,
            limits,
            namespaces,
            config: self,
        })
    }

    fn parse_defaults(&self) -> (Overrides, Vec<String>) {
        let named: Map<String, Value> = self
            .defaults
            .iter()
            .map(|(name, value)| (format!("{PREFIX}{name}"), json!(value)))
            .collect();
        let everything = Permissions {
            image_and_command: true,
            endpoints: Vec::new(),
        };
        let (defaults, problems) = Overrides::parse(&named, &everything);
        let mut errors: Vec<_> = problems
            .iter()
            .map(|problem| format!("defaults: {problem}"))
            .collect();
        if named.contains_key(INJECT) {
            errors.push(
                "defaults: `inject` has no cluster-wide default; label the namespaces".to_owned(),
            );
        }
        for resource in RESOURCES
            .iter()
            .filter(|resource| resource.contradicts(&defaults))
        {
            let name = resource.name;
            let limit = resource.limit(&defaults).unwrap_or_default();
            errors.push(format!(
                "defaults: {name}-request is above the limit, {limit}: lower it, or set a higher {name}-limit"
            ));
        }
        (defaults, errors)
    }

    /// The selector makes no difference to a sidecar.
    fn hash(&self) -> String {
        let selects_all = Self {
            namespace_selector: LabelSelector::default(),
            ..self.clone()
        };
        let text = serde_json::to_string(&selects_all)
            .expect("a configuration of strings and lists serialises");
        let digest = Sha256::digest(format!("{VERSION}\n{text}"));
        digest
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// Only what the sidecar is for: any other directory of the node would be in every pod.
pub(crate) fn is_cgroup_path(path: &str) -> bool {
    let below = path.strip_prefix(CGROUP_TREE);
    below.is_some_and(|below| {
        below.is_empty()
            || below.strip_prefix('/').is_some_and(|names| {
                names.split('/').all(|name| {
                    !matches!(name, "" | "." | "..")
                        && name
                            .bytes()
                            .all(|b| b.is_ascii_alphanumeric() || b"-_.:@".contains(&b))
                })
            })
    })
}

// === impl Level ===

impl Level {
    /// What a namespace with these labels enforces. Like the Pod Security admission plugin, a label with an
    /// unknown value counts as `restricted` (`k8s.io/pod-security-admission/api/helpers.go`).
    #[must_use]
    pub fn of_namespace(labels: &Map<String, Value>, default: Self) -> Self {
        match labels
            .get("pod-security.kubernetes.io/enforce")
            .and_then(Value::as_str)
        {
            None => default,
            Some("privileged") => Self::Privileged,
            Some("baseline") => Self::Baseline,
            Some(_) => Self::Restricted,
        }
    }

    /// The level's name in Kubernetes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

#[cfg(test)]
mod tests;

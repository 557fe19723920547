//! Whether a pod is injected, and in which form.

use std::fmt;

use serde_json::{Map, Value};

use super::{CONTAINER, Context, container, view};
use crate::annotations::{Annotation, INJECT, Key, Overrides};
use crate::config::{Level, Settings};
use crate::text::clip;

/// The form of the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// With the two capabilities and the host's cgroup tree that the eBPF source needs.
    pub ebpf: bool,
    /// As an init container that keeps running.
    pub native: bool,
}

/// Why nobody asked for a sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(strum::EnumIter))]
pub enum NotOptedIn {
    /// The pod says `disabled`.
    PodDisabled,
    /// Neither the pod nor its namespace says anything.
    NothingSaid,
    /// The pod says nothing and its namespace says something else than `enabled`.
    NamespaceDisabled,
}

/// Why a pod that asked for a sidecar gets none.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(strum::EnumDiscriminants))]
#[cfg_attr(
    test,
    strum_discriminants(vis(pub(crate)), name(SkipKind), derive(strum::EnumIter))
)]
pub enum Skip {
    /// The opt-in's value is neither `enabled` nor `disabled`.
    UnknownValue {
        /// The value, as written.
        value: String,
    },
    /// Not a pod that can be patched.
    Malformed {
        /// The field that is not what it should be.
        field: &'static str,
    },
    /// A namespace of the cluster's own, or flowcar's.
    ExcludedNamespace {
        /// Its name.
        namespace: String,
    },
    /// The kubelet's mirror of a static pod: it never reads the mirror's spec.
    MirrorPod,
    /// The pod is on the host's network.
    HostNetwork,
    /// The pod runs Windows.
    Windows,
    /// The pod has a user namespace of its own.
    UserNamespace,
    /// The pod has a kernel of its own.
    Sandboxed {
        /// Its runtime class.
        class: String,
    },
    /// Something in the pod already has a name that flowcar needs.
    NameTaken {
        /// `container` or `volume`.
        what: &'static str,
        /// The name.
        name: &'static str,
    },
    /// The pod is meant to end, and a regular sidecar would not.
    WouldNeverEnd,
}

/// Whether anybody asked for a sidecar. A wrong value counts as asked, so that it can be answered.
pub(super) fn opted_in(
    annotations: &Map<String, Value>,
    context: &Context,
) -> Result<(), NotOptedIn> {
    match annotations.get(INJECT) {
        Some(Value::String(value)) if value == "disabled" => Err(NotOptedIn::PodDisabled),
        Some(_) => Ok(()),
        None if context.opted_in => Ok(()),
        None => match context.namespace_labels.get(INJECT).and_then(Value::as_str) {
            Some("enabled") => Ok(()),
            Some(_) => Err(NotOptedIn::NamespaceDisabled),
            None => Err(NotOptedIn::NothingSaid),
        },
    }
}

/// The first reason to leave a pod alone that asked for a sidecar.
pub(super) fn skip(
    pod: &Value,
    annotations: &Map<String, Value>,
    context: &Context,
    settings: &Settings,
    overrides: &Overrides,
) -> Option<Skip> {
    unknown_value(annotations)
        .or_else(|| malformed(pod))
        .or_else(|| excluded(context, settings))
        .or_else(|| unsuitable(pod, settings, overrides))
        .or_else(|| name_taken(pod))
        .or_else(|| {
            (!context.native_sidecar && is_meant_to_end(pod)).then_some(Skip::WouldNeverEnd)
        })
}

fn unknown_value(annotations: &Map<String, Value>) -> Option<Skip> {
    let value = annotations.get(INJECT)?;
    let text = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned);
    (text != "enabled").then_some(Skip::UnknownValue { value: text })
}

fn malformed(pod: &Value) -> Option<Skip> {
    let absent_or = |pointer: &'static str, fits: fn(&Value) -> bool| {
        let wrong = pod
            .pointer(pointer)
            .is_some_and(|value| !value.is_null() && !fits(value));
        wrong.then_some(Skip::Malformed { field: pointer })
    };
    if !pod.pointer("/spec").is_some_and(Value::is_object) {
        return Some(Skip::Malformed { field: "/spec" });
    }
    absent_or("/metadata", Value::is_object)
        .or_else(|| absent_or("/metadata/annotations", Value::is_object))
        .or_else(|| absent_or("/spec/containers", Value::is_array))
        .or_else(|| absent_or("/spec/initContainers", Value::is_array))
        .or_else(|| absent_or("/spec/volumes", Value::is_array))
}

fn excluded(context: &Context, settings: &Settings) -> Option<Skip> {
    let namespace = &context.namespace;
    let is_excluded = *namespace == context.own_namespace
        || settings.config.excluded_namespaces.contains(namespace);
    is_excluded.then(|| Skip::ExcludedNamespace {
        namespace: namespace.clone(),
    })
}

fn unsuitable(pod: &Value, settings: &Settings, overrides: &Overrides) -> Option<Skip> {
    let flag = |pointer| pod.pointer(pointer).and_then(Value::as_bool);
    let windows_selector = view::map(pod, "/spec/nodeSelector")
        .get("kubernetes.io/os")
        .and_then(Value::as_str);
    if view::annotations(pod).contains_key("kubernetes.io/config.mirror") {
        return Some(Skip::MirrorPod);
    }
    if view::text(pod, "/spec/os/name") == Some("windows") || windows_selector == Some("windows") {
        return Some(Skip::Windows);
    }
    if flag("/spec/hostNetwork") == Some(true) && overrides.get(Key::HostNetwork) != Some("force") {
        return Some(Skip::HostNetwork);
    }
    if let Some(class) = view::text(pod, "/spec/runtimeClassName")
        && settings
            .config
            .sandboxed_runtime_classes
            .iter()
            .any(|start| class.starts_with(start.as_str()))
    {
        return Some(Skip::Sandboxed {
            class: class.to_owned(),
        });
    }
    (flag("/spec/hostUsers") == Some(false) && overrides.get(Key::Source) != Some("inet_diag"))
        .then_some(Skip::UserNamespace)
}

fn name_taken(pod: &Value) -> Option<Skip> {
    let volumes = view::list(pod, "/spec/volumes");
    let volume = container::VOLUMES
        .into_iter()
        .find(|name| volumes.iter().any(|volume| view::is_named(volume, name)));
    let containers = view::has_container(pod).then_some(Skip::NameTaken {
        what: "container",
        name: CONTAINER,
    });
    containers.or_else(|| {
        volume.map(|name| Skip::NameTaken {
            what: "volume",
            name,
        })
    })
}

fn is_meant_to_end(pod: &Value) -> bool {
    let owned_by_job = view::list(pod, "/metadata/ownerReferences")
        .iter()
        .any(|owner| owner.get("kind").and_then(Value::as_str) == Some("Job"));
    owned_by_job
        || matches!(
            view::text(pod, "/spec/restartPolicy"),
            Some("Never" | "OnFailure")
        )
}

/// The form that the namespace and the overrides allow, and what to tell the user about it.
pub(super) fn form(level: Level, native: bool, overrides: &Overrides) -> (Form, Vec<String>) {
    let source = overrides.get(Key::Source);
    let mut notes = Vec::new();
    let allowed = level == Level::Privileged;
    if !allowed && source != Some("inet_diag") {
        notes.push(format!(
            "namespace enforces Pod Security {}: the form without capabilities (inet_diag) is used",
            level.name()
        ));
    }
    (
        Form {
            ebpf: allowed && source != Some("inet_diag"),
            native,
        },
        notes,
    )
}

// === impl NotOptedIn ===

impl fmt::Display for NotOptedIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PodDisabled => "the pod is annotated flowcar.io/inject=disabled, which always wins",
            Self::NothingSaid => "nobody asked: annotate the workload or label the namespace flowcar.io/inject=enabled",
            Self::NamespaceDisabled => "the namespace's label flowcar.io/inject is not `enabled`, and the pod says nothing",
        })
    }
}

// === impl Skip ===

impl Skip {
    /// A word for metrics, Events and the status annotation, of a small fixed set.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnknownValue { .. } => "unknown_value",
            Self::Malformed { .. } => "malformed",
            Self::ExcludedNamespace { .. } => "excluded_namespace",
            Self::MirrorPod => "mirror_pod",
            Self::HostNetwork => "host_network",
            Self::Windows => "windows",
            Self::UserNamespace => "user_namespace",
            Self::Sandboxed { .. } => "sandboxed",
            Self::NameTaken { .. } => "name_taken",
            Self::WouldNeverEnd => "would_never_end",
        }
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownValue { value } => {
                let meant = Annotation::of(Key::Inject)
                    .kind
                    .nearest(value)
                    .unwrap_or("enabled");
                write!(
                    f,
                    "{INJECT}={} is unknown; did you mean {meant:?}?",
                    clip(&format!("{value:?}"), 24)
                )
            }
            Self::Malformed { field } => write!(f, "the pod's {field} has the wrong type"),
            Self::ExcludedNamespace { namespace } => {
                write!(f, "namespace {} is never injected", clip(namespace, 63))
            }
            Self::MirrorPod => f.write_str(
                "the kubelet never reads a mirror pod; add flowcar to the static pod's file",
            ),
            Self::HostNetwork => f.write_str(
                "the pod is on the host's network; flowcar.io/host-network=force overrules",
            ),
            Self::Windows => f.write_str("flowcar runs on Linux, and the pod is for Windows"),
            Self::UserNamespace => {
                f.write_str("hostUsers: false rules eBPF out; set flowcar.io/source=inet_diag")
            }
            Self::Sandboxed { class } => {
                write!(
                    f,
                    "runtime class {} has its own kernel, out of flowcar's reach",
                    clip(class, 40)
                )
            }
            Self::NameTaken { what, name } => write!(
                f,
                "the pod has a {what} named {name} that flowcar did not add"
            ),
            Self::WouldNeverEnd => f.write_str(
                "without native sidecars (Kubernetes 1.29) the pod would never complete",
            ),
        }
    }
}

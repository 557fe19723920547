//! Whether a pod is injected, and in which form.

use std::{borrow::Cow, fmt};

use serde_json::{Map, Value};

use super::{
    CONTAINER, Context, Form, Owner, Skip, Status, edit,
    fit::limit_floor,
    placement,
    preset::{self, Held},
    view, volumes,
};
use crate::{
    annotations::{INJECT, Key, Overrides, is_secure},
    budget::{Budgets, amounts},
    config::{Level, Settings},
    quantity::readable,
};

/// Why a pod is not opted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(strum::EnumIter))]
pub enum NotOptedIn {
    /// The pod is `disabled`.
    PodDisabled,
    /// Neither the pod nor its namespace has the opt-in.
    NotRequested,
    /// The pod has no opt-in and its namespace has another value than `enabled`.
    NamespaceDisabled,
}

/// A pod that claims to have the sidecar.
pub(super) struct PresetIn<'a> {
    pub(super) pod: &'a Value,
    pub(super) status: &'a Status,
    pub(super) workload: Option<&'a Owner>,
    pub(super) settings: &'a Settings,
}

/// Whether the pod is opted in. An invalid value counts as opted in, so that it is reported.
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
            None => Err(NotOptedIn::NotRequested),
        },
    }
}

/// That the opt-in was written as a label where only an annotation counts, if what the label asks for is not what becomes of the
/// pod: `opted_in`. `on` is what has these labels and annotations, as `a pod`.
pub(crate) fn label_without_effect(metadata: &Value, on: &str, opted_in: bool) -> Option<String> {
    let label = view::map(metadata, "/labels").get(INJECT)?;
    let is_annotated = view::map(metadata, "/annotations").contains_key(INJECT);
    let is_meant = (label != "disabled") != opted_in && !is_annotated;
    is_meant.then(|| {
        format!("the label {INJECT} is for namespaces: on {on}, write it as an annotation")
    })
}

/// The first reason to skip a pod that opted in.
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
        .or_else(|| unsuitable(pod, context, settings, overrides))
        .or_else(|| reserved_mount(pod))
        .or_else(|| name_taken(pod))
        .or_else(|| annotations_full(pod))
        .or_else(|| pod_budget(pod))
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
        wrong.then_some(Skip::Malformed {
            field: pointer,
            is_absent: false,
        })
    };
    if pod.get("spec").is_none_or(Value::is_null) {
        return Some(Skip::Malformed {
            field: "/spec",
            is_absent: true,
        });
    }
    absent_or("/spec", Value::is_object)
        .or_else(|| absent_or("/metadata", Value::is_object))
        .or_else(|| absent_or("/metadata/annotations", Value::is_object))
        .or_else(|| absent_or("/spec/containers", Value::is_array))
        .or_else(|| absent_or("/spec/initContainers", Value::is_array))
        .or_else(|| absent_or("/spec/volumes", Value::is_array))
}

fn excluded(context: &Context, settings: &Settings) -> Option<Skip> {
    let namespace = &context.namespace;
    if settings.excludes(namespace, &context.own_namespace) {
        let namespace = namespace.clone();
        return Some(Skip::ExcludedNamespace { namespace });
    }
    let is_left_out = settings.leaves_out(&context.namespace_labels);
    is_left_out.then(|| Skip::NamespaceLeftOut {
        namespace: namespace.clone(),
    })
}

fn unsuitable(
    pod: &Value,
    context: &Context,
    settings: &Settings,
    overrides: &Overrides,
) -> Option<Skip> {
    let flag = |pointer| pod.pointer(pointer).and_then(Value::as_bool);
    if view::annotations(pod).contains_key("kubernetes.io/config.mirror") {
        return Some(Skip::MirrorPod);
    }
    if placement::is_windows(pod) {
        return Some(Skip::Windows);
    }
    if let Some(node) = placement::virtual_node(pod) {
        return Some(Skip::VirtualNode {
            what: node.what,
            is_certain: node.is_certain,
        });
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
    // Where Pod Security allows only the form without capabilities, a user namespace makes no difference.
    let wants_ebpf = context.level(settings) == Level::Privileged
        && overrides.get(Key::Source) != Some("inet_diag");
    (flag("/spec/hostUsers") == Some(false) && wants_ebpf).then_some(Skip::UserNamespace)
}

fn annotations_full(pod: &Value) -> Option<Skip> {
    let bytes = edit::annotations_size(view::annotations(pod));
    (bytes > edit::ANNOTATIONS_MOST).then_some(Skip::AnnotationsFull { bytes })
}

fn pod_budget(pod: &Value) -> Option<Skip> {
    let limits = amounts(pod.pointer("/spec/resources/limits")?);
    ["cpu", "memory"].into_iter().find_map(|resource| {
        let (limit, needed) = (*limits.get(resource)?, limit_floor(resource));
        (limit < needed).then(|| Skip::PodBudget {
            resource,
            limit: readable(resource, limit),
            needed: readable(resource, needed),
        })
    })
}

fn name_taken(pod: &Value) -> Option<Skip> {
    let volume = volumes::VOLUMES
        .into_iter()
        .find(|name| volumes::has_volume(pod, name));
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

fn reserved_mount(pod: &Value) -> Option<Skip> {
    let (container, volume) = volumes::mounted_elsewhere(pod)?;
    Some(Skip::ReservedMount { container, volume })
}

/// The pod brings a container and a status of flowcar's, and flowcar would not have written them into this pod: the
/// container differs, the reason of `skip` ruled it out, or the operator's limits rule out what an earlier configuration allowed.
pub(super) fn preset(
    sidecar: &PresetIn<'_>,
    skip: Option<&Skip>,
    budgets: &Budgets,
) -> Option<Skip> {
    let PresetIn {
        pod,
        status,
        workload,
        settings,
    } = sidecar;
    let difference = |held| preset::difference(pod, status, *workload, settings, held);
    let forged = ruled_out(status, skip).map(Cow::Borrowed);
    if let Some(field) = forged.or_else(|| difference(Held::ToCommonRules)) {
        let is_earlier = false;
        return Some(Skip::Preset { field, is_earlier });
    }
    let are_out_of_bounds = || !preset::are_resources(pod, settings, budgets);
    let field =
        difference(Held::ToLimits).or_else(|| are_out_of_bounds().then_some("resources".into()))?;
    let is_current = matches!(status, Status::Injected { config, .. } if *config == settings.hash);
    Some(Skip::Preset {
        field,
        is_earlier: !is_current,
    })
}

/// The field of the pod for which flowcar would not have added its container.
fn ruled_out(status: &Status, skip: Option<&Skip>) -> Option<&'static str> {
    let is_ebpf = matches!(status, Status::Injected { form, .. } if form == "ebpf");
    match skip? {
        Skip::HostNetwork => Some("hostNetwork"),
        Skip::UserNamespace if is_ebpf => Some("hostUsers"),
        Skip::Sandboxed { .. } => Some("runtimeClassName"),
        _ => None,
    }
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

/// The form that the namespace and the overrides allow, and the warnings about it.
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

/// Warnings about overrides that have no effect in this form.
pub(super) fn ineffective(overrides: &Overrides, form: Form) -> Vec<String> {
    let given = |key| overrides.get(key).is_some();
    let mut notes = Vec::new();
    if form.ebpf && (given(Key::RunAsUser) || given(Key::RunAsGroup)) {
        let note =
            "flowcar.io/run-as-user and -group: ignored, eBPF needs root with two capabilities";
        notes.push(note.to_owned());
    }
    if given(Key::CaSecret) && given(Key::CaConfigMap) {
        notes.push(
            "flowcar.io/ca-configmap: ignored, flowcar.io/ca-secret goes before it".to_owned(),
        );
    }
    notes
}

/// Headers are credentials, mostly.
pub(super) fn exposed(overrides: &Overrides) -> Option<String> {
    overrides.get(Key::HeadersSecret)?;
    let endpoint = overrides.get(Key::Endpoint).unwrap_or("http://localhost");
    if is_secure(endpoint) {
        return None;
    }
    Some(match is_local(endpoint) {
        true => "the headers go to whatever listens on localhost in the pod: use https:// or unix://",
        false => "the headers go unencrypted to another host: use https:// or unix://",
    }
    .to_owned())
}

fn is_local(endpoint: &str) -> bool {
    let host = url::Url::parse(endpoint).ok().and_then(|url| {
        let host = url.host()?.to_owned();
        Some(match host {
            url::Host::Domain(name) => name == "localhost" || name.ends_with(".localhost"),
            url::Host::Ipv4(address) => address.is_loopback(),
            url::Host::Ipv6(address) => address.is_loopback(),
        })
    });
    host == Some(true)
}

// === impl NotOptedIn ===

impl fmt::Display for NotOptedIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PodDisabled => "the pod is annotated flowcar.io/inject=disabled, which always wins",
            Self::NotRequested => "nobody asked: annotate the workload or label the namespace flowcar.io/inject=enabled",
            Self::NamespaceDisabled => "the namespace's label flowcar.io/inject is not `enabled`, and the pod has no opt-in",
        })
    }
}

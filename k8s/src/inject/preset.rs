//! Whether a container that a pod brings along is the one that flowcar adds.
//!
//! The author of a pod can write a container of that name and a status that claims it. Such a pod counts as injected only
//! if flowcar would write the same program, rights and identity. What the operator's configuration decides is compared
//! with the one in force. Containers of a file that `kubectl flowcar inject` made, of an older configuration and behind
//! other webhooks fit.

use serde_json::{Value, json};

use super::environment::IDENTITY;
use super::volumes::{self, HOST_CGROUP};
use super::{CONTAINER, Status, view};
use crate::annotations::{Annotation, Key, TABLE};
use crate::config::{Settings, is_cgroup_path};

/// Fields of a container that flowcar never sets, and by which another program could run in it or its settings change.
const NEVER_SET: [&str; 5] = ["args", "envFrom", "lifecycle", "volumeDevices", "tty"];

/// The first field of the pod's own container that is not as flowcar writes it.
pub(super) fn difference(
    pod: &Value,
    status: &Status,
    settings: &Settings,
) -> Option<&'static str> {
    let Status::Injected { form, config, .. } = status else {
        return Some("status");
    };
    let find = |list: &'static str| -> Option<&Value> {
        let mut all = view::list(pod, list).iter();
        all.find(|container| view::is_named(container, CONTAINER))
    };
    let container = match (find("/spec/initContainers"), find("/spec/containers")) {
        // An init container that completes follows nothing.
        (Some(init), _) if view::text(init, "/restartPolicy") != Some("Always") => {
            return Some("restartPolicy");
        }
        (Some(init), _) => init,
        (None, Some(regular)) => regular,
        (None, None) => return Some("container"),
    };
    let ebpf = form == "ebpf";
    let is_current = *config == settings.hash;
    NEVER_SET
        .into_iter()
        .find(|field| container.get(field).is_some_and(|value| !is_nothing(value)))
        .or_else(|| (!is_image(container, is_current, settings)).then_some("image"))
        .or_else(|| (!is_command(container, settings)).then_some("command"))
        .or_else(|| (!are_probes(container)).then_some("probes"))
        .or_else(|| (!is_security(container, ebpf)).then_some("securityContext"))
        .or_else(|| (!is_environment(container, ebpf, settings)).then_some("env"))
        .or_else(|| (is_current && !is_left_to_it(pod, container, settings)).then_some("env"))
        .or_else(|| (!are_mounts(container, ebpf)).then_some("volumeMounts"))
        .or_else(|| (!are_volumes(pod, ebpf, is_current, settings)).then_some("volumes"))
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// The configuration's own image; of an earlier configuration, any version of it.
fn is_image(container: &Value, is_current: bool, settings: &Settings) -> bool {
    if settings.config.allow_image_and_command {
        return true;
    }
    let image = view::text(container, "/image").unwrap_or_default();
    let own = settings.defaults.get(Key::Image);
    let own = own.unwrap_or(&settings.config.image);
    let mirrors = &settings.config.image_mirrors;
    image == own
        || (!is_current && repository(image) == repository(own))
        || mirrors.iter().any(|mirror| mirror == repository(image))
}

/// The reference without tag and digest.
fn repository(image: &str) -> &str {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    let path = name.rfind('/').map_or(0, |at| at + 1);
    match name[path..].find(':') {
        Some(colon) => &name[..path + colon],
        None => name,
    }
}

fn is_command(container: &Value, settings: &Settings) -> bool {
    let is_chosen =
        settings.config.allow_image_and_command || settings.defaults.get(Key::Command).is_some();
    is_chosen || container.get("command") == Some(&json!(["flowcar", "export"]))
}

/// A probe is a command in the container, with its rights.
fn are_probes(container: &Value) -> bool {
    ["startupProbe", "livenessProbe", "readinessProbe"]
        .into_iter()
        .filter_map(|probe| container.get(probe))
        .all(|probe| {
            let command = view::list(probe, "/exec/command");
            command.len() == 3 && command[0] == "flowcar" && command[1] == "probe"
        })
}

fn is_security(container: &Value, ebpf: bool) -> bool {
    let context = &container["securityContext"];
    let added = view::list(context, "/capabilities/add");
    let expected: &[&str] = if ebpf { &["BPF", "NET_ADMIN"] } else { &[] };
    let user = view::number(context, "/runAsUser");
    added.iter().eq(expected)
        && context["capabilities"]["drop"] == json!(["ALL"])
        && context["privileged"] == json!(false)
        && context["allowPrivilegeEscalation"] == json!(false)
        && context["readOnlyRootFilesystem"] == json!(true)
        && context["runAsNonRoot"] == json!(!ebpf)
        && (!ebpf || user == Some(0))
        && (ebpf || user != Some(0))
        && context["seccompProfile"]["type"] == "RuntimeDefault"
        && view::text(context, "/procMount").is_none_or(|mount| mount == "Default")
}

/// Of two entries of one name the last holds, so there may be one only.
fn is_environment(container: &Value, ebpf: bool, settings: &Settings) -> bool {
    let env = view::list(container, "/env");
    let find = |name: &str| env.iter().find(|entry| view::is_named(entry, name));
    let is_single = |entry: &Value| {
        let name = view::text(entry, "/name").unwrap_or_default();
        let is_ours = name.starts_with("FLOWCAR_") || name.starts_with("OTEL_");
        let same = env.iter().filter(|other| view::is_named(other, name));
        !is_ours || same.count() == 1
    };
    let is_field = |(name, path): (&str, &str)| {
        find(name).is_some_and(|entry| {
            entry.get("value").is_none()
                && view::text(entry, "/valueFrom/fieldRef/fieldPath") == Some(path)
        })
    };
    let text = |name: &str| find(name).and_then(|entry| view::text(entry, "/value"));
    // The content of another source is unknown.
    let has_nothing_else = find("OTEL_RESOURCE_ATTRIBUTES").is_none_or(|entry| {
        view::text(entry, "/value").is_some_and(|text| settings.are_own_identity(text))
    });
    env.iter().all(is_single)
        && IDENTITY.into_iter().all(is_field)
        && (!ebpf || text("FLOWCAR_HOST_CGROUP") == Some(HOST_CGROUP))
        && (ebpf || text("FLOWCAR_SOURCE") == Some("inet_diag"))
        && has_nothing_else
}

/// A container that comes along is bound by the limits of annotations. One of an earlier configuration, which had other
/// limits, is not held to these.
fn is_left_to_it(pod: &Value, container: &Value, settings: &Settings) -> bool {
    let env = view::list(container, "/env");
    let find = |name: &str| env.iter().find(|entry| view::is_named(entry, name));
    let are_allowed = TABLE.iter().all(|row| {
        let Some(entry) = row.env.and_then(find) else {
            return true;
        };
        // The kubelet's own escape.
        let text = view::text(entry, "/value").map(|text| text.replace("$$", "$"));
        let text = text.map(|text| match row.key {
            Key::Endpoint => volumes::named_endpoint(pod, container, &text),
            _ => text,
        });
        text.is_some_and(|text| is_decided_elsewhere(row) || settings.allows(row, &text))
    });
    let row = Annotation::of(Key::HeadersSecret);
    let is_secret_allowed = find("OTEL_EXPORTER_OTLP_HEADERS").is_none_or(|entry| {
        let part = |field: &str| view::text(entry, &format!("/valueFrom/secretKeyRef/{field}"));
        let named = part("name").zip(part("key"));
        named.is_some_and(|(name, key)| {
            let is_own = settings.defaults.get(row.key) == Some(name);
            is_own || settings.allows(row, &format!("{name}/{key}"))
        })
    });
    are_allowed && is_secret_allowed
}

/// The source follows from the form, the service's name from the workload, and attributes are checked one by one.
fn is_decided_elsewhere(row: &Annotation) -> bool {
    matches!(
        row.key,
        Key::Source | Key::ServiceName | Key::ResourceAttributes
    )
}

fn are_mounts(container: &Value, ebpf: bool) -> bool {
    let mounts = view::list(container, "/volumeMounts");
    let fits = |mount: &Value| {
        let name = view::text(mount, "/name").unwrap_or_default();
        let path = view::text(mount, "/mountPath").unwrap_or_default();
        match (volumes::mount_path(name), volumes::owner_of(path)) {
            // Nothing else where flowcar's own things are.
            (None, taken) => taken.is_none(),
            (Some(wanted), _) => {
                let taken = volumes::owner_of(path);
                let is_placed = wanted.map_or(taken.is_none(), |wanted| wanted == path);
                let is_whole = ["subPath", "subPathExpr", "mountPropagation"]
                    .iter()
                    .all(|field| {
                        view::text(mount, &format!("/{field}"))
                            .is_none_or(|value| value.is_empty() || value == "None")
                    });
                // The checkpoints of an earlier version, which had a volume of their own.
                let is_read_only = mount["readOnly"] == json!(true) || name == volumes::STATE;
                is_placed && is_whole && is_read_only
            }
        }
    };
    let has = |name| mounts.iter().any(|mount| view::is_named(mount, name));
    mounts.iter().all(fits) && has(volumes::NO_TOKEN) && has(volumes::CGROUP) == ebpf
}

fn are_volumes(pod: &Value, ebpf: bool, is_current: bool, settings: &Settings) -> bool {
    let find = |name: &str| {
        let mut all = view::list(pod, "/spec/volumes").iter();
        all.find(|volume| view::is_named(volume, name))
    };
    let cgroup = find(volumes::CGROUP);
    let cgroup = cgroup.and_then(|volume| view::text(volume, "/hostPath/path"));
    let token = find(volumes::NO_TOKEN);
    // An emptyDir in an earlier version.
    let has = |volume: &Value, source: &str| volume.get(source).is_some();
    let is_token =
        token.is_some_and(|volume| has(volume, "downwardAPI") || has(volume, "emptyDir"));
    let is_cgroup = match cgroup {
        Some(path) if is_current => path == settings.config.host_cgroup_path,
        Some(path) => is_cgroup_path(path),
        None => false,
    };
    is_token && is_cgroup == ebpf && cgroup.is_some() == ebpf
}

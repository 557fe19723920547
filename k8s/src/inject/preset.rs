//! Whether a container that a pod brings along is the one that flowcar adds.
//!
//! The author of a pod can write a container of that name and a status that claims it. Such a pod counts as injected only
//! if flowcar would write the same program, rights, settings and identity: the fields, variables and mounts that flowcar
//! writes are listed, and others do not fit. What the operator's configuration decides is compared with the one in force.
//! Containers of a file that `kubectl flowcar inject` made, of an older configuration and behind other webhooks fit: those
//! add variables that flowcar does not read, and mounts where it has nothing.

mod environment;
mod mounts;

use std::borrow::Cow;

use serde_json::{Value, json};

use super::{CONTAINER, Owner, Status, environment as written, resources, view};
use crate::annotations::{Key, parse_command};
use crate::budget::{Budgets, is_best_effort};
use crate::config::Settings;

/// What flowcar sets in its container, and what the API server adds. Any other field differs, and is named.
const FIELDS: [&str; 15] = [
    "name",
    "image",
    "imagePullPolicy",
    "command",
    "env",
    "resources",
    "resizePolicy",
    "securityContext",
    "volumeMounts",
    "startupProbe",
    "livenessProbe",
    "readinessProbe",
    "terminationMessagePolicy",
    "terminationMessagePath",
    "restartPolicy",
];

/// The same of its `securityContext`.
const SECURITY_FIELDS: [&str; 11] = [
    "runAsUser",
    "runAsGroup",
    "runAsNonRoot",
    "privileged",
    "allowPrivilegeEscalation",
    "readOnlyRootFilesystem",
    "capabilities",
    "seccompProfile",
    "procMount",
    // Checked by `is_confined`.
    "appArmorProfile",
    "seLinuxOptions",
];

/// The file for the termination message, at Kubernetes' own path. A file elsewhere would hide what is there.
const TERMINATION_MESSAGE: &str = "/dev/termination-log";

/// What a container of a pod is compared with.
#[derive(Clone, Copy)]
struct Preset<'a> {
    pod: &'a Value,
    container: &'a Value,
    /// The form with eBPF.
    ebpf: bool,
    /// By its status, it is of the configuration in force.
    is_current: bool,
    /// The workload, where the caller knows it.
    workload: Option<&'a Owner>,
    settings: &'a Settings,
}

/// The first field of the pod's own container that is not as flowcar writes it.
pub(super) fn difference(
    pod: &Value,
    status: &Status,
    workload: Option<&Owner>,
    settings: &Settings,
) -> Option<Cow<'static, str>> {
    let Status::Injected { form, config, .. } = status else {
        return Some("status".into());
    };
    let find = |list: &'static str| -> Option<&Value> {
        let mut all = view::list(pod, list).iter();
        all.find(|container| view::is_named(container, CONTAINER))
    };
    let container = match (find("/spec/initContainers"), find("/spec/containers")) {
        // An init container that completes follows nothing.
        (Some(init), _) if view::text(init, "/restartPolicy") != Some("Always") => {
            return Some("restartPolicy".into());
        }
        (Some(init), _) => init,
        (None, Some(regular)) => regular,
        (None, None) => return Some("container".into()),
    };
    let preset = Preset {
        pod,
        container,
        ebpf: form == "ebpf",
        is_current: *config == settings.hash,
        workload,
        settings,
    };
    preset.difference()
}

/// Whether the container asks for no more than an annotation may, or than the namespace's budgets give it. A container of an earlier
/// configuration is held to this, too: memory and processors are the node's.
pub(super) fn are_resources(pod: &Value, settings: &Settings, budgets: &Budgets) -> bool {
    let mut containers = view::all_containers(pod);
    let Some(container) = containers.find(|container| view::is_named(container, CONTAINER)) else {
        return true;
    };
    let is_guaranteed = resources::is_guaranteed(pod);
    resources::KEYS.into_iter().all(|(list, name, key)| {
        // In a Guaranteed pod the request is the limit, which is compared as such.
        if list == "requests" && is_guaranteed {
            return true;
        }
        let Some(most) = settings.limits.most(key) else {
            return true;
        };
        let bounds = budgets.bounds(name);
        let given = [bounds.min, bounds.default].into_iter().flatten().max();
        let own = resources::own_most(name, settings);
        let most = most.max(own).max(given.unwrap_or_default());
        match resources::amount(container, list, name) {
            Some(amount) => amount <= most,
            // flowcar leaves out a limit on CPU, and all where the pod asks for nothing.
            None => (list, name) != ("limits", "memory") || is_best_effort(pod),
        }
    })
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
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

/// Whether the node's own rules for containers still hold: another webhook may name a profile, not take it away.
fn is_confined(context: &Value) -> bool {
    let profile = view::text(context, "/appArmorProfile/type");
    let labels = view::map(context, "/seLinuxOptions");
    profile.is_none_or(|profile| profile != "Unconfined")
        && labels.keys().all(|label| label == "level")
}

// === impl Preset ===

impl Preset<'_> {
    fn difference(&self) -> Option<Cow<'static, str>> {
        let fields = [
            ("image", self.is_image()),
            ("command", self.is_command()),
            ("probes", self.are_probes()),
            ("securityContext", self.is_security()),
            ("terminationMessagePath", self.is_termination_message()),
            ("env", self.is_environment()),
            ("volumeMounts", self.are_mounts()),
            ("volumes", self.are_volumes()),
        ];
        let mut wrong = fields.into_iter().filter(|(_, fits)| !fits);
        self.other_field()
            .or_else(|| wrong.next().map(|(field, _)| field.into()))
    }

    /// A field that flowcar never sets, by which another program could run in the container or its settings change.
    fn other_field(&self) -> Option<Cow<'static, str>> {
        let fields = self.container.as_object()?;
        let mut others = fields
            .iter()
            .filter(|(name, value)| !FIELDS.contains(&name.as_str()) && !is_nothing(value));
        let (other, _) = others.next()?;
        Some(other.clone().into())
    }

    /// The configuration's own image; of an earlier configuration, any version of it.
    fn is_image(&self) -> bool {
        let config = &self.settings.config;
        if config.allow_image_and_command {
            return true;
        }
        let image = view::text(self.container, "/image").unwrap_or_default();
        let own = self.settings.defaults.get(Key::Image);
        let own = own.unwrap_or(&config.image);
        let mut mirrors = config.image_mirrors.iter();
        image == own
            || (!self.is_current && repository(image) == repository(own))
            || mirrors.any(|mirror| mirror == repository(image))
    }

    /// The image's own command or the operator's.
    fn is_command(&self) -> bool {
        let command = view::list(self.container, "/command");
        let operators = self.settings.defaults.get(Key::Command);
        let operators = operators.and_then(parse_command).map(|words| {
            let words = words.iter().map(|word| json!(written::literal(word)));
            words.collect::<Vec<_>>()
        });
        let is_own = command == [json!("flowcar"), json!("export")];
        self.settings.config.allow_image_and_command
            || match operators {
                Some(operators) => command == operators || (is_own && !self.is_current),
                None => is_own,
            }
    }

    /// A probe is a command in the container, with its rights.
    fn are_probes(&self) -> bool {
        ["startupProbe", "livenessProbe", "readinessProbe"]
            .into_iter()
            .filter_map(|probe| self.container.get(probe))
            .all(|probe| {
                let command = view::list(probe, "/exec/command");
                command.len() == 3 && command[0] == "flowcar" && command[1] == "probe"
            })
    }

    fn is_security(&self) -> bool {
        let ebpf = self.ebpf;
        let context = &self.container["securityContext"];
        let added = view::list(context, "/capabilities/add");
        let expected: &[&str] = if ebpf { &["BPF", "NET_ADMIN"] } else { &[] };
        let user = view::number(context, "/runAsUser");
        let is_known = |(name, value): (&String, &Value)| {
            SECURITY_FIELDS.contains(&name.as_str()) || is_nothing(value)
        };
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
            && is_confined(context)
            && view::map(self.container, "/securityContext")
                .iter()
                .all(is_known)
    }

    fn is_termination_message(&self) -> bool {
        let path = view::text(self.container, "/terminationMessagePath");
        path.is_none_or(|path| path == TERMINATION_MESSAGE)
    }
}

//! Whether a container that a pod brings along is the one that flowcar adds.
//!
//! The author of a pod can write a container of that name and a status that claims it. Such a pod counts as injected only
//! if flowcar would write the same program, rights, settings and identity: the fields, variables and mounts that flowcar
//! writes are listed, and others do not fit. What the operator's configuration decides is compared with the one in force.
//! Containers of a file that `kubectl flowcar inject` made, of an older configuration and behind other webhooks fit: those
//! add variables that flowcar does not read, and mounts where it has nothing. What an older configuration decided fits where
//! an annotation may ask for it today.

mod environment;
mod mounts;
mod socket;

use std::borrow::Cow;

use serde_json::{Value, json};

use super::{CONTAINER, Owner, Status, environment as written, resources, view};
use crate::{
    annotations::{Annotation, Key, parse_command},
    budget::{Budgets, is_best_effort},
    config::Settings,
};

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

/// What the container of an earlier configuration is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// What all configurations have in common: the pod runs, and was admitted when others were in force.
    ToCommonRules,
    /// The operator's limits of today, too.
    ToLimits,
}

/// What a container of a pod is compared with.
#[derive(Clone, Copy)]
struct Preset<'a> {
    pod: &'a Value,
    container: &'a Value,
    /// The form with eBPF.
    ebpf: bool,
    /// By its status, it is of the configuration in force.
    is_current: bool,
    /// The operator's limits hold for it.
    is_held: bool,
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
    held: Held,
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
    let is_current = *config == settings.hash;
    let preset = Preset {
        pod,
        container,
        ebpf: form == "ebpf",
        is_current,
        is_held: is_current || held == Held::ToLimits,
        workload,
        settings,
    };
    preset.difference()
}

/// Whether the container asks for no more than an annotation may, or than the namespace's budgets give it, and for no less than an
/// annotation may, or than a budget leaves it. A container of an earlier configuration is held to this, too: memory and processors are
/// the node's.
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
        let bounds = budgets.bounds(name);
        let given = [bounds.min, bounds.default].into_iter().flatten().max();
        let own = resources::own_range(name, settings);
        let most = settings.limits.most(key);
        let most = most.map(|most| most.max(*own.end()).max(given.unwrap_or_default()));
        let is_lowered = !budgets.is_empty() || resources::has_pod_resources(pod);
        let least = settings.limits.least(key).filter(|_| !is_lowered);
        let least = least.map(|least| least.min(*own.start()));
        match resources::amount(container, list, name) {
            Some(amount) => {
                most.is_none_or(|most| amount <= most) && least.is_none_or(|least| amount >= least)
            }
            // flowcar leaves out a limit on CPU, and all where the pod asks for nothing.
            None => most.is_none() || (list, name) != ("limits", "memory") || is_best_effort(pod),
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

/// The command that an annotation or a default of this text makes.
fn written_command(text: &str) -> Option<Vec<Value>> {
    let words = parse_command(text)?;
    let words = words.iter().map(|word| json!(written::literal(word)));
    Some(words.collect())
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
        let image = view::text(self.container, "/image").unwrap_or_default();
        if self.may_choose(Annotation::of(Key::Image), image) {
            return true;
        }
        let own = self.settings.defaults.get(Key::Image);
        let own = own.unwrap_or(&config.image);
        let mut mirrors = config.image_mirrors.iter();
        image == own
            || (!self.is_current && repository(image) == repository(own))
            || mirrors.any(|mirror| mirror == repository(image))
    }

    /// The image's own command, the operator's, or one that an annotation may name.
    fn is_command(&self) -> bool {
        let command = view::list(self.container, "/command");
        let operators = self.settings.defaults.get(Key::Command);
        let operators = operators.and_then(written_command);
        let is_own = command == [json!("flowcar"), json!("export")];
        let is_given = match operators {
            Some(operators) => command == operators || (is_own && !self.is_current),
            None => is_own,
        };
        is_given || self.is_chosen_command(command)
    }

    /// As the pod's annotation has it, or without spaces.
    fn is_chosen_command(&self, command: &[Value]) -> bool {
        let row = Annotation::of(Key::Command);
        let words = command.iter().map(Value::as_str);
        let words: Option<Vec<_>> = words.map(|word| Some(word?.replace("$$", "$"))).collect();
        let short = words.map(|words| json!(words).to_string());
        let annotation = view::annotations(self.pod).get(row.name);
        let annotation = annotation.and_then(Value::as_str);
        let mut texts = [annotation, short.as_deref()].into_iter().flatten();
        texts.any(|text| {
            written_command(text).is_some_and(|written| written == command)
                && self.may_choose(row, text)
        })
    }

    /// Whether the pod may choose this value of an annotation that the operator has to permit.
    fn may_choose(&self, row: &'static Annotation, value: &str) -> bool {
        self.settings.config.allow_image_and_command
            && (!self.is_held || self.settings.allows(row, value))
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

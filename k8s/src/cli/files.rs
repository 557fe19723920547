//! `inject` and `uninject` over the text of files.

use std::{borrow::Cow, collections::BTreeMap};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Namespace;
use serde_json::{Map, Value, json};

use super::yaml::{Document, Stream};
use crate::{
    budget::Budgets,
    config::{Level, NAMESPACE_NAME, Settings},
    inject::{
        Context, Decision, Outcome, Owner, inject_within, label_without_effect, take_back_copies,
        uninject,
    },
    opted::{Later, opted_in_later, written_at},
    workload::{around, is_known, pod_annotations, templates, without_effect},
};

/// Before the line of a file that cannot be read.
const REFUSED: &str = "this is nothing that kubectl would take";

/// What the objects of a file are judged by.
#[derive(Clone, Debug)]
pub struct Files {
    /// The operator's configuration.
    pub settings: Settings,
    /// flowcar's own namespace.
    pub own_namespace: String,
    /// Whether the cluster runs native sidecars.
    pub native_sidecar: bool,
    /// The namespace of objects that name none.
    pub namespace: String,
    /// Labels of namespaces; those in the file itself are added.
    pub namespaces: BTreeMap<String, Map<String, Value>>,
    /// When the namespaces' opt-in was last written, in RFC 3339.
    pub(super) opted_in_at: BTreeMap<String, String>,
    /// What namespaces let their pods ask for.
    pub budgets: BTreeMap<String, Budgets>,
    /// What is enforced in unknown namespaces.
    pub pod_security: Option<Level>,
}

// === impl Files ===

impl Files {
    /// For a cluster with native sidecars of which no namespace is known.
    #[must_use]
    pub fn new(settings: Settings, own_namespace: String) -> Self {
        let (namespace, namespaces) = ("default".to_owned(), BTreeMap::new());
        Self {
            settings,
            own_namespace,
            native_sidecar: true,
            namespace,
            namespaces,
            opted_in_at: BTreeMap::new(),
            budgets: BTreeMap::new(),
            pod_security: None,
        }
    }

    /// Takes what is known of a namespace of the cluster.
    pub(super) fn learn_namespace(&mut self, name: &str, namespace: &Namespace) {
        let expected = crate::cluster::opt_in_of(&namespace.metadata);
        self.namespaces.insert(name.to_owned(), expected);
        let metadata = serde_json::to_value(&namespace.metadata).unwrap_or_default();
        if let Some(at) = written_at(&metadata, "labels") {
            self.opted_in_at.insert(name.to_owned(), at.to_owned());
        }
    }

    /// Whether a pod of the cluster is older than its opt-in.
    pub(super) fn opted_in_later(&self, pod: &Value) -> Option<Later> {
        let namespace = self.context(pod, false).namespace;
        let by_namespace = self.opted_in_at.get(&namespace);
        opted_in_later(&pod["metadata"], by_namespace.map(String::as_str))
    }

    /// Takes a LimitRange or a ResourceQuota of a namespace into account.
    pub fn add_budget(&mut self, namespace: &str, object: &Value) {
        let budgets = self.budgets.entry(namespace.to_owned());
        budgets.or_default().add(object);
    }

    /// What a namespace lets its pods ask for, without what this one of them takes already.
    fn budgets_for(&self, pod: &Value, namespace: &str) -> Cow<'_, Budgets> {
        match self.budgets.get(namespace) {
            Some(budgets) if is_counted(pod) => Cow::Owned(budgets.without(pod)),
            Some(budgets) => Cow::Borrowed(budgets),
            None => Cow::Owned(Budgets::default()),
        }
    }

    /// Why the pod that is there in an object is refused now, with the sidecar or without.
    pub(super) fn refusal(&self, object: &Value, pointer: &str) -> Option<String> {
        let pod = object.pointer(pointer)?;
        let namespace = self.context_at(object, pointer, false).namespace;
        let budgets = self.budgets_for(pod, &namespace);
        budgets.refusal(&budgets.filled_in(pod))
    }

    /// Takes what some objects say of their namespaces: labels and annotations, LimitRanges and ResourceQuotas.
    pub(super) fn learn_namespaces(&mut self, objects: &[Value]) {
        for object in objects {
            if matches!(
                object["kind"].as_str(),
                Some("LimitRange" | "ResourceQuota")
            ) {
                let namespace = self.context(object, false).namespace;
                self.add_budget(&namespace, object);
            }
        }
        let is_namespace = |object: &&Value| object["kind"] == "Namespace";
        for object in objects.iter().filter(is_namespace) {
            let name = object.pointer("/metadata/name").and_then(Value::as_str);
            // A malformed manifest is ignored.
            let metadata = serde_json::from_value(object["metadata"].clone());
            let mut expected = crate::cluster::opt_in_of(&metadata.unwrap_or_default());
            let name = name.unwrap_or_default().to_owned();
            expected.insert(NAMESPACE_NAME.to_owned(), json!(name));
            self.namespaces.insert(name, expected);
        }
    }

    /// The context of the pod, or of the template, that is there in an object.
    fn context_at(&self, object: &Value, pointer: &str, opted_in: bool) -> Context {
        let inner = around(object, pointer);
        let mut context = self.context(inner, opted_in);
        // It is made where the object around it is.
        if inner["metadata"]["namespace"].is_null() {
            let outer = self.context(object, opted_in);
            context.namespace = outer.namespace;
            context.namespace_labels = outer.namespace_labels;
        }
        context
    }

    /// The namespaces of an object and of the pods in it.
    pub(super) fn namespaces_of(&self, object: &Value) -> Vec<String> {
        let pods = templates(object).into_iter();
        let pods = pods.map(|pointer| self.context_at(object, &pointer, false).namespace);
        pods.chain([self.context(object, false).namespace])
            .collect()
    }

    /// The context of an object; a pod counts as opted in unless it is `disabled`.
    pub(super) fn context(&self, object: &Value, opted_in: bool) -> Context {
        let namespace = object
            .pointer("/metadata/namespace")
            .and_then(Value::as_str)
            .unwrap_or(&self.namespace);
        let unknown = || {
            let enforced = self.pod_security.map(|level| {
                (
                    "pod-security.kubernetes.io/enforce".to_owned(),
                    json!(level),
                )
            });
            Map::from_iter(enforced)
        };
        let kind = object["kind"].as_str().unwrap_or_default();
        let name = object.pointer("/metadata/name").and_then(Value::as_str);
        Context {
            namespace: namespace.to_owned(),
            namespace_labels: self
                .namespaces
                .get(namespace)
                .cloned()
                .unwrap_or_else(unknown),
            own_namespace: self.own_namespace.clone(),
            native_sidecar: self.native_sidecar,
            workload: controller_of(object).or_else(|| {
                name.filter(|_| kind != "Pod")
                    .map(|name| Owner::new(kind, name))
            }),
            workload_annotations: pod_annotations(object),
            opted_in,
        }
    }
}

/// A rewritten file.
#[derive(Clone, Debug)]
pub struct Rewritten {
    /// The new text.
    pub text: String,
    /// Messages, in the order of the file.
    pub messages: Vec<String>,
    /// Whether every object was rewritten that had to be, and would be admitted. Every other one is reported, with its
    /// line where that is the reason, and left as it was.
    pub is_complete: bool,
}

/// The changed object, if it changes, and the messages about it.
#[derive(Default)]
struct Change {
    object: Option<Value>,
    messages: Vec<String>,
    /// The API server would refuse the object.
    is_denied: bool,
}

/// Injects every pod and template of a file.
///
/// # Errors
/// If kubectl would not take the file, with the line.
pub fn inject_text(text: &str, files: &Files) -> anyhow::Result<Rewritten> {
    let mut files = files.clone();
    files.learn_namespaces(&objects(text)?);
    rewrite(text, "injected", |object| inject_object(object, &files))
}

fn inject_object(object: &Value, files: &Files) -> Change {
    let judged = judge_each(object, files, true);
    let mut change = Change::default();
    if judged.is_empty() && is_expected_to_have_pods(object) {
        let messages = "not injected: no pod template was found in it";
        change.messages.push(messages.to_owned());
    }
    let has_several = judged.len() > 1;
    for (pointer, outcome) in judged {
        let mut messages = Vec::new();
        messages.extend(unused(object, &pointer));
        messages.extend(mislabelled(object, &pointer, &outcome));
        messages.extend(outcome.warnings());
        match &outcome.decision {
            Decision::Injected(_) => {
                let object = change.object.get_or_insert_with(|| object.clone());
                let pod = object.pointer_mut(&pointer).expect("it was judged");
                // Injection also replaces a status that holds the reason of a skip.
                json_patch::patch(pod, &outcome.patch).expect("the patch was made for this pod");
            }
            Decision::AlreadyInjected { current: true } => {
                messages.push("already injected".to_owned())
            }
            Decision::AlreadyInjected { current: false } => messages.push(
                "injected by another configuration; run uninject first to renew it".to_owned(),
            ),
            Decision::NotOptedIn(reason) => messages.push(format!("not injected: {reason}")),
            Decision::Skipped(_) => {}
            Decision::Denied => {
                messages.push("denied, as the controller is strict".to_owned());
                change.is_denied = true;
            }
        }
        let which = which_of(&pointer, has_several);
        let messages = messages.iter().map(|line| format!("{which}{line}"));
        change.messages.extend(messages);
    }
    change
}

/// Whether to report that an object has nothing to inject: for workloads and for unknown kinds.
pub(super) fn is_expected_to_have_pods(object: &Value) -> bool {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let group = text("apiVersion")
        .split_once('/')
        .map_or("", |(group, _)| group);
    let is_kubernetes = matches!(group, "" | "apps" | "batch" | "autoscaling" | "policy")
        || group.ends_with(".k8s.io");
    is_known(object) || (!is_kubernetes && !text("kind").is_empty())
}

/// Undoes the injection of every pod and template of a file.
///
/// # Errors
/// If kubectl would not take the file, with the line.
pub fn uninject_text(text: &str) -> anyhow::Result<Rewritten> {
    rewrite(text, "uninjected", |object| Change {
        object: undone(object),
        ..Change::default()
    })
}

/// The object without what flowcar added to it; `None` where that is nothing.
fn undone(object: &Value) -> Option<Value> {
    let mut clean = object.clone();
    for pointer in templates(object) {
        let pod = clean.pointer_mut(&pointer)?;
        *pod = take_back_copies(uninject(pod));
    }
    (clean != *object).then_some(clean)
}

/// Where an object's pods are, and the outcome of each.
pub(super) fn judge_each(object: &Value, files: &Files, opted_in: bool) -> Vec<(String, Outcome)> {
    let judge = |pointer: String| {
        let pod = object.pointer(&pointer)?;
        let context = files.context_at(object, &pointer, opted_in);
        let budgets = files.budgets_for(pod, &context.namespace);
        let filled = budgets.filled_in(pod);
        let outcome = inject_within(&filled, &context, &files.settings, &budgets);
        Some((pointer, outcome))
    };
    templates(object).into_iter().filter_map(judge).collect()
}

/// Whether a quota counts this pod: the API server stored it, and it has not completed.
fn is_counted(pod: &Value) -> bool {
    let phase = pod["status"]["phase"].as_str();
    pod["metadata"]["uid"].is_string() && !matches!(phase, Some("Succeeded" | "Failed"))
}

/// Where an object's pod, or the first of them, is, and its outcome.
#[cfg(test)]
pub(super) fn judge(object: &Value, files: &Files, opted_in: bool) -> Option<(String, Outcome)> {
    judge_each(object, files, opted_in).into_iter().next()
}

/// What made an object of a cluster: a CronJob's Job, a Deployment's ReplicaSet.
fn controller_of(object: &Value) -> Option<Owner> {
    if !matches!(
        object["kind"].as_str(),
        Some("Job" | "ReplicaSet" | "ReplicationController")
    ) {
        return None;
    }
    let mut owners = object["metadata"]["ownerReferences"].as_array()?.iter();
    let owner = owners.find(|owner| owner["controller"] == true)?;
    Some(Owner::new(owner["kind"].as_str()?, owner["name"].as_str()?))
}

/// Which of an object's templates a message is about, where it has several.
pub(super) fn which_of(pointer: &str, has_several: bool) -> String {
    match has_several {
        true => format!("{}: ", pointer.trim_start_matches('/').replace('/', ".")),
        false => String::new(),
    }
}

/// Where the annotations of a pod template are, as people write it.
pub(super) fn place_of_annotations(pointer: &str) -> String {
    let path = pointer.trim_start_matches('/').replace('/', ".");
    format!("{path}.metadata.annotations")
}

/// That an object's own annotations are of no use, and where they would be.
pub(super) fn unused(object: &Value, pointer: &str) -> Option<String> {
    let inner = around(object, pointer);
    let names = without_effect(inner);
    let kind = inner["kind"].as_str().unwrap_or("object");
    (!names.is_empty()).then(|| {
        format!(
            "{}: without effect on a {kind} itself; write it to {}",
            names.join(", "),
            place_of_annotations(pointer)
        )
    })
}

/// That a workload's own label is of no use, where it asks for something else than what becomes of its pods.
pub(super) fn mislabelled(object: &Value, pointer: &str, outcome: &Outcome) -> Option<String> {
    let inner = around(object, pointer);
    let kind = inner["kind"].as_str().filter(|kind| *kind != "Pod")?;
    let is_opted_in = !matches!(outcome.decision, Decision::NotOptedIn(_));
    label_without_effect(&inner["metadata"], &format!("a {kind}"), is_opted_in)
}

/// `deployment/web`, as people name objects.
pub(super) fn title(object: &Value) -> String {
    let kind = object["kind"].as_str().unwrap_or("object").to_lowercase();
    let metadata = &object["metadata"];
    let name = metadata["name"]
        .as_str()
        .or(metadata["generateName"].as_str())
        .unwrap_or("unnamed");
    format!("{kind}/{name}")
}

/// Every object of a file, those inside Lists too.
pub(crate) fn objects(text: &str) -> anyhow::Result<Vec<Value>> {
    let stream = Stream::read(text).context(REFUSED)?;
    let objects = stream.documents.iter().flat_map(Document::objects);
    Ok(objects.cloned().collect())
}

/// Changes the objects of a file. `verb` is what is done to them, in the past tense.
fn rewrite(text: &str, verb: &str, change: impl Fn(&Value) -> Change) -> anyhow::Result<Rewritten> {
    let stream = Stream::read(text).context(REFUSED)?;
    let (mut messages, mut texts, mut is_complete) = (Vec::new(), Vec::new(), true);
    for document in &stream.documents {
        let objects: Vec<_> = document.objects().collect();
        let mut lines = Vec::new();
        let mut after = Vec::new();
        for (index, object) in objects.iter().enumerate() {
            let change = match document.is_foreign(index) {
                true => Change::default(),
                false => change(object),
            };
            is_complete &= !change.is_denied;
            lines.push(change.messages);
            after.push(change.object);
        }
        let mut changed = None;
        if after.iter().any(Option::is_some) {
            let rewritten = document.change(&after, Some(&undone));
            is_complete &= rewritten.refused.is_empty();
            for (index, why) in rewritten.refused {
                after[index] = None;
                lines[index].push(format!("not {verb}: {why}"));
            }
            changed = Some(rewritten.text);
        }
        for ((object, mut lines), after) in objects.iter().zip(lines).zip(after) {
            lines.extend(after.map(|_| verb.to_owned()));
            let name = title(object);
            messages.extend(lines.iter().map(|line| format!("{name}: {line}")));
        }
        is_complete &= document.foreign().is_empty();
        let refused = document.foreign().iter();
        messages.extend(refused.map(|why| format!("not {verb}: {why}")));
        messages.extend(document.unread().map(|unread| unread.to_string()));
        texts.push(changed);
    }
    let text = stream.with(&texts);
    Ok(Rewritten {
        text,
        messages,
        is_complete,
    })
}

#[cfg(test)]
mod tests;

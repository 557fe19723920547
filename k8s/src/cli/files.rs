//! `inject` and `uninject` over the text of files.

use std::collections::BTreeMap;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Namespace;
use serde_json::{Map, Value, json};

use super::yaml::{Document, Stream};
use crate::budget::Budgets;
use crate::config::{Level, Settings};
use crate::inject::{Context, Decision, Outcome, Owner, inject_within, take_back_copies, uninject};
use crate::opted::{Later, opted_in_later, written_at};
use crate::workload::{said_to_pods, template_pointer, templates};

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
    /// What is enforced in namespaces that nobody knows.
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
        let said = crate::cluster::said_of(&namespace.metadata);
        self.namespaces.insert(name.to_owned(), said);
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

    /// Takes what the Namespaces among some objects say.
    pub(super) fn learn_namespaces(&mut self, objects: &[Value]) {
        let is_namespace = |object: &&Value| object["kind"] == "Namespace";
        for object in objects.iter().filter(is_namespace) {
            let name = object.pointer("/metadata/name").and_then(Value::as_str);
            // A manifest that is wrong says nothing.
            let metadata = serde_json::from_value(object["metadata"].clone());
            let said = crate::cluster::said_of(&metadata.unwrap_or_default());
            self.namespaces
                .insert(name.unwrap_or_default().to_owned(), said);
        }
    }

    /// The context of an object; a pod counts as opted in unless it says no.
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
            workload: name
                .filter(|_| kind != "Pod")
                .map(|name| Owner::new(kind, name)),
            workload_annotations: said_to_pods(object),
            opted_in,
        }
    }
}

/// What became of a file.
#[derive(Clone, Debug)]
pub struct Rewritten {
    /// The new text.
    pub text: String,
    /// What there is to tell, in the order of the file.
    pub told: Vec<String>,
    /// Whether every object was rewritten that had to be, and would be admitted; each other one is told, with its line
    /// where that is the reason, and left as it was.
    pub is_complete: bool,
}

/// What an object becomes, where it changes, and what is told of it besides.
#[derive(Default)]
struct Change {
    object: Option<Value>,
    told: Vec<String>,
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
        let told = "not injected: no pod template was found in it";
        change.told.push(told.to_owned());
    }
    for (pointer, outcome) in judged {
        let told = &mut change.told;
        told.extend(outcome.warnings());
        match &outcome.decision {
            Decision::Injected(_) => {
                let object = change.object.get_or_insert_with(|| object.clone());
                let pod = object.pointer_mut(&pointer).expect("it was judged");
                // A status that says why there was no sidecar is one more thing that injection replaces.
                json_patch::patch(pod, &outcome.patch).expect("the patch was made for this pod");
            }
            Decision::AlreadyInjected { current: true } => told.push("already injected".to_owned()),
            Decision::AlreadyInjected { current: false } => told.push(
                "injected by another configuration; run uninject first to renew it".to_owned(),
            ),
            Decision::NotOptedIn(reason) => told.push(format!("not injected: {reason}")),
            Decision::Skipped(_) => {}
            Decision::Denied => {
                told.push("denied, as the controller is strict".to_owned());
                change.is_denied = true;
            }
        }
    }
    change.told.dedup();
    change
}

/// Whether nothing to inject is worth a word: of a workload, and of kinds that flowcar does not know.
fn is_expected_to_have_pods(object: &Value) -> bool {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let group = text("apiVersion")
        .split_once('/')
        .map_or("", |(group, _)| group);
    let is_kubernetes = matches!(group, "" | "apps" | "batch" | "autoscaling" | "policy")
        || group.ends_with(".k8s.io");
    template_pointer(text("kind")).is_some() || (!is_kubernetes && !text("kind").is_empty())
}

/// The way back, for every pod and template of a file.
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

/// Where an object's pods are, and what would become of each.
fn judge_each(object: &Value, files: &Files, opted_in: bool) -> Vec<(String, Outcome)> {
    let context = files.context(object, opted_in);
    let none = Budgets::default();
    let budgets = files.budgets.get(&context.namespace).unwrap_or(&none);
    let judge = |pointer: String| {
        let pod = object.pointer(&pointer)?;
        let outcome = inject_within(pod, &context, &files.settings, budgets);
        Some((pointer, outcome))
    };
    templates(object).into_iter().filter_map(judge).collect()
}

/// Where an object's pod, or the first of them, is, and what would become of it.
pub(super) fn judge(object: &Value, files: &Files, opted_in: bool) -> Option<(String, Outcome)> {
    judge_each(object, files, opted_in).into_iter().next()
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

/// Changes the objects of a file. `verb` says in the past tense what is done to them.
fn rewrite(text: &str, verb: &str, change: impl Fn(&Value) -> Change) -> anyhow::Result<Rewritten> {
    let stream = Stream::read(text).context(REFUSED)?;
    let (mut told, mut texts, mut is_complete) = (Vec::new(), Vec::new(), true);
    for document in &stream.documents {
        let objects: Vec<_> = document.objects().collect();
        let mut lines = Vec::new();
        let mut after = Vec::new();
        for object in &objects {
            let change = change(object);
            is_complete &= !change.is_denied;
            lines.push(change.told);
            after.push(change.object);
        }
        let mut changed = None;
        if after.iter().any(Option::is_some) {
            let rewritten = document.change(&after, |text| comes_back(document, text));
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
            told.extend(lines.iter().map(|line| format!("{name}: {line}")));
        }
        told.extend(document.unread().map(|unread| unread.to_string()));
        texts.push(changed);
    }
    let text = stream.with(&texts);
    Ok(Rewritten {
        text,
        told,
        is_complete,
    })
}

/// Whether cleaning a document that was changed makes of it, to the byte, what cleaning makes of it as it was.
fn comes_back(document: &Document<'_>, changed: &str) -> bool {
    let clean = |document: &Document<'_>| {
        let after: Vec<_> = document.objects().map(undone).collect();
        match after.iter().any(Option::is_some) {
            true => document.change(&after, |_| true).text,
            false => document.text().to_owned(),
        }
    };
    let changed = Document::alone(changed, document.is_json());
    changed.is_some_and(|changed| clean(&changed) == clean(document))
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;

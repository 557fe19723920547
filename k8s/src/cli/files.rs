//! `inject` and `uninject` over the text of files.

use std::collections::BTreeMap;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Namespace;
use serde_json::{Map, Value, json};

use super::yaml;
use crate::budget::Budgets;
use crate::config::{Level, Settings};
use crate::inject::{Context, Decision, Outcome, Owner, inject_within, uninject};
use crate::opted::{Later, opted_in_later, written_at};
use crate::workload::{said_to_pods, template_pointer};

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

/// Injects every pod and template of a file: its new text, and what there is to tell.
///
/// # Errors
/// If a document is no YAML.
pub fn inject_text(text: &str, files: &Files) -> anyhow::Result<(String, Vec<String>)> {
    let mut files = files.clone();
    for document in yaml::split(text) {
        each_object(&mut parse(document)?, &mut |object| {
            if object["kind"] == "Namespace" {
                let name = object
                    .pointer("/metadata/name")
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                // A manifest that is wrong says nothing.
                let metadata = serde_json::from_value(object["metadata"].clone());
                let said = crate::cluster::said_of(&metadata.unwrap_or_default());
                files.namespaces.insert(name.to_owned(), said);
            }
        });
    }
    let mut told = Vec::new();
    let text = rewrite(text, &mut told, |object, told| {
        let Some((pod, outcome)) = judge(object, &files, true) else {
            return;
        };
        let name = title(object);
        told.extend(
            outcome
                .warnings()
                .iter()
                .map(|warning| format!("{name}: {warning}")),
        );
        match &outcome.decision {
            Decision::Injected(_) => {
                let pod = object.pointer_mut(pod).expect("it was judged");
                // A status that says why there was no sidecar is one more thing that injection replaces.
                json_patch::patch(pod, &outcome.patch).expect("the patch was made for this pod");
                told.push(format!("{name}: injected"));
            }
            Decision::AlreadyInjected { current: true } => {
                told.push(format!("{name}: already injected"))
            }
            Decision::AlreadyInjected { current: false } => {
                told.push(format!(
                    "{name}: injected by another configuration; run uninject first to renew it"
                ));
            }
            Decision::NotOptedIn(reason) => told.push(format!("{name}: not injected: {reason}")),
            Decision::Skipped(_) => {}
            Decision::Denied => told.push(format!("{name}: denied, as the controller is strict")),
        }
    })?;
    Ok((text, told))
}

/// The way back, for every pod and template of a file.
///
/// # Errors
/// If a document is no YAML.
pub fn uninject_text(text: &str) -> anyhow::Result<String> {
    let mut told = Vec::new();
    rewrite(text, &mut told, |object, _| {
        let kind = object["kind"].as_str().unwrap_or_default();
        if let Some(pod) = template_pointer(kind).and_then(|pointer| object.pointer_mut(pointer)) {
            *pod = uninject(pod);
        }
    })
}

/// Where an object's pod is, and what would become of it.
pub(super) fn judge(
    object: &Value,
    files: &Files,
    opted_in: bool,
) -> Option<(&'static str, Outcome)> {
    let pointer = template_pointer(object["kind"].as_str()?)?;
    let pod = object.pointer(pointer)?;
    let context = files.context(object, opted_in);
    let none = Budgets::default();
    let budgets = files.budgets.get(&context.namespace).unwrap_or(&none);
    let outcome = inject_within(pod, &context, &files.settings, budgets);
    Some((pointer, outcome))
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
    let mut all = Vec::new();
    for document in yaml::split(text) {
        each_object(&mut parse(document)?, &mut |object| {
            all.push(object.clone())
        });
    }
    Ok(all)
}

fn rewrite(
    text: &str,
    told: &mut Vec<String>,
    mut change: impl FnMut(&mut Value, &mut Vec<String>),
) -> anyhow::Result<String> {
    let mut out = String::new();
    for document in yaml::split(text) {
        let before = parse(document)?;
        let mut after = before.clone();
        each_object(&mut after, &mut |object| change(object, told));
        let (text, kept) = yaml::rewrite(document, &before, &after);
        if !kept {
            told.push(format!(
                "{}: comments of this document could not be kept",
                title(&before)
            ));
        }
        out.push_str(&text);
    }
    Ok(out)
}

fn each_object(value: &mut Value, visit: &mut impl FnMut(&mut Value)) {
    if value["kind"]
        .as_str()
        .is_some_and(|kind| kind.ends_with("List"))
    {
        let items = value.get_mut("items").and_then(Value::as_array_mut);
        items
            .into_iter()
            .flatten()
            .for_each(|item| each_object(item, visit));
    } else if value.is_object() {
        visit(value);
    }
}

fn parse(document: &str) -> anyhow::Result<Value> {
    let value = yaml::parse(document)
        .context("a document of the file is no YAML that Kubernetes would take")?;
    Ok(if value.is_object() {
        value
    } else {
        Value::Null
    })
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;

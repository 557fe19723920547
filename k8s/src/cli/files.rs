//! `inject` and `uninject` over the text of files.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use super::yaml;
use crate::config::{Level, Settings};
use crate::inject::{Context, Decision, Outcome, Owner, inject, uninject};
use crate::workload::template_pointer;

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
            pod_security: None,
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
                let labels = object
                    .pointer("/metadata/labels")
                    .and_then(Value::as_object)
                    .cloned()
                    .unwrap_or_default();
                files.namespaces.insert(name.to_owned(), labels);
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
    Some((
        pointer,
        inject(pod, &files.context(object, opted_in), &files.settings),
    ))
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
pub(super) fn objects(text: &str) -> anyhow::Result<Vec<Value>> {
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
mod tests {
    use super::{Files, inject_text, objects, uninject_text};
    use crate::config::Settings;
    use serde_json::json;

    fn files() -> Files {
        Files::new(Settings::default(), "flowcar-system".to_owned())
    }

    const FILE: &str = "\
# first
apiVersion: v1
kind: Namespace
metadata:
  name: locked
  labels: {pod-security.kubernetes.io/enforce: restricted}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web # the name
  namespace: locked
spec:
  template:
    metadata:
      labels: {app: web}
    spec:
      # what runs
      containers:
        - name: web
          image: web:1
---
apiVersion: v1
kind: List
items:
  - apiVersion: batch/v1
    kind: CronJob
    metadata:
      name: nightly
    spec:
      schedule: '0 0 * * *'
      jobTemplate:
        spec:
          template:
            spec:
              restartPolicy: Never
              initContainers:
                - name: prepare
              containers:
                - name: run
  - apiVersion: v1
    kind: Service
    metadata:
      name: web
---
apiVersion: v1
kind: Pod
metadata:
  name: never
  annotations:
    flowcar.io/inject: disabled
spec:
  containers: []
";

    #[test]
    fn every_pod_of_a_file_is_injected_and_undone() {
        let (text, told) = inject_text(FILE, &files()).expect("YAML");
        let all = objects(&text).expect("YAML");
        assert_eq!(all.len(), 5);
        let web = &all[1]["spec"]["template"]["spec"];
        assert_eq!(web["initContainers"][0]["name"], "flowcar");
        // The Namespace in the same file says what may be in it.
        assert_eq!(
            web["initContainers"][0]["securityContext"]["runAsNonRoot"],
            true
        );
        let nightly = &all[2]["spec"]["jobTemplate"]["spec"]["template"]["spec"];
        assert_eq!(nightly["initContainers"][0]["name"], "flowcar");
        assert_eq!(nightly["initContainers"][1]["name"], "prepare");
        let owner = nightly["initContainers"][0]["env"]
            .as_array()
            .expect("env")
            .iter()
            .find(|e| e["name"] == "FLOWCAR_OWNER_KIND");
        assert_eq!(owner.expect("an owner")["value"], "CronJob");
        assert_eq!(all[4]["spec"], json!({"containers": []}));
        for comment in ["# first\n", "name: web # the name", "# what runs"] {
            assert!(text.contains(comment), "{comment} in\n{text}");
        }
        assert!(
            told.iter().any(|line| line == "deployment/web: injected"),
            "{told:?}"
        );
        assert!(
            told.iter()
                .any(|line| line.starts_with("pod/never: not injected: ")),
            "{told:?}"
        );

        let (again, _) = inject_text(&text, &files()).expect("YAML");
        assert_eq!(again, text, "a second time changes nothing");
        let back = uninject_text(&text).expect("YAML");
        assert_eq!(objects(&back).expect("YAML"), objects(FILE).expect("YAML"));
        assert!(back.contains("name: web # the name") && back.contains("# what runs"));
        assert_eq!(
            uninject_text(FILE).expect("YAML"),
            FILE,
            "nothing to undo, nothing touched"
        );
    }

    #[test]
    fn json_stays_json() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}});
        let (text, _) = inject_text(&pod.to_string(), &files()).expect("JSON");
        let value: serde_json::Value = serde_json::from_str(&text).expect("still JSON");
        assert_eq!(value["spec"]["initContainers"][0]["name"], "flowcar");
    }

    #[test]
    fn what_is_no_yaml_is_said() {
        assert!(inject_text("a: [", &files()).is_err());
        let empty = "# nothing here\n";
        assert_eq!(inject_text(empty, &files()).expect("YAML").0, empty);
    }
}

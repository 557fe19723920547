//! Injection, part by part.

mod budgets;
mod decision;
mod environment;
mod form;
mod namespace;
mod presets;
mod resources;
mod undo;

use json_patch::PatchOperation;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{Context, Decision, Form, NotOptedIn, Outcome, Owner, Skip, inject, uninject};
use crate::{
    config::{Config, Settings},
    text::WARNING_CHARS,
};

fn context() -> Context {
    Context {
        namespace: "shop".to_owned(),
        namespace_labels: Map::new(),
        own_namespace: "flowcar-system".to_owned(),
        native_sidecar: true,
        workload: None,
        workload_annotations: Map::new(),
        opted_in: false,
    }
}

fn labelled(name: &str, value: &str) -> Context {
    let namespace_labels = Map::from_iter([(name.to_owned(), json!(value))]);
    Context {
        namespace_labels,
        ..context()
    }
}

fn pod() -> Value {
    json!({
        "metadata": {"generateName": "web-", "annotations": {"flowcar.io/inject": "enabled"}},
        "spec": {"containers": [{"name": "app", "image": "app:1"}]},
    })
}

fn with(pointer: &str, value: Value) -> Value {
    let mut pod = pod();
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
    let name = name.replace("~1", "/");
    pod.pointer_mut(parent).expect("the parent")[name] = value;
    pod
}

fn annotated(name: &str, value: &str) -> Value {
    let mut pod = pod();
    pod["metadata"]["annotations"][name] = json!(value);
    pod
}

fn run(pod: &Value) -> Outcome {
    inject(pod, &context(), &Settings::default())
}

fn patched(pod: &Value, outcome: &Outcome) -> Value {
    let mut pod = pod.clone();
    json_patch::patch(&mut pod, &outcome.patch).expect("the patch applies");
    pod
}

/// The sidecar of the patched pod.
fn sidecar(pod: &Value, outcome: &Outcome) -> Value {
    let pod = patched(pod, outcome);
    let lists = [&pod["spec"]["initContainers"], &pod["spec"]["containers"]];
    let found = lists
        .iter()
        .filter_map(|list| list.as_array())
        .flatten()
        .find(|c| c["name"] == "flowcar");
    found.expect("a sidecar").clone()
}

fn env(container: &Value, name: &str) -> Option<Value> {
    container["env"]
        .as_array()?
        .iter()
        .find(|entry| entry["name"] == name)
        .cloned()
}

fn env_value(container: &Value, name: &str) -> Option<String> {
    Some(env(container, name)?["value"].as_str()?.to_owned())
}

fn skip_of(pod: &Value, context: &Context) -> Skip {
    let outcome = inject(pod, context, &Settings::default());
    match outcome.decision.clone() {
        Decision::Skipped(skip) => {
            assert!(outcome.warnings()[0].starts_with("flowcar: not injected: "));
            skip
        }
        other => panic!("expected a skip, got {other:?}"),
    }
}

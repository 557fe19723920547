//! `enable` and `disable`: a workload's opt-in, where its pods will find it.

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
    core::DynamicObject,
};
use serde_json::{Value, json};

use super::{
    ClusterArgs,
    remote::{Remote, permitted},
};
use crate::{
    annotations::INJECT,
    workload::{is_copied_from, templates},
};

/// Annotates the workload; the webhook does the rest when it is written.
pub(super) async fn enable(target: &str, cluster: &ClusterArgs) -> anyhow::Result<bool> {
    let remote = Remote::connect(cluster).await?;
    annotate(&remote, target, Some("enabled")).await
}

/// Removes the annotation, or sets it to `disabled` in a namespace that opted in.
pub(super) async fn disable(target: &str, cluster: &ClusterArgs) -> anyhow::Result<bool> {
    let remote = Remote::connect(cluster).await?;
    let namespaces: Api<Namespace> = Api::all(remote.client.clone());
    let namespace = permitted(namespaces.get(&remote.namespace).await, || {
        let namespace = &remote.namespace;
        format!(
            "read namespace {namespace}: if it opts its pods in, annotate the workload flowcar.io/inject=disabled"
        )
    });
    let namespace = namespace.with_context(|| format!("reading namespace {}", remote.namespace))?;
    let by_namespace = namespace.is_some_and(|namespace| {
        let label = namespace.labels().get(INJECT);
        label.is_some_and(|value| value == "enabled")
    });
    annotate(&remote, target, by_namespace.then_some("disabled")).await
}

async fn annotate(remote: &Remote, target: &str, value: Option<&str>) -> anyhow::Result<bool> {
    let (api, object) = remote.target(target).await?;
    let kind = object["kind"].as_str().unwrap_or_default();
    if kind == "Pod" {
        bail!("a pod that runs cannot be changed; name its workload, as in deployment/NAME");
    }
    let pointers = templates(&object);
    if pointers.is_empty() {
        bail!(
            "{target} has no pod template that flowcar can find; annotate where its pods come from, or label the namespace {INJECT}=enabled"
        );
    }
    let patch = if is_copied_from(&object) {
        Patch::Merge(json!({ "metadata": { "annotations": { INJECT: value } } }))
    } else {
        Patch::Json::<Value>(in_templates(&object, &pointers, value)?)
    };
    let params = PatchParams {
        field_manager: Some("kubectl-flowcar".to_owned()),
        ..PatchParams::default()
    };
    let written: DynamicObject = api
        .patch(
            object["metadata"]["name"].as_str().unwrap_or_default(),
            &params,
            &patch,
        )
        .await
        .with_context(|| format!("annotating {target}"))?;
    let written = serde_json::to_value(written)?;
    let expected = value.map_or_else(
        || "no annotation any more".to_owned(),
        |value| format!("{INJECT}={value}"),
    );
    println!("{} {target}: {expected}", remote.namespace);
    let follows = |pointer: &String| {
        let template = written.pointer(pointer).unwrap_or(&Value::Null);
        template["metadata"]["annotations"][INJECT].as_str() == value
    };
    if pointers.iter().all(follows) {
        return Ok(true);
    }
    let why = if kind == "Job" {
        "a Job's template cannot change: create the Job anew"
    } else {
        "the pod template has another value of its own, or the webhook did not answer: see kubectl flowcar check"
    };
    println!(
        "{} {target}: its pods do not follow: {why}",
        remote.namespace
    );
    Ok(false)
}

/// The same annotation in the templates of a kind that the webhook does not know.
fn in_templates(
    object: &Value,
    pointers: &[String],
    value: Option<&str>,
) -> anyhow::Result<json_patch::Patch> {
    let mut after = object.clone();
    for pointer in pointers {
        let Some(template) = after.pointer_mut(pointer) else {
            continue;
        };
        match value {
            Some(value) => template["metadata"]["annotations"][INJECT] = json!(value),
            None => {
                let annotations = template.pointer_mut("/metadata/annotations");
                if let Some(annotations) = annotations.and_then(Value::as_object_mut) {
                    annotations.shift_remove(INJECT);
                }
            }
        }
    }
    Ok(json_patch::diff(object, &after))
}

//! The kinds that people name on the command line.

use anyhow::{Context as _, bail};
use kube::Client;
use kube::core::{ApiResource, GroupVersionKind};
use kube::discovery::{Discovery, Scope};

/// Kinds that need not be asked for.
pub(super) fn known(word: &str) -> Option<ApiResource> {
    let (group, kind) = match word.to_lowercase().as_str() {
        "pod" | "pods" | "po" => ("", "Pod"),
        "deployment" | "deployments" | "deploy" => ("apps", "Deployment"),
        "statefulset" | "statefulsets" | "sts" => ("apps", "StatefulSet"),
        "daemonset" | "daemonsets" | "ds" => ("apps", "DaemonSet"),
        "replicaset" | "replicasets" | "rs" => ("apps", "ReplicaSet"),
        "replicationcontroller" | "replicationcontrollers" | "rc" => ("", "ReplicationController"),
        "podtemplate" | "podtemplates" => ("", "PodTemplate"),
        "job" | "jobs" => ("batch", "Job"),
        "cronjob" | "cronjobs" | "cj" => ("batch", "CronJob"),
        _ => return None,
    };
    Some(ApiResource::from_gvk(&GroupVersionKind::gvk(
        group, "v1", kind,
    )))
}

/// A kind that only the API server knows: `rollout`, `rollouts` or `rollouts.argoproj.io`.
pub(super) async fn discovered(client: &Client, word: &str) -> anyhow::Result<ApiResource> {
    let discovery = Discovery::new(client.clone())
        .run()
        .await
        .context("asking the API server for its kinds")?;
    let word = word.to_lowercase();
    let (name, group) = match word.split_once('.') {
        Some((name, group)) => (name, Some(group)),
        None => (word.as_str(), None),
    };
    let is_meant = |resource: &ApiResource| {
        (resource.plural == name || resource.kind.to_lowercase() == name)
            && group.is_none_or(|group| resource.group == group)
    };
    let resources = discovery
        .groups()
        .flat_map(|group| group.recommended_resources());
    let mut found = resources
        .filter(|(resource, capabilities)| {
            capabilities.scope == Scope::Namespaced && is_meant(resource)
        })
        .map(|(resource, _)| resource);
    match found.next() {
        Some(resource) => Ok(resource),
        None => bail!(
            "the API server has no kind {word:?} in a namespace; it may be a deployment, statefulset, daemonset, job, cronjob, pod, or any kind with a pod template"
        ),
    }
}

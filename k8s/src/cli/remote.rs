//! The cluster, as the user of `kubectl flowcar` may see it.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::ClusterArgs;
use super::files::{Files, objects};
use crate::annotations::{INJECT, STATUS};
use crate::cluster::native_sidecars;
use crate::config::{Config, Settings};
use crate::inject::Status;
use crate::workload::template_pointer;

/// Pods are listed by pages of this many.
const PAGE: u32 = 500;

/// A connection to the cluster.
pub(super) struct Remote {
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) own_namespace: String,
}

// === impl Remote ===

impl Remote {
    pub(super) async fn connect(cluster: &ClusterArgs) -> anyhow::Result<Self> {
        let config = kube::Config::infer()
            .await
            .context("there is no kubeconfig")?;
        let namespace = cluster
            .namespace
            .clone()
            .unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).context("the kubeconfig is no way to a cluster")?;
        client
            .apiserver_version()
            .await
            .context("the API server does not answer")?;
        Ok(Self {
            client,
            namespace,
            own_namespace: cluster.flowcar_namespace.clone(),
        })
    }

    /// What the cluster's controller judges by.
    pub(super) async fn files(&self) -> anyhow::Result<Files> {
        let settings = self.settings().await?;
        let native = native_sidecars(&self.client, settings.config.native_sidecar).await?;
        let mut files = Files::new(settings, self.own_namespace.clone());
        files.native_sidecar = native;
        files.namespace.clone_from(&self.namespace);
        Ok(files)
    }

    /// The same into `files`, with the namespaces that a file's objects are in.
    pub(super) async fn tell(&self, files: &mut Files, text: &str) -> anyhow::Result<()> {
        *files = self.files().await?;
        let mut names: Vec<_> = objects(text)?
            .iter()
            .map(|object| files.context(object, false).namespace)
            .collect();
        names.sort();
        names.dedup();
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        for name in names {
            if let Some(namespace) = namespaces
                .get_opt(&name)
                .await
                .with_context(|| format!("reading namespace {name}"))?
            {
                files.namespaces.insert(name, labels(&namespace));
            }
        }
        Ok(())
    }

    /// The labels of every namespace.
    pub(super) async fn learn_namespaces(&self, files: &mut Files) -> anyhow::Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let list = namespaces
            .list(&ListParams::default())
            .await
            .context("listing namespaces")?;
        files.namespaces = list
            .iter()
            .map(|namespace| (namespace.name_any(), labels(namespace)))
            .collect();
        Ok(())
    }

    async fn settings(&self) -> anyhow::Result<Settings> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.own_namespace);
        let Some(map) = maps
            .get_opt("flowcar-config")
            .await
            .context("reading the ConfigMap flowcar-config")?
        else {
            eprintln!(
                "flowcar: {} has no ConfigMap flowcar-config, the defaults hold",
                self.own_namespace
            );
            return Ok(Settings::default());
        };
        let text = map
            .data
            .unwrap_or_default()
            .remove("config.yaml")
            .unwrap_or_default();
        Config::parse(&text).context("in the ConfigMap flowcar-config")
    }

    /// An object by `kind/name`.
    pub(super) async fn get(&self, target: &str) -> anyhow::Result<Value> {
        let (api, kind, name) = self.api(target)?;
        let object = api
            .get(&name)
            .await
            .with_context(|| format!("reading {target} in namespace {}", self.namespace))?;
        let mut value = serde_json::to_value(object)?;
        value["kind"] = json!(kind);
        Ok(value)
    }

    fn api(&self, target: &str) -> anyhow::Result<(Api<DynamicObject>, &'static str, String)> {
        let Some((kind, name)) = target.split_once('/') else {
            bail!("{target:?} names no object; write it as deployment/NAME");
        };
        let (group, kind) = match kind.to_lowercase().as_str() {
            "pod" | "pods" | "po" => ("", "Pod"),
            "deployment" | "deployments" | "deploy" => ("apps", "Deployment"),
            "statefulset" | "statefulsets" | "sts" => ("apps", "StatefulSet"),
            "daemonset" | "daemonsets" | "ds" => ("apps", "DaemonSet"),
            "replicaset" | "replicasets" | "rs" => ("apps", "ReplicaSet"),
            "job" | "jobs" => ("batch", "Job"),
            "cronjob" | "cronjobs" | "cj" => ("batch", "CronJob"),
            other => bail!(
                "{other:?} has no pods that flowcar could follow; it may be a deployment, statefulset, daemonset, job, cronjob or pod"
            ),
        };
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
        Ok((
            Api::namespaced_with(self.client.clone(), &self.namespace, &resource),
            kind,
            name.to_owned(),
        ))
    }

    /// Every pod that opted in, of all namespaces, with its kind.
    pub(super) async fn opted_in_pods(&self) -> anyhow::Result<Vec<Value>> {
        let mut files = Files::new(Settings::default(), self.own_namespace.clone());
        self.learn_namespaces(&mut files).await?;
        let pods: Api<Pod> = Api::all(self.client.clone());
        let mut found = Vec::new();
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let list = pods.list(&page).await.context("listing pods")?;
            for pod in &list.items {
                let mut value = serde_json::to_value(pod)?;
                value["kind"] = json!("Pod");
                let labels = files.namespaces.get(&pod.namespace().unwrap_or_default());
                let by_namespace =
                    labels.and_then(|labels| labels.get(INJECT)) == Some(&json!("enabled"));
                let own = pod.annotations().get(INJECT);
                if own.map_or(by_namespace, |own| own != "disabled") {
                    found.push(value);
                }
            }
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Ok(found),
            }
        }
    }
}

fn labels(namespace: &Namespace) -> serde_json::Map<String, Value> {
    crate::cluster::said_of(&namespace.metadata)
}

/// Annotates the workload; the webhook does the rest when it is written.
pub(super) async fn enable(target: &str, cluster: &ClusterArgs) -> anyhow::Result<bool> {
    let remote = Remote::connect(cluster).await?;
    annotate(&remote, target, Some("enabled")).await
}

/// Takes the annotation off, or, in a namespace that opted in, says no.
pub(super) async fn disable(target: &str, cluster: &ClusterArgs) -> anyhow::Result<bool> {
    let remote = Remote::connect(cluster).await?;
    let namespaces: Api<Namespace> = Api::all(remote.client.clone());
    let namespace = namespaces
        .get(&remote.namespace)
        .await
        .with_context(|| format!("reading namespace {}", remote.namespace))?;
    let by_namespace = namespace
        .labels()
        .get(INJECT)
        .is_some_and(|value| value == "enabled");
    annotate(&remote, target, by_namespace.then_some("disabled")).await
}

async fn annotate(remote: &Remote, target: &str, value: Option<&str>) -> anyhow::Result<bool> {
    let (api, kind, name) = remote.api(target)?;
    if kind == "Pod" {
        bail!("a pod that runs cannot be changed; name its workload, as in deployment/NAME");
    }
    let patch = json!({ "metadata": { "annotations": { INJECT: value } } });
    let params = PatchParams {
        field_manager: Some("kubectl-flowcar".to_owned()),
        ..PatchParams::default()
    };
    let written = api
        .patch(&name, &params, &Patch::Merge(patch))
        .await
        .with_context(|| format!("annotating {target}"))?;
    let written = serde_json::to_value(written)?;
    let template = template_pointer(kind)
        .and_then(|pointer| written.pointer(pointer))
        .unwrap_or(&Value::Null);
    let copied = template["metadata"]["annotations"][INJECT].as_str();
    let said = value.map_or_else(
        || "no annotation any more".to_owned(),
        |value| format!("{INJECT}={value}"),
    );
    println!("{} {target}: {said}", remote.namespace);
    if copied == value {
        return Ok(true);
    }
    let why = if kind == "Job" {
        "a Job's template cannot change: create the Job anew"
    } else {
        "the pod template says otherwise itself, or the webhook did not answer: see kubectl flowcar check"
    };
    println!(
        "{} {target}: its pods do not follow: {why}",
        remote.namespace
    );
    Ok(false)
}

/// Prints a line for each namespace with pods that opted in.
pub(super) async fn status(cluster: &ClusterArgs) -> anyhow::Result<bool> {
    let remote = Remote::connect(cluster).await?;
    let mut counts: BTreeMap<String, [usize; 3]> = BTreeMap::new();
    for pod in remote.opted_in_pods().await? {
        let namespace = pod["metadata"]["namespace"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        counts.entry(namespace).or_default()[fate(&pod)] += 1;
    }
    println!(
        "{:<32} {:>8} {:>8} {:>8}",
        "NAMESPACE", "INJECTED", "SKIPPED", "MISSED"
    );
    for (namespace, [injected, skipped, missed]) in &counts {
        println!("{namespace:<32} {injected:>8} {skipped:>8} {missed:>8}");
    }
    Ok(counts.values().all(|[_, _, missed]| *missed == 0))
}

/// 0 injected, 1 skipped, 2 missed.
pub(super) fn fate(pod: &Value) -> usize {
    let annotations = pod["metadata"]["annotations"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    match Status::read(&annotations) {
        Some(Status::Injected { .. }) => 0,
        Some(Status::Skipped { .. }) => 1,
        None => {
            if annotations.contains_key(STATUS) {
                0
            } else {
                2
            }
        }
    }
}

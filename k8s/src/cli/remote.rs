//! The cluster, as the user of `kubectl flowcar` may see it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{ConfigMap, LimitRange, Namespace, Pod, ResourceQuota};
use kube::api::ListParams;
use kube::core::DynamicObject;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::files::Files;
use super::{ClusterArgs, resources};
use crate::annotations::INJECT;
use crate::cluster::native_sidecars;
use crate::config::{Config, Settings};
use crate::inject::{ANNOTATIONS_MOST, Status, annotations_size, has_container, has_sidecar};

/// Pods are listed by pages of this many.
const PAGE: u32 = 500;

/// An API server that works answers what is asked here far sooner.
const PATIENCE: Duration = Duration::from_secs(5);

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
        let server = config.cluster_url.clone();
        let client = Client::try_from(config).context("the kubeconfig is no way to a cluster")?;
        in_time(client.apiserver_version())
            .await
            .with_context(|| format!("the API server at {server} does not answer"))?;
        Ok(Self {
            client,
            namespace,
            own_namespace: cluster.flowcar_namespace.clone(),
        })
    }

    /// What the cluster's controller judges by.
    pub(super) async fn files(&self) -> anyhow::Result<Files> {
        let settings = in_time(self.settings()).await?;
        let native = in_time(native_sidecars(
            &self.client,
            settings.config.native_sidecar,
        ));
        let native = native.await?;
        let mut files = Files::new(settings, self.own_namespace.clone());
        files.native_sidecar = native;
        files.namespace.clone_from(&self.namespace);
        Ok(files)
    }

    /// The same into `files`, with the namespaces that a file's objects are in.
    pub(super) async fn print_messages(
        &self,
        files: &mut Files,
        objects: &[Value],
    ) -> anyhow::Result<()> {
        *files = self.files().await?;
        self.learn(files, objects).await
    }

    /// What is known of the namespaces of these objects, and of no others. What the user may not read is reported.
    pub(super) async fn learn(&self, files: &mut Files, found: &[Value]) -> anyhow::Result<()> {
        let names: BTreeSet<_> = found
            .iter()
            .map(|object| files.context(object, false).namespace)
            .collect();
        for name in names {
            in_time(self.learn_one(files, &name)).await?;
        }
        Ok(())
    }

    async fn learn_one(&self, files: &mut Files, name: &str) -> anyhow::Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace = permitted(namespaces.get_opt(name).await, || {
            format!("read namespace {name}: its labels are taken for absent")
        });
        if let Some(namespace) = namespace
            .with_context(|| format!("reading namespace {name}"))?
            .flatten()
        {
            files.learn_namespace(name, &namespace);
        }
        self.learn_budgets(files, name).await
    }

    async fn learn_budgets(&self, files: &mut Files, namespace: &str) -> anyhow::Result<()> {
        let all = ListParams::default();
        let ranges: Api<LimitRange> = Api::namespaced(self.client.clone(), namespace);
        let ranges = permitted(ranges.list(&all).await, || {
            format!("list the LimitRanges of {namespace}: they are taken for absent")
        });
        for range in ranges.context("listing LimitRanges")?.into_iter().flatten() {
            let mut range = serde_json::to_value(range)?;
            range["kind"] = json!("LimitRange");
            files.add_budget(namespace, &range);
        }
        let quotas: Api<ResourceQuota> = Api::namespaced(self.client.clone(), namespace);
        let quotas = permitted(quotas.list(&all).await, || {
            format!("list the ResourceQuotas of {namespace}: they are taken for absent")
        });
        for quota in quotas
            .context("listing ResourceQuotas")?
            .into_iter()
            .flatten()
        {
            let mut quota = serde_json::to_value(quota)?;
            quota["kind"] = json!("ResourceQuota");
            files.add_budget(namespace, &quota);
        }
        Ok(())
    }

    /// The namespaces that the user may see: all, or the one that was named.
    async fn namespaces(&self) -> anyhow::Result<(Vec<Namespace>, bool)> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let list = permitted(namespaces.list(&ListParams::default()).await, || {
            format!("list namespaces: only {} is read", self.namespace)
        });
        match list.context("listing namespaces")? {
            Some(list) => Ok((list.items, true)),
            None => {
                let own = permitted(namespaces.get_opt(&self.namespace).await, || {
                    let namespace = &self.namespace;
                    format!("read namespace {namespace}: its labels are taken for absent")
                });
                let own = own.with_context(|| format!("reading namespace {}", self.namespace))?;
                Ok((own.flatten().into_iter().collect(), false))
            }
        }
    }

    async fn settings(&self) -> anyhow::Result<Settings> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.own_namespace);
        let map = permitted(maps.get_opt("flowcar-config").await, || {
            format!(
                "read the ConfigMap flowcar-config in {}: the default configuration is assumed (its operator can bind you to the Role flowcar-tenant there)",
                self.own_namespace
            )
        });
        let Some(map) = map.context("reading the ConfigMap flowcar-config")? else {
            return Ok(Settings::default());
        };
        let Some(map) = map else {
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
        Ok(self.target(target).await?.1)
    }

    /// An object by `kind/name`, and the way to change it.
    pub(super) async fn target(&self, target: &str) -> anyhow::Result<(Api<DynamicObject>, Value)> {
        let Some((word, name)) = target.split_once('/') else {
            bail!("{target:?} names no object; write it as deployment/NAME");
        };
        let resource = match resources::known(word) {
            Some(known) => known,
            None => resources::discovered(&self.client, word).await?,
        };
        let api = Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        let object: DynamicObject = api
            .get(name)
            .await
            .with_context(|| format!("reading {target} in namespace {}", self.namespace))?;
        let mut value = serde_json::to_value(object)?;
        value["kind"] = json!(resource.kind);
        value["apiVersion"] = json!(resource.api_version);
        Ok((api, value))
    }

    /// Every pod that opted in, of all namespaces that the user may see, with its kind; and what is known of those
    /// namespaces.
    pub(super) async fn opted_in_pods(&self) -> anyhow::Result<(Vec<Value>, Files)> {
        let mut files = self.files().await?;
        let (namespaces, all) = self.namespaces().await?;
        for namespace in &namespaces {
            files.learn_namespace(&namespace.name_any(), namespace);
        }
        let pods: Api<Pod> = if all {
            Api::all(self.client.clone())
        } else {
            Api::namespaced(self.client.clone(), &self.namespace)
        };
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
                None => return Ok((found, files)),
            }
        }
    }
}

/// The answer of an API server, within [`PATIENCE`].
async fn in_time<T, E: Into<anyhow::Error>>(
    answer: impl Future<Output = Result<T, E>>,
) -> anyhow::Result<T> {
    let seconds = PATIENCE.as_secs();
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => bail!("there was no answer for {seconds} s"),
    }
}

/// What was read, or `None` and a message where the user has no right to it.
pub(super) fn permitted<T>(
    read: Result<T, kube::Error>,
    what: impl FnOnce() -> String,
) -> Result<Option<T>, kube::Error> {
    match read {
        Ok(found) => Ok(Some(found)),
        Err(kube::Error::Api(status)) if status.code == 403 => {
            eprintln!("flowcar: you may not {}", what());
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The state of a pod that opted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Injected,
    Skipped,
    /// The webhook has not seen it.
    Missed,
    /// It was created before its opt-in was written.
    Older,
}

/// Prints a line for each namespace with pods that opted in.
pub(super) async fn status(cluster: &ClusterArgs) -> anyhow::Result<bool> {
    let remote = Remote::connect(cluster).await?;
    let mut counts: BTreeMap<String, [usize; 4]> = BTreeMap::new();
    let (pods, files) = remote.opted_in_pods().await?;
    for pod in pods {
        let namespace = pod["metadata"]["namespace"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        counts.entry(namespace).or_default()[fate(&pod, &files) as usize] += 1;
    }
    println!(
        "{:<32} {:>8} {:>8} {:>8}",
        "NAMESPACE", "INJECTED", "SKIPPED", "MISSED"
    );
    for (namespace, [injected, skipped, missed, _]) in &counts {
        println!("{namespace:<32} {injected:>8} {skipped:>8} {missed:>8}");
    }
    for (namespace, [_, _, missed, _]) in counts.iter().filter(|(_, [_, _, missed, _])| *missed > 0)
    {
        println!(
            "{namespace}: {missed} pods opted in, and the webhook did not see them; for what to do, run kubectl flowcar explain -n {namespace}"
        );
    }
    for (namespace, [.., older]) in counts.iter().filter(|(_, [.., older])| *older > 0) {
        println!(
            "{namespace}: {older} pods are older than their opt-in; restart their workloads to inject their successors"
        );
    }
    Ok(counts.values().all(|[_, _, missed, _]| *missed == 0))
}

/// The state of a pod of the cluster.
pub(super) fn fate(pod: &Value, files: &Files) -> Fate {
    let empty = serde_json::Map::new();
    let annotations = pod["metadata"]["annotations"].as_object().unwrap_or(&empty);
    // A status that claims a sidecar counts with the container that it is about.
    let is_there = has_sidecar(pod, &files.settings);
    match Status::read(annotations) {
        Some(Status::Injected { .. }) if is_there => Fate::Injected,
        Some(Status::Injected { .. }) if has_container(pod) => Fate::Skipped,
        Some(Status::Skipped { .. }) => Fate::Skipped,
        // There was no room for a status.
        _ if annotations_size(annotations) > ANNOTATIONS_MOST => Fate::Skipped,
        _ if files.opted_in_later(pod).is_some() => Fate::Older,
        _ => Fate::Missed,
    }
}

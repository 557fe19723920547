//! The cluster, as the user of `kubectl flowcar` may see it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{ConfigMap, LimitRange, Namespace, Pod, ResourceQuota};
use kube::{Api, Client, ResourceExt, api::ListParams, core::DynamicObject};
use serde_json::{Value, json};

use super::{
    ClusterArgs,
    files::{Files, judge_each},
    resources,
    sentence::{is_forbidden, of_kubeconfig},
};
use crate::{
    annotations::INJECT,
    cluster::native_sidecars,
    config::{Config, Settings},
    inject::{
        ANNOTATIONS_MOST, Decision, Outcome, Status, annotations_size, has_container, has_sidecar,
    },
    text::counted,
};

/// Pods are listed by pages of this many.
const PAGE: u32 = 500;

/// An API server that works answers what is asked here far sooner.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection to the cluster.
pub(super) struct Remote {
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) own_namespace: String,
    /// The user named the namespace.
    is_named: bool,
}

/// Which namespaces are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    All,
    Named,
}

// === impl Remote ===

impl Remote {
    pub(super) async fn connect(cluster: &ClusterArgs) -> anyhow::Result<Self> {
        let config = match kube::Config::infer().await {
            Ok(config) => config,
            Err(error) => bail!(of_kubeconfig(&error)),
        };
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
            is_named: cluster.namespace.is_some(),
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
            .flat_map(|object| files.namespaces_of(object))
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
    async fn namespaces(&self) -> anyhow::Result<(Vec<Namespace>, Which)> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let list = in_time(namespaces.list(&ListParams::default())).await;
        let list = permitted(list, || {
            format!("list namespaces: only {} is read", self.namespace)
        });
        if let Some(list) = list.context("listing namespaces")? {
            return Ok((list.items, Which::All));
        }
        let own = in_time(namespaces.get_opt(&self.namespace)).await;
        let own = permitted(own, || {
            let namespace = &self.namespace;
            format!("read namespace {namespace}: its labels are taken for absent")
        });
        let own = own.with_context(|| format!("reading namespace {}", self.namespace))?;
        Ok((own.flatten().into_iter().collect(), Which::Named))
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
            None => in_time(resources::discovered(&self.client, word)).await?,
        };
        let api = Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        let object: DynamicObject = in_time(api.get(name))
            .await
            .with_context(|| format!("reading {target} in namespace {}", self.namespace))?;
        let mut value = serde_json::to_value(object)?;
        value["kind"] = json!(resource.kind);
        value["apiVersion"] = json!(resource.api_version);
        Ok((api, value))
    }

    /// Every pod that opted in, of the namespaces that are asked for and that the user may see, with its kind; and what is
    /// known of those namespaces.
    pub(super) async fn opted_in_pods(&self, which: Which) -> anyhow::Result<(Vec<Value>, Files)> {
        let mut files = self.files().await?;
        let (namespaces, readable) = self.namespaces().await?;
        for namespace in &namespaces {
            files.learn_namespace(&namespace.name_any(), namespace);
        }
        let all = match (which, readable) {
            (Which::All, Which::All) => self.every_pod(&files).await?,
            _ => None,
        };
        let found = match all {
            Some(found) => found,
            None => {
                let own = Api::namespaced(self.client.clone(), &self.namespace);
                let own = asked_for(&own, &files).await;
                own.with_context(|| format!("listing the pods of {}", self.namespace))?
            }
        };
        Ok((found, files))
    }

    /// Those of the cluster. Many may list namespaces, and pods in their own only: `None`, and a message.
    async fn every_pod(&self, files: &Files) -> anyhow::Result<Option<Vec<Value>>> {
        let all = Api::all(self.client.clone());
        let found = permitted(asked_for(&all, files).await, || {
            let namespace = &self.namespace;
            format!("list the pods of all namespaces: only {namespace} is read")
        });
        found.context("listing pods")
    }

    /// The namespaces that a command without an object is about: the one that is named, or all.
    pub(super) fn which(&self) -> Which {
        match self.is_named {
            true => Which::Named,
            false => Which::All,
        }
    }
}

/// The pods that opted in.
async fn asked_for(pods: &Api<Pod>, files: &Files) -> anyhow::Result<Vec<Value>> {
    let is_asked = |pod: &Pod| {
        let labels = files.namespaces.get(&pod.namespace().unwrap_or_default());
        let by_namespace = labels.and_then(|labels| labels.get(INJECT)) == Some(&json!("enabled"));
        let own = pod.annotations().get(INJECT);
        own.map_or(by_namespace, |own| own != "disabled")
    };
    let mut found = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = in_time(pods.list(&page)).await?;
        for pod in list.items.iter().filter(|pod| is_asked(pod)) {
            let mut value = serde_json::to_value(pod)?;
            value["kind"] = json!("Pod");
            found.push(value);
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(found),
        }
    }
}

/// The answer of an API server, within [`PATIENCE`].
pub(super) async fn in_time<T, E: Into<anyhow::Error>>(
    answer: impl Future<Output = Result<T, E>>,
) -> anyhow::Result<T> {
    let seconds = PATIENCE.as_secs();
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => bail!("there was no answer for {seconds} s"),
    }
}

/// What was read, or `None` and a message where the user has no right to it.
pub(super) fn permitted<T, E: Into<anyhow::Error>>(
    read: Result<T, E>,
    what: impl FnOnce() -> String,
) -> anyhow::Result<Option<T>> {
    let error = match read {
        Ok(found) => return Ok(Some(found)),
        Err(error) => error.into(),
    };
    match error.downcast_ref() {
        Some(answer) if is_forbidden(answer) => {
            eprintln!("flowcar: you may not {}", what());
            Ok(None)
        }
        _ => Err(error),
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
    let (pods, files) = remote.opted_in_pods(remote.which()).await?;
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
            "{namespace}: {} opted in, not seen by the webhook; for what to do, run kubectl flowcar explain -n {namespace}",
            counted(*missed, "pod")
        );
    }
    for (namespace, [.., older]) in counts.iter().filter(|(_, [.., older])| *older > 0) {
        println!(
            "{namespace}: {} older than the opt-in; restart the workloads to inject the successors",
            counted(*older, "pod")
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
        // The webhook would have had nothing to do.
        _ if is_skipped(pod, files) => Fate::Skipped,
        _ if files.opted_in_later(pod).is_some() => Fate::Older,
        _ => Fate::Missed,
    }
}

fn is_skipped(pod: &Value, files: &Files) -> bool {
    let judged = judge_each(pod, files, false);
    let skipped =
        |(_, outcome): &(String, Outcome)| matches!(outcome.decision, Decision::Skipped(_));
    judged.iter().any(skipped)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Fate, fate};
    use crate::{cli::Files, config::Config};

    /// As `explain` and the detector judge the same pod.
    #[test]
    fn pod_that_would_be_skipped_is_not_missed() {
        let selector = "{namespaceSelector: {matchLabels: {team: a}}}";
        let settings = Config::parse(selector).expect("valid");
        let mut files = Files::new(settings, "flowcar-system".to_owned());
        let namespaces = ["left-out", "shop"].map(|name| {
            let labels = json!({"team": if name == "shop" { "a" } else { "b" }});
            json!({"kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        });
        files.learn_namespaces(&namespaces);
        let pod = |namespace: &str, spec: Value| {
            json!({"kind": "Pod", "spec": spec, "metadata": {"name": "p", "namespace": namespace,
                "annotations": {"flowcar.io/inject": "enabled"}}})
        };
        for (namespace, spec, expected) in [
            ("shop", json!({"containers": []}), Fate::Missed),
            ("shop", json!({"hostNetwork": true}), Fate::Skipped),
            ("shop", json!({"runtimeClassName": "gvisor"}), Fate::Skipped),
            ("kube-system", json!({}), Fate::Skipped),
            ("flowcar-system", json!({}), Fate::Skipped),
            ("left-out", json!({}), Fate::Skipped),
            ("unknown", json!({}), Fate::Missed),
        ] {
            let found = fate(&pod(namespace, spec.clone()), &files);
            assert_eq!(found, expected, "{namespace} {spec}");
        }
    }
}

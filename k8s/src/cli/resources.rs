//! The kinds that people name on the command line.

use anyhow::{Context as _, bail};
use kube::{
    Client,
    core::{
        ApiResource, GroupVersionKind,
        discovery::v2::{APIGroupDiscovery, APIResourceDiscovery},
    },
};

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

/// A kind that only the API server knows: `rollout`, `rollouts`, `ro` or `rollouts.argoproj.io`.
///
/// Groups whose server is away are listed without their kinds, and the others are found.
pub(super) async fn discovered(client: &Client, word: &str) -> anyhow::Result<ApiResource> {
    let asking = "asking the API server for its kinds";
    let core = client.list_core_api_versions_aggregated().await;
    let others = client.list_api_groups_aggregated().await;
    let (core, others) = (core.context(asking)?.items, others.context(asking)?.items);
    let groups: Vec<_> = core.into_iter().chain(others).collect();
    chosen(&groups, &word.to_lowercase())
}

fn chosen(groups: &[APIGroupDiscovery], word: &str) -> anyhow::Result<ApiResource> {
    let (name, group) = match word.split_once('.') {
        Some((name, group)) => (name, Some(group)),
        None => (word, None),
    };
    let all: Vec<_> = groups
        .iter()
        .filter_map(|candidate| meant(candidate, name, group))
        .collect();
    // Those of Kubernetes' own that have pods are known without asking.
    let mut others = all.iter().filter(|found| !is_kubernetes(&found.group));
    match (others.next(), others.next()) {
        (Some(one), None) => Ok(one.clone()),
        (Some(_), Some(_)) => {
            let names = all
                .iter()
                .map(|found| format!("{}.{}", found.plural, found.group));
            let names: Vec<_> = names.collect();
            bail!(
                "{word:?} is a kind of several groups: name one of {}",
                names.join(", ")
            )
        }
        (None, _) => all.into_iter().next().with_context(|| {
            format!(
                "the API server has no kind {word:?} in a namespace; it may be a deployment, statefulset, daemonset, job, cronjob, pod, or any kind with a pod template"
            )
        }),
    }
}

fn is_kubernetes(group: &str) -> bool {
    group.is_empty() || group.ends_with(".k8s.io") || !group.contains('.')
}

/// The kind of a group that has this name, in the version that the group prefers.
fn meant(candidate: &APIGroupDiscovery, name: &str, group: Option<&str>) -> Option<ApiResource> {
    let metadata = candidate.metadata.as_ref();
    let own = metadata.and_then(|metadata| metadata.name.as_deref());
    let own = own.unwrap_or_default();
    if group.is_some_and(|group| group != own) {
        return None;
    }
    candidate.versions.iter().find_map(|version| {
        let mut resources = version.resources.iter();
        let resource = resources.find(|resource| is_named(resource, name))?;
        let kind = resource.response_kind.as_ref()?.kind.as_deref()?;
        let gvk = GroupVersionKind::gvk(own, version.version.as_deref()?, kind);
        let plural = resource.resource.as_deref()?;
        Some(ApiResource::from_gvk_with_plural(&gvk, plural))
    })
}

fn is_named(resource: &APIResourceDiscovery, name: &str) -> bool {
    let kind = resource.response_kind.as_ref();
    let kind = kind.and_then(|kind| kind.kind.as_deref());
    let singular = resource.singular_resource.as_deref();
    resource.scope.as_deref() == Some("Namespaced")
        && (resource.resource.as_deref() == Some(name)
            || singular.is_some_and(|singular| !singular.is_empty() && singular == name)
            || kind.is_some_and(|kind| kind.to_lowercase() == name)
            || resource.short_names.iter().any(|short| short == name))
}

#[cfg(test)]
mod tests {
    use kube::core::discovery::v2::APIGroupDiscovery;
    use serde_json::{Value, json};

    use super::chosen;

    fn group(name: &str, versions: Value) -> APIGroupDiscovery {
        serde_json::from_value(json!({"metadata": {"name": name}, "versions": versions}))
            .expect("a group")
    }

    fn version(version: &str, plural: &str, kind: &str, short: &[&str], scope: &str) -> Value {
        json!({"version": version, "resources": [{"resource": plural, "scope": scope,
            "singularResource": kind.to_lowercase(), "shortNames": short, "verbs": ["get"],
            "responseKind": {"group": "", "version": version, "kind": kind}}]})
    }

    #[test]
    fn kind_is_found_by_each_of_its_names_or_is_ambiguous() {
        let there = "Namespaced";
        let groups = [
            group(
                "",
                json!([version("v1", "services", "Service", &["svc"], there)]),
            ),
            group(
                "argoproj.io",
                json!([
                    version("v1alpha1", "rollouts", "Rollout", &["ro"], there),
                    version("v1", "rollouts", "Rollout", &["ro"], there),
                ]),
            ),
            group(
                "serving.knative.dev",
                json!([version(
                    "v1",
                    "services",
                    "Service",
                    &["kservice", "ksvc"],
                    there
                )]),
            ),
            group(
                "a.test",
                json!([version("v1", "shops", "Shop", &[], there)]),
            ),
            group(
                "b.test",
                json!([version("v1", "shops", "Shop", &[], there)]),
            ),
            group(
                "c.test",
                json!([version("v1", "sites", "Site", &[], "Cluster")]),
            ),
            // Its server is away.
            group(
                "metrics.k8s.io",
                json!([{"version": "v1beta1", "freshness": "Stale"}]),
            ),
        ];
        for (word, expected) in [
            ("rollout", Ok("argoproj.io/v1alpha1 rollouts")),
            ("rollouts", Ok("argoproj.io/v1alpha1 rollouts")),
            ("ro", Ok("argoproj.io/v1alpha1 rollouts")),
            ("rollouts.argoproj.io", Ok("argoproj.io/v1alpha1 rollouts")),
            ("ksvc", Ok("serving.knative.dev/v1 services")),
            // The other one has no pods.
            ("service", Ok("serving.knative.dev/v1 services")),
            ("svc", Ok("v1 services")),
            ("shops.b.test", Ok("b.test/v1 shops")),
            ("shop", Err("name one of shops.a.test, shops.b.test")),
            ("site", Err("no kind \"site\" in a namespace")),
            ("rollouts.other.test", Err("no kind")),
        ] {
            let found = chosen(&groups, word).map_err(|error| error.to_string());
            let found = found.map(|found| format!("{} {}", found.api_version, found.plural));
            match expected {
                Ok(expected) => assert_eq!(found.as_deref(), Ok(expected), "{word}"),
                Err(why) => {
                    let error = found.expect_err(word);
                    assert!(error.contains(why), "{word}: {error}");
                }
            }
        }
    }
}

//! The detector: pods that opted in when they were created and have no status of flowcar's, as the webhook did not see
//! them.
//!
//! Pods that are older than their opt-in are not reported.

use std::collections::{BTreeMap, HashSet};

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    core::PartialObjectMeta,
    runtime::{WatchStreamExt, watcher, watcher::Event},
};
use serde_json::{Map, Value};

use crate::{
    admit::{PendingEvent, Regarding},
    annotations::{INJECT, STATUS},
    cluster::ClusterView,
    config::Settings,
    events::Events,
    inject::{ANNOTATIONS_MOST, Status},
    metrics::Metrics,
    opted::{UNSEEN, opted_in_later},
};

/// How many pods a page of the first list has: the detector keeps none but the missed.
const PAGE: u32 = 500;

/// Watches every pod's metadata and reports each missed pod once. Runs until dropped.
pub(crate) async fn watch(
    client: Client,
    cluster: ClusterView,
    settings: Settings,
    events: Events,
    metrics: Metrics,
) {
    let config = watcher::Config::default().page_size(PAGE);
    let pods = watcher(Api::<PartialObjectMeta<Pod>>::all(client), config).default_backoff();
    let mut pods = std::pin::pin!(pods);
    let mut missed = Missed::default();
    while let Some(event) = pods.next().await {
        match event {
            Ok(Event::Init) => missed.before_list(),
            Ok(Event::InitApply(pod) | Event::Apply(pod)) => {
                let labels = cluster
                    .labels(&pod.namespace().unwrap_or_default())
                    .unwrap_or_default();
                let is_missed = is_missed(&pod, &labels, cluster.own_namespace(), &settings)
                    && !is_older(&pod, &cluster);
                if is_missed {
                    if missed.add(&pod) {
                        events.report(missed_event(&pod), &metrics);
                    }
                } else {
                    missed.remove(&pod);
                }
            }
            Ok(Event::Delete(pod)) => missed.remove(&pod),
            Ok(Event::InitDone) => missed.after_list(),
            Err(error) => tracing::warn!(%error, "watching pods"),
        }
        metrics
            .pods_missed
            .set(i64::try_from(missed.uids.len()).unwrap_or(i64::MAX));
    }
}

/// The uids of missed pods; `listed` are those that the list under way has brought.
#[derive(Default)]
struct Missed {
    uids: HashSet<String>,
    listed: Option<HashSet<String>>,
}

// === impl Missed ===

impl Missed {
    fn before_list(&mut self) {
        self.listed = Some(HashSet::new());
    }

    /// Whether the pod was not known.
    fn add(&mut self, pod: &PartialObjectMeta<Pod>) -> bool {
        let uid = pod.uid().unwrap_or_default();
        self.listed
            .iter_mut()
            .for_each(|listed| listed.extend([uid.clone()]));
        self.uids.insert(uid)
    }

    fn remove(&mut self, pod: &PartialObjectMeta<Pod>) {
        self.uids.remove(pod.uid().unwrap_or_default().as_str());
    }

    fn after_list(&mut self) {
        if let Some(listed) = self.listed.take() {
            self.uids.retain(|uid| listed.contains(uid));
        }
    }
}

fn is_older(pod: &PartialObjectMeta<Pod>, cluster: &ClusterView) -> bool {
    let metadata = serde_json::to_value(&pod.metadata).unwrap_or_default();
    let by_namespace = cluster.opted_in_at(&pod.namespace().unwrap_or_default());
    opted_in_later(&metadata, by_namespace.as_deref()).is_some()
}

/// A pod that the webhook has seen carries a status, also when it was skipped.
fn is_missed(
    pod: &PartialObjectMeta<Pod>,
    namespace_labels: &Map<String, Value>,
    own_namespace: &str,
    settings: &Settings,
) -> bool {
    let annotations = pod.annotations();
    let namespace = pod.namespace().unwrap_or_default();
    let asked = match annotations.get(INJECT) {
        Some(value) => value != "disabled",
        None => namespace_labels.get(INJECT).and_then(Value::as_str) == Some("enabled"),
    };
    asked
        && !has_status(annotations)
        && !is_full(annotations)
        && !annotations.contains_key("kubernetes.io/config.mirror")
        && pod.metadata.deletion_timestamp.is_none()
        && !settings.excludes(&namespace, own_namespace)
        && !settings.leaves_out(namespace_labels)
}

/// A status that cannot be parsed is not flowcar's. One that can be counts as flowcar's: the detector sees no containers,
/// and a forged status only stays where no webhook answered.
fn has_status(annotations: &BTreeMap<String, String>) -> bool {
    let status = annotations.get(STATUS);
    status.is_some_and(|text| serde_json::from_str::<Status>(text).is_ok())
}

/// The annotations have no room for a status either.
fn is_full(annotations: &BTreeMap<String, String>) -> bool {
    let of = |(name, value): (&String, &String)| name.len() + value.len();
    annotations.iter().map(of).sum::<usize>() > ANNOTATIONS_MOST
}

fn missed_event(pod: &PartialObjectMeta<Pod>) -> PendingEvent {
    PendingEvent {
        regarding: Regarding {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
            uid: pod.uid(),
        },
        reason: "FlowcarMissed",
        message: format!("the pod {UNSEEN}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::is_missed;
    use crate::config::{Config, Settings};

    fn missed(namespace: &str, annotations: Value, labels: Value) -> bool {
        missed_by(namespace, annotations, labels, &Settings::default())
    }

    fn missed_by(namespace: &str, annotations: Value, labels: Value, settings: &Settings) -> bool {
        let pod = json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": {"name": "p", "namespace": namespace, "annotations": annotations},
        });
        let pod = serde_json::from_value(pod).expect("metadata");
        let labels: Map<String, Value> = labels.as_object().cloned().expect("object");
        is_missed(&pod, &labels, "flowcar-system", settings)
    }

    #[test]
    fn only_an_opted_in_pod_without_a_status_is_missed() {
        let on = || json!({"flowcar.io/inject": "enabled"});
        assert!(missed("shop", on(), json!({})));
        assert!(missed("shop", json!({}), on()));
        assert!(
            missed("shop", json!({"flowcar.io/inject": "yes"}), json!({})),
            "it would have been answered"
        );
        assert!(!missed("shop", json!({}), json!({})));
        assert!(!missed(
            "shop",
            json!({"flowcar.io/inject": "disabled"}),
            on()
        ));
        assert!(!missed(
            "shop",
            json!({"flowcar.io/inject": "enabled", "flowcar.io/status": r#"{"skipped":"windows","message":"m"}"#}),
            json!({})
        ));
        assert!(
            missed(
                "shop",
                json!({"flowcar.io/inject": "enabled", "flowcar.io/status": "{}"}),
                json!({})
            ),
            "no status of ours"
        );
        assert!(!missed(
            "shop",
            json!({"flowcar.io/inject": "enabled", "kubernetes.io/config.mirror": "x"}),
            json!({})
        ));
        assert!(!missed("kube-system", on(), json!({})));
        let selector =
            "namespaceSelector: {matchExpressions: [{key: fargate, operator: DoesNotExist}]}";
        let settings = Config::parse(selector).expect("valid");
        let mut labels =
            json!({"flowcar.io/inject": "enabled", "kubernetes.io/metadata.name": "shop"});
        assert!(missed_by("shop", json!({}), labels.clone(), &settings));
        labels["fargate"] = json!("yes");
        assert!(!missed_by("shop", json!({}), labels, &settings), "left out");
        assert!(!missed("flowcar-system", on(), json!({})));
    }
}

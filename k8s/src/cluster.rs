//! What is known about the cluster: its namespaces' labels, and whether it runs native sidecars.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, future};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client,
    core::{ObjectMeta, PartialObjectMeta},
    runtime::{
        WatchStreamExt,
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use serde_json::{Map, Value, json};
use tokio::{sync::Semaphore, time::Instant};

use crate::{
    admit::Cluster,
    annotations::{INJECT, PREFIX},
    budget::BudgetView,
    config::NativeSidecar,
    opted::written_at,
};

/// A namespace that the watch has not brought yet is asked for, but not for long: the API server waits.
const ASK: Duration = Duration::from_secs(2);

/// How many namespaces are asked for at once.
const ASKING: usize = 16;

/// The cluster as the controller sees it.
#[derive(Clone)]
pub struct ClusterView {
    namespaces: Store<PartialObjectMeta<Namespace>>,
    budgets: BudgetView,
    api: Api<Namespace>,
    asking: Arc<Semaphore>,
    own_namespace: String,
    native_sidecar: bool,
}

// === impl ClusterView ===

impl ClusterView {
    /// A view, and the task that keeps it fresh.
    pub fn new(
        client: Client,
        own_namespace: &str,
        native_sidecar: bool,
    ) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let api: Api<Namespace> = Api::all(client.clone());
        let (namespaces, writer) = reflector::store();
        let stream = watcher(
            Api::<PartialObjectMeta<Namespace>>::all(client.clone()),
            watcher::Config::default(),
        )
        .default_backoff();
        let namespaces_kept = reflector::reflector(writer, stream).for_each(|event| async move {
            if let Err(error) = event {
                tracing::warn!(%error, "watching namespaces");
            }
        });
        let (budgets, budgets_kept) = BudgetView::new(client);
        let run = async move {
            future::join(namespaces_kept, budgets_kept).await;
        };
        let view = Self {
            namespaces,
            budgets,
            api,
            asking: Arc::new(Semaphore::new(ASKING)),
            own_namespace: own_namespace.to_owned(),
            native_sidecar,
        };
        (view, run)
    }

    /// Whether the namespaces, and what they let pods ask for, were listed once.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        // Polled once: the future is ready as soon as the store is.
        let namespaces = self.namespaces.wait_until_ready();
        futures_util::FutureExt::now_or_never(namespaces).is_some() && self.budgets.is_synced()
    }

    /// What a review of an object in this namespace needs to know.
    ///
    /// A namespace that cannot be read counts as one that enforces `restricted`: that form is admitted anywhere.
    pub async fn for_namespace(&self, name: &str, deadline: Instant) -> Cluster {
        let namespace_labels = match self.labels(name) {
            Some(labels) => labels,
            None => match self.ask(name, deadline).await {
                Some(namespace) => labels_of(&namespace),
                _ => Map::from_iter([(
                    "pod-security.kubernetes.io/enforce".to_owned(),
                    json!("restricted"),
                )]),
            },
        };
        Cluster {
            namespace_labels,
            budgets: self.budgets.of(name),
            own_namespace: self.own_namespace.clone(),
            native_sidecar: self.native_sidecar,
        }
    }

    /// Asks for a namespace, beside a few others only: anyone can name one that does not exist.
    async fn ask(&self, name: &str, deadline: Instant) -> Option<PartialObjectMeta<Namespace>> {
        let _asking = self.asking.try_acquire().ok()?;
        let until = deadline.min(Instant::now() + ASK);
        let asked = tokio::time::timeout_at(until, self.api.get_metadata_opt(name));
        asked.await.ok()?.ok()?
    }

    /// The labels of a namespace that the watch has brought.
    #[must_use]
    pub fn labels(&self, name: &str) -> Option<Map<String, Value>> {
        self.namespaces
            .get(&ObjectRef::new(name))
            .map(|namespace| labels_of(&namespace))
    }

    /// When a namespace's opt-in was last written, in RFC 3339, where that is known.
    #[must_use]
    pub(crate) fn opted_in_at(&self, name: &str) -> Option<String> {
        let namespace = self.namespaces.get(&ObjectRef::new(name))?;
        let metadata = serde_json::to_value(&namespace.metadata).ok()?;
        written_at(&metadata, "labels").map(str::to_owned)
    }

    /// flowcar's own namespace.
    #[must_use]
    pub fn own_namespace(&self) -> &str {
        &self.own_namespace
    }
}

fn labels_of(namespace: &PartialObjectMeta<Namespace>) -> Map<String, Value> {
    opt_in_of(&namespace.metadata)
}

/// The labels of a namespace, and the defaults for its pods, which are annotations because labels hold no URL. It
/// opts in by its label alone: selectors see no annotations.
pub(crate) fn opt_in_of(metadata: &ObjectMeta) -> Map<String, Value> {
    let is_default = |(name, _): &(&String, &String)| name.starts_with(PREFIX) && *name != INJECT;
    let defaults = metadata.annotations.iter().flatten().filter(is_default);
    let labels = metadata.labels.iter().flatten();
    labels
        .chain(defaults)
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect()
}

/// Whether this cluster runs native sidecars: asked of the operator, else of the API server's version (1.29,
/// where the feature is on by default).
///
/// # Errors
/// If the API server does not answer.
pub async fn native_sidecars(client: &Client, wish: NativeSidecar) -> Result<bool, kube::Error> {
    match wish {
        NativeSidecar::Always => Ok(true),
        NativeSidecar::Never => Ok(false),
        NativeSidecar::Auto => {
            let version = client.apiserver_version().await?;
            Ok(has_native_sidecars(&version.major, &version.minor))
        }
    }
}

/// Providers add signs to the minor version, as in `29+`.
fn has_native_sidecars(major: &str, minor: &str) -> bool {
    let number = |text: &str| -> u32 {
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or_default()
    };
    (number(major), number(minor)) >= (1, 29)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{has_native_sidecars, opt_in_of};

    #[test]
    fn namespace_gives_its_labels_and_defaults() {
        let metadata = json!({
            "labels": {"team": "a", "flowcar.io/inject": "enabled"},
            "annotations": {"flowcar.io/endpoint": "http://c:4317", "flowcar.io/inject": "disabled", "note": "b"},
        });
        let message = opt_in_of(&serde_json::from_value(metadata).expect("metadata"));
        let expected = json!({"team": "a", "flowcar.io/inject": "enabled", "flowcar.io/endpoint": "http://c:4317"});
        assert_eq!(json!(message), expected);
    }

    #[test]
    fn native_sidecars_need_kubernetes_1_29() {
        for (major, minor, expected) in [
            ("1", "28", false),
            ("1", "29", true),
            ("1", "29+", true),
            ("1", "34", true),
            ("2", "0", true),
            ("", "", false),
            ("1", "28-eks", false),
        ] {
            assert_eq!(
                has_native_sidecars(major, minor),
                expected,
                "{major}.{minor}"
            );
        }
    }
}

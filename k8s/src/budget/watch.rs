//! The budgets of every namespace, watched.

use std::{
    collections::HashMap,
    fmt::Debug,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::{StreamExt, future};
use k8s_openapi::api::core::v1;
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{WatchStreamExt, watcher, watcher::Event},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{Budgets, LimitRange, Quota};

/// Objects by namespace and name.
type Kept<T> = HashMap<String, HashMap<String, Arc<T>>>;

/// What the controller knows of LimitRanges and ResourceQuotas.
#[derive(Clone, Default)]
pub struct BudgetView {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    ranges: RwLock<Kept<LimitRange>>,
    quotas: RwLock<Kept<Quota>>,
    /// How many of the two kinds were listed, or could not be.
    listed: AtomicUsize,
}

// === impl BudgetView ===

impl BudgetView {
    /// A view, and the task that keeps it fresh.
    pub fn new(client: Client) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let view = Self::default();
        let ranges = view.clone();
        let quotas = view.clone();
        let run = async move {
            let ranges = ranges.keep(
                Api::<v1::LimitRange>::all(client.clone()),
                "LimitRanges",
                |shared| &shared.ranges,
                LimitRange::read,
            );
            let quotas = quotas.keep(
                Api::<v1::ResourceQuota>::all(client),
                "ResourceQuotas",
                |shared| &shared.quotas,
                Quota::read,
            );
            future::join(ranges, quotas).await;
        };
        (view, run)
    }

    /// Whether both kinds were listed once, or cannot be: a controller without the right to watch them still serves.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.shared.listed.load(Ordering::Acquire) >= 2
    }

    /// The budgets of a namespace.
    #[must_use]
    pub fn of(&self, namespace: &str) -> Budgets {
        Budgets {
            ranges: all(&self.shared.ranges, namespace),
            quotas: all(&self.shared.quotas, namespace),
        }
    }

    async fn keep<K, T>(
        self,
        api: Api<K>,
        what: &str,
        store: fn(&Shared) -> &RwLock<Kept<T>>,
        read: fn(&serde_json::Value) -> T,
    ) where
        K: Resource + Clone + DeserializeOwned + Debug + Serialize + Send + 'static,
        K::DynamicType: Default,
    {
        let mut stream = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
        let mut listing: Option<Kept<T>> = None;
        let mut is_first = true;
        while let Some(event) = stream.next().await {
            let mut done = false;
            match event {
                Ok(Event::Init) => listing = Some(HashMap::new()),
                Ok(Event::InitApply(object)) => {
                    if let Some(listing) = &mut listing {
                        insert(listing, &object, read);
                    }
                }
                Ok(Event::InitDone) => {
                    *write(store(&self.shared)) = listing.take().unwrap_or_default();
                    done = true;
                }
                Ok(Event::Apply(object)) => {
                    insert(&mut write(store(&self.shared)), &object, read);
                }
                Ok(Event::Delete(object)) => {
                    let namespace = object.namespace().unwrap_or_default();
                    let mut kept = write(store(&self.shared));
                    if let Some(names) = kept.get_mut(&namespace) {
                        names.remove(&object.name_any());
                    }
                    kept.retain(|_, names| !names.is_empty());
                }
                Err(error) => {
                    // After any other error the list comes later, and pods wait for it with the replica.
                    done = is_final(&error);
                    let meanwhile = if done {
                        "pods are injected without regard to them"
                    } else {
                        "it is tried again"
                    };
                    tracing::warn!(%error, "watching {what}: {meanwhile}");
                }
            }
            if done && std::mem::take(&mut is_first) {
                self.shared.listed.fetch_add(1, Ordering::Release);
            }
        }
    }
}

/// Whether a retry changes nothing: the right to list them is missing, or the API server has no such kind.
fn is_final(error: &watcher::Error) -> bool {
    use watcher::Error;
    let code = match error {
        Error::InitialListFailed(kube::Error::Api(status))
        | Error::WatchStartFailed(kube::Error::Api(status))
        | Error::WatchFailed(kube::Error::Api(status)) => status.code,
        Error::WatchError(status) => status.code,
        _ => return false,
    };
    matches!(code, 403 | 404)
}

fn insert<K: Resource + Serialize, T>(
    kept: &mut Kept<T>,
    object: &K,
    read: fn(&serde_json::Value) -> T,
) {
    let value = serde_json::to_value(object).unwrap_or_default();
    kept.entry(object.namespace().unwrap_or_default())
        .or_default()
        .insert(object.name_any(), Arc::new(read(&value)));
}

fn all<T>(kept: &RwLock<Kept<T>>, namespace: &str) -> Vec<Arc<T>> {
    let kept = kept.read().unwrap_or_else(PoisonError::into_inner);
    let names = kept.get(namespace).into_iter();
    names.flat_map(HashMap::values).cloned().collect()
}

fn write<T>(kept: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    kept.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use kube::{core::Status, runtime::watcher::Error};

    use super::is_final;

    #[test]
    fn only_a_missing_right_or_kind_ends_the_wait_for_the_list() {
        for (code, expected) in [
            (403, true),
            (404, true),
            (401, false),
            (429, false),
            (500, false),
            (504, false),
        ] {
            let status = Status {
                code,
                ..Status::default()
            };
            let api = || kube::Error::Api(status.clone().boxed());
            for error in [
                Error::InitialListFailed(api()),
                Error::WatchStartFailed(api()),
                Error::WatchFailed(api()),
                Error::WatchError(status.clone().boxed()),
            ] {
                assert_eq!(is_final(&error), expected, "{error}");
            }
        }
        assert!(!is_final(&Error::NoResourceVersion));
    }
}

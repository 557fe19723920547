//! Whether the object of an Event exists: a review alone proves nothing.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Client,
    api::ListParams,
    core::{ApiResource, DynamicObject, GroupVersionKind, ObjectMeta},
};

use crate::{
    admit::{PendingEvent, Regarding},
    clock,
};

/// When to read the object: one that is being created exists a moment after its review.
const DELAYS: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(3),
];

/// How old a pod with a generated name may be to be the one of a review that has just been answered, in seconds.
const NEW: i64 = 60;

/// The kinds that the controller may read by name; the others are known by their pods.
const KINDS: [(&str, &str, &str); 7] = [
    ("apps", "v1", "Deployment"),
    ("apps", "v1", "ReplicaSet"),
    ("apps", "v1", "StatefulSet"),
    ("apps", "v1", "DaemonSet"),
    ("batch", "v1", "Job"),
    ("batch", "v1", "CronJob"),
    ("", "v1", "ReplicationController"),
];

/// Reads the objects of Events.
#[derive(Clone)]
pub(crate) struct Verify {
    client: Client,
}

/// The result of reading an object.
enum Found {
    /// It exists, with this name and uid.
    There { name: String, uid: Option<String> },
    /// It does not exist.
    Nothing,
    /// Another one of that name exists.
    Other,
}

// === impl Verify ===

impl Verify {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// The Event, about the object as it is, if it exists. An object that strict mode denied never exists: its Event is
    /// created only if nothing has that name, so that it cannot be forged about an existing object.
    pub(crate) async fn event(&self, mut event: PendingEvent) -> Option<PendingEvent> {
        let never_is = event.reason == "FlowcarDenied" && event.regarding.uid.is_none();
        for wait in DELAYS {
            tokio::time::sleep(wait).await;
            match self.find(&event.regarding).await {
                Ok(Found::There { name, uid }) if !never_is => {
                    (event.regarding.name, event.regarding.uid) = (name, uid);
                    return Some(event);
                }
                Ok(Found::Nothing) if never_is => {
                    return self
                        .is_namespace(&event.regarding.namespace)
                        .await
                        .then_some(event);
                }
                Ok(Found::Nothing) => {}
                Ok(Found::There { .. } | Found::Other) => return None,
                Err(error) => tracing::debug!(%error, "the object of an Event could not be read"),
            }
        }
        None
    }

    async fn is_namespace(&self, name: &str) -> bool {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        matches!(namespaces.get_metadata_opt(name).await, Ok(Some(_)))
    }

    async fn find(&self, regarding: &Regarding) -> Result<Found, kube::Error> {
        if regarding.kind == "Pod" && regarding.api_version == "v1" {
            return self.find_pod(regarding).await;
        }
        let known = KINDS.iter().find(|(group, version, kind)| {
            let api_version = match *group {
                "" => (*version).to_owned(),
                group => format!("{group}/{version}"),
            };
            *kind == regarding.kind && api_version == regarding.api_version
        });
        let Some((group, version, kind)) = known else {
            return self.find_by_pods(regarding).await;
        };
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let objects: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &regarding.namespace, &resource);
        let found = objects.get_metadata_opt(&regarding.name).await?;
        Ok(found.map_or(Found::Nothing, |found| {
            Found::of(&found.metadata, regarding)
        }))
    }

    /// Lists pods by name, with the detector's right to list them.
    async fn find_pod(&self, regarding: &Regarding) -> Result<Found, kube::Error> {
        let by_name = ListParams::default().fields(&format!("metadata.name={}", regarding.name));
        if let Some(pod) = self.pods(regarding, &by_name).await?.first() {
            return Ok(Found::of(pod, regarding));
        }
        // A pod whose name was not made yet when it was reviewed is known by the start of it.
        let now = clock::timestamp().as_second();
        let is_it = |pod: &&ObjectMeta| {
            let start = pod.generate_name.as_deref().unwrap_or_default();
            let created = pod.creation_timestamp.as_ref();
            start.trim_end_matches(['-', '.']) == regarding.name
                && created.is_some_and(|created| created.0.as_second() >= now - NEW)
        };
        let pods = self.pods(regarding, &cached()).await?;
        let newest = pods
            .iter()
            .filter(is_it)
            .max_by_key(|pod| pod.creation_timestamp.as_ref().map(|created| created.0));
        Ok(newest.map_or(Found::Nothing, |pod| Found::of(pod, regarding)))
    }

    /// A controller of some other kind exists if a pod of it does.
    async fn find_by_pods(&self, regarding: &Regarding) -> Result<Found, kube::Error> {
        let pods = self.pods(regarding, &cached()).await?;
        let mut owners = pods
            .iter()
            .flat_map(|pod| pod.owner_references.iter().flatten());
        let is_there = owners.any(|owner| {
            owner.kind == regarding.kind
                && owner.api_version == regarding.api_version
                && owner.name == regarding.name
                && Some(&owner.uid) == regarding.uid.as_ref()
        });
        Ok(match is_there {
            true => Found::There {
                name: regarding.name.clone(),
                uid: regarding.uid.clone(),
            },
            false => Found::Nothing,
        })
    }

    async fn pods(
        &self,
        regarding: &Regarding,
        which: &ListParams,
    ) -> Result<Vec<ObjectMeta>, kube::Error> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &regarding.namespace);
        let list = pods.list_metadata(which).await?;
        Ok(list.items.into_iter().map(|pod| pod.metadata).collect())
    }
}

/// From the API server's own memory, which costs etcd nothing.
fn cached() -> ListParams {
    ListParams::default().match_any()
}

// === impl Found ===

impl Found {
    fn of(metadata: &ObjectMeta, regarding: &Regarding) -> Self {
        let is_it = regarding.uid.is_none() || regarding.uid == metadata.uid;
        if !is_it {
            return Self::Other;
        }
        Self::There {
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone(),
        }
    }
}

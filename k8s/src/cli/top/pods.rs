//! Which pods a workload has, and which of them have a sidecar that runs.

use anyhow::{Context as _, bail};
use k8s_openapi::{
    api::{batch::v1::Job, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::{Api, ResourceExt, api::ListParams, core::Selector};
use serde_json::Value;

use crate::{
    cli::remote::{Remote, in_time},
    inject::CONTAINER,
    text::counted,
};

/// The most pods that are followed at once: each is a connection to the API server, and a process beside the sidecar.
pub(super) const MOST: usize = 100;

/// The most pods that are listed.
const LISTED: u32 = 500;

/// The label that the Job controller gives its pods.
const JOB: &str = "batch.kubernetes.io/job-name";

/// Where a workload's pods are listed.
pub(super) struct Pods {
    pub(super) api: Api<Pod>,
    jobs: Api<Job>,
    /// As the user names it, with its namespace.
    pub(super) title: String,
    selection: Selection,
}

/// How a workload's pods are found.
#[derive(Debug, PartialEq, Eq)]
enum Selection {
    /// One pod.
    Name(String),
    /// By labels.
    Labels(String),
    /// Those of the Jobs of the CronJob with this uid.
    CronJob(String),
}

/// The pods of a workload that have not ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The names of those whose sidecar runs.
    pub(super) running: Vec<String>,
    /// How many have a sidecar that does not run yet, or not now.
    pub(super) waiting: usize,
    /// How many have none.
    pub(super) without: usize,
    /// How many there are beyond the list.
    pub(super) unlisted: usize,
}

// === impl Pods ===

impl Pods {
    /// Those of an object of the cluster.
    ///
    /// # Errors
    /// It has no selector.
    pub(super) fn of(remote: &Remote, target: &str, object: &Value) -> anyhow::Result<Self> {
        let namespace = &remote.namespace;
        Ok(Self {
            api: Api::namespaced(remote.client.clone(), namespace),
            jobs: Api::namespaced(remote.client.clone(), namespace),
            title: format!("{target} -n {namespace}"),
            selection: Selection::of(object).with_context(|| {
                format!(
                    "{target} names no pods that flowcar can find: name its deployment or a pod"
                )
            })?,
        })
    }

    /// Lists them.
    ///
    /// # Errors
    /// The API server does not answer, or the user may not list pods.
    pub(super) async fn list(&self) -> anyhow::Result<Found> {
        let listing = || format!("listing the pods of {}", self.title);
        let labels = match &self.selection {
            Selection::Name(name) => {
                let pod = in_time(self.api.get_opt(name)).await;
                let pod = pod.with_context(listing)?;
                return Ok(Found::among(pod.as_slice()));
            }
            Selection::Labels(labels) => labels.clone(),
            Selection::CronJob(uid) => {
                let jobs = in_time(self.jobs.list(&ListParams::default())).await;
                let jobs = jobs.with_context(|| format!("listing the Jobs of {}", self.title))?;
                match of_jobs(&jobs.items, uid) {
                    Some(labels) => labels,
                    None => return Ok(Found::default()),
                }
            }
        };
        let params = ListParams::default().labels(&labels).limit(LISTED);
        let list = in_time(self.api.list(&params))
            .await
            .with_context(listing)?;
        let unlisted = list.metadata.remaining_item_count.unwrap_or(0);
        Ok(Found {
            unlisted: usize::try_from(unlisted).unwrap_or(0),
            ..Found::among(&list.items)
        })
    }
}

// === impl Selection ===

impl Selection {
    fn of(object: &Value) -> anyhow::Result<Self> {
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
        let named = |pointer| text(pointer).unwrap_or_default().to_owned();
        let selector = &object["spec"]["selector"];
        match text("/kind") {
            Some("Pod") => return Ok(Self::Name(named("/metadata/name"))),
            Some("CronJob") => return Ok(Self::CronJob(named("/metadata/uid"))),
            _ => {}
        }
        let is_plain = selector["matchLabels"].is_null() && selector["matchExpressions"].is_null();
        let selector = match selector {
            // A ReplicationController has labels alone.
            Value::Object(labels) if is_plain => {
                let labels = labels.iter();
                let labels = labels
                    .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
                labels.collect::<Selector>()
            }
            other => {
                let selector: LabelSelector = serde_json::from_value(other.clone())?;
                selector.try_into()?
            }
        };
        // It would select every pod of the namespace.
        if selector.selects_all() {
            bail!("it has no selector");
        }
        Ok(Self::Labels(selector.to_string()))
    }
}

/// The selector of the pods of a CronJob's Jobs, if there are any.
fn of_jobs(jobs: &[Job], uid: &str) -> Option<String> {
    let owned = jobs.iter().filter(|job| {
        let mut owners = job.owner_references().iter();
        owners.any(|owner| owner.uid == uid)
    });
    let names: Vec<_> = owned.map(ResourceExt::name_any).collect();
    (!names.is_empty()).then(|| format!("{JOB} in ({})", names.join(",")))
}

// === impl Found ===

impl Found {
    fn among(pods: &[Pod]) -> Self {
        let mut found = Self::default();
        for pod in pods {
            match Sidecar::of(pod) {
                Some(Sidecar::Runs) => found.running.push(pod.name_any()),
                Some(Sidecar::Waits) => found.waiting += 1,
                Some(Sidecar::Absent) => found.without += 1,
                None => {}
            }
        }
        found.running.sort();
        found
    }

    /// How many pods have not ended.
    fn all(&self) -> usize {
        self.running.len() + self.waiting + self.without + self.unlisted
    }

    /// # Errors
    /// Nothing can be shown.
    pub(super) fn check(&self, target: &str, namespace: &str) -> anyhow::Result<()> {
        let all = counted(self.all(), "pod");
        match (self.running.len(), self.waiting, self.without) {
            (0, 0, 0) => bail!(
                "{target} has no pod that runs in namespace {namespace}: kubectl describe {target} -n {namespace} shows whether it is scaled to 0 or why its pods are missing"
            ),
            (0, 0, _) => bail!(
                "no sidecar: {all} of {target}, and none has one: kubectl flowcar explain {target} -n {namespace} shows why"
            ),
            (0, waiting, _) => bail!(
                "no sidecar of {target} runs yet ({} of {all}): kubectl get pods -n {namespace} shows what they wait for",
                counted(waiting, "sidecar")
            ),
            _ => Ok(()),
        }
    }

    /// Sentences about the pods that are not shown.
    pub(super) fn notes(&self, title: &str) -> Vec<String> {
        let all = counted(self.all(), "pod");
        let mut notes = Vec::new();
        if self.without > 0 {
            notes.push(format!(
                "{} of {all} without a sidecar: kubectl flowcar explain {title} shows why",
                self.without
            ));
        }
        if self.waiting > 0 {
            notes.push(format!(
                "{} of {all} with a sidecar that does not run yet",
                self.waiting
            ));
        }
        let over = self.running.len().saturating_sub(MOST) + self.unlisted;
        if over > 0 {
            notes.push(format!(
                "{over} of {all} are left out, more than {MOST} are not followed at once: name a pod to see it"
            ));
        }
        notes
    }
}

/// The sidecar of a pod.
#[derive(Debug, PartialEq, Eq)]
enum Sidecar {
    Runs,
    Waits,
    Absent,
}

impl Sidecar {
    /// `None`: the pod has ended.
    fn of(pod: &Pod) -> Option<Self> {
        let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
        let phase = status.and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return None;
        }
        let containers = spec.into_iter().flat_map(|spec| {
            let first = spec.init_containers.iter().flatten();
            first.chain(&spec.containers)
        });
        if !containers.into_iter().any(|of| of.name == CONTAINER) {
            return Some(Self::Absent);
        }
        let mut statuses = status.into_iter().flat_map(|status| {
            let first = status.init_container_statuses.iter().flatten();
            first.chain(status.container_statuses.iter().flatten())
        });
        let runs = statuses.any(|of| {
            let state = of.state.as_ref();
            of.name == CONTAINER && state.is_some_and(|state| state.running.is_some())
        });
        Some(if runs { Self::Runs } else { Self::Waits })
    }
}

#[cfg(test)]
mod tests;

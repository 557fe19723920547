//! The workload a pod belongs to, without asking the API server.
//!
//! A name that changes with every run or revision is no name of a service: what made the pod's owner is derived where
//! Kubernetes and the common controllers record enough to be sure, in the way of OpenTelemetry's `k8sattributes` processor
//! and of Istio (`GetWorkloadMetaFromPod`).

use serde_json::{Map, Value};

use super::view;
use crate::annotations::WORKLOAD;

/// A workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its kind, such as `Deployment`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// A label or annotation by which a controller names itself on its pods, whatever stands between.
struct NamedBy {
    name: &'static str,
    /// The kind of the pod's owner, whose name begins with the controller's.
    owner: &'static str,
    /// The controller's kind.
    kind: &'static str,
}

const NAMED_BY: [NamedBy; 5] = [
    // Knative: Service, Configuration, Revision, Deployment, ReplicaSet.
    NamedBy {
        name: "serving.knative.dev/service",
        owner: "ReplicaSet",
        kind: "Service",
    },
    // On the Workflow, and on its pods where `podMetadata` puts it.
    NamedBy {
        name: "workflows.argoproj.io/cron-workflow",
        owner: "Workflow",
        kind: "CronWorkflow",
    },
    NamedBy {
        name: "openshift.io/deployment-config.name",
        owner: "ReplicationController",
        kind: "DeploymentConfig",
    },
    NamedBy {
        name: "scaledjob.keda.sh/name",
        owner: "Job",
        kind: "ScaledJob",
    },
    NamedBy {
        name: "jobset.sigs.k8s.io/jobset-name",
        owner: "Job",
        kind: "JobSet",
    },
];

/// The workload of a pod: from flowcar's mark in the template, else from labels and the owner reference.
pub(super) fn of(pod: &Value) -> Option<Owner> {
    let reference = view::list(pod, "/metadata/ownerReferences")
        .iter()
        .find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true))?;
    let kind = view::text(reference, "/kind")?;
    let name = view::text(reference, "/name")?;
    Some(
        marked(pod, kind, name)
            .or_else(|| named(pod, kind, name))
            .or_else(|| revision(pod, kind, name))
            .or_else(|| run(pod, kind, name))
            .unwrap_or_else(|| Owner::new(kind, name)),
    )
}

/// What the service is called, where the workload's own name is recreated for each object (`generateName`) and each object
/// is one run: the start of the name, which the mark in the template holds.
pub(super) fn service(pod: &Value, annotations: &Map<String, Value>) -> Option<String> {
    let (kind, start) = mark(annotations)?;
    let start = start.strip_suffix('-').filter(|start| !start.is_empty())?;
    let controller = view::list(pod, "/metadata/ownerReferences")
        .iter()
        .find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true));
    let made = |owner: &Value| {
        view::text(owner, "/kind") == Some(kind)
            && view::text(owner, "/name").is_some_and(|name| name.starts_with(start))
    };
    // Without an owner this is still a template, in a file.
    (kind == "Job" && controller.is_none_or(made)).then(|| start.to_owned())
}

fn mark(annotations: &Map<String, Value>) -> Option<(&str, &str)> {
    annotations.get(WORKLOAD)?.as_str()?.split_once('/')
}

/// The mark counts only where the owner could have been made by that workload: a template may be copied.
fn marked(pod: &Value, kind: &str, name: &str) -> Option<Owner> {
    let (marked_kind, marked_name) = mark(view::annotations(pod))?;
    let maker = match kind {
        "ReplicaSet" => "Deployment",
        "Job" => "CronJob",
        _ => return None,
    };
    // A Job that was made by hand from a CronJob is marked with its own name, too.
    let (marked_name, made) = match marked_name.split_once('/') {
        Some((maker, job)) => (maker, kind == "Job" && job == name),
        None => {
            let rest = name.strip_prefix(marked_name);
            (marked_name, rest.is_some_and(|rest| rest.starts_with('-')))
        }
    };
    (marked_kind == maker && made).then(|| Owner::new(marked_kind, marked_name))
}

/// A label counts only where the owner could have been made by what it names: anybody may write one.
fn named(pod: &Value, kind: &str, name: &str) -> Option<Owner> {
    let labels = view::map(pod, "/metadata/labels");
    let annotations = view::annotations(pod);
    let mut rows = NAMED_BY.iter().filter(|row| row.owner == kind);
    rows.find_map(|row| {
        let maker = labels.get(row.name).or_else(|| annotations.get(row.name));
        let maker = maker?.as_str().filter(|maker| !maker.is_empty())?;
        let is_made = name
            .strip_prefix(maker)
            .is_some_and(|rest| rest.starts_with('-'));
        let is_cut = row.kind == "Service" && is_cut_by_knative(name, maker);
        (is_made || is_cut).then(|| Owner::new(row.kind, maker))
    })
}

/// Of the name of a revision, `<service>-00001`, that has more than 52 characters, its Deployment has the first 20, and a hash (`ChildName`
/// in `knative.dev/pkg/kmeta/names.go`).
fn is_cut_by_knative(name: &str, service: &str) -> bool {
    const LONGEST: usize = 52 - "-00001".len();
    const KEPT: usize = 20;
    let kept = service.get(..KEPT).filter(|_| service.len() > LONGEST);
    kept.is_some_and(|kept| name.starts_with(kept))
}

/// A ReplicaSet made by a Deployment is named `<deployment>-<pod-template-hash>`, one of an Argo Rollout
/// `<rollout>-<rollouts-pod-template-hash>`; the hash is a label of the pod. A ReplicationController of a DeploymentConfig
/// is named `<config>-<number>`, and the config is a label.
fn revision(pod: &Value, kind: &str, name: &str) -> Option<Owner> {
    let labels = view::map(pod, "/metadata/labels");
    let label = |name: &str| labels.get(name).and_then(Value::as_str);
    let without = |hash: &str| name.strip_suffix(hash)?.strip_suffix('-');
    let (maker, made_by) = match kind {
        "ReplicaSet" => {
            let rollout = label("rollouts-pod-template-hash").and_then(without);
            let deployment = || label("pod-template-hash").and_then(without);
            match rollout {
                Some(name) => ("Rollout", name),
                None => ("Deployment", deployment()?),
            }
        }
        "ReplicationController" => {
            let config = label("deploymentconfig")?;
            let number = name.strip_prefix(config)?.strip_prefix('-')?;
            number.parse::<u32>().ok()?;
            ("DeploymentConfig", config)
        }
        _ => return None,
    };
    (!made_by.is_empty()).then(|| Owner::new(maker, made_by))
}

/// A CronJob's Job is named `<cronjob>-<minutes since 1970>` (`getJobName` in
/// `kubernetes/pkg/controller/cronjob/utils.go`): the time that it was scheduled for, eight digits until 2160. A number that
/// is no such time, as `20261128`, belongs to the Job's own name. The Workflow of Argo's CronWorkflow is named
/// `<cronworkflow>-<seconds since 1970>` (`getChildWorkflowName` in `workflow/cron/operator.go`), ten digits until 2286.
fn run(pod: &Value, kind: &str, name: &str) -> Option<Owner> {
    let (maker, length, in_a_day) = match kind {
        "Job" => ("CronJob", 8, 24 * 60),
        "Workflow" => ("CronWorkflow", 10, 24 * 60 * 60),
        _ => return None,
    };
    let (start, digits) = name.rsplit_once('-')?;
    let is_number = digits.len() == length && digits.bytes().all(|b| b.is_ascii_digit());
    let time: i64 = digits.parse().ok().filter(|_| is_number)?;
    let created = view::text(pod, "/metadata/creationTimestamp").and_then(day_of);
    let days = match created {
        Some(day) => day - EARLIER..=day + 1,
        None => CRONJOBS_SINCE..=i64::MAX,
    };
    let is_time = days.contains(&(time / in_a_day));
    (is_time && !start.is_empty()).then(|| Owner::new(maker, start))
}

/// A Job's pods are made later than the Job was scheduled for by no more than this, in days.
const EARLIER: i64 = 2 * 365;

/// 2020, in days since 1970: CronJobs name their Jobs so since Kubernetes 1.21.
const CRONJOBS_SINCE: i64 = 18_262;

/// The day of a time in RFC 3339, in days since 1970.
fn day_of(time: &str) -> Option<i64> {
    let mut parts = time
        .get(..10)?
        .split('-')
        .map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    // Years begin in March, so that a leap day is the last one of a year.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    Some(days - 719_468)
}

// === impl Owner ===

impl Owner {
    /// An owner of this kind and name.
    #[must_use]
    pub fn new(kind: &str, name: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            name: name.to_owned(),
        }
    }
}

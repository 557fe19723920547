//! The workload a pod belongs to, without asking the API server.

use serde_json::Value;

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

/// The workload of a pod: from the mark that flowcar left in the template, else from the owner reference.
///
/// A ReplicaSet made by a Deployment is named `<deployment>-<pod-template-hash>`, and the hash is a label of
/// the pod. A CronJob's Job carries no such proof, so without our mark the Job itself is named.
pub(super) fn of(pod: &Value) -> Option<Owner> {
    let reference = view::list(pod, "/metadata/ownerReferences")
        .iter()
        .find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true))?;
    let kind = view::text(reference, "/kind")?;
    let name = view::text(reference, "/name")?;
    Some(
        marked(pod, kind, name)
            .or_else(|| deployment(pod, kind, name))
            .unwrap_or_else(|| Owner::new(kind, name)),
    )
}

/// The mark counts only where the owner could have been made by that workload: a template may be copied.
fn marked(pod: &Value, kind: &str, name: &str) -> Option<Owner> {
    let (marked_kind, marked_name) = view::annotations(pod)
        .get(WORKLOAD)?
        .as_str()?
        .split_once('/')?;
    let maker = match kind {
        "ReplicaSet" => "Deployment",
        "Job" => "CronJob",
        _ => return None,
    };
    let made = name
        .strip_prefix(marked_name)
        .is_some_and(|rest| rest.starts_with('-'));
    (marked_kind == maker && made).then(|| Owner::new(marked_kind, marked_name))
}

fn deployment(pod: &Value, kind: &str, name: &str) -> Option<Owner> {
    let hash = view::map(pod, "/metadata/labels")
        .get("pod-template-hash")?
        .as_str()?;
    let name = name.strip_suffix(hash)?.strip_suffix('-')?;
    (kind == "ReplicaSet" && !name.is_empty()).then(|| Owner::new("Deployment", name))
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

//! Whether a pod is older than its opt-in.
//!
//! The API server keeps, for each writer of an object, the fields that are its own and when it last wrote any of them
//! (`metadata.managedFields`). So what is known is the last time at which the opt-in's writer wrote: a pod that was created
//! before that may have been asked for later, and so may one that was created in the same second: times are in whole seconds. Nothing else
//! is taken for sure.

use serde_json::Value;

use crate::annotations::INJECT;

/// What is known of a pod that opted in and has no mark of the webhook, and what to do: the API server does not record why a
/// webhook was not called.
pub(crate) const UNSEEN: &str = "opted in, and the webhook did not see it; why is not recorded. Delete it; if its successor gets no \
    sidecar either, opt in on the workload or the namespace, or have flowcar's webhook run last";

/// A pod that was created before the writer of its opt-in last wrote, or in the same second, and both times, in RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Later {
    pub(crate) created: String,
    pub(crate) written: String,
}

/// When the opt-in among an object's `labels` or `annotations` was last written, in RFC 3339; `None` where it is not known.
pub(crate) fn written_at<'a>(metadata: &'a Value, field: &str) -> Option<&'a str> {
    let entries = metadata.get("managedFields")?.as_array()?;
    let path = path_of(field);
    let times = entries
        .iter()
        .filter(|entry| entry.pointer(&path).is_some())
        .filter_map(|entry| entry.get("time")?.as_str());
    // All are of the same form, in UTC and whole seconds, so that they sort as they follow each other.
    times.max()
}

/// Whether the pod may be older than its opt-in, by its own annotation or else by its namespace's label, which was written then.
pub(crate) fn opted_in_later(metadata: &Value, namespace_written: Option<&str>) -> Option<Later> {
    let created = metadata.get("creationTimestamp")?.as_str()?;
    let own = metadata.get("annotations").and_then(|all| all.get(INJECT));
    let written = match own {
        Some(_) => written_at(metadata, "annotations"),
        None => namespace_written,
    }?;
    // Whoever wrote the pod's spec and the opt-in at once wrote both when the pod was created.
    let in_its_second = written == created && !(own.is_some() && is_written_with_the_pod(metadata));
    (written > created || in_its_second).then(|| Later {
        created: created.to_owned(),
        written: written.to_owned(),
    })
}

/// Whether the annotation has the writer of the pod's spec.
fn is_written_with_the_pod(metadata: &Value) -> bool {
    let path = path_of("annotations");
    let mut entries = metadata["managedFields"].as_array().into_iter().flatten();
    entries
        .any(|entry| entry.pointer(&path).is_some() && entry.pointer("/fieldsV1/f:spec").is_some())
}

fn path_of(field: &str) -> String {
    let name = INJECT.replace('/', "~1");
    format!("/fieldsV1/f:metadata/f:{field}/f:{name}")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::opted_in_later;

    fn pod(annotations: Value, managed: Value) -> Value {
        json!({"creationTimestamp": "2026-01-02T10:00:00Z", "annotations": annotations, "managedFields": managed})
    }

    fn writer(field: &str, time: &str) -> Value {
        json!({"manager": "kubectl", "time": time, "fieldsV1": {"f:metadata": {field: {"f:flowcar.io/inject": {}}}}})
    }

    /// Whoever created the pod with its annotation.
    fn with_spec(time: &str) -> Value {
        let mut entry = writer("f:annotations", time);
        entry["fieldsV1"]["f:spec"] = json!({"f:containers": {}});
        entry
    }

    #[test]
    fn pod_is_older_only_than_a_later_opt_in() {
        let on = || json!({"flowcar.io/inject": "enabled"});
        let (before, same, after) = (
            "2026-01-02T09:59:59Z",
            "2026-01-02T10:00:00Z",
            "2026-01-02T10:00:01Z",
        );
        let own = |time: &str| pod(on(), json!([writer("f:annotations", time)]));
        let rows = [
            (own(before), None, false),
            (own(same), None, true),
            (pod(on(), json!([with_spec(same)])), None, false),
            (
                pod(
                    on(),
                    json!([with_spec(before), writer("f:annotations", same)]),
                ),
                None,
                false,
            ),
            (own(after), None, true),
            (own(before), Some(after), false),
            (pod(on(), json!([writer("f:labels", after)])), None, false),
            (pod(on(), Value::Null), None, false),
            (pod(json!({}), json!([])), Some(before), false),
            (pod(json!({}), json!([])), Some(same), true),
            (pod(json!({}), json!([])), Some(after), true),
            (pod(json!({}), json!([])), None, false),
        ];
        for (metadata, namespace, expected) in rows {
            let later = opted_in_later(&metadata, namespace);
            assert_eq!(later.is_some(), expected, "{metadata} {namespace:?}");
        }
    }
}

//! Undoes an injection.

use serde_json::Value;

use super::{CONTAINER, evict, pull_secrets, status::Status, view, volumes::VOLUMES};
use crate::annotations::{COPIED, PREFIX, STATUS, WORKLOAD};

/// The pod without what flowcar added: for every pod without a sidecar, `uninject(inject(pod)) == pod`.
/// A pod that flowcar did not touch comes back as it is, even if it has a container of that name.
#[must_use]
pub fn uninject(pod: &Value) -> Value {
    let mut pod = pod.clone();
    let Some(status) = Status::read(view::annotations(&pod)) else {
        return pod;
    };
    let (absent, null) = status.before();
    if let Status::Injected {
        volumes,
        secrets,
        evictable,
        ..
    } = &status
    {
        remove_named(&mut pod, "/spec/initContainers", |name| name == CONTAINER);
        remove_named(&mut pod, "/spec/containers", |name| name == CONTAINER);
        // The names come from an annotation that anyone can write: only flowcar's are ever removed.
        remove_named(&mut pod, "/spec/volumes", |name| {
            VOLUMES.contains(&name) && volumes.iter().any(|v| v == name)
        });
        remove_named(&mut pod, pull_secrets::LIST, |name| {
            secrets.iter().any(|secret| secret == name)
        });
        if !evictable.is_empty() {
            restore_evictable(&mut pod, evictable, absent);
        }
    }
    if let Some(annotations) = pod
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.shift_remove(STATUS);
    }
    // Inner fields were made after outer ones, so they are emptied first.
    for field in absent.iter().rev() {
        restore(&mut pod, field, None);
    }
    for field in null.iter().rev() {
        restore(&mut pod, field, Some(Value::Null));
    }
    pod
}

/// Removes flowcar's volumes from the autoscaler's annotation, and the annotation where it was absent before.
fn restore_evictable(pod: &mut Value, evictable: &[String], absent: &[String]) {
    let Some(annotations) = pod
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    let Some(value) = annotations
        .get(evict::SAFE_LOCAL_VOLUMES)
        .and_then(Value::as_str)
    else {
        return;
    };
    let ours: Vec<_> = evictable
        .iter()
        .filter(|name| VOLUMES.contains(&name.as_str()))
        .cloned()
        .collect();
    let rest = evict::without(value, &ours);
    let was_absent = absent
        .iter()
        .any(|field| field.ends_with("safe-to-evict-local-volumes"));
    if rest.is_empty() && was_absent {
        annotations.shift_remove(evict::SAFE_LOCAL_VOLUMES);
    } else {
        annotations.insert(evict::SAFE_LOCAL_VOLUMES.to_owned(), rest.into());
    }
}

/// The pod, or the template, without the annotations that the webhook copied into it from its workload.
#[must_use]
pub fn take_back_copies(mut pod: Value) -> Value {
    let Some(annotations) = pod
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    else {
        return pod;
    };
    let (Some(copied), Some(_)) = (annotations.get(COPIED), annotations.get(WORKLOAD)) else {
        return pod;
    };
    let copied = copied.as_str().unwrap_or_default().to_owned();
    for key in copied.split(',').filter(|key| !key.is_empty()) {
        annotations.shift_remove(&format!("{PREFIX}{key}"));
    }
    annotations.shift_remove(COPIED);
    annotations.shift_remove(WORKLOAD);
    // The webhook makes the field where it is absent, and takes it away with the last copy.
    if annotations.is_empty()
        && let Some(metadata) = pod.pointer_mut("/metadata").and_then(Value::as_object_mut)
    {
        metadata.shift_remove("annotations");
    }
    pod
}

fn remove_named(pod: &mut Value, list: &str, is_ours: impl Fn(&str) -> bool) {
    if let Some(items) = pod.pointer_mut(list).and_then(Value::as_array_mut) {
        items.retain(|item| !view::text(item, "/name").is_some_and(&is_ours));
    }
}

/// Puts a field back to what it was, unless someone else has put something into it since.
fn restore(pod: &mut Value, field: &str, before: Option<Value>) {
    const MADE: [&str; 6] = [
        "/metadata",
        "/metadata/annotations",
        "/spec/initContainers",
        "/spec/containers",
        "/spec/volumes",
        pull_secrets::LIST,
    ];
    let is_empty = pod.pointer(field).is_some_and(|value| match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    });
    if !MADE.contains(&field) || !is_empty {
        return;
    }
    let Some((parent, name)) = field.rsplit_once('/') else {
        return;
    };
    let Some(parent) = pod.pointer_mut(parent).and_then(Value::as_object_mut) else {
        return;
    };
    match before {
        Some(value) => drop(parent.insert(name.to_owned(), value)),
        None => drop(parent.shift_remove(name)),
    }
}

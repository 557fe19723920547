//! The way back.

use serde_json::Value;

use super::container::VOLUMES;
use super::status::Status;
use super::{CONTAINER, pull_secrets, view};
use crate::annotations::STATUS;

/// The pod without what flowcar added: for every pod without a sidecar, `uninject(inject(pod)) == pod`.
/// A pod that flowcar did not touch comes back as it is, even if it has a container of that name.
#[must_use]
pub fn uninject(pod: &Value) -> Value {
    let mut pod = pod.clone();
    let Some(status) = Status::read(view::annotations(&pod)) else {
        return pod;
    };
    if let Status::Injected {
        volumes, secrets, ..
    } = &status
    {
        remove_named(&mut pod, "/spec/initContainers", |name| name == CONTAINER);
        remove_named(&mut pod, "/spec/containers", |name| name == CONTAINER);
        // The names come from an annotation that anyone can write: only ours are ever removed.
        remove_named(&mut pod, "/spec/volumes", |name| {
            VOLUMES.contains(&name) && volumes.iter().any(|v| v == name)
        });
        remove_named(&mut pod, pull_secrets::LIST, |name| {
            secrets.iter().any(|secret| secret == name)
        });
    }
    if let Some(annotations) = pod
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.shift_remove(STATUS);
    }
    let (absent, null) = status.before();
    // Inner fields were made after outer ones, so they are emptied first.
    for field in absent.iter().rev() {
        restore(&mut pod, field, None);
    }
    for field in null.iter().rev() {
        restore(&mut pod, field, Some(Value::Null));
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

//! Reading a pod that is only JSON: absent, null and of the wrong type all read as nothing.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::CONTAINER;

static EMPTY: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);

pub(super) fn map<'a>(value: &'a Value, pointer: &str) -> &'a Map<String, Value> {
    value
        .pointer(pointer)
        .and_then(Value::as_object)
        .unwrap_or(&EMPTY)
}

pub(super) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}

pub(super) fn number(value: &Value, pointer: &str) -> Option<u64> {
    value.pointer(pointer).and_then(Value::as_u64)
}

pub(super) fn annotations(pod: &Value) -> &Map<String, Value> {
    map(pod, "/metadata/annotations")
}

/// Containers and init containers.
pub(super) fn all_containers(pod: &Value) -> impl Iterator<Item = &Value> {
    list(pod, "/spec/containers")
        .iter()
        .chain(list(pod, "/spec/initContainers"))
}

pub(super) fn is_named(item: &Value, name: &str) -> bool {
    item.get("name").and_then(Value::as_str) == Some(name)
}

pub(crate) fn has_container(pod: &Value) -> bool {
    all_containers(pod).any(|container| is_named(container, CONTAINER))
}

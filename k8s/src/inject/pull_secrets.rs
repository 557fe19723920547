//! The Secrets that the sidecar's image is pulled with. They are a pod's, not a container's: what the pod has stays,
//! and flowcar's come behind it.

use serde_json::{Value, json};

use super::{Context, view};
use crate::config::Settings;

/// Where a pod has them.
pub(super) const LIST: &str = "/spec/imagePullSecrets";

/// The names to add: those that the operator configured and the pod has not.
///
/// The ServiceAccount admission plugin gives a pod the Secrets of its service account only where the pod has none.
/// The webhook comes after it. A file comes before it, so a file without the list gets none.
pub(super) fn missing(
    pod: &Value,
    context: &Context,
    settings: &Settings,
    notes: &mut Vec<String>,
) -> Vec<String> {
    let wanted = &settings.config.image_pull_secrets;
    let list = pod.pointer(LIST).filter(|list| !list.is_null());
    let has_none = list.is_none_or(|list| list.as_array().is_some_and(Vec::is_empty));
    if wanted.is_empty() || list.is_some_and(|list| !list.is_array()) {
        return Vec::new();
    }
    if has_none && context.opted_in {
        notes.push(
            "imagePullSecrets are not added: those of the service account would no longer be"
                .to_owned(),
        );
        return Vec::new();
    }
    let there: Vec<_> = list
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|item| view::text(item, "/name"))
        .collect();
    let is_missing = |name: &&String| !there.contains(&name.as_str());
    wanted.iter().filter(is_missing).cloned().collect()
}

/// The items of the list.
pub(super) fn items(names: &[String]) -> Vec<Value> {
    names.iter().map(|name| json!({ "name": name })).collect()
}

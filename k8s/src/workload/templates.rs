//! Where the pod template of an object is: by its kind, else by the shape of a template.

use serde_json::Value;

/// The JSON pointer of the pod (in a Pod, the object itself) or of the pod template in an object of this kind;
/// `None` for kinds that have none.
#[must_use]
pub fn template_pointer(kind: &str) -> Option<&'static str> {
    match kind {
        "Pod" => Some(""),
        "Deployment"
        | "StatefulSet"
        | "DaemonSet"
        | "ReplicaSet"
        | "ReplicationController"
        | "Job" => Some("/spec/template"),
        "CronJob" => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

/// The API groups of the kinds that [`template_pointer`] knows; other groups have kinds of the same names.
pub(super) fn is_of_kubernetes(object: &Value) -> bool {
    let Some(version) = text(object, "apiVersion") else {
        return true;
    };
    let group = version.split_once('/').map_or("", |(group, _)| group);
    match text(object, "kind").unwrap_or_default() {
        "Pod" | "ReplicationController" => group.is_empty(),
        "Job" | "CronJob" => group == "batch",
        _ => matches!(group, "apps" | "extensions"),
    }
}

/// Where the pod or its template is in an object of one of Kubernetes' own kinds.
pub(super) fn known_template(object: &Value) -> Option<&'static str> {
    template_pointer(text(object, "kind")?).filter(|_| is_of_kubernetes(object))
}

/// Whether the object is of one of Kubernetes' own kinds that have pods.
#[must_use]
pub fn is_known(object: &Value) -> bool {
    known_template(object).is_some()
}

/// Kinds, and groups of kinds, that have templates in them and make no pods of them.
const NO_WORKLOADS: [&str; 2] = ["ControllerRevision", "CustomResourceDefinition"];
const NO_WORKLOAD_GROUPS: [&str; 2] = ["kyverno.io", "policies.kyverno.io"];

/// How deep a template may be in an object of a kind that is not known.
const DEPTH: usize = 16;

/// The JSON pointers of an object's pod templates (of a Pod: of itself).
///
/// Kinds that are not known, such as an Argo Rollout, a Knative Service, a PodTemplate or any custom resource, have theirs
/// found by its shape: an object of `metadata` and `spec` alone, whose `spec` has containers with names or images. Those of
/// objects inside the object, as in an OpenShift Template, are found likewise.
#[must_use]
pub fn templates(object: &Value) -> Vec<String> {
    let mut found = Vec::new();
    find_in_object(object, "", DEPTH, &mut found);
    found
}

/// The object that a template is in: the nearest one around it that has a kind and metadata of its own, as the objects in an
/// OpenShift Template have.
#[must_use]
pub fn around<'a>(object: &'a Value, pointer: &str) -> &'a Value {
    let ends = pointer.char_indices().filter(|(_, c)| *c == '/');
    let outer = ends
        .filter_map(|(end, _)| object.pointer(&pointer[..end]))
        .rfind(|value| is_object(value));
    let own = object
        .pointer(pointer)
        .filter(|pod| text(pod, "kind") == Some("Pod") && is_of_kubernetes(pod) && is_object(pod));
    own.or(outer).unwrap_or(object)
}

/// Whether this is an object of the API, by its shape.
fn is_object(value: &Value) -> bool {
    text(value, "kind").is_some() && value.get("metadata").is_some_and(Value::is_object)
}

fn find_in_object(object: &Value, pointer: &str, depth: usize, found: &mut Vec<String>) {
    if let Some(known) = known_template(object)
        && object.pointer(known).is_some()
    {
        found.push(format!("{pointer}{known}"));
        return;
    }
    let kind = text(object, "kind").unwrap_or_default();
    let group = text(object, "apiVersion").and_then(|version| version.split_once('/'));
    let is_policy = group.is_some_and(|(group, _)| NO_WORKLOAD_GROUPS.contains(&group));
    if NO_WORKLOADS.contains(&kind) || is_policy {
        return;
    }
    for (name, value) in object.as_object().into_iter().flatten() {
        if !matches!(name.as_str(), "metadata" | "status") {
            let pointer = format!("{pointer}/{}", escaped(name));
            find_templates(value, &pointer, depth, found);
        }
    }
}

fn find_templates(value: &Value, pointer: &str, depth: usize, found: &mut Vec<String>) {
    if is_template(value) {
        found.push(pointer.to_owned());
        return;
    }
    let Some(depth) = depth.checked_sub(1) else {
        return;
    };
    match value {
        Value::Object(_) if is_object(value) => find_in_object(value, pointer, depth, found),
        Value::Object(members) => {
            for (name, member) in members {
                find_templates(
                    member,
                    &format!("{pointer}/{}", escaped(name)),
                    depth,
                    found,
                );
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                find_templates(item, &format!("{pointer}/{index}"), depth, found);
            }
        }
        _ => {}
    }
}

/// A PodTemplateSpec, by its shape.
fn is_template(value: &Value) -> bool {
    let Some(members) = value.as_object() else {
        return false;
    };
    let is_member =
        |name: &String| matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "spec");
    let containers = value.pointer("/spec/containers").and_then(Value::as_array);
    members.keys().all(is_member)
        && containers.is_some_and(|containers| {
            // A Knative Service's need no names.
            let is_container = |item: &Value| {
                ["name", "image"]
                    .iter()
                    .any(|field| text(item, field).is_some())
            };
            !containers.is_empty() && containers.iter().all(is_container)
        })
}

/// A name as a part of a JSON pointer (RFC 6901).
pub(super) fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// A field with a text.
pub(super) fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value.get(field).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn templates_of_unknown_kinds_are_found_by_their_shape() {
        let template =
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "app"}]}});
        let custom = |spec: Value| json!({"apiVersion": "x.test/v1", "kind": "Custom", "metadata": {}, "spec": spec});
        let rows: [(Value, &[&str]); 12] = [
            (custom(json!({"template": template})), &["/spec/template"]),
            (
                custom(json!({"nodeSets": [{"podTemplate": template}, {"podTemplate": template}]})),
                &[
                    "/spec/nodeSets/0/podTemplate",
                    "/spec/nodeSets/1/podTemplate",
                ],
            ),
            (
                custom(json!({"tasks": {"a/b": {"template": template}}})),
                &["/spec/tasks/a~1b/template"],
            ),
            (
                json!({"apiVersion": "v1", "kind": "PodTemplate", "template": template}),
                &["/template"],
            ),
            (
                json!({"apiVersion": "batch.volcano.sh/v1alpha1", "kind": "Job", "spec": {"tasks": [{"template": template}]}}),
                &["/spec/tasks/0/template"],
            ),
            (
                json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"template": template}}),
                &["/spec/template"],
            ),
            (
                json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "data": {"spec": {"template": template}}}),
                &[],
            ),
            (
                json!({"apiVersion": "kyverno.io/v1", "kind": "Policy", "spec": {"template": template}}),
                &[],
            ),
            (custom(json!({"containers": [{"name": "patch"}]})), &[]),
            (
                custom(json!({"pattern": {"spec": {"containers": [{"(name)": "*"}]}}})),
                &[],
            ),
            (
                custom(json!({"template": {"spec": {"containers": []}}})),
                &[],
            ),
            (
                json!({"apiVersion": "v1", "kind": "Service", "spec": {}}),
                &[],
            ),
        ];
        for (object, expected) in rows {
            assert_eq!(templates(&object), expected, "{object}");
        }
    }
}

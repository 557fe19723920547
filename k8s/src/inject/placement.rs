//! Which nodes a pod asks for: those of other operating systems, and those that are no machines.
//!
//! A pod is for such a node only if it can run nowhere else: every term of a required node affinity has to require
//! it, as the terms are alternatives (`k8s.io/component-helpers/scheduling/corev1/nodeaffinity`).

use serde_json::Value;

use super::view;

/// Labels that name a node's operating system.
const OS_LABELS: [&str; 2] = ["kubernetes.io/os", "beta.kubernetes.io/os"];

/// Labels that only nodes of Windows have, and how their values begin.
const WINDOWS_LABELS: [(&str, &str); 4] = [
    ("node.openshift.io/os_id", "Windows"),
    ("node.kubernetes.io/windows-build", ""),
    ("kubernetes.azure.com/os-sku", "Windows"),
    ("cloud.google.com/gke-os-distribution", "windows"),
];

/// Labels of nodes that are no machines, how their values begin, and what runs pods there.
const VIRTUAL_LABELS: [(&str, &str, &str); 5] = [
    ("eks.amazonaws.com/compute-type", "fargate", FARGATE),
    ("type", "virtual-kubelet", VIRTUAL_KUBELET),
    ("virtual-kubelet.io/", "", VIRTUAL_KUBELET),
    ("node-role.kubernetes.io/virtual-node", "", VIRTUAL_KUBELET),
    ("liqo.io/type", "virtual-node", VIRTUAL_KUBELET),
];

/// Taints of such nodes: a pod that tolerates one by name may run there. Keys, or how they begin.
const VIRTUAL_TAINTS: [(&str, &str); 5] = [
    ("virtual-kubelet.io/", VIRTUAL_KUBELET),
    ("azure.com/aci", VIRTUAL_KUBELET),
    ("virtual-node.liqo.io/", VIRTUAL_KUBELET),
    ("node-role.kubernetes.io/virtual-node", VIRTUAL_KUBELET),
    ("eks.amazonaws.com/compute-type", FARGATE),
];

/// How the names of such nodes begin, as their providers make them.
const VIRTUAL_NODES: [(&str, &str); 3] = [
    ("virtual-kubelet", VIRTUAL_KUBELET),
    ("virtual-node-", VIRTUAL_KUBELET),
    ("fargate-", FARGATE),
];

const FARGATE: &str = "Fargate";
const VIRTUAL_KUBELET: &str = "a virtual kubelet";

/// What a label of the node has to be.
enum Wanted<'a> {
    AnyOf(Vec<&'a str>),
    NoneOf(Vec<&'a str>),
    There,
    NotThere,
}

/// A node that is no machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct VirtualNode {
    /// What runs the pod there.
    pub(super) what: &'static str,
    /// The pod can run nowhere else; it only tolerates such nodes otherwise.
    pub(super) is_certain: bool,
}

/// Whether the pod runs Windows.
pub(super) fn is_windows(pod: &Value) -> bool {
    match view::text(pod, "/spec/os/name") {
        Some("windows") => return true,
        Some(_) => return false,
        None => {}
    }
    if is_only_for(pod, is_linux_node) {
        return false;
    }
    is_only_for(pod, is_windows_node) || has_windows_options(pod)
}

/// What runs the pod, where no node does or none may.
pub(super) fn virtual_node(pod: &Value) -> Option<VirtualNode> {
    let node = |is_certain| move |what| VirtualNode { what, is_certain };
    let certain = by_label(pod).or_else(|| by_name(pod)).map(node(true));
    certain.or_else(|| by_toleration(pod).map(node(false)))
}

fn by_label(pod: &Value) -> Option<&'static str> {
    // The profile's label is written by Fargate's own webhook, which comes before others.
    if view::map(pod, "/metadata/labels").contains_key("eks.amazonaws.com/fargate-profile") {
        return Some(FARGATE);
    }
    let found = VIRTUAL_LABELS.iter().find(|(label, start, _)| {
        is_only_for(pod, |key, wanted| {
            is_label(label, key) && all_begin_with(wanted, start)
        })
    });
    found.map(|(_, _, what)| *what)
}

fn by_toleration(pod: &Value) -> Option<&'static str> {
    let keys = view::list(pod, "/spec/tolerations")
        .iter()
        .filter_map(|toleration| view::text(toleration, "/key"));
    let mut found = keys.filter_map(|key| {
        let taint = VIRTUAL_TAINTS
            .iter()
            .find(|(taint, _)| is_label(taint, key));
        taint.map(|(_, what)| *what)
    });
    found.find(|what| !is_ruled_out(pod, what))
}

/// Whether the pod's selectors leave no node of this kind.
fn is_ruled_out(pod: &Value, what: &str) -> bool {
    is_only_for(pod, |key, wanted| {
        let mut labels = VIRTUAL_LABELS.iter().filter(|(.., who)| *who == what);
        labels.any(|(label, start, _)| is_label(label, key) && is_without(wanted, start))
    })
}

fn is_without(wanted: &Wanted<'_>, start: &str) -> bool {
    let begins = |value: &&str| value.starts_with(start);
    match wanted {
        Wanted::AnyOf(values) => !values.is_empty() && !values.iter().any(begins),
        // Other values of a label that only such nodes have are theirs, too.
        Wanted::NoneOf(values) => !start.is_empty() && values.iter().any(begins),
        Wanted::NotThere => true,
        Wanted::There => false,
    }
}

fn by_name(pod: &Value) -> Option<&'static str> {
    if view::text(pod, "/spec/schedulerName") == Some("fargate-scheduler") {
        return Some(FARGATE);
    }
    let node = view::text(pod, "/spec/nodeName")?;
    let found = VIRTUAL_NODES
        .iter()
        .find(|(start, _)| node.starts_with(start));
    found.map(|(_, what)| *what)
}

/// A name that ends in a slash stands for every key below it.
fn is_label(label: &str, key: &str) -> bool {
    if label.ends_with('/') {
        key.starts_with(label)
    } else {
        key == label
    }
}

fn all_begin_with(wanted: &Wanted<'_>, start: &str) -> bool {
    match wanted {
        Wanted::AnyOf(values) => {
            !values.is_empty() && values.iter().all(|value| value.starts_with(start))
        }
        Wanted::There => true,
        Wanted::NoneOf(_) | Wanted::NotThere => false,
    }
}

fn is_os(key: &str, wanted: &Wanted<'_>, os: &str, other: &str) -> bool {
    OS_LABELS.contains(&key)
        && match wanted {
            Wanted::AnyOf(values) => !values.is_empty() && values.iter().all(|value| *value == os),
            Wanted::NoneOf(values) => values.contains(&other),
            Wanted::There | Wanted::NotThere => false,
        }
}

fn is_linux_node(key: &str, wanted: &Wanted<'_>) -> bool {
    is_os(key, wanted, "linux", "windows")
}

fn is_windows_node(key: &str, wanted: &Wanted<'_>) -> bool {
    let by_name = |(label, start): &(&str, &str)| *label == key && all_begin_with(wanted, start);
    is_os(key, wanted, "windows", "linux") || WINDOWS_LABELS.iter().any(by_name)
}

/// The API server refuses these options on a pod whose `spec.os` is Linux.
fn has_windows_options(pod: &Value) -> bool {
    let is_set = |owner: &Value, field: &str| !view::map(owner, field).is_empty();
    is_set(pod, "/spec/securityContext/windowsOptions")
        || view::all_containers(pod)
            .any(|container| is_set(container, "/securityContext/windowsOptions"))
}

/// Whether the pod can only be put on nodes with a label that fits.
fn is_only_for(pod: &Value, fits: impl Fn(&str, &Wanted<'_>) -> bool) -> bool {
    let selector = view::map(pod, "/spec/nodeSelector");
    let selected = selector.iter().any(|(key, value)| {
        value
            .as_str()
            .is_some_and(|value| fits(key, &Wanted::AnyOf(vec![value])))
    });
    let terms = view::list(
        pod,
        "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms",
    );
    let term_fits = |term: &Value| {
        view::list(term, "/matchExpressions")
            .iter()
            .filter_map(wanted)
            .any(|(key, wanted)| fits(key, &wanted))
    };
    selected || (!terms.is_empty() && terms.iter().all(term_fits))
}

fn wanted(expression: &Value) -> Option<(&str, Wanted<'_>)> {
    let key = view::text(expression, "/key")?;
    let values = view::list(expression, "/values")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let wanted = match view::text(expression, "/operator")? {
        "In" => Wanted::AnyOf(values),
        "NotIn" => Wanted::NoneOf(values),
        "Exists" => Wanted::There,
        "DoesNotExist" => Wanted::NotThere,
        _ => return None,
    };
    Some((key, wanted))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{VirtualNode, is_windows, virtual_node};

    fn affinity(terms: &Value) -> Value {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
    }

    fn expression(key: &str, operator: &str, values: &[&str]) -> Value {
        json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]})
    }

    #[test]
    fn windows_pod_is_detected_in_every_spelling() {
        let os = "kubernetes.io/os";
        let build = "node.kubernetes.io/windows-build";
        let hybrid = json!([
            expression(os, "In", &["windows"]),
            expression(os, "In", &["linux"])
        ]);
        let both = json!([{"matchExpressions": [
            {"key": "zone", "operator": "In", "values": ["a"]},
            {"key": os, "operator": "In", "values": ["windows"]},
        ]}]);
        let options = json!({"windowsOptions": {"runAsUserName": "ContainerUser"}});
        let rows: [(Value, bool); 22] = [
            (json!({}), false),
            (json!({"os": {"name": "windows"}}), true),
            (
                json!({"os": {"name": "linux"}, "nodeSelector": {os: "windows"}}),
                false,
            ),
            (json!({"nodeSelector": {os: "windows"}}), true),
            (
                json!({"nodeSelector": {"beta.kubernetes.io/os": "windows"}}),
                true,
            ),
            (json!({"nodeSelector": {os: "linux"}}), false),
            (json!({"nodeSelector": {build: "10.0.20348"}}), true),
            (
                json!({"nodeSelector": {"node.openshift.io/os_id": "Windows"}}),
                true,
            ),
            (
                json!({"nodeSelector": {"kubernetes.azure.com/os-sku": "Windows2022"}}),
                true,
            ),
            (
                json!({"nodeSelector": {"cloud.google.com/gke-os-distribution": "windows_ltsc"}}),
                true,
            ),
            (affinity(&json!([expression(os, "In", &["windows"])])), true),
            (
                affinity(&json!([expression(os, "NotIn", &["linux"])])),
                true,
            ),
            (
                affinity(&json!([expression(os, "NotIn", &["windows"])])),
                false,
            ),
            (
                affinity(&json!([expression(os, "In", &["windows", "linux"])])),
                false,
            ),
            (affinity(&json!([expression(build, "Exists", &[])])), true),
            (affinity(&hybrid), false),
            (affinity(&both), true),
            (affinity(&json!([])), false),
            (json!({"securityContext": options}), true),
            (json!({"containers": [{"securityContext": options}]}), true),
            (
                json!({"initContainers": [{"securityContext": options}]}),
                true,
            ),
            (json!({"securityContext": {"windowsOptions": {}}}), false),
        ];
        for (spec, expected) in rows {
            assert_eq!(is_windows(&json!({"spec": spec})), expected, "{spec}");
        }
    }

    #[test]
    fn virtual_node_is_detected_in_every_spelling() {
        let node = |what, is_certain| Some(VirtualNode { what, is_certain });
        let (kubelet, fargate) = (node("a virtual kubelet", true), node("Fargate", true));
        let (may_kubelet, may_fargate) = (node("a virtual kubelet", false), node("Fargate", false));
        let compute = "eks.amazonaws.com/compute-type";
        let tolerates = |key: &str| json!({"tolerations": [{"key": key, "operator": "Exists"}]});
        let beside = |mut spec: Value, terms: &Value| {
            spec["affinity"] = affinity(terms)["affinity"].clone();
            spec
        };
        let provider = "virtual-kubelet.io/provider";
        let rows: [(Value, Option<VirtualNode>); 21] = [
            (json!({}), None),
            (
                json!({"nodeSelector": {"type": "virtual-kubelet"}}),
                kubelet,
            ),
            (json!({"nodeSelector": {"type": "gpu"}}), None),
            (
                affinity(&json!([expression("type", "In", &["virtual-kubelet"])])),
                kubelet,
            ),
            (
                affinity(&json!([expression("type", "NotIn", &["virtual-kubelet"])])),
                None,
            ),
            (tolerates(provider), may_kubelet),
            (tolerates("azure.com/aci"), may_kubelet),
            (
                beside(
                    tolerates(provider),
                    &json!([expression("type", "NotIn", &["virtual-kubelet"])]),
                ),
                None,
            ),
            (
                beside(
                    tolerates(provider),
                    &json!([expression("type", "DoesNotExist", &[])]),
                ),
                None,
            ),
            (
                beside(
                    tolerates(provider),
                    &json!([expression(compute, "NotIn", &["fargate"])]),
                ),
                may_kubelet,
            ),
            (
                // The terms are alternatives.
                beside(
                    tolerates(provider),
                    &json!([
                        expression("type", "NotIn", &["virtual-kubelet"]),
                        expression("zone", "In", &["a"])
                    ]),
                ),
                may_kubelet,
            ),
            (
                beside(
                    tolerates(provider),
                    &json!([expression("type", "In", &["virtual-kubelet"])]),
                ),
                kubelet,
            ),
            (
                json!({"tolerations": [{"key": compute}], "nodeSelector": {compute: "ec2"}}),
                None,
            ),
            (
                json!({"tolerations": [{"key": provider}], "nodeName": "virtual-node-aci-linux"}),
                kubelet,
            ),
            (json!({"tolerations": [{"operator": "Exists"}]}), None),
            (tolerates(compute), may_fargate),
            (json!({"nodeSelector": {compute: "fargate"}}), fargate),
            (json!({"nodeSelector": {compute: "ec2"}}), None),
            (json!({"schedulerName": "fargate-scheduler"}), fargate),
            (json!({"nodeName": "virtual-node-aci-linux"}), kubelet),
            (
                json!({"nodeName": "fargate-ip-10-0-0-1.ec2.internal"}),
                fargate,
            ),
        ];
        for (spec, expected) in rows {
            assert_eq!(virtual_node(&json!({"spec": spec})), expected, "{spec}");
        }
        let profile =
            json!({"metadata": {"labels": {"eks.amazonaws.com/fargate-profile": "p"}}, "spec": {}});
        assert_eq!(virtual_node(&profile), fargate);
    }
}

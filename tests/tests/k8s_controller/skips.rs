//! Every skip that a stored pod can have, reported everywhere: by warning, Event, metric, annotation and `explain`.

use flowcar_tests::{
    cluster::{
        Cluster, LIMIT,
        tools::{containers, pipe, pod},
    },
    peers::eventually,
};
use serde_json::{Value, json};

use crate::cli;

/// A pod's name, its namespace, reason and sentence, and what makes it a skip.
type Case = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    fn(&mut Value),
);

const CASES: &[Case] = &[
    (
        "unknown",
        "shop",
        "unknown_value",
        "did you mean \"enabled\"?",
        |pod| {
            pod["metadata"]["annotations"]["flowcar.io/inject"] = json!("enable");
        },
    ),
    (
        "system",
        "kube-system",
        "excluded_namespace",
        "namespace kube-system is never injected",
        |_| {},
    ),
    (
        "own",
        "flowcar-system",
        "excluded_namespace",
        "namespace flowcar-system is never injected",
        |pod| {
            pod["spec"]["containers"][0]["securityContext"] = json!({
                "runAsNonRoot": true, "runAsUser": 1000, "allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
            });
        },
    ),
    (
        "mirror",
        "shop",
        "mirror_pod",
        "the kubelet never reads a mirror pod",
        |pod| {
            pod["metadata"]["annotations"]["kubernetes.io/config.mirror"] = json!("abc");
            pod["spec"]["nodeName"] = json!("node-a");
        },
    ),
    (
        "host",
        "shop",
        "host_network",
        "the pod is on the host's network",
        |pod| {
            pod["spec"]["hostNetwork"] = json!(true);
        },
    ),
    (
        "windows",
        "shop",
        "windows",
        "the pod is for Windows",
        |pod| {
            pod["spec"]["os"] = json!({"name": "windows"});
        },
    ),
    (
        "users",
        "shop",
        "user_namespace",
        "hostUsers: false rules eBPF out",
        |pod| {
            pod["spec"]["hostUsers"] = json!(false);
        },
    ),
    (
        "sandbox",
        "shop",
        "sandboxed",
        "runtime class gvisor has its own kernel",
        |pod| {
            pod["spec"]["runtimeClassName"] = json!("gvisor");
        },
    ),
    (
        "taken",
        "shop",
        "name_taken",
        "a container named flowcar",
        |pod| {
            pod["spec"]["containers"][0]["name"] = json!("flowcar");
        },
    ),
];

fn prepare(cluster: &Cluster) {
    for namespace in ["kube-system", "flowcar-system"] {
        cluster.api.create_service_account(namespace, "default");
    }
    let class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "gvisor"}, "handler": "runsc"});
    cluster.apply(&class.to_string());
}

#[test]
fn every_skip_is_reported_everywhere() {
    let cluster = Cluster::start();
    let controller = cluster.controller(&[]);
    prepare(&cluster);
    for (name, namespace, reason, sentence, skip) in CASES {
        let mut object = pod(name, json!({"flowcar.io/inject": "enabled"}));
        object["apiVersion"] = json!("v1");
        object["kind"] = json!("Pod");
        skip(&mut object);
        let metric = format!("flowcar_admission_reasons_total{{reason=\"{reason}\"}}");
        let before = controller.metric(&metric).unwrap_or(0.0);
        let mut kubectl = cluster.api.kubectl();
        kubectl.args(["-n", namespace, "create", "-o", "json", "-f", "-"]);
        let (ok, stored, warnings) = pipe(kubectl, &object.to_string());
        assert!(ok, "{name}: {warnings}");
        let warning = "Warning: flowcar: not injected: ";
        assert!(
            warnings.contains(warning) && warnings.contains(sentence),
            "{name}: {warnings}"
        );
        let stored: Value = serde_json::from_str(&stored).expect("a pod");
        assert_eq!(containers(&stored).0, Vec::<&str>::new(), "{name}");
        assert_eq!(containers(&stored).1.len(), 1, "{name}");
        let status = &stored["metadata"]["annotations"]["flowcar.io/status"];
        assert!(
            status.as_str().is_some_and(|text| text.contains(reason)),
            "{name}: {status}"
        );
        assert_eq!(controller.metric(&metric), Some(before + 1.0), "{name}");
        let event = eventually(&format!("an Event about {name}"), LIMIT, || {
            cluster.events(namespace, "FlowcarNotInjected", name).pop()
        });
        assert!(
            event["note"]
                .as_str()
                .is_some_and(|note| note.contains(sentence)),
            "{event}"
        );
        let (_, out, error) = cli::run(
            &cluster,
            &["-n", namespace, "explain", &format!("pod/{name}")],
        );
        assert_eq!(out.lines().count(), 1, "{name}: {out}{error}");
        assert!(
            out.starts_with(&format!("{namespace} pod/{name}: gets no sidecar: ")),
            "{out}"
        );
        assert!(out.contains(sentence), "{out}");
    }
    // A pod that nobody owns and that has no name yet when it is reviewed gets its Event by the name that it is given.
    let mut nameless = pod("", json!({"flowcar.io/inject": "enabled"}));
    nameless["metadata"]["name"] = Value::Null;
    nameless["metadata"]["generateName"] = json!("some-");
    nameless["spec"]["hostNetwork"] = json!(true);
    let created = cluster.create_pod("shop", &nameless);
    let name = created["metadata"]["name"].as_str().expect("a name");
    eventually("an Event about a pod without a name", LIMIT, || {
        cluster.events("shop", "FlowcarNotInjected", name).pop()
    });
}

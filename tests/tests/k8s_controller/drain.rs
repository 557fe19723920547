//! Whether a node can be emptied of injected pods, by kubectl's own rule.

use flowcar_tests::cluster::{
    Cluster,
    tools::{containers, pipe, pod},
};
use serde_json::{Value, json};

/// What `kubectl drain` prints about a node, on a dry run.
fn drain(cluster: &Cluster, node: &str) -> (bool, String) {
    let mut kubectl = cluster.api.kubectl();
    // Without --force it asks for a controller of each pod, and without more than that for nothing.
    kubectl.args([
        "drain",
        node,
        "--dry-run=server",
        "--force",
        "--ignore-daemonsets",
    ]);
    let (ok, stdout, stderr) = pipe(kubectl, "");
    (ok, stdout + &stderr)
}

fn on_node(name: &str, node: &str, annotations: Value) -> Value {
    let mut pod = pod(name, annotations);
    pod["spec"]["nodeName"] = json!(node);
    pod
}

#[test]
fn kubectl_drains_a_node_with_injected_pods_in_every_form() {
    let cluster = Cluster::start();
    let _controller = cluster.controller(&[]);
    for node in ["node-a", "node-b"] {
        let object = json!({"metadata": {"name": node}});
        cluster.admin().create("/api/v1/nodes", &object).success();
    }
    let asked = |more: Value| {
        let mut annotations = json!({"flowcar.io/inject": "enabled"});
        annotations
            .as_object_mut()
            .expect("annotations")
            .extend(more.as_object().expect("annotations").clone());
        annotations
    };
    for (name, annotations) in [
        ("ebpf", asked(json!({}))),
        ("diag", asked(json!({"flowcar.io/source": "inet_diag"}))),
        (
            "socket",
            asked(json!({"flowcar.io/endpoint": "unix:///run/otel/otlp.sock"})),
        ),
        (
            "tls",
            asked(
                json!({"flowcar.io/ca-secret": "ca", "flowcar.io/client-certificate-secret": "tls"}),
            ),
        ),
    ] {
        let stored = cluster.create_pod("shop", &on_node(name, "node-a", annotations));
        assert_eq!(containers(&stored).0, ["flowcar"], "{name}");
    }
    let (ok, printed) = drain(&cluster, "node-a");
    assert!(ok, "{printed}");
    // The rule itself holds: an application's own emptyDir is refused.
    let mut local = on_node("local", "node-b", json!({}));
    local["spec"]["volumes"] = json!([{"name": "cache", "emptyDir": {}}]);
    cluster.create_pod("shop", &local);
    let (ok, printed) = drain(&cluster, "node-b");
    assert!(!ok && printed.contains("local storage"), "{printed}");
}

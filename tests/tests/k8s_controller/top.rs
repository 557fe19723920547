//! `kubectl flowcar top` against the real API server, as far as there is something to see without a kubelet: which pods it asks, with which
//! right, and what it reports where it cannot. `k8s_node` has the rest.

use flowcar_tests::{
    cluster::{
        Cluster, LIMIT,
        tools::{kubectl_flowcar, pipe},
    },
    peers::{PatchKind, eventually},
};
use serde_json::{Value, json};

use super::cli::run;

/// `kubectl flowcar top` in namespace shop, which fails: its message.
fn message(cluster: &Cluster, words: &[&str]) -> String {
    let words = [&["-n", "shop", "top"], words].concat();
    let (ok, out, error) = run(cluster, &words);
    assert!(!ok && out.is_empty(), "{out}{error}");
    error
}

/// A pod of the Deployment, with these containers.
fn pod(name: &str, containers: &[&str]) -> Value {
    let containers = containers.iter();
    let containers: Vec<_> = containers
        .map(|name| json!({"name": name, "image": "app:1"}))
        .collect();
    json!({
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": containers},
    })
}

/// What the kubelet reports of a pod whose sidecar runs.
fn runs(cluster: &Cluster, name: &str) {
    let status = json!({
        "name": "flowcar", "ready": true, "restartCount": 0, "image": "app:1", "imageID": "",
        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
    });
    let patch = json!({"status": {"phase": "Running", "containerStatuses": [status]}});
    let path = format!("/api/v1/namespaces/shop/pods/{name}/status");
    cluster
        .admin()
        .patch(&path, PatchKind::Merge, &patch)
        .success();
}

#[test]
fn top_names_the_pods_and_the_right_that_it_lacks() {
    let cluster = Cluster::bare();
    cluster.api.create_service_account("shop", "tenant");
    let labels = json!({"app": "web"});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "app", "image": "app:1"}]},
            },
        },
    });
    let path = "/apis/apps/v1/namespaces/shop/deployments";
    cluster.admin().create(path, &deployment).success();
    let of_web = |more: &str| message(&cluster, &["deployment/web", more]);

    let absent = message(&cluster, &["deployment/nope"]);
    assert!(absent.contains("\"nope\" not found"), "{absent}");
    let none = of_web("--once");
    assert!(
        none.contains("deployment/web has no pod that runs in namespace shop"),
        "{none}"
    );
    cluster.create_pod("shop", &pod("web-1", &["app"]));
    let without = of_web("--once");
    assert!(
        without.contains("no sidecar: 1 pod of deployment/web")
            && without.contains("kubectl flowcar explain deployment/web -n shop"),
        "{without}"
    );
    cluster.create_pod("shop", &pod("web-2", &["app", "flowcar"]));
    let waits = of_web("--once");
    assert!(waits.contains("runs yet (1 sidecar of 2 pods)"), "{waits}");

    runs(&cluster, "web-2");
    // The API server has no node to pass exec on to: the pod is on none.
    let nowhere = of_web("--interval=0.5");
    assert!(
        nowhere.contains("no sidecar of deployment/web -n shop can be asked")
            && nowhere.contains("web-2: exec failed: pod web-2 does not have a host assigned"),
        "{nowhere}"
    );
    assert!(
        nowhere.contains("1 of 2 pods without a sidecar"),
        "{nowhere}"
    );

    // Who may read pods may not exec for that.
    let binding = json!({
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "tenant", "namespace": "shop"}],
    });
    let role = json!({
        "metadata": {"name": "reader"},
        "rules": [
            {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get"]},
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
        ],
    });
    let rights = "/apis/rbac.authorization.k8s.io/v1/namespaces/shop";
    for (kind, object) in [("roles", &role), ("rolebindings", &binding)] {
        let path = format!("{rights}/{kind}");
        cluster.admin().create(&path, object).success();
    }
    let tenant = || {
        let token = cluster.api.service_account_token("shop", "tenant");
        let kubeconfig = cluster.api.kubeconfig_for("tenant.json", &token);
        let mut command = kubectl_flowcar(&kubeconfig);
        command.args(["-n", "shop", "top", "deployment/web", "--once"]);
        let (ok, out, error) = pipe(command, "");
        assert!(!ok && out.is_empty(), "{out}{error}");
        error
    };
    // The API server takes rights in after a moment.
    let forbidden = eventually("an answer about exec", LIMIT, || {
        let error = tenant();
        error.contains("exec").then_some(error)
    });
    assert!(
        forbidden.contains("web-2: you may not exec: pods \"web-2\" is forbidden")
            && forbidden.contains("Ask for the verbs get and create on pods/exec"),
        "{forbidden}"
    );
    let rule = json!({"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get", "create"]});
    let add = json!([{"op": "add", "path": "/rules/-", "value": rule}]);
    let path = format!("{rights}/roles/reader");
    cluster
        .admin()
        .patch(&path, PatchKind::Json, &add)
        .success();
    eventually("the right to exec", LIMIT, || {
        tenant()
            .contains("does not have a host assigned")
            .then_some(())
    });
}

//! Pods that are older than their opt-in, and users who have only a namespace.

use std::time::Duration;

use flowcar_tests::{
    cluster::{
        Cluster, LIMIT,
        tools::{kubectl_flowcar, pipe, pod},
    },
    peers::{PatchKind, eventually},
};
use serde_json::{Value, json};

use crate::cli;

#[test]
fn pods_older_than_their_opt_in_are_not_missed() {
    let cluster = Cluster::start();
    let controller = cluster.controller(&[]);
    cluster.api.create_namespace("late", &json!({}));
    for index in 0..5 {
        cluster.create_pod("late", &pod(&format!("old-{index}"), json!({})));
    }
    cluster.create_pod("shop", &pod("one", json!({})));
    // Times are kept in whole seconds.
    std::thread::sleep(Duration::from_secs(2));
    let label = json!({"metadata": {"labels": {"flowcar.io/inject": "enabled"}}});
    cluster
        .admin()
        .patch("/api/v1/namespaces/late", PatchKind::Merge, &label)
        .success();
    let annotation = json!({"metadata": {"annotations": {"flowcar.io/inject": "enabled"}}});
    cluster
        .admin()
        .patch(
            "/api/v1/namespaces/shop/pods/one",
            PatchKind::Merge,
            &annotation,
        )
        .success();
    // As the kubelet does: every pod is written again.
    for index in 0..5 {
        let path = format!("/api/v1/namespaces/late/pods/old-{index}/status");
        let ready = json!({"status": {"phase": "Running"}});
        cluster
            .admin()
            .patch(&path, PatchKind::Merge, &ready)
            .success();
    }
    // A pod that the webhook really missed comes last: an Event about the others would exist by then.
    let process = controller.process;
    process.kill();
    cluster.create_pod(
        "shop",
        &pod("missed", json!({"flowcar.io/inject": "enabled"})),
    );
    process.restart();
    eventually("an Event about the one that was missed", LIMIT, || {
        cluster.events("shop", "FlowcarMissed", "missed").pop()
    });
    assert!(cluster.events("shop", "FlowcarMissed", "one").is_empty());
    for index in 0..5 {
        let name = format!("old-{index}");
        assert!(cluster.events("late", "FlowcarMissed", &name).is_empty());
    }
    for (namespace, name) in [("late", "old-0"), ("shop", "one")] {
        let (ok, out, error) = cli::run(
            &cluster,
            &["-n", namespace, "explain", &format!("pod/{name}")],
        );
        assert!(
            ok && out.contains("may be older than its opt-in"),
            "{out}{error}"
        );
    }
    cluster
        .admin()
        .delete("/api/v1/namespaces/shop/pods/missed?gracePeriodSeconds=0")
        .success();
    let (ok, out, error) = cli::run(&cluster, &["status"]);
    assert!(
        ok && out.contains("late: 5 pods older than the opt-in;"),
        "{out}{error}"
    );
    let (_, out, error) = cli::run(&cluster, &["-n", "shop", "check"]);
    assert!(
        out.contains("ok    opted-in pods: 6, 6 of them older"),
        "{out}{error}"
    );
}

/// What the controller manager, which is not here, makes of a built-in role: all rules of the roles that it aggregates, the
/// chart's among them.
fn aggregate(cluster: &Cluster, role: &str) {
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let label = format!("rbac.authorization.k8s.io/aggregate-to-{role}");
    let all = cluster.admin().get(roles).success()["items"].clone();
    let parts = all.as_array().expect("roles").iter();
    let parts: Vec<_> = parts
        .filter(|part| part["metadata"]["labels"][&label] == "true")
        .collect();
    let is_ours = |part: &&Value| part["metadata"]["name"] == "flowcar-tenant";
    assert!(parts.iter().any(is_ours), "{role}");
    let rules: Vec<_> = parts
        .iter()
        .flat_map(|part| part["rules"].as_array().into_iter().flatten())
        .collect();
    let path = format!("{roles}/{role}");
    let patch = json!({"rules": rules});
    cluster
        .admin()
        .patch(&path, PatchKind::Merge, &patch)
        .success();
}

#[test]
fn namespaced_roles_suffice_for_kubectl_flowcar() {
    let cluster = Cluster::start();
    let _controller = cluster.controller(&[]);
    cluster.api.create_service_account("shop", "tenant");
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/shop/rolebindings";
    let bind = |role: &str| {
        let binding = json!({
            "metadata": {"name": role},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": "tenant", "namespace": "shop"}],
        });
        cluster.admin().create(bindings, &binding).success();
    };
    let stored = cluster.create_pod("shop", &pod("in", json!({"flowcar.io/inject": "enabled"})));
    let kubeconfig = cluster.api.kubeconfig_for(
        "tenant.json",
        &cluster.api.service_account_token("shop", "tenant"),
    );
    let tenant = |args: &[&str], input: &str| {
        let mut command = kubectl_flowcar(&kubeconfig);
        command.args(["-n", "shop"]).args(args);
        pipe(command, input)
    };
    let explains = |may_read: bool| {
        let (ok, out, error) = tenant(&["explain", "pod/in"], "");
        assert!(ok && out.contains("has the sidecar"), "{out}{error}");
        assert_eq!(
            error.contains("you may not read the ConfigMap"),
            !may_read,
            "{error}"
        );
        let (ok, out, error) = tenant(&["explain"], "");
        assert!(
            ok && out.contains("pod/in: has the sidecar"),
            "{out}{error}"
        );
        assert!(
            error.contains("you may not list namespaces: only shop"),
            "{error}"
        );
        let mut object: Value = pod("file", json!({"flowcar.io/inject": "enabled"}));
        object["apiVersion"] = json!("v1");
        object["kind"] = json!("Pod");
        let (ok, out, error) = tenant(&["inject", "-f", "-"], &object.to_string());
        assert!(ok && out.contains("flowcar.io/status"), "{out}{error}");
        let (ok, out, error) = tenant(&["status"], "");
        let line = out.lines().find(|line| line.starts_with("shop "));
        let figures: Vec<_> = line.unwrap_or_default().split_whitespace().collect();
        assert!(ok && figures == ["shop", "1", "0", "0"], "{out}{error}");
        assert!(
            error.contains("you may not list namespaces: only shop"),
            "{error}"
        );
        let all = out + &error;
        assert!(!all.contains("you may not list the LimitRanges"), "{all}");
        assert!(!all.contains("you may not read namespace"), "{all}");
    };
    let mut earlier = None;
    for role in ["view", "edit", "admin"] {
        aggregate(&cluster, role);
        if let Some(earlier) = earlier.replace(role) {
            let path = format!("{bindings}/{earlier}");
            cluster.admin().delete(&path).success();
            eventually("the earlier role taken away", LIMIT, || {
                (!tenant(&["explain", "pod/in"], "").0).then_some(())
            });
        }
        bind(role);
        eventually("the role", LIMIT, || {
            let (ok, _, error) = tenant(&["explain", "pod/in"], "");
            let lacks = ["LimitRanges", "the ConfigMap", "read namespace"];
            (ok && !lacks.iter().any(|what| error.contains(what))).then_some(())
        });
        explains(true);
    }
    let binding =
        "/apis/rbac.authorization.k8s.io/v1/namespaces/flowcar-system/rolebindings/flowcar-tenant";
    cluster.admin().delete(binding).success();
    eventually("the role taken away", LIMIT, || {
        let (_, _, error) = tenant(&["explain", "pod/in"], "");
        error
            .contains("you may not read the ConfigMap")
            .then_some(())
    });
    explains(false);
    // Many may list namespaces, so that `kubectl get namespaces` works, and pods in their own only.
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({"metadata": {"name": "namespaces"},
        "rules": [{"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list"]}]});
    let binding = json!({
        "metadata": {"name": "namespaces"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "namespaces"},
        "subjects": [{"kind": "ServiceAccount", "name": "tenant", "namespace": "shop"}],
    });
    let admin = cluster.admin();
    admin
        .create(&format!("{rbac}/clusterroles"), &role)
        .success();
    admin
        .create(&format!("{rbac}/clusterrolebindings"), &binding)
        .success();
    eventually("the role", LIMIT, || {
        let (_, _, error) = tenant(&["status"], "");
        (!error.contains("you may not list namespaces")).then_some(())
    });
    let (ok, out, error) = tenant(&["status"], "");
    assert!(ok && out.contains("shop"), "{out}{error}");
    let (ok, out, error) = tenant(&["explain"], "");
    assert!(
        ok && out.contains("pod/in: has the sidecar"),
        "{out}{error}"
    );
    let (_, out, error) = tenant(&["check"], "");
    let only = "you may not list the pods of all namespaces: only shop is read";
    assert!(error.contains(only), "{out}{error}");
    assert!(
        out.contains("ok    opted-in pods: 1, all seen"),
        "{out}{error}"
    );
    assert_eq!(stored["metadata"]["namespace"], "shop");
}

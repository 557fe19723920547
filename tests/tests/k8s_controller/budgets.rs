//! LimitRanges and ResourceQuotas, as the API server enforces them: a pod that it admits without the sidecar it admits with it.

use flowcar_tests::{
    cluster::{
        Cluster, LIMIT,
        tools::{containers, pod},
    },
    peers::{PatchKind, eventually},
};
use serde_json::{Value, json};

/// A namespace, the kind and the `spec` of what it has, what of a quota is used, the application's resources, and whether
/// there is room for a sidecar.
type Row = (&'static str, &'static str, Value, Value, Value, bool);

fn rows() -> Vec<Row> {
    let limited = || json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "64Mi"}});
    let quota = |hard: Value| json!({"hard": hard});
    let range = |kind: &str, mut item: Value| {
        item["type"] = json!(kind);
        json!({"limits": [item]})
    };
    let row = |name, kind, spec, used, resources, room| (name, kind, spec, used, resources, room);
    let (quotas, ranges) = ("ResourceQuota", "LimitRange");
    let none = || json!({});
    let scoped = |hard: Value, scope: &str| json!({"hard": hard, "scopes": [scope]});
    vec![
        row(
            "limits-cpu",
            quotas,
            quota(json!({"limits.cpu": "10"})),
            none(),
            limited(),
            true,
        ),
        row(
            "limits-both",
            quotas,
            quota(json!({"limits.cpu": "2", "limits.memory": "2Gi"})),
            none(),
            limited(),
            true,
        ),
        row(
            "requests",
            quotas,
            quota(json!({"requests.cpu": "2", "cpu": "2", "memory": "1Gi"})),
            none(),
            limited(),
            true,
        ),
        row(
            "little-memory",
            quotas,
            quota(json!({"limits.memory": "2Gi"})),
            json!({"limits.memory": "984Mi"}),
            limited(),
            true,
        ),
        row(
            "no-memory",
            quotas,
            quota(json!({"limits.memory": "2Gi"})),
            json!({"limits.memory": "1020Mi"}),
            limited(),
            false,
        ),
        row(
            "no-cpu",
            quotas,
            quota(json!({"requests.cpu": "505m"})),
            none(),
            limited(),
            false,
        ),
        row(
            "best-effort",
            quotas,
            scoped(json!({"pods": "9"}), "BestEffort"),
            none(),
            none(),
            true,
        ),
        row(
            "not-best-effort",
            quotas,
            scoped(json!({"limits.cpu": "9", "pods": "9"}), "NotBestEffort"),
            none(),
            none(),
            true,
        ),
        row(
            "not-best-effort-full",
            quotas,
            scoped(json!({"pods": "0"}), "NotBestEffort"),
            none(),
            none(),
            true,
        ),
        row(
            "terminating",
            quotas,
            scoped(json!({"limits.cpu": "1"}), "Terminating"),
            none(),
            limited(),
            true,
        ),
        row(
            "min",
            ranges,
            range(
                "Container",
                json!({"min": {"cpu": "50m", "memory": "48Mi"}}),
            ),
            none(),
            limited(),
            true,
        ),
        row(
            "max",
            ranges,
            range("Container", json!({"max": {"cpu": "1", "memory": "1Gi"}})),
            none(),
            limited(),
            true,
        ),
        row(
            "max-small",
            ranges,
            range(
                "Container",
                json!({"max": {"cpu": "50m", "memory": "48Mi"}}),
            ),
            none(),
            json!({"limits": {"cpu": "40m", "memory": "40Mi"}}),
            true,
        ),
        row(
            "max-too-small",
            ranges,
            range("Container", json!({"max": {"memory": "8Mi"}})),
            none(),
            json!({"limits": {"memory": "8Mi"}}),
            false,
        ),
        row(
            "ratio",
            ranges,
            range("Container", json!({"maxLimitRequestRatio": {"cpu": "2"}})),
            none(),
            json!({"limits": {"cpu": "1"}, "requests": {"cpu": "500m"}}),
            true,
        ),
        row(
            "ratio-memory",
            ranges,
            range(
                "Container",
                json!({"maxLimitRequestRatio": {"memory": "1"}}),
            ),
            none(),
            json!({"limits": {"memory": "64Mi"}, "requests": {"memory": "64Mi"}}),
            true,
        ),
        row(
            "defaults",
            ranges,
            range(
                "Container",
                json!({
            "default": {"cpu": "1", "memory": "256Mi"}, "defaultRequest": {"cpu": "500m", "memory": "256Mi"},
            "maxLimitRequestRatio": {"cpu": "2"}}),
            ),
            none(),
            none(),
            true,
        ),
        row(
            "storage",
            ranges,
            range(
                "Container",
                json!({"min": {"ephemeral-storage": "64Mi"}, "max": {"ephemeral-storage": "1Gi"}}),
            ),
            none(),
            json!({"limits": {"ephemeral-storage": "64Mi"}}),
            true,
        ),
        row(
            "device",
            ranges,
            range("Container", json!({"max": {"example.test/device": "4"}})),
            none(),
            json!({"limits": {"example.test/device": "1"}}),
            true,
        ),
        row(
            "pod-max",
            ranges,
            range("Pod", json!({"max": {"memory": "1100Mi"}})),
            none(),
            limited(),
            true,
        ),
        row(
            "pod-max-full",
            ranges,
            range("Pod", json!({"max": {"memory": "1Gi"}})),
            none(),
            limited(),
            false,
        ),
        row(
            "pod-ratio",
            ranges,
            range("Pod", json!({"maxLimitRequestRatio": {"cpu": "2"}})),
            none(),
            limited(),
            true,
        ),
    ]
}

/// What the sidecar is asked to have, or what the pod budgets as a whole, beside a LimitRange of containers: a name, the
/// LimitRange, the annotations, the pod's own resources, the application's, and the sidecar's request and limit of CPU, or why there is none.
type Case = (
    &'static str,
    Value,
    Value,
    Value,
    Value,
    Result<[&'static str; 2], &'static str>,
);

fn cases() -> Vec<Case> {
    let none = || json!({});
    let limited = || json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}});
    let halves = || json!({"default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"}});
    vec![
        (
            "request-above-default",
            halves(),
            json!({"flowcar.io/cpu-request": "600m"}),
            none(),
            limited(),
            Ok(["600m", "600m"]),
        ),
        (
            "default-below-request",
            json!({"default": {"cpu": "5m"}, "defaultRequest": {"cpu": "5m"}}),
            none(),
            none(),
            limited(),
            Ok(["10m", "10m"]),
        ),
        (
            "ratio-three",
            json!({"maxLimitRequestRatio": {"cpu": "3", "memory": "3"}}),
            none(),
            none(),
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "512Mi"}}),
            Ok(["34m", "100m"]),
        ),
        (
            "pods-own-requests",
            json!({"min": {"cpu": "50m"}}),
            none(),
            json!({"requests": {"cpu": "100m"}}),
            json!({"requests": {"cpu": "95m"}}),
            Err("limit_range"),
        ),
        (
            "pods-own-limits",
            halves(),
            none(),
            json!({"limits": {"cpu": "200m"}, "requests": {"cpu": "150m"}}),
            json!({"limits": {"cpu": "200m"}, "requests": {"cpu": "100m"}}),
            Ok(["10m", "200m"]),
        ),
    ]
}

#[test]
fn sidecar_with_overrides_or_in_a_budget_of_the_pods_own_is_admitted() {
    let cluster = Cluster::start();
    let _controller = cluster.controller(&[]);
    for (name, mut item, annotations, own, resources, expected) in cases() {
        item["type"] = json!("Container");
        let row: Row = (
            name,
            "LimitRange",
            json!({"limits": [item]}),
            json!({}),
            json!({}),
            expected.is_ok(),
        );
        prepare(&cluster, &row);
        let create = |mut annotations: Value, inject: &str| {
            annotations["flowcar.io/inject"] = json!(inject);
            let mut pod = pod("app", annotations);
            pod["spec"]["resources"] = own.clone();
            pod["spec"]["containers"][0]["resources"] = resources.clone();
            let path = format!("/api/v1/namespaces/{name}/pods?dryRun=All");
            cluster.admin().create(&path, &pod)
        };
        eventually(&format!("{name}: in force"), LIMIT, || {
            create(json!({}), "disabled").is_ok().then_some(())
        });
        // A controller that does not know the LimitRange yet judges without it.
        eventually(&format!("{name}: {expected:?}"), LIMIT, || {
            let answer = create(annotations.clone(), "enabled");
            let stored = answer.is_ok().then(|| answer.json())?;
            let resources = &stored["spec"]["initContainers"][0]["resources"];
            let amounts = ["requests", "limits"].map(|list| resources[list]["cpu"].as_str());
            match expected {
                Ok(expected) => (amounts == expected.map(Some)).then_some(()),
                Err(reason) => {
                    let status = &stored["metadata"]["annotations"]["flowcar.io/status"];
                    let skipped = format!("\"skipped\":\"{reason}\"");
                    let status = status.as_str().unwrap_or_default();
                    status.contains(&skipped).then_some(())
                }
            }
        });
    }
}

/// Makes the namespace and what it has. What keeps a quota's status in a cluster, the controller manager, is not here.
fn prepare(cluster: &Cluster, (name, kind, spec, used, ..): &Row) {
    cluster.api.create_namespace(name, &json!({}));
    let api = format!("/api/v1/namespaces/{name}/{}s", kind.to_lowercase());
    let object = json!({"metadata": {"name": "budget"}, "spec": spec});
    cluster.admin().create(&api, &object).success();
    if *kind == "ResourceQuota" {
        let hard = &spec["hard"];
        let mut all_used: Value = hard.clone();
        for (resource, amount) in all_used.as_object_mut().expect("amounts") {
            *amount = used.get(resource).cloned().unwrap_or_else(|| json!("0"));
        }
        let status = json!({"status": {"hard": hard, "used": all_used}});
        let path = format!("{api}/budget/status");
        cluster
            .admin()
            .patch(&path, PatchKind::Merge, &status)
            .success();
    }
}

#[test]
fn pod_admitted_without_the_sidecar_is_admitted_with_it() {
    let cluster = Cluster::start();
    let _controller = cluster.controller(&[]);
    for row in rows() {
        prepare(&cluster, &row);
        let (name, kind, _, _, resources, room) = row;
        let create = |annotations: Value| {
            let mut pod = pod("app", annotations);
            pod["spec"]["containers"][0]["resources"] = resources.clone();
            let path = format!("/api/v1/namespaces/{name}/pods?dryRun=All");
            cluster.admin().create(&path, &pod)
        };
        eventually(&format!("{name}: its {kind} in force"), LIMIT, || {
            create(json!({})).is_ok().then_some(())
        });
        let injected = || {
            let answer = create(json!({"flowcar.io/inject": "enabled"}));
            if !answer.is_ok() {
                return None;
            }
            Some(answer.json())
        };
        // The webhook's watch may be a moment behind the API server.
        let stored = eventually(&format!("{name}: admitted with its {kind}"), LIMIT, || {
            injected().filter(|pod| containers(pod).0.is_empty() != room)
        });
        if room {
            let (plain, pod) = (create(json!({})).json(), stored);
            let class = |pod: &Value| pod["status"]["qosClass"].clone();
            let was_best_effort =
                class(&plain) == "BestEffort" && name.starts_with("not-best-effort");
            if was_best_effort || class(&plain) == "Guaranteed" {
                assert_eq!(class(&pod), class(&plain), "{name}");
            }
            let limits = &pod["spec"]["initContainers"][0]["resources"]["limits"];
            assert_ne!(
                limits["example.test/device"], "4",
                "{name}: no device for the sidecar"
            );
        } else {
            let status = stored["metadata"]["annotations"]["flowcar.io/status"].clone();
            assert!(status.to_string().contains(kind), "{name}: {status}");
        }
    }
}

/// `explain` of a pod and of a workload in a quota that the pod has used up: the pod is in what is used already.
#[test]
fn explain_counts_a_running_pod_once_and_names_the_full_quota() {
    let cluster = Cluster::start();
    let _controller = cluster.controller(&[]);
    let resources = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
    let spec = json!({"hard": {"requests.cpu": "1100m"}});
    let row: Row = ("tight", "ResourceQuota", spec, json!({}), json!({}), true);
    prepare(&cluster, &row);
    let mut tight = pod("app", json!({"flowcar.io/inject": "enabled"}));
    tight["spec"]["containers"][0]["resources"] = resources.clone();
    // In a Guaranteed pod the sidecar asks for 100m.
    let api = "/api/v1/namespaces/tight";
    let used = |amount: &str| {
        let status = json!({"status": {"used": {"requests.cpu": amount}}});
        let path = format!("{api}/resourcequotas/budget/status");
        let admin = cluster.admin();
        admin.patch(&path, PatchKind::Merge, &status).success();
    };
    used("100m");
    eventually("skipped for the quota", LIMIT, || {
        let path = format!("{api}/pods");
        let stored = cluster.admin().create(&path, &tight).success();
        let is_skipped = containers(&stored).0.is_empty();
        if !is_skipped {
            let path = format!("{api}/pods/app?gracePeriodSeconds=0");
            cluster.admin().delete(&path).success();
        }
        is_skipped.then_some(())
    });
    let template = json!({"metadata": {"labels": {"app": "web"}, "annotations": tight["metadata"]["annotations"]}, "spec": tight["spec"]});
    let spec =
        json!({"replicas": 0, "selector": {"matchLabels": {"app": "web"}}, "template": template});
    let deployment = json!({"metadata": {"name": "web"}, "spec": spec});
    let path = "/apis/apps/v1/namespaces/tight/deployments";
    cluster.admin().create(path, &deployment).success();
    let explain = |target: &str| super::cli::run(&cluster, &["-n", "tight", "explain", target]).1;
    for (amount, of_pod, of_workload) in [
        // The pod's own 1 is in it, of the 1100m that there are.
        (
            "1",
            "; a new pod would be\n",
            "no room for the pod's requests.cpu\n",
        ),
        (
            "1050m",
            "no room for the sidecar's requests.cpu\n",
            "no room for the pod's requests.cpu\n",
        ),
        (
            "1200m",
            "no room for the pod's requests.cpu\n",
            "no room for the pod's requests.cpu\n",
        ),
        (
            "50m",
            "; a new pod would be\n",
            "no room for the sidecar's requests.cpu\n",
        ),
        (
            "0",
            "; a new pod would be\n",
            "before every other container\n",
        ),
    ] {
        used(amount);
        let (pod, workload) = (explain("pod/app"), explain("deployment/web"));
        assert!(pod.ends_with(of_pod), "{amount}: {pod}");
        assert!(workload.ends_with(of_workload), "{amount}: {workload}");
    }
}

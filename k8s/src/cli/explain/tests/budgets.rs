//! LimitRanges and ResourceQuotas in explanations.

use super::*;

/// A pod that asks for half a CPU, as the API server has it.
fn stored(spec: Value, status: Value) -> Value {
    let resources = json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "500m"}});
    let mut pod = asked(json!({"containers": [{"name": "a", "resources": resources}]}));
    pod["metadata"]["uid"] = json!("u");
    pod["status"] = status;
    pod["spec"]
        .as_object_mut()
        .expect("a spec")
        .extend(spec.as_object().expect("fields").clone());
    pod
}

/// A pod that runs is in what is used; a template's next pod is not.
#[test]
fn explanation_counts_a_running_pod_once() {
    let with_quota = |hard: &str, used: &str| {
        let mut files = files();
        let quota = json!({"kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"requests.cpu": hard}},
            "status": {"hard": {"requests.cpu": hard}, "used": {"requests.cpu": used}}});
        files.add_budget("default", &quota);
        files
    };
    let running = || stored(json!({}), json!({"phase": "Running"}));
    let mut skipped = injected(
        &stored(json!({"runtimeClassName": "kata"}), json!({})),
        &files(),
    );
    skipped["spec"]["runtimeClassName"] = Value::Null;
    let mut done = skipped.clone();
    done["status"] = json!({"phase": "Succeeded"});
    let template = running();
    let mut workload = deployment("ReplicaSet", &json!({}), &on());
    workload["spec"]["template"]["spec"] = template["spec"].clone();
    let unseen = "opted in, and the webhook did not see it";
    let refused = "but no pod is admitted, even without one: ResourceQuota q has no room for the pod's requests.cpu";
    let no_sidecar = "gets no sidecar: ResourceQuota q has no room for the sidecar's requests.cpu";
    let rows = [
        (running(), "510m", "500m", unseen),
        (running(), "500m", "500m", no_sidecar),
        (running(), "1", "1200m", unseen),
        (done, "510m", "500m", refused),
        (skipped.clone(), "510m", "500m", "; a new pod would be"),
        (skipped, "1", "1200m", refused),
        (
            workload.clone(),
            "1010m",
            "500m",
            "before every other container",
        ),
        (workload.clone(), "1", "500m", no_sidecar),
        (workload, "1", "600m", refused),
    ];
    for (object, hard, used, expected) in rows {
        let files = with_quota(hard, used);
        let lines = explain_pod(&object, &files, true);
        assert!(
            lines.len() == 1 && (lines[0].starts_with(expected) || lines[0].ends_with(expected)),
            "{hard} {used}: {expected}: {lines:?}"
        );
        assert!(is_clear(&lines[0]), "{lines:?}");
    }
}

/// LimitRanger fills in what templates leave out before the webhook and the quota see it.
#[test]
fn templates_are_judged_with_the_defaults_of_the_limit_range() {
    let mut files = files();
    let range = json!({"kind": "LimitRange", "metadata": {"name": "r"}, "spec": {"limits": [
        {"type": "Container", "default": {"memory": "512Mi"}, "defaultRequest": {"memory": "256Mi"}}]}});
    files.add_budget("default", &range);
    let line =
        |files: &Files, spec: &Value| explain_pod(&asked(spec.clone()), files, false).remove(0);
    for (hard, expected) in [
        (
            "512Mi",
            "gets no sidecar: ResourceQuota q has no room for the sidecar's limits.memory",
        ),
        (
            "500Mi",
            "even without one: ResourceQuota q has no room for the pod's limits.memory",
        ),
        (
            "1Gi",
            "gets the sidecar, with eBPF, before every other container",
        ),
    ] {
        let hard = json!({"limits.memory": hard});
        let quota =
            json!({"kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": hard}});
        files.add_budget("default", &quota);
        for resources in [json!({}), Value::Null, json!({"requests": null})] {
            let spec = json!({"containers": [{"name": "a", "resources": resources}], "initContainers": null});
            let line = line(&files, &spec);
            assert!(line.ends_with(expected), "{hard}: {line}");
        }
    }
    for malformed in [json!([1]), json!([{"resources": 5}]), json!({})] {
        assert!(!line(&files, &json!({"containers": malformed})).is_empty());
    }
}

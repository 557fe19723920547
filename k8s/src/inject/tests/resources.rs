//! What the container asks for, beside what the pod does.

use super::*;

fn resources_of(pod: &Value) -> Value {
    sidecar(pod, &run(pod))["resources"].clone()
}

#[test]
fn requests_are_always_set_and_a_guaranteed_pod_stays_guaranteed() {
    let burstable =
        json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}});
    assert_eq!(resources_of(&pod()), burstable);
    let app = |resources: Value| {
        with(
            "/spec/containers",
            json!([{"name": "app", "resources": resources}]),
        )
    };
    let full = json!({"cpu": "100m", "memory": "128Mi"});
    let guaranteed = json!({"requests": full, "limits": full});
    assert_eq!(
        resources_of(&app(json!({"limits": {"cpu": "1", "memory": "1Gi"}}))),
        guaranteed
    );
    let equal = json!({"limits": {"cpu": 1, "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}});
    assert_eq!(resources_of(&app(equal)), guaranteed);
    for other in [
        json!({"limits": {"cpu": "1"}}),
        json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}),
        json!({"limits": {"cpu": "0", "memory": "1Gi"}}),
    ] {
        assert_eq!(resources_of(&app(other)), burstable);
    }
    let mut with_init = app(json!({"limits": {"cpu": "1", "memory": "1Gi"}}));
    with_init["spec"]["initContainers"] = json!([{"name": "init"}]);
    assert_eq!(
        resources_of(&with_init),
        burstable,
        "an init container without limits makes the pod Burstable"
    );
}

#[test]
fn guaranteed_pod_gets_the_limits_that_it_asks_for() {
    let mut pod = annotated("flowcar.io/cpu-limit", "300m");
    pod["metadata"]["annotations"]["flowcar.io/memory-limit"] = json!("64Mi");
    pod["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
    let both = json!({"cpu": "300m", "memory": "64Mi"});
    assert_eq!(
        resources_of(&pod),
        json!({"requests": both, "limits": both})
    );
}

#[test]
fn request_above_its_limit_is_ignored_with_a_warning() {
    let pod = annotated("flowcar.io/memory-request", "256Mi");
    let outcome = run(&pod);
    assert_eq!(outcome.problems[0].reason(), "request_above_limit");
    assert_eq!(
        sidecar(&pod, &outcome)["resources"]["requests"]["memory"],
        "32Mi"
    );
}

#[test]
fn the_sidecar_fits_into_a_pod_level_budget() {
    let mut pod = with(
        "/spec/resources",
        json!({"requests": {"cpu": "105m", "memory": "1Gi"}, "limits": {"memory": "100Mi"}}),
    );
    pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "100m"}});
    let outcome = run(&pod);
    let resources = sidecar(&pod, &outcome)["resources"].clone();
    assert_eq!(
        resources["requests"],
        json!({"cpu": "5m", "memory": "32Mi"})
    );
    assert_eq!(resources["limits"], json!({"memory": "104857600"}));
    assert!(
        outcome.warnings()[0].contains("cpu request is 5m"),
        "{:?}",
        outcome.warnings()
    );
}

/// What a heavy init container asks for is no more than the rest asks for at the same time.
#[test]
fn pod_level_budget_follows_kubernetes_rule() {
    let container = |cpu: &str| json!({"name": "x", "resources": {"requests": {"cpu": cpu}}});
    let budgeted = |init: Value| {
        let mut pod = with("/spec/resources", json!({"requests": {"cpu": "1"}}));
        pod["spec"]["containers"] = json!([container("400m")]);
        pod["spec"]["initContainers"] = init;
        pod
    };
    let mut stays = container("600m");
    stays["restartPolicy"] = json!("Always");
    let stays_beside = json!([stays.clone(), container("395m")]);
    for (init, request) in [
        (json!([]), "10m"),
        (json!([container("900m")]), "10m"),
        (json!([container("900m"), container("900m")]), "10m"),
        (json!([container("995m")]), "5m"),
        (json!([stays]), "0"),
        (stays_beside, "0"),
    ] {
        let resources = resources_of(&budgeted(init.clone()));
        assert_eq!(resources["requests"]["cpu"], request, "{init}");
    }
    let old = Context {
        native_sidecar: false,
        ..context()
    };
    let pod = budgeted(json!([container("995m")]));
    let container = sidecar(&pod, &inject(&pod, &old, &Settings::default()));
    assert_eq!(container["resources"]["requests"]["cpu"], "10m");
}

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

/// The request follows a limit that is set alone.
#[test]
fn limit_below_the_default_request_lowers_it() {
    let pod = annotated("flowcar.io/memory-limit", "24Mi");
    let outcome = run(&pod);
    assert_eq!(outcome.problems, []);
    let expected =
        json!({"requests": {"cpu": "10m", "memory": "24Mi"}, "limits": {"memory": "24Mi"}});
    assert_eq!(sidecar(&pod, &outcome)["resources"], expected);
}

/// Each contradiction is reported to its author only: to the operator at the start, to a pod's author by a denial.
#[test]
fn contradiction_is_reported_to_its_author() {
    for wrong in [
        "defaults: {cpu-request: 300m, cpu-limit: 200m}",
        "defaults: {memory-request: 256Mi}",
        "defaults: {memory-request: 64Mi, memory-limit: 32Mi}",
    ] {
        let error = Config::parse(wrong).expect_err(wrong).to_string();
        assert!(error.contains("-request is above the limit"), "{error}");
    }
    let text = "{strict: true, defaults: {memory-limit: 24Mi, cpu-limit: 200m}}";
    let strict = Config::parse(text).expect("valid");
    let injected = |outcome: &Outcome| matches!(outcome.decision, Decision::Injected(_));
    let outcome = inject(&pod(), &context(), &strict);
    assert!(injected(&outcome) && outcome.warnings().is_empty());
    let memory = &sidecar(&pod(), &outcome)["resources"];
    assert_eq!(memory["requests"]["memory"], "24Mi");
    // The namespace's, alone and with the operator's.
    for (pair, note) in [
        (vec![("memory-limit", "16Mi")], None),
        (vec![("cpu-request", "300m")], Some("cpu-request")),
        (
            vec![("memory-request", "2Gi"), ("memory-limit", "1Gi")],
            Some("memory-request"),
        ),
    ] {
        let mut there = context();
        for (name, value) in &pair {
            let name = format!("flowcar.io/{name}");
            there.namespace_labels.insert(name, json!(value));
        }
        let outcome = inject(&pod(), &there, &strict);
        assert!(injected(&outcome), "{pair:?}: {:?}", outcome.decision);
        let warnings = outcome.warnings().join("; ");
        match note {
            Some(note) => assert!(
                warnings.contains("on the namespace") && warnings.contains(note),
                "{warnings}"
            ),
            None => assert_eq!(warnings, "", "{pair:?}"),
        }
    }
    // The pod's own.
    let own = annotated("flowcar.io/cpu-request", "300m");
    let outcome = inject(&own, &context(), &strict);
    assert_eq!(outcome.decision, Decision::Denied);
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

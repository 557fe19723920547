//! The sidecar beside LimitRanges and ResourceQuotas. `k8s_controller` checks these rows against the API server.

use super::*;
use crate::{budget::Budgets, inject::inject_within};

fn budgets(objects: &[Value]) -> Budgets {
    let mut budgets = Budgets::default();
    for object in objects {
        budgets.add(object);
    }
    budgets
}

fn range(kind: &str, fields: Value) -> Value {
    let mut item = fields;
    item["type"] = json!(kind);
    json!({"kind": "LimitRange", "metadata": {"name": "range"}, "spec": {"limits": [item]}})
}

fn quota(hard: &Value, used: &Value, spec: Value) -> Value {
    let mut quota = json!({"kind": "ResourceQuota", "metadata": {"name": "quota"}, "spec": spec,
        "status": {"hard": hard, "used": used}});
    quota["spec"]["hard"] = hard.clone();
    quota
}

fn app(resources: Value) -> Value {
    with(
        "/spec/containers",
        json!([{"name": "app", "resources": resources}]),
    )
}

fn limited() -> Value {
    app(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}))
}

/// The resources given, or the reason of the skip.
fn given(pod: &Value, objects: &[Value]) -> Result<Value, String> {
    let outcome = inject_within(pod, &context(), &Settings::default(), &budgets(objects));
    match &outcome.decision {
        Decision::Injected(_) => Ok(sidecar(pod, &outcome)["resources"].clone()),
        Decision::Skipped(skip) => Err(skip.to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn quota_on_limits_gives_the_sidecar_limits() {
    let hard = json!({"limits.cpu": "10", "limits.memory": "10Gi"});
    let quota = quota(&hard, &json!({}), json!({}));
    let resources = given(&limited(), &[quota]).expect("injected");
    assert_eq!(
        resources["limits"],
        json!({"cpu": "100m", "memory": "128Mi"})
    );
    assert_eq!(
        resources["requests"],
        json!({"cpu": "10m", "memory": "32Mi"})
    );
}

#[test]
fn tight_quota_lowers_limits_and_full_quota_skips() {
    let hard = json!({"limits.cpu": "2", "limits.memory": "2Gi"});
    let used = |memory: &str| json!({"limits.cpu": "500m", "limits.memory": memory});
    let little = quota(&hard, &used("984Mi"), json!({}));
    let resources = given(&limited(), &[little]).expect("injected");
    assert_eq!(resources["limits"]["memory"], "33554432");
    let none = quota(&hard, &used("1020Mi"), json!({}));
    let why = given(&limited(), &[none]).expect_err("no room");
    assert_eq!(
        why,
        "ResourceQuota quota has no room for the sidecar's limits.memory"
    );
    // A pod that is refused anyway is refused for its own sake.
    let full = quota(&hard, &used("2Gi"), json!({}));
    assert!(given(&limited(), &[full]).is_ok());
}

#[test]
fn limit_ranges_bound_the_sidecar_or_rule_it_out() {
    let rows = [
        (
            json!({"min": {"cpu": "50m", "memory": "64Mi"}}),
            Ok(json!({
            "requests": {"cpu": "50m", "memory": "67108864"}, "limits": {"memory": "128Mi"}})),
        ),
        (
            json!({"max": {"cpu": "50m", "memory": "64Mi"}}),
            Ok(json!({
            "requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "50m", "memory": "67108864"}})),
        ),
        (
            json!({"maxLimitRequestRatio": {"memory": "2"}}),
            Ok(json!({
            "requests": {"cpu": "10m", "memory": "67108864"}, "limits": {"memory": "128Mi"}})),
        ),
        (
            json!({"maxLimitRequestRatio": {"cpu": "1"}, "default": {"cpu": "200m"}}),
            Ok(json!({
            "requests": {"cpu": "200m", "memory": "32Mi"}, "limits": {"cpu": "200m", "memory": "128Mi"}})),
        ),
        // Whole bytes, and CPU in thousandths.
        (
            json!({"maxLimitRequestRatio": {"memory": "3", "cpu": "3"}, "default": {"cpu": "100m"}}),
            Ok(json!({
            "requests": {"cpu": "34m", "memory": "44739243"}, "limits": {"cpu": "100m", "memory": "128Mi"}})),
        ),
        (
            json!({"maxLimitRequestRatio": {"ephemeral-storage": "3"}}),
            Ok(json!({
            "requests": {"cpu": "10m", "memory": "32Mi", "ephemeral-storage": "44739243"},
            "limits": {"memory": "128Mi", "ephemeral-storage": "134217728"}})),
        ),
        // The limit that LimitRanger would fill in is below the request.
        (
            json!({"default": {"cpu": "5m"}, "defaultRequest": {"cpu": "5m"}}),
            Ok(json!({
            "requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "10m", "memory": "128Mi"}})),
        ),
        (
            json!({"max": {"nvidia.com/gpu": "2"}, "default": {"nvidia.com/gpu": "2"}}),
            Ok(json!({
            "requests": {"cpu": "10m", "memory": "32Mi", "nvidia.com/gpu": "0"},
            "limits": {"memory": "128Mi", "nvidia.com/gpu": "0"}})),
        ),
        (
            json!({"max": {"memory": "8Mi"}}),
            Err("memory of a container of at most 8Mi"),
        ),
        (
            json!({"min": {"nvidia.com/gpu": "1"}}),
            Err("nvidia.com/gpu of a container of at least 1"),
        ),
    ];
    for (fields, expected) in rows {
        let found = given(&limited(), &[range("Container", fields.clone())]);
        match expected {
            Ok(expected) => assert_eq!(found.expect("injected"), expected, "{fields}"),
            Err(why) => {
                let found = found.expect_err("ruled out");
                assert!(found.contains(why), "{fields}: {found}");
                assert!(found.starts_with("LimitRange range wants "), "{found}");
            }
        }
    }
}

/// LimitRanger fills in a limit after the webhook, which must not be below what an annotation asks for.
#[test]
fn default_limit_is_never_below_the_request() {
    let default = |cpu: &str, memory: &str| {
        let fields =
            json!({"default": {"cpu": cpu, "memory": memory}, "defaultRequest": {"cpu": "1m"}});
        range("Container", fields)
    };
    for (annotations, default, expected) in [
        (
            json!({"cpu-request": "600m"}),
            default("500m", "1Gi"),
            json!({"requests": {"cpu": "600m", "memory": "32Mi"}, "limits": {"cpu": "600m", "memory": "128Mi"}}),
        ),
        (
            json!({"cpu-request": "500m"}),
            default("500m", "1Gi"),
            json!({"requests": {"cpu": "500m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}}),
        ),
        (
            json!({"cpu-request": "600m", "cpu-limit": "700m"}),
            default("500m", "16Mi"),
            json!({"requests": {"cpu": "600m", "memory": "32Mi"}, "limits": {"cpu": "700m", "memory": "128Mi"}}),
        ),
    ] {
        let mut pod = limited();
        for (name, value) in annotations.as_object().expect("an object") {
            pod["metadata"]["annotations"][format!("flowcar.io/{name}")] = value.clone();
        }
        assert_eq!(given(&pod, &[default]), Ok(expected), "{annotations}");
    }
    // Which of two defaults holds is not known: the sidecar has a limit of its own.
    let mut two = [default("500m", "1Gi"), default("200m", "1Gi")];
    two[1]["metadata"]["name"] = json!("other");
    let given = given(&limited(), &two).expect("injected");
    assert_eq!(given["limits"]["cpu"], "200m");
}

/// A pod with a budget of its own keeps to it, also with what the namespace wants of each container.
#[test]
fn pod_level_budget_holds_beside_limit_ranges() {
    let budgeted = |own: Value, app: Value| {
        let mut pod = with("/spec/resources", own);
        pod["spec"]["containers"] = json!([{"name": "app", "resources": app}]);
        pod
    };
    let rows = [
        (
            budgeted(
                json!({"requests": {"cpu": "100m"}}),
                json!({"requests": {"cpu": "95m"}}),
            ),
            json!({"min": {"cpu": "50m"}}),
            Err("the pod's own budget of 100m"),
        ),
        (
            budgeted(
                json!({"requests": {"cpu": "200m"}}),
                json!({"requests": {"cpu": "95m"}}),
            ),
            json!({"min": {"cpu": "50m"}}),
            Ok(("50m", None)),
        ),
        (
            budgeted(
                json!({"limits": {"cpu": "200m"}}),
                json!({"limits": {"cpu": "200m"}, "requests": {"cpu": "100m"}}),
            ),
            json!({"default": {"cpu": "500m"}, "defaultRequest": {"cpu": "1m"}}),
            Ok(("10m", Some("200m"))),
        ),
        (
            budgeted(
                json!({"limits": {"memory": "64Mi"}}),
                json!({"limits": {"memory": "32Mi"}, "requests": {"cpu": "100m"}}),
            ),
            json!({"min": {"memory": "96Mi"}}),
            Err("memory of a container of at least"),
        ),
        // One that is refused anyway is refused for its own sake.
        (
            budgeted(
                json!({"requests": {"cpu": "100m"}}),
                json!({"requests": {"cpu": "200m"}}),
            ),
            json!({"min": {"cpu": "50m"}}),
            Ok(("50m", None)),
        ),
    ];
    for (pod, fields, expected) in rows {
        let found = given(&pod, &[range("Container", fields.clone())]);
        match (found, expected) {
            (Ok(found), Ok((request, limit))) => {
                assert_eq!(found["requests"]["cpu"], request, "{fields}");
                assert_eq!(found["limits"]["cpu"].as_str(), limit, "{fields}");
            }
            (Err(found), Err(why)) => assert!(found.contains(why), "{fields}: {found}"),
            (found, expected) => panic!("{fields}: {found:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn a_limit_range_for_pods_counts_all_containers() {
    let most = |memory: &str| range("Pod", json!({"max": {"memory": memory}}));
    let memory = |pod: &Value, most: Value| {
        given(pod, &[most]).map(|given| given["limits"]["memory"].clone())
    };
    assert_eq!(memory(&limited(), most("2Gi")), Ok(json!("128Mi")));
    assert_eq!(memory(&limited(), most("1060Mi")), Ok(json!("33554432")));
    assert_eq!(
        memory(&limited(), most("1Gi")).expect_err("no room"),
        "LimitRange range wants memory of a pod, all its containers together, of at most 1Gi"
    );
    // An init container that completes does not run at the same time as the application.
    let mut heavy = limited();
    heavy["spec"]["initContainers"] =
        json!([{"name": "init", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]);
    assert_eq!(memory(&heavy, most("1200Mi")), Ok(json!("128Mi")));
}

#[test]
fn qos_class_and_quota_scope_are_kept() {
    let hard = json!({"limits.cpu": "10", "pods": "10"});
    let scoped = |scope: &str| quota(&hard, &json!({}), json!({"scopes": [scope]}));
    // Nothing is asked for, so that the pod stays out of a quota that wants limits of every container.
    let best_effort = app(json!({}));
    assert_eq!(
        given(&best_effort, &[scoped("NotBestEffort")]),
        Ok(json!({}))
    );
    let full = quota(
        &json!({"pods": "0"}),
        &json!({}),
        json!({"scopes": ["NotBestEffort"]}),
    );
    assert_eq!(given(&best_effort, &[full]), Ok(json!({})));
    let normal =
        json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}});
    for (scope, pod) in [
        ("BestEffort", limited()),
        ("Terminating", limited()),
        ("PriorityClass", limited()),
        ("CrossNamespacePodAffinity", limited()),
    ] {
        assert_eq!(
            given(&pod, &[scoped(scope)]),
            Ok(normal.clone()),
            "{scope} is not of it"
        );
    }
    let mut ends = limited();
    ends["spec"]["activeDeadlineSeconds"] = json!(60);
    let limits = |given: Result<Value, String>| given.expect("injected")["limits"]["cpu"].clone();
    assert_eq!(limits(given(&ends, &[scoped("Terminating")])), "100m");
    let mut urgent = limited();
    urgent["spec"]["priorityClassName"] = json!("high");
    let selector = |operator: &str, values: Value| {
        let expression =
            json!({"scopeName": "PriorityClass", "operator": operator, "values": values});
        quota(
            &hard,
            &json!({}),
            json!({"scopeSelector": {"matchExpressions": [expression]}}),
        )
    };
    assert_eq!(
        limits(given(&urgent, &[selector("In", json!(["high"]))])),
        "100m"
    );
    assert_eq!(
        limits(given(&urgent, &[selector("NotIn", json!(["low"]))])),
        "100m"
    );
    assert_eq!(
        given(&urgent, &[selector("In", json!(["low"]))]),
        Ok(normal)
    );
    // Guaranteed stays Guaranteed, within what is left.
    let guaranteed = app(json!({"limits": {"cpu": "1", "memory": "1Gi"}}));
    let resources = given(
        &guaranteed,
        &[range("Container", json!({"max": {"memory": "64Mi"}}))],
    );
    let resources = resources.expect("injected");
    assert_eq!(resources["requests"]["memory"], "67108864");
    assert_eq!(
        resources["limits"]["memory"],
        resources["requests"]["memory"]
    );
}

#[test]
fn overruled_resources_make_a_warning() {
    let mut pod = limited();
    pod["metadata"]["annotations"]["flowcar.io/memory-limit"] = json!("512Mi");
    let budgets = budgets(&[range("Container", json!({"max": {"memory": "256Mi"}}))]);
    let outcome = inject_within(&pod, &context(), &Settings::default(), &budgets);
    assert!(
        outcome.warnings()[0].contains("LimitRange or ResourceQuota admits"),
        "{:?}",
        outcome.warnings()
    );
}

/// What holds for all containers together holds for the sidecar, too: below what it starts with it would hold the pod.
#[test]
fn pod_whose_own_limit_is_too_small_is_not_injected() {
    let of = |limits: Value| {
        let mut pod = app(json!({}));
        pod["spec"]["resources"] = json!({"limits": limits});
        given(&pod, &[])
    };
    let refused = |resource: &str, limit: &str, needed: &str| {
        Err(format!(
            "the pod's own {resource} limit is {limit}, and the sidecar needs {needed} to start"
        ))
    };
    for (limits, expected) in [
        (
            json!({"cpu": "1", "memory": "10Mi"}),
            refused("memory", "10Mi", "16Mi"),
        ),
        (
            json!({"memory": "16777215"}),
            refused("memory", "16777215", "16Mi"),
        ),
        (json!({"cpu": "4m"}), refused("cpu", "4m", "5m")),
        (json!({"memory": "0"}), refused("memory", "0", "16Mi")),
    ] {
        assert_eq!(of(limits), expected);
    }
    let least = of(json!({"cpu": "5m", "memory": "16Mi"})).expect("injected");
    assert_eq!(least["limits"]["memory"], json!("16777216"));
}

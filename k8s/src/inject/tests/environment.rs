//! What the container is told.

use super::*;

#[test]
fn the_environment_carries_the_downward_api_and_the_overrides() {
    let mut pod = annotated("flowcar.io/endpoint", "http://c:4317");
    pod["metadata"]["annotations"]["flowcar.io/headers-secret"] = json!("auth/token");
    pod["metadata"]["annotations"]["flowcar.io/service-name"] = json!("pay$(HOME)");
    let container = sidecar(&pod, &run(&pod));
    for (name, path) in [
        ("FLOWCAR_POD_NAME", "metadata.name"),
        ("FLOWCAR_POD_NAMESPACE", "metadata.namespace"),
        ("FLOWCAR_POD_UID", "metadata.uid"),
        ("FLOWCAR_POD_IP", "status.podIP"),
        ("FLOWCAR_POD_IPS", "status.podIPs"),
        ("FLOWCAR_NODE_NAME", "spec.nodeName"),
    ] {
        assert_eq!(
            env(&container, name).expect(name)["valueFrom"]["fieldRef"]["fieldPath"],
            path
        );
    }
    assert_eq!(
        env_value(&container, "OTEL_EXPORTER_OTLP_ENDPOINT").as_deref(),
        Some("http://c:4317")
    );
    assert_eq!(
        env_value(&container, "FLOWCAR_SOURCE").as_deref(),
        Some("auto")
    );
    // The kubelet turns `$$` into `$`, so that nothing in an annotation is expanded.
    assert_eq!(
        env_value(&container, "OTEL_SERVICE_NAME").as_deref(),
        Some("pay$$(HOME)")
    );
    let headers = env(&container, "OTEL_EXPORTER_OTLP_HEADERS").expect("headers");
    assert_eq!(
        headers["valueFrom"]["secretKeyRef"],
        json!({"name": "auth", "key": "token", "optional": true})
    );
}

#[test]
fn a_pods_override_goes_before_the_operators_default() {
    let settings = Config::parse("defaults: {log-level: warn, peer: none}").expect("valid");
    let pod = annotated("flowcar.io/log-level", "debug");
    let container = sidecar(&pod, &inject(&pod, &context(), &settings));
    assert_eq!(
        env_value(&container, "FLOWCAR_LOG").as_deref(),
        Some("debug")
    );
    assert_eq!(
        env_value(&container, "FLOWCAR_PEER").as_deref(),
        Some("none")
    );
}

#[test]
fn the_workload_is_read_from_the_owner() {
    let owned = |kind: &str, name: &str, hash: Option<&str>, mark: Option<&str>| {
        let mut pod = with(
            "/metadata/ownerReferences",
            json!([{"kind": kind, "name": name, "controller": true}]),
        );
        if let Some(hash) = hash {
            pod["metadata"]["labels"] = json!({"pod-template-hash": hash});
        }
        if let Some(mark) = mark {
            pod["metadata"]["annotations"]["flowcar.io/workload"] = json!(mark);
        }
        let container = sidecar(&pod, &run(&pod));
        let part = |name| env_value(&container, name).expect("an owner");
        format!(
            "{}/{}",
            part("FLOWCAR_OWNER_KIND"),
            part("FLOWCAR_OWNER_NAME")
        )
    };
    assert_eq!(
        owned("ReplicaSet", "web-1-5d4f", Some("5d4f"), None),
        "Deployment/web-1"
    );
    assert_eq!(
        owned("ReplicaSet", "web-5d4f", None, None),
        "ReplicaSet/web-5d4f"
    );
    assert_eq!(
        owned("ReplicaSet", "web-5d4f", Some("other"), None),
        "ReplicaSet/web-5d4f"
    );
    assert_eq!(owned("StatefulSet", "db", None, None), "StatefulSet/db");
    assert_eq!(owned("DaemonSet", "agent", None, None), "DaemonSet/agent");
    assert_eq!(
        owned("Job", "nightly-29301", None, None),
        "Job/nightly-29301"
    );
    assert_eq!(
        owned("Job", "nightly-29301", None, Some("CronJob/nightly")),
        "CronJob/nightly"
    );
    assert_eq!(
        owned("Job", "other-29301", None, Some("CronJob/nightly")),
        "Job/other-29301",
        "a copied mark"
    );
    assert_eq!(owned("Rollout", "r", None, None), "Rollout/r");
    let bare = pod();
    assert_eq!(
        env(&sidecar(&bare, &run(&bare)), "FLOWCAR_OWNER_KIND"),
        None
    );
    let told = Context {
        workload: Some(Owner::new("Deployment", "web")),
        ..context()
    };
    let container = sidecar(&bare, &inject(&bare, &told, &Settings::default()));
    assert_eq!(
        env_value(&container, "FLOWCAR_OWNER_NAME").as_deref(),
        Some("web")
    );
}

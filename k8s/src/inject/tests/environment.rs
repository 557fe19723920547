//! The container's environment.

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
fn pod_override_precedes_the_operators_default() {
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
    assert_eq!(
        owned("Job", "manual", None, Some("CronJob/nightly/manual")),
        "CronJob/nightly"
    );
    assert_eq!(
        owned("Job", "other", None, Some("CronJob/nightly/manual")),
        "Job/other",
        "a copied mark"
    );
    assert_eq!(
        owned("ReplicaSet", "a", None, Some("Deployment/web/a")),
        "ReplicaSet/a"
    );
    assert_eq!(owned("Rollout", "r", None, None), "Rollout/r");
    // Eight digits, as the controller of CronJobs writes the minutes since 1970.
    for (job, owner) in [
        ("nightly-29301234", "CronJob/nightly"),
        ("a-b-29301234", "CronJob/a-b"),
        ("nightly-1612345678", "Job/nightly-1612345678"),
        ("backup-20261128", "Job/backup-20261128"),
        ("backup-123456789", "Job/backup-123456789"),
        ("import-2024", "Job/import-2024"),
        ("import-123456789012", "Job/import-123456789012"),
        ("-29301234", "Job/-29301234"),
    ] {
        assert_eq!(owned("Job", job, None, None), owner);
    }
    // 29,301,234 minutes are 2025-09-17; 28112026 is a minute of June 2023, and a date.
    for (job, created, owner) in [
        ("nightly-29301234", "2025-09-17T04:34:02Z", "CronJob"),
        ("nightly-29301234", "2026-11-28T00:00:00Z", "CronJob"),
        ("nightly-29301234", "2025-09-14T00:00:00Z", "Job"),
        ("nightly-29301234", "2031-01-01T00:00:00Z", "Job"),
        ("backup-28112026", "2026-11-28T00:00:00Z", "Job"),
        ("backup-20261128", "2026-11-28T00:00:00Z", "Job"),
        ("nightly-29301234", "soon", "CronJob"),
    ] {
        let mut pod = pod();
        let reference = json!({"kind": "Job", "name": job, "controller": true});
        pod["metadata"]["ownerReferences"] = json!([reference]);
        pod["metadata"]["creationTimestamp"] = json!(created);
        let kind = env_value(&sidecar(&pod, &run(&pod)), "FLOWCAR_OWNER_KIND");
        assert_eq!(kind.as_deref(), Some(owner), "{job} {created}");
    }
    let bare = pod();
    assert_eq!(
        env(&sidecar(&bare, &run(&bare)), "FLOWCAR_OWNER_KIND"),
        None
    );
    let reported = Context {
        workload: Some(Owner::new("Deployment", "web")),
        ..context()
    };
    let container = sidecar(&bare, &inject(&bare, &reported, &Settings::default()));
    assert_eq!(
        env_value(&container, "FLOWCAR_OWNER_NAME").as_deref(),
        Some("web")
    );
}

#[test]
fn service_name_is_stable_over_runs_and_revisions() {
    let owner = |kind: &str, name: &str, label: &str, value: &str| {
        let mut pod = with(
            "/metadata/ownerReferences",
            json!([{"kind": kind, "name": name, "controller": true}]),
        );
        pod["metadata"]["labels"] = json!({label: value, "pod-template-hash": "77c4"});
        let container = sidecar(&pod, &run(&pod));
        let part = |name| env_value(&container, name).expect("an owner");
        format!(
            "{}/{}",
            part("FLOWCAR_OWNER_KIND"),
            part("FLOWCAR_OWNER_NAME")
        )
    };
    let rows = [
        (
            "ReplicaSet",
            "canary-6b9f",
            "rollouts-pod-template-hash",
            "6b9f",
            "Rollout/canary",
        ),
        (
            "ReplicaSet",
            "canary-77c4",
            "rollouts-pod-template-hash",
            "other",
            "Deployment/canary",
        ),
        (
            "ReplicationController",
            "shop-3",
            "deploymentconfig",
            "shop",
            "DeploymentConfig/shop",
        ),
        (
            "ReplicationController",
            "shop",
            "deploymentconfig",
            "shop",
            "ReplicationController/shop",
        ),
        (
            "ReplicationController",
            "db-x",
            "app",
            "db",
            "ReplicationController/db-x",
        ),
        (
            "ReplicaSet",
            "hello-00002-deployment-77c4",
            "serving.knative.dev/service",
            "hello",
            "Service/hello",
        ),
        // Knative keeps 20 characters of a revision's name that is longer than 52.
        (
            "ReplicaSet",
            "recommendations-for-5f4dcc3b5aa765d61d8327deb882cf99-deployment-77c4",
            "serving.knative.dev/service",
            "recommendations-for-returning-customers-in-europe",
            "Service/recommendations-for-returning-customers-in-europe",
        ),
        (
            "ReplicaSet",
            "payments-api-europe-77c4",
            "serving.knative.dev/service",
            "payments-api-for-returning-customers-in-all-europe",
            "Deployment/payments-api-europe",
        ),
        (
            "Workflow",
            "etl-1722",
            "workflows.argoproj.io/cron-workflow",
            "etl",
            "CronWorkflow/etl",
        ),
        // The labels that Argo itself writes to a pod.
        (
            "Workflow",
            "etl-1764374400",
            "workflows.argoproj.io/workflow",
            "etl-1764374400",
            "CronWorkflow/etl",
        ),
        (
            "Workflow",
            "etl-x7k2p",
            "workflows.argoproj.io/workflow",
            "etl-x7k2p",
            "Workflow/etl-x7k2p",
        ),
        (
            "Workflow",
            "backup-1000000000",
            "workflows.argoproj.io/completed",
            "false",
            "Workflow/backup-1000000000",
        ),
        (
            "Job",
            "queue-7k2pq",
            "scaledjob.keda.sh/name",
            "queue",
            "ScaledJob/queue",
        ),
        (
            "Job",
            "train-workers-0",
            "jobset.sigs.k8s.io/jobset-name",
            "train",
            "JobSet/train",
        ),
        // Anybody may write a label: the owner's reference decides.
        (
            "ReplicaSet",
            "hello-77c4",
            "serving.knative.dev/service",
            "payments",
            "Deployment/hello",
        ),
        (
            "StatefulSet",
            "payments-db",
            "serving.knative.dev/service",
            "payments",
            "StatefulSet/payments-db",
        ),
        (
            "Job",
            "queue-7k2pq",
            "scaledjob.keda.sh/name",
            "payments",
            "Job/queue-7k2pq",
        ),
    ];
    for (kind, name, label, value, expected) in rows {
        assert_eq!(owner(kind, name, label, value), expected);
    }
}

#[test]
fn jobs_with_generated_names_share_one_service() {
    let run_of = |mark: &str, name: &str| {
        let mut pod = with(
            "/metadata/ownerReferences",
            json!([{"kind": "Job", "name": name, "controller": true}]),
        );
        pod["metadata"]["annotations"]["flowcar.io/workload"] = json!(mark);
        let container = sidecar(&pod, &run(&pod));
        assert_eq!(
            env_value(&container, "FLOWCAR_OWNER_NAME").as_deref(),
            Some(name)
        );
        env_value(&container, "OTEL_SERVICE_NAME")
    };
    assert_eq!(
        run_of("Job/migrate-", "migrate-x7k2p").as_deref(),
        Some("migrate")
    );
    assert_eq!(run_of("Job/migrate", "migrate"), None);
    assert_eq!(run_of("Job/other-", "migrate-x7k2p"), None, "a copied mark");
    let mut named = annotated("flowcar.io/service-name", "mine");
    named["metadata"]["annotations"]["flowcar.io/workload"] = json!("Job/migrate-");
    let container = sidecar(&named, &run(&named));
    let names = container["env"].as_array().expect("an environment").iter();
    assert_eq!(
        names
            .filter(|entry| entry["name"] == "OTEL_SERVICE_NAME")
            .count(),
        1
    );
}

#[test]
fn endpoint_expands_known_references_only() {
    for (written, stored) in [
        (
            "http://$(FLOWCAR_HOST_IP):4317",
            "http://$(FLOWCAR_HOST_IP):4317",
        ),
        (
            "http://[$(FLOWCAR_HOST_IP)]:4317",
            "http://[$(FLOWCAR_HOST_IP)]:4317",
        ),
        (
            "http://c.$(FLOWCAR_POD_NAMESPACE)/a$b",
            "http://c.$(FLOWCAR_POD_NAMESPACE)/a$$b",
        ),
    ] {
        let pod = annotated("flowcar.io/endpoint", written);
        let outcome = run(&pod);
        assert_eq!(outcome.warnings(), Vec::<String>::new());
        let container = sidecar(&pod, &outcome);
        let endpoint = env_value(&container, "OTEL_EXPORTER_OTLP_ENDPOINT");
        assert_eq!(endpoint.as_deref(), Some(stored));
        // The kubelet expands only what stands before.
        let env = container["env"].as_array().expect("an environment");
        let at = |name: &str| env.iter().position(|entry| entry["name"] == name);
        let refers = written.contains("HOST_IP");
        assert_eq!(at("FLOWCAR_HOST_IP").is_some(), refers);
        assert!(at("FLOWCAR_HOST_IP") < at("OTEL_EXPORTER_OTLP_ENDPOINT"));
        if refers {
            let entry = &env[at("FLOWCAR_HOST_IP").expect("an entry")];
            assert_eq!(entry["valueFrom"]["fieldRef"]["fieldPath"], "status.hostIP");
        }
    }
    for unknown in ["http://$(HOST_IP):4317", "http://$(FLOWCAR_POD_ID):4317"] {
        let pod = annotated("flowcar.io/endpoint", unknown);
        assert_eq!(run(&pod).problems[0].reason(), "invalid_value");
    }
    let settings =
        Config::parse("defaults: {endpoint: 'http://$(FLOWCAR_HOST_IP):4317'}").expect("valid");
    let container = sidecar(&pod(), &inject(&pod(), &context(), &settings));
    assert!(env(&container, "FLOWCAR_HOST_IP").is_some());
}

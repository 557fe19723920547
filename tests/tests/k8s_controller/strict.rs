//! What the operator decides, as the API server passes it on.

use flowcar_tests::{
    cluster::{
        Cluster, LIMIT,
        tools::{containers, pipe, pod},
    },
    peers::eventually,
};
use serde_json::{Value, json};

use crate::cli;

const CONFIG: &str = "\
strict: true
allowImageAndCommand: true
allowedEndpoints: ['http://*.observability:4317']
nativeSidecar: never
";

fn annotated(name: &str, annotation: &str, value: &str) -> Value {
    pod(
        name,
        json!({"flowcar.io/inject": "enabled", annotation: value}),
    )
}

/// A cluster and a controller with this configuration, which `kubectl flowcar` reads too.
pub(crate) fn configured(
    config: &str,
) -> (
    Cluster,
    flowcar_tests::cluster::Controller,
    tempfile::TempDir,
) {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("config.yaml");
    std::fs::write(&file, config).expect("a file");
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "data": {"config.yaml": config},
        "metadata": {"name": "flowcar-config", "namespace": "flowcar-system"},
    });
    cluster.apply(&map.to_string());
    let controller = cluster.controller(&[&format!("--config={}", file.display())]);
    (cluster, controller, dir)
}

#[test]
fn strict_mode_denial_names_every_error() {
    let (cluster, controller, _dir) = configured(CONFIG);
    let create = |path: &str, object: &Value| cluster.admin().create(path, object);
    let pods = "/api/v1/namespaces/shop/pods";
    let invalid = [
        (
            "unknown",
            annotated("unknown", "flowcar.io/pear", "none"),
            "did you mean flowcar.io/peer?",
        ),
        (
            "value",
            annotated("value", "flowcar.io/peer", "x"),
            "expected auto | name | address | prefix | none",
        ),
        (
            "endpoint",
            annotated("endpoint", "flowcar.io/endpoint", "http://evil:4317"),
            "not on the allow-list",
        ),
        (
            "opt-in",
            pod("opt-in", json!({"flowcar.io/inject": "yes"})),
            "did you mean",
        ),
    ];
    for (name, object, printed) in &invalid {
        let refused = create(pods, object);
        assert_eq!(refused.status, 400, "{}", refused.text());
        let message = refused.json()["message"].clone();
        let message = message.as_str().expect("a message");
        assert!(
            message.contains("denied the request: flowcar, in strict mode: "),
            "{message}"
        );
        assert!(message.contains(printed), "{message}");
        eventually("an Event", LIMIT, || {
            cluster.events("shop", "FlowcarDenied", name).pop()
        });
    }
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "annotations": {"flowcar.io/inject": "enabled", "flowcar.io/pear": "none"}},
        "spec": {
            "selector": {"matchLabels": {"app": "w"}},
            "template": {"metadata": {"labels": {"app": "w"}}, "spec": {"containers": [{"name": "app", "image": "app:1"}]}},
        },
    });
    let refused = create("/apis/apps/v1/namespaces/shop/deployments", &deployment);
    assert_eq!(
        refused.status,
        400,
        "a workload is message when it is written: {}",
        refused.text()
    );
    assert_eq!(
        controller.metric("flowcar_admission_reviews_total{decision=\"denied\"}"),
        Some(5.0)
    );

    let dry = create(
        &format!("{pods}?dryRun=All"),
        &annotated("dry", "flowcar.io/peer", "x"),
    );
    assert_eq!(dry.status, 400);
    let right = annotated(
        "right",
        "flowcar.io/endpoint",
        "http://c.observability:4317",
    );
    create(pods, &right).success();
    assert_eq!(
        cluster.events("shop", "FlowcarDenied", "dry"),
        Vec::<Value>::new()
    );
}

#[test]
fn without_native_sidecars_jobs_are_skipped() {
    let (cluster, controller, _dir) = configured(CONFIG);
    let stored = cluster.create_pod("shop", &annotated("regular", "flowcar.io/image", "mine:7"));
    assert_eq!(containers(&stored), (vec![], vec!["app", "flowcar"]));
    assert_eq!(
        stored["spec"]["containers"][1]["image"], "mine:7",
        "the operator allows it"
    );
    let mut job = pod("job", json!({"flowcar.io/inject": "enabled"}));
    job["spec"]["restartPolicy"] = json!("Never");
    let stored = cluster.create_pod("shop", &job);
    assert_eq!(containers(&stored), (vec![], vec!["app"]));
    let reason = "flowcar_admission_reasons_total{reason=\"would_never_end\"}";
    assert_eq!(controller.metric(reason), Some(1.0));
    let event = eventually("an Event", LIMIT, || {
        cluster.events("shop", "FlowcarNotInjected", "job").pop()
    });
    assert!(event["note"].to_string().contains("would never complete"));
    let (ok, out, error) = cli::run(&cluster, &["-n", "shop", "explain", "pod/job"]);
    assert!(ok && out.contains("would never complete"), "{out}{error}");
}

#[test]
fn locked_annotations_are_ignored() {
    let config = "locked: [host-network]\nmaximum: {memory-limit: 256Mi}\nallowed: {headers-secret: [otlp]}\n\
                  defaults: {endpoint: 'https://c:4317'}\nallowedEndpoints: ['https://*.observability:4317']\n";
    let (cluster, controller, _dir) = configured(config);
    let rows = [
        (
            "flowcar.io/memory-limit",
            "1Gi",
            "the operator allows at most 256Mi",
            "out_of_bounds",
        ),
        (
            "flowcar.io/headers-secret",
            "payments",
            "the operator allows only otlp",
            "out_of_bounds",
        ),
        (
            "flowcar.io/endpoint",
            "http://evil:4317",
            "not on the allow-list",
            "endpoint_not_allowed",
        ),
        (
            "flowcar.io/resource-attributes",
            "k8s.namespace.name=payments,team=a",
            "k8s.namespace.name is ignored",
            "identity",
        ),
    ];
    for (row, (annotation, value, printed, reason)) in rows.iter().enumerate() {
        let name = format!("p-{row}");
        let mut object = annotated(&name, annotation, value);
        object["apiVersion"] = json!("v1");
        object["kind"] = json!("Pod");
        let mut kubectl = cluster.api.kubectl();
        kubectl.args(["-n", "shop", "create", "-o", "json", "-f", "-"]);
        let (ok, stored, warnings) = pipe(kubectl, &object.to_string());
        assert!(ok && warnings.contains(printed), "{annotation}: {warnings}");
        let stored: Value = serde_json::from_str(&stored).expect("a pod");
        assert_eq!(containers(&stored).0, ["flowcar"], "{annotation}");
        let spec = stored["spec"].to_string();
        let refused = value.split(',').next().expect("a part");
        assert!(!spec.contains(refused), "{annotation}: {spec}");
        let metric = format!("flowcar_admission_reasons_total{{reason=\"{reason}\"}}");
        assert!(controller.metric(&metric) >= Some(1.0), "{annotation}");
        let event = eventually("an Event", LIMIT, || {
            cluster.events("shop", "FlowcarAnnotation", &name).pop()
        });
        assert!(event["note"].to_string().contains(printed), "{event}");
        let target = format!("pod/{name}");
        let (ok, out, error) = cli::run(&cluster, &["-n", "shop", "explain", &target]);
        assert!(ok && out.contains(printed), "{annotation}: {out}{error}");
    }
    let mut host = annotated("host", "flowcar.io/host-network", "force");
    host["spec"]["hostNetwork"] = json!(true);
    let stored = cluster.create_pod("shop", &host);
    assert_eq!(containers(&stored).0, Vec::<&str>::new());
    let (_, out, error) = cli::run(&cluster, &["-n", "shop", "explain", "pod/host"]);
    assert!(
        out.contains("flowcar.io/host-network: ignored, the operator has locked it"),
        "{out}{error}"
    );
}

#[test]
fn unencrypted_headers_are_reported_and_can_be_forbidden() {
    let warnings = |cluster: &Cluster, endpoint: &str| {
        let mut object = annotated("p", "flowcar.io/headers-secret", "otlp");
        object["metadata"]["annotations"]["flowcar.io/endpoint"] = json!(endpoint);
        object["apiVersion"] = json!("v1");
        object["kind"] = json!("Pod");
        let mut kubectl = cluster.api.kubectl();
        kubectl.args(["-n", "shop", "create", "--dry-run=server", "-f", "-"]);
        let (ok, _, warnings) = pipe(kubectl, &object.to_string());
        assert!(ok, "{warnings}");
        warnings
    };
    let (cluster, _controller, _dir) = configured("{}");
    for (endpoint, printed) in [
        ("http://collector:4317", Some("unencrypted to another host")),
        (
            "http://$(FLOWCAR_HOST_IP):4317",
            Some("unencrypted to another host"),
        ),
        ("HTTP://192.0.2.1:4317", Some("unencrypted to another host")),
        (
            "http://localhost:4317",
            Some("whatever listens on localhost"),
        ),
        (
            "http://127.9.9.9:4317",
            Some("whatever listens on localhost"),
        ),
        ("http://[::1]:4317", Some("whatever listens on localhost")),
        ("https://collector:4317", None),
        ("unix:///run/otel/otlp.sock", None),
    ] {
        let message = warnings(&cluster, endpoint);
        match printed {
            Some(printed) => assert!(message.contains(printed), "{endpoint}: {message}"),
            None => assert_eq!(message, "", "{endpoint}"),
        }
    }
    let (cluster, _controller, _dir) =
        configured("requireTls: true\ndefaults: {endpoint: 'https://c:4317'}\n");
    let message = warnings(&cluster, "http://collector:4317");
    assert!(
        message.contains("the operator requires https:// or unix://"),
        "{message}"
    );
    assert_eq!(warnings(&cluster, "unix:///run/otel/otlp.sock"), "");
}

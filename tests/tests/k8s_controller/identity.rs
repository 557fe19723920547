//! Who may ask, and what a stolen token may do.

use std::path::Path;

use flowcar_tests::{
    cluster::{
        Cluster, LIMIT, SECRET, WEBHOOK,
        tools::{base64, containers, pod},
    },
    peers::{ApiServerOptions, Authority, PatchKind, eventually},
};
use serde_json::{Value, json};

fn on() -> Value {
    json!({"flowcar.io/inject": "enabled", "flowcar.io/pear": "x"})
}

/// Files that make an API server show a client certificate of this name to every webhook
/// (Kubernetes, "Authenticate API servers").
fn shows(authority: &Authority, name: &str, dir: &Path) -> String {
    let pair = authority.client(name, "flowcar tests");
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config",
        "users": [{"name": "*", "user": {
            "client-certificate-data": base64(&pair.certificate), "client-key-data": base64(&pair.key),
        }}],
    });
    let webhooks = dir.join(format!("{name}.kubeconfig"));
    std::fs::write(&webhooks, kubeconfig.to_string()).expect("a file");
    let admission = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration",
        "plugins": [{"name": "MutatingAdmissionWebhook", "configuration": {
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "WebhookAdmissionConfiguration",
            "kubeConfigFile": webhooks,
        }}],
    });
    let file = dir.join(format!("{name}.json"));
    std::fs::write(&file, admission.to_string()).expect("a file");
    format!("--admission-control-config-file={}", file.display())
}

#[test]
fn client_ca_admits_only_the_api_server() {
    let dir = tempfile::tempdir().expect("a folder");
    let authority = Authority::new("who the API server is");
    let shown = shows(&authority, "kube-apiserver", dir.path());
    let cluster = Cluster::start_on(ApiServerOptions {
        args: vec![shown],
        ..ApiServerOptions::default()
    });
    let ca = dir.path().join("clients.crt");
    std::fs::write(&ca, authority.certificate()).expect("a file");
    let client_ca = format!("--client-ca={}", ca.display());
    let names = ["--client-names=kube-apiserver", "--client-names=somebody"];
    let [right, wrong] = names.map(|names| [client_ca.as_str(), names]);
    let controller = cluster.controller(&right);

    let stored = cluster.create_pod("shop", &pod("asked", on()));
    assert_eq!(containers(&stored).0, ["flowcar"]);
    assert_eq!(cluster.failed_open("pods.flowcar.io"), 0.0);
    eventually("an Event", LIMIT, || {
        cluster.events("shop", "FlowcarAnnotation", "asked").pop()
    });
    let nobody = cluster.webhook();
    assert!(nobody.get("/admit").is_err(), "without a certificate");
    controller.process.kill();
    drop(controller);

    // Another name of the same authority may not.
    let controller = cluster.replica("one", cluster.address(), &wrong);
    eventually("a published caBundle", LIMIT, || {
        cluster.is_published().then_some(())
    });
    let stored = cluster.create_pod("shop", &pod("refused", on()));
    assert_eq!(containers(&stored).0, Vec::<&str>::new());
    let log = controller.process.log();
    assert!(log.contains("kube-apiserver"), "{log}");
}

#[test]
fn stolen_token_cannot_widen_the_webhook() {
    let cluster = Cluster::start();
    let controller = cluster.controller(&[]);
    let thief = cluster.api.with_token(&cluster.token());
    let before = cluster.admin().get(WEBHOOK).success();
    let all = json!([{"apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"], "operations": ["*"], "scope": "*"}]);
    let at = |path: &str| format!("/webhooks/0/{path}");
    let replace =
        |path: &str, value: Value| json!([{"op": "replace", "path": path, "value": value}]);
    let add = |path: &str, value: Value| json!([{"op": "add", "path": path, "value": value}]);
    let another = json!({
        "name": "more.flowcar.io", "admissionReviewVersions": ["v1"], "sideEffects": "None", "rules": all,
        "clientConfig": {"url": "https://thief.test/"},
    });
    let widened = [
        replace(&at("rules"), all.clone()),
        replace(&at("rules/0/resources"), json!(["pods", "secrets"])),
        replace(&at("rules/0/operations"), json!(["*"])),
        replace(&at("clientConfig/url"), json!("https://thief.test/admit")),
        replace(&at("failurePolicy"), json!("Fail")),
        replace(&at("matchPolicy"), json!("Exact")),
        replace(&at("matchConditions"), json!([])),
        json!([{"op": "remove", "path": at("matchConditions")}]),
        replace(&at("matchConditions/0/expression"), json!("true")),
        replace(&at("reinvocationPolicy"), json!("IfNeeded")),
        replace(&at("sideEffects"), json!("None")),
        replace(&at("timeoutSeconds"), json!(30)),
        replace(&at("admissionReviewVersions"), json!(["v1", "v1beta1"])),
        replace(&at("namespaceSelector"), json!({"matchLabels": {"a": "b"}})),
        replace(&at("objectSelector"), json!({"matchLabels": {"a": "b"}})),
        replace(&at("name"), json!("others.flowcar.io")),
        json!([{"op": "remove", "path": "/webhooks/0"}]),
        add("/webhooks/-", another),
        add("/metadata/annotations/a", json!("b")),
        add("/metadata/labels/a", json!("b")),
        add("/metadata/finalizers", json!(["flowcar.io/stay"])),
    ];
    // A policy takes effect a moment after it is written.
    eventually("the policy", LIMIT, || {
        let label = json!({"metadata": {"labels": {"probe": "x"}}});
        let path = format!("{WEBHOOK}?dryRun=All");
        (thief.patch(&path, PatchKind::Merge, &label).status == 422
            || thief.patch(&path, PatchKind::Merge, &label).status == 403)
            .then_some(())
    });
    for patch in &widened {
        let reply = thief.patch(WEBHOOK, PatchKind::Json, patch);
        assert!(
            reply.status == 422 && reply.text().contains("flowcar's controller may"),
            "{patch}: {} {}",
            reply.status,
            reply.text()
        );
    }
    let after = cluster.admin().get(WEBHOOK).success();
    assert_eq!(after["webhooks"], before["webhooks"]);
    assert_eq!(after["metadata"]["labels"], before["metadata"]["labels"]);
    // Others may, as an upgrade does; and the controller still does what it is for.
    let longer = replace(&at("timeoutSeconds"), json!(7));
    cluster
        .admin()
        .patch(WEBHOOK, PatchKind::Json, &longer)
        .success();
    let emptied = json!({"data": null});
    cluster
        .admin()
        .patch(SECRET, PatchKind::Merge, &emptied)
        .success();
    controller.process.restart();
    eventually("a published caBundle", LIMIT, || {
        cluster.is_published().then_some(())
    });
    cluster.wait_until_called();
    let stored = cluster.create_pod("shop", &pod("after", on()));
    assert_eq!(containers(&stored).0, ["flowcar"]);
}

//! The API server with its etcd, kubectl and helm: they start, agree with each other, and refuse what they should.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use flowcar_tests::peers::{ApiServer, PatchKind, Peer};
use serde_json::{Value, json};

const POD: &str = "/api/v1/namespaces/shop/pods/web";

fn pod() -> Value {
    json!({
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "app", "image": "example.test/web:1"}]},
    })
}

fn output(command: &mut Command) -> String {
    let output = command.output().expect("a tool that runs");
    let (out, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{command:?}: {out}{error}");
    out.into_owned()
}

#[test]
fn api_server_stores_and_validates_objects() {
    let server = ApiServer::start();
    let admin = server.admin();
    assert_eq!(admin.get("/version").success()["gitVersion"], "v1.34.4");

    server.create_namespace(
        "shop",
        &json!({"pod-security.kubernetes.io/enforce": "baseline"}),
    );
    let created = admin
        .create("/api/v1/namespaces/shop/pods", &pod())
        .success();
    assert_eq!(
        created["spec"]["serviceAccountName"], "default",
        "its own admission ran: {created}"
    );

    let mut privileged = pod();
    privileged["metadata"]["name"] = json!("privileged");
    privileged["spec"]["hostNetwork"] = json!(true);
    let refused = admin.create("/api/v1/namespaces/shop/pods", &privileged);
    assert_eq!(refused.status, 403, "{}", refused.text());

    let label = |name: &str| json!({"metadata": {"labels": {name: "yes"}}});
    admin
        .patch(POD, PatchKind::Merge, &label("merge"))
        .success();
    admin
        .patch(POD, PatchKind::Strategic, &label("strategic"))
        .success();
    let operation = json!([{"op": "add", "path": "/metadata/labels/json", "value": "yes"}]);
    admin.patch(POD, PatchKind::Json, &operation).success();
    let mut applied = label("apply");
    applied["apiVersion"] = json!("v1");
    applied["kind"] = json!("Pod");
    admin
        .patch(
            POD,
            PatchKind::Apply {
                manager: "test",
                force: false,
            },
            &applied,
        )
        .success();

    // What etcd holds outlives the server.
    server.restart();
    let labels = admin.get(POD).success()["metadata"]["labels"].clone();
    assert_eq!(
        labels,
        json!({"app": "web", "merge": "yes", "strategic": "yes", "json": "yes", "apply": "yes"})
    );
}

#[test]
fn kubectl_helm_and_a_service_account_reach_the_server() {
    let server = ApiServer::start();
    server.create_namespace("shop", &json!({}));
    server
        .admin()
        .create("/api/v1/namespaces/shop/pods", &pod())
        .success();

    let listed =
        output(
            server
                .kubectl()
                .args(["get", "pods", "--namespace=shop", "--output=name"]),
        );
    assert_eq!(listed.trim(), "pod/web");
    let version: Value =
        serde_json::from_str(&output(server.kubectl().args(["version", "--output=json"]))).unwrap();
    assert_eq!(
        version["clientVersion"]["gitVersion"],
        version["serverVersion"]["gitVersion"]
    );

    let chart = server.process().dir().join("chart");
    std::fs::create_dir_all(chart.join("templates")).unwrap();
    std::fs::write(
        chart.join("Chart.yaml"),
        "apiVersion: v2\nname: tiny\nversion: 0.1.0\n",
    )
    .unwrap();
    let template =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ .Release.Name }}-settings'}\n";
    std::fs::write(chart.join("templates/settings.yaml"), template).unwrap();
    output(
        server
            .helm()
            .args(["install", "one", "--namespace=shop"])
            .arg(&chart),
    );
    server
        .admin()
        .get("/api/v1/namespaces/shop/configmaps/one-settings")
        .success();

    // A service account may do only what RBAC grants.
    server.create_service_account("shop", "reader");
    let token = server.service_account_token("shop", "reader");
    let reader = server.with_token(&token);
    assert_eq!(reader.get(POD).status, 403);
    let kubeconfig = server.kubeconfig_for("reader.json", &token);
    output(server.kubectl().args([
        "create",
        "role",
        "read",
        "--verb=get",
        "--resource=pods",
        "--namespace=shop",
    ]));
    output(
        server
            .kubectl()
            .args([
                "create",
                "rolebinding",
                "read",
                "--role=read",
                "--namespace=shop",
            ])
            .arg("--serviceaccount=shop:reader"),
    );
    // The authorizer learns of the role a moment later.
    let began = Instant::now();
    while reader.get(POD).status == 403 && began.elapsed() < Duration::from_secs(30) {
        thread::sleep(Duration::from_millis(50));
    }
    reader.get(POD).success();
    assert_eq!(reader.delete(POD).status, 403);
    let allowed = output(server.kubectl().env("KUBECONFIG", kubeconfig).args([
        "auth",
        "can-i",
        "get",
        "pods/web",
        "--namespace=shop",
    ]));
    assert_eq!(allowed.trim(), "yes");

    assert_eq!(server.with_token("nobody").get(POD).status, 401);
}

//! What the namespace and the operator add to a pod, on the way through the API server.

use flowcar_tests::{
    cluster::{
        Cluster,
        tools::{containers, pod},
    },
    peers::PatchKind,
};
use serde_json::{Value, json};

const CONFIG: &str = "\
imagePullSecrets: [registry]
defaults: {peer: none, sampling: 100}
";

fn env(pod: &Value, name: &str) -> Option<String> {
    let env = pod["spec"]["initContainers"][0]["env"].as_array()?;
    let entry = env.iter().find(|entry| entry["name"] == name)?;
    entry["value"].as_str().map(str::to_owned)
}

#[test]
fn namespace_defaults_and_pull_secrets_reach_the_pod() {
    let cluster = Cluster::start();
    let annotations =
        json!({"flowcar.io/endpoint": "http://team-a:4317", "flowcar.io/sampling": "7"});
    let metadata = json!({"metadata": {"annotations": annotations}});
    let namespace = "/api/v1/namespaces/shop";
    cluster
        .admin()
        .patch(namespace, PatchKind::Merge, &metadata)
        .success();
    cluster.api.create_service_account("shop", "puller");
    let account = format!("{namespace}/serviceaccounts/puller");
    let secrets = json!({"imagePullSecrets": [{"name": "own"}]});
    cluster
        .admin()
        .patch(&account, PatchKind::Merge, &secrets)
        .success();
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("config.yaml");
    std::fs::write(&file, CONFIG).expect("a file");
    let _controller = cluster.controller(&[&format!("--config={}", file.display())]);

    let asked = |name: &str| pod(name, json!({"flowcar.io/inject": "enabled"}));
    let mut of_account = asked("of-account");
    of_account["spec"]["serviceAccountName"] = json!("puller");
    let stored = cluster.create_pod("shop", &of_account);
    assert_eq!(containers(&stored).0, ["flowcar"]);
    // The service account's own come first, by the API server's plugin, and flowcar's behind them.
    assert_eq!(
        stored["spec"]["imagePullSecrets"],
        json!([{"name": "own"}, {"name": "registry"}])
    );
    let of = |name| env(&stored, name);
    assert_eq!(
        of("OTEL_EXPORTER_OTLP_ENDPOINT").as_deref(),
        Some("http://team-a:4317")
    );
    assert_eq!(of("FLOWCAR_SPANS_PER_SECOND").as_deref(), Some("7"));
    assert_eq!(of("FLOWCAR_PEER").as_deref(), Some("none"));

    let plain = cluster.create_pod("shop", &pod("plain", json!({})));
    assert_eq!(plain["spec"].get("imagePullSecrets"), None);
}

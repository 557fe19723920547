//! The API server's own judgement of the golden pods, the examples and the installed chart.

use std::path::Path;

use flowcar_tests::cluster::{
    Cluster, KEYS, SECRET, WEBHOOK,
    tools::{containers, k8s, pod, run},
};
use serde_json::{Value, json};

fn golden() -> Vec<(String, Value, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/k8s");
    let files = std::fs::read_dir(folder).expect("the golden pods");
    let paths = files.map(|file| file.expect("a file").path());
    let yaml = paths.filter(|path| path.extension().is_some_and(|e| e == "yaml"));
    yaml.map(|path| {
        let read = |path: &Path| std::fs::read_to_string(path).expect("a golden file");
        let pod = serde_yaml_ng::from_str(&read(&path)).expect("YAML");
        let result = serde_json::from_str(&read(&path.with_extension("json"))).expect("JSON");
        let name = path.file_stem().expect("a name").to_string_lossy();
        (name.into_owned(), pod, result)
    })
    .collect()
}

/// Whether everything of `ours` is in `stored`, which may have more: the API server's defaults.
fn is_within(ours: &Value, stored: &Value) -> bool {
    match (ours, stored) {
        (Value::Object(ours), Value::Object(stored)) => ours.iter().all(|(name, value)| {
            stored
                .get(name)
                .is_some_and(|stored| is_within(value, stored))
        }),
        (Value::Array(ours), Value::Array(stored)) => {
            ours.len() == stored.len() && ours.iter().zip(stored).all(|(a, b)| is_within(a, b))
        }
        _ => ours == stored,
    }
}

#[test]
fn api_server_accepts_injected_golden_pods_strictly() {
    let cluster = Cluster::bare();
    let golden = golden();
    assert!(golden.len() >= 18, "{}", golden.len());
    for (name, mut pod, result) in golden {
        let patch: json_patch::Patch =
            serde_json::from_value(result["patch"].clone()).expect("a patch");
        json_patch::patch(&mut pod, &patch).expect("it applies");
        // Strictly: a field that this API server does not know is an error and not dropped.
        let mut path = "/api/v1/namespaces/shop/pods?dryRun=All".to_owned();
        if name == "unknown-fields" {
            // No API server lets this name, which is there for its escaping, come so far.
            let annotations = pod["metadata"]["annotations"].as_object_mut();
            annotations.expect("annotations").remove("a~b/c");
        } else {
            path.push_str("&fieldValidation=Strict");
        }
        let answer = cluster.admin().create(&path, &pod);
        assert!(answer.is_ok(), "{name}: {}", answer.text());
        let stored = answer.json();
        let ours = |pod: &Value| -> Vec<Value> {
            let lists = ["initContainers", "containers", "volumes"];
            let items = lists.map(|list| pod["spec"][list].as_array().cloned().unwrap_or_default());
            let all = items.into_iter().flatten();
            all.filter(|item| {
                item["name"]
                    .as_str()
                    .is_some_and(|name| name.starts_with("flowcar"))
            })
            .collect()
        };
        let (added, kept) = (ours(&pod), ours(&stored));
        assert!(!added.is_empty(), "{name}");
        assert!(
            added.len() == kept.len() && added.iter().zip(&kept).all(|(a, b)| is_within(a, b)),
            "{name}: {added:?} was stored as {kept:?}"
        );
        let status = "/metadata/annotations/flowcar.io~1status";
        assert_eq!(stored.pointer(status), pod.pointer(status), "{name}");
    }
}

#[test]
fn examples_are_accepted_and_their_pods_injected() {
    let cluster = Cluster::start();
    let _controller = cluster.controller(&[]);
    let mut kubectl = cluster.api.kubectl();
    kubectl
        .args(["apply", "--validate=strict", "-f"])
        .arg(k8s("examples"));
    let out = run(kubectl, "");
    for created in [
        "deployment.apps/web created",
        "deployment.apps/client created",
        "deployment.apps/collector created",
        "deployment.apps/jaeger created",
        "service/jaeger created",
    ] {
        assert!(out.contains(created), "{created} in\n{out}");
    }
    let template = |namespace: &str, name: &str| {
        let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments/{name}");
        cluster.admin().get(&path).success()["spec"]["template"].clone()
    };
    cluster.api.create_service_account("demo", "default");
    for name in ["web", "client"] {
        let mut pod = template("demo", name);
        pod["metadata"]["generateName"] = json!(format!("{name}-"));
        let pod = cluster.create_pod("demo", &pod);
        assert_eq!(containers(&pod), (vec!["flowcar"], vec![name]));
    }
    for name in ["collector", "jaeger"] {
        assert_eq!(
            template("observability", name)["metadata"].get("annotations"),
            None
        );
    }
}

#[test]
fn chart_upgrade_keeps_the_ca_bundle() {
    let cluster = Cluster::bare();
    let helm = |verb: &str, values: &[&str]| {
        let mut helm = cluster.api.helm();
        helm.args([verb, "flowcar"]).arg(k8s("chart"));
        helm.args(["--namespace=flowcar-system", "--create-namespace"]);
        helm.args(["--set", &format!("webhook.url={}", cluster.url())]);
        for value in values {
            helm.args(["--set", value]);
        }
        run(helm, "")
    };
    helm("install", &[]);
    let _controller = cluster.controller(&[]);
    let injected = |name: &str| {
        let asked = pod(name, json!({"flowcar.io/inject": "enabled"}));
        let pod = cluster.create_pod("shop", &asked);
        assert_eq!(containers(&pod).0, ["flowcar"], "{name}");
    };
    injected("installed");
    helm(
        "upgrade",
        &["webhook.timeoutSeconds=3", "config.defaults.peer=none"],
    );
    let webhooks = cluster.admin().get(WEBHOOK).success()["webhooks"].clone();
    for webhook in webhooks.as_array().expect("webhooks") {
        assert_eq!(webhook["timeoutSeconds"], 3);
        assert!(webhook["clientConfig"]["caBundle"].is_string(), "{webhook}");
    }
    assert!(cluster.is_published());
    injected("upgraded");
}

/// A controller of an earlier version made its Secret and its Lease by itself: helm takes over nothing of another's.
#[test]
fn chart_install_keeps_objects_of_an_earlier_controller() {
    let cluster = Cluster::bare();
    cluster.api.create_namespace("flowcar-system", &json!({}));
    let metadata = |name: &str| json!({"name": name, "namespace": "flowcar-system"});
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": metadata("flowcar-webhook-tls"),
        "data": {"tls.crt": "", "tls.key": ""},
    });
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata("flowcar-controller"),
        "spec": {"holderIdentity": "", "leaseTransitions": 7},
    });
    let created = cluster
        .admin()
        .create("/api/v1/namespaces/flowcar-system/secrets", &secret);
    created.success();
    let leases = "/apis/coordination.k8s.io/v1/namespaces/flowcar-system/leases";
    cluster.admin().create(leases, &lease).success();
    for verb in ["install", "upgrade"] {
        let mut helm = cluster.api.helm();
        helm.args([verb, "flowcar"]).arg(k8s("chart"));
        helm.args(["--namespace=flowcar-system"]);
        helm.args(["--set", &format!("webhook.url={}", cluster.url())]);
        run(helm, "");
    }
    let _controller = cluster.controller(&[]);
    let asked = pod("p", json!({"flowcar.io/inject": "enabled"}));
    let stored = cluster.create_pod("shop", &asked);
    assert_eq!(containers(&stored).0, ["flowcar"]);
    let secret = cluster.admin().get(SECRET).success();
    assert_eq!(secret["type"], "kubernetes.io/tls");
    let lease = cluster
        .admin()
        .get(&format!("{leases}/flowcar-controller"))
        .success();
    assert_eq!(lease["spec"]["leaseTransitions"], 8, "the very same Lease");
    // Another upgrade takes nothing away of what the controller has written.
    let mut helm = cluster.api.helm();
    helm.args(["upgrade", "flowcar"]).arg(k8s("chart"));
    helm.args([
        "--namespace=flowcar-system",
        "--reuse-values",
        "--set",
        "replicas=1",
    ]);
    run(helm, "");
    let keys = cluster.admin().get(KEYS).success();
    assert!(keys["data"]["signing-ca.key"].is_string(), "kept");
    assert!(cluster.is_published());
}

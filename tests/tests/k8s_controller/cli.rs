//! `kubectl flowcar` beside the real kubectl.

use std::process::Command;

use flowcar_tests::cluster::{
    Cluster,
    tools::{containers, k8s, kubectl_flowcar, pipe, pod},
};
use serde_json::{Value, json};

fn flowcar(cluster: &Cluster, args: &[&str]) -> Command {
    let mut command = kubectl_flowcar(&cluster.api.kubeconfig());
    command.args(args);
    command
}

pub(crate) fn run(cluster: &Cluster, args: &[&str]) -> (bool, String, String) {
    pipe(flowcar(cluster, args), "")
}

#[test]
fn injected_file_equals_the_webhooks_pod() {
    let cluster = Cluster::start();
    let _controller = cluster.controller(&[]);
    cluster.api.create_namespace("demo", &json!({}));
    let web = k8s("examples/web.yaml");
    let web = web.to_str().expect("UTF-8");
    let (ok, injected, reported) = run(&cluster, &["inject", "-f", web]);
    assert!(
        ok && reported.contains("deployment/web: injected"),
        "{reported}"
    );
    let mut kubectl = cluster.api.kubectl();
    kubectl.args(["apply", "--dry-run=server", "-f", "-"]);
    let (ok, stdout, stderr) = pipe(kubectl, &injected);
    assert!(
        ok && stdout.contains("deployment.apps/web created (server dry run)"),
        "{stdout}{stderr}"
    );
    let (ok, back, _) = pipe(flowcar(&cluster, &["uninject", "-f", "-"]), &injected);
    assert!(ok);
    assert_eq!(
        back,
        std::fs::read_to_string(web).expect("the example"),
        "to the byte"
    );

    // The same pod, once by the webhook and once by the file.
    let mut object = pod(
        "same",
        json!({"flowcar.io/inject": "enabled", "flowcar.io/exchange": "off"}),
    );
    object["apiVersion"] = json!("v1");
    object["kind"] = json!("Pod");
    object["metadata"]["namespace"] = json!("shop");
    let by_webhook = cluster.create_pod("shop", &object);
    cluster
        .admin()
        .delete("/api/v1/namespaces/shop/pods/same?gracePeriodSeconds=0")
        .success();
    let text = object.to_string();
    let (ok, by_file, reported) = pipe(flowcar(&cluster, &["inject", "-f", "-"]), &text);
    assert!(ok, "{reported}");
    cluster.apply(&by_file);
    let by_file = cluster
        .admin()
        .get("/api/v1/namespaces/shop/pods/same")
        .success();
    let ours = |pod: &Value| pod["spec"]["initContainers"].clone();
    assert_eq!(ours(&by_file), ours(&by_webhook));
    // What uninject needs differs: the API server had already added a volume of its own.
    let status = |pod: &Value| -> Value {
        let text = pod["metadata"]["annotations"]["flowcar.io/status"]
            .as_str()
            .expect("a status");
        let status: Value = serde_json::from_str(text).expect("JSON");
        json!([status["version"], status["config"], status["form"]])
    };
    assert_eq!(status(&by_file), status(&by_webhook));
}

#[test]
fn enable_explain_check_and_status_report_the_cluster() {
    let cluster = Cluster::start();
    let (ok, out, _) = run(&cluster, &["check", "--pre"]);
    assert!(ok, "{out}");
    // Installed, but the controller does not run yet.
    let (ok, out, _) = run(&cluster, &["-n", "shop", "check"]);
    assert!(!ok, "{out}");
    for line in [
        "ok    rights of the controller",
        "FAIL  certificates: the Secret flowcar-webhook-tls is empty",
        "FAIL  dry-run pod: not injected",
    ] {
        assert!(out.contains(line), "{line} in\n{out}");
    }
    cluster.create_pod(
        "shop",
        &pod("missed", json!({"flowcar.io/inject": "enabled"})),
    );
    let controller = cluster.controller(&[]);
    let (ok, out, _) = run(&cluster, &["-n", "shop", "check"]);
    assert!(!ok && out.contains("FAIL  opted-in pods: 1 of 1"), "{out}");
    assert_eq!(out.matches("FAIL").count(), 1, "{out}");
    let (_, out, _) = run(&cluster, &["-n", "shop", "explain", "pod/missed"]);
    assert!(
        out.starts_with("shop pod/missed: opted in, and the webhook did not see it"),
        "{out}"
    );
    cluster
        .admin()
        .delete("/api/v1/namespaces/shop/pods/missed?gracePeriodSeconds=0")
        .success();
    let (ok, out, _) = run(&cluster, &["-n", "shop", "check"]);
    assert!(ok && !out.contains("FAIL"), "{out}");

    cluster.api.create_namespace("demo", &json!({}));
    cluster.apply(
        &std::fs::read_to_string(k8s("examples/web.yaml"))
            .expect("the example")
            .replace("flowcar.io/inject: enabled", "team: web"),
    );
    let (_, out, _) = run(&cluster, &["-n", "demo", "explain", "deployment/web"]);
    assert!(out.contains("gets no sidecar: nobody asked"), "{out}");
    let (ok, out, error) = run(&cluster, &["-n", "demo", "enable", "deployment/web"]);
    assert!(ok, "{out}{error}");
    let path = "/apis/apps/v1/namespaces/demo/deployments/web";
    let template = || {
        cluster.admin().get(path).success()["spec"]["template"]["metadata"]["annotations"].clone()
    };
    assert_eq!(template()["flowcar.io/inject"], "enabled");
    let (_, out, _) = run(&cluster, &["-n", "demo", "explain", "deployment/web"]);
    assert!(
        out.contains("deployment/web: gets the sidecar, with eBPF"),
        "{out}"
    );
    assert!(run(&cluster, &["-n", "demo", "disable", "deployment/web"]).0);
    assert_eq!(template(), Value::Null);

    let injected = cluster.create_pod("shop", &pod("in", json!({"flowcar.io/inject": "enabled"})));
    assert_eq!(containers(&injected).0, ["flowcar"]);
    let mut host = pod("host", json!({"flowcar.io/inject": "enabled"}));
    host["spec"]["hostNetwork"] = json!(true);
    cluster.create_pod("shop", &host);
    let (ok, out, _) = run(&cluster, &["status"]);
    let line: Vec<_> = out
        .lines()
        .find(|line| line.starts_with("shop"))
        .expect("a line")
        .split_whitespace()
        .collect();
    assert!(ok);
    assert_eq!(line, ["shop", "1", "1", "0"]);
    let (_, out, _) = run(&cluster, &["-n", "shop", "explain"]);
    assert!(
        out.contains("shop pod/in: has the sidecar, in the ebpf form"),
        "{out}"
    );
    assert!(
        out.contains("shop pod/host: gets no sidecar: the pod is on the host's network"),
        "{out}"
    );

    // Without the webhook, enable reports that the template did not change.
    controller.process.kill();
    let (ok, out, _) = run(&cluster, &["-n", "demo", "enable", "deployment/client"]);
    assert!(!ok && out.contains("the webhook did not answer"), "{out}");
}

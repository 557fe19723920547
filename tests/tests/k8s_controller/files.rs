//! `kubectl flowcar inject` on files, held to the real kubectl's reading of them. No API server is asked.

use std::{net::TcpListener, path::Path, process::Command};

use flowcar_k8s::{
    config::Settings,
    inject::{Context, Owner, inject},
};
use flowcar_tests::{
    cluster::tools::{kubectl_flowcar, pipe},
    peers::binary,
};
use serde_json::{Map, Value};

/// Pod specs as people write them, indented by six.
const SPECS: [&str; 14] = [
    "      containers: [{name: a}]\n",
    "      containers:\n      - name: a\n      volumes:\n",
    "      volumes: ~ # none\n      initContainers: []\n      containers:\n        - name: a",
    "      containers:\n      - name: a\n      volumes:\n      - name: v\n        configMap: {name: c, defaultMode: 0644}\n# behind\n",
    "      volumes:\n        - name: v\n        # - name: w\n      containers: [{name: a}]\n",
    "      initContainers:\n      # first\n      - name: i\n        args: [sh, -c, 'a: b']\n      containers:\n      - name: a\n        args:\n        - |+\n          x\n\n\n",
    "      shareProcessNamespace: yes\n      terminationGracePeriodSeconds: 0o17\n      containers: [{name: a}]\n",
    "      {\"containers\": [{\"name\": \"a\"}], \"volumes\": null}\n",
    "      {containers: [{name: a}], volumes: ~, initContainers: [ # i\n       {name: i}, ]}\n",
    "      x: &x {name: a}\n      containers: [*x]\n      y: {<<: *x, name: b}\n",
    "      volumes: [\n        {name: v}, # v\n        {name: w}\n      ]\n      containers: [{name: a}]\n...\n",
    "      containers: [{name: a}]\n      hostname: !custom a\n",
    "      containers: [{name: a}]\n      hostname: \"a\\\n        b\"\n      subdomain: 'a\n\n        b'\n",
    "      containers:\n      -\n        name: a\n      - {name: b}\n      volumes: [ ]\n",
];

fn text(spec: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web # its name\nspec:\n  template:\n    spec:\n{spec}"
    )
}

/// Finds no API server by this kubeconfig.
const NO_CLUSTER: &str = "/dev/null";

fn offline(args: &[&str], input: &str) -> (bool, String, String) {
    let mut command = kubectl_flowcar(Path::new(NO_CLUSTER));
    command.args(args);
    pipe(command, input)
}

/// An object as kubectl decodes it.
fn as_kubectl_reads(text: &str) -> Value {
    let mut kubectl = Command::new(binary("kubectl"));
    kubectl.env("KUBECONFIG", NO_CLUSTER).args([
        "label",
        "--local",
        "-f",
        "-",
        "-o",
        "json",
        "read=by-kubectl",
    ]);
    let (ok, out, error) = pipe(kubectl, text);
    assert!(ok, "{text}\n{error}");
    serde_json::from_str(&out).expect("kubectl prints JSON")
}

fn context() -> Context {
    Context {
        namespace: "default".to_owned(),
        namespace_labels: Map::new(),
        own_namespace: "flowcar-system".to_owned(),
        native_sidecar: true,
        workload: Some(Owner::new("Deployment", "web")),
        workload_annotations: Map::new(),
        opted_in: true,
    }
}

#[test]
fn injected_file_decodes_as_patched_and_is_restored() {
    for spec in SPECS {
        let plain = text(spec);
        for written in [
            plain.clone(),
            plain.replace('\n', "\r\n"),
            format!("\u{feff}{plain}"),
            format!("# first\n---\n{plain}"),
        ] {
            let mut wanted = as_kubectl_reads(&written);
            let template = &mut wanted["spec"]["template"];
            let patch = inject(template, &context(), &Settings::default()).patch;
            assert!(!patch.0.is_empty(), "{written}");
            json_patch::patch(template, &patch).expect("the patch applies");
            let (ok, injected, reported) = offline(&["inject", "--offline", "-f", "-"], &written);
            assert!(ok, "{written}\n{reported}");
            assert_eq!(as_kubectl_reads(&injected), wanted, "{injected}");
            let (ok, back, reported) = offline(&["uninject", "-f", "-"], &injected);
            assert!(ok, "{injected}\n{reported}");
            assert_eq!(back, written);
        }
    }
}

#[test]
fn impossible_edit_is_reported_and_changes_nothing() {
    let written = "kind: List\nitems:\n- kind: Pod\n  spec: &pod\n    containers: [{name: a}]\n- kind: Job\n  metadata: {name: j}\n  spec: {template: {spec: *pod}}\n";
    let (ok, out, reported) = offline(&["inject", "--offline", "-f", "-"], written);
    assert!(!ok, "it exits with an error");
    assert!(reported.contains("not injected: line 4: "), "{reported}");
    assert_eq!(out, written);
}

#[test]
fn unresponsive_api_server_times_out() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address");
    let folder = tempfile::tempdir().expect("a folder");
    for scheme in ["http", "https"] {
        let config = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: '{scheme}://{address}'}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\nusers: [{{name: u, user: {{}}}}]\n"
        );
        let path = folder.path().join(scheme);
        std::fs::write(&path, config).expect("a file");
        let mut command = kubectl_flowcar(&path);
        command.args(["inject", "-f", "-"]);
        let (_, _, reported) = pipe(command, &text(SPECS[0]));
        let sentence = format!("the API server at {scheme}://{address}/ does not answer");
        assert!(reported.contains(&sentence), "{reported}");
    }
}

//! The commands of docs/kubernetes.md, as they stand there and in their order.

use std::process::Command;

use flowcar_tests::{
    cluster::{
        Cluster, WEBHOOK,
        tools::{k8s, pipe, product},
    },
    peers::{PatchKind, Peer, binary},
};
use serde_json::json;

/// The commands of the section, line by line, without comments.
fn commands() -> Vec<String> {
    let readme = std::fs::read_to_string(k8s("../docs/kubernetes.md")).expect("the page");
    let section = readme
        .split("\n## ")
        .find(|section| section.starts_with("On Kubernetes\n"));
    let blocks = section.expect("a section").split("```sh\n").skip(1);
    let text: String = blocks
        .filter_map(|block| block.split("```").next())
        .collect();
    let lines = text.replace("\\\n", "");
    lines
        .lines()
        .map(|line| {
            line.split("  #")
                .next()
                .unwrap_or_default()
                .trim()
                .to_owned()
        })
        .collect()
}

/// A shell at the repository's root that finds kubectl, its plugin and helm.
fn shell(cluster: &Cluster, command: &str) -> Command {
    let programs = [
        binary("kubectl"),
        binary("helm"),
        product("kubectl-flowcar"),
    ];
    let folders = programs
        .iter()
        .map(|path| path.parent().expect("a folder").to_owned());
    let usual = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(folders.chain(std::env::split_paths(&usual)));
    let mut shell = Command::new("bash");
    shell
        .args(["-euo", "pipefail", "-c", command])
        .env("KUBECONFIG", cluster.api.kubeconfig())
        .env("HOME", cluster.api.process().dir())
        .env("PATH", path.expect("folders"))
        .current_dir(k8s(".."));
    shell
}

#[test]
fn documented_commands_work() {
    let cluster = Cluster::bare();
    cluster.api.create_service_account("default", "default");
    let commands = commands();
    assert!(commands.len() >= 10, "{commands:?}");
    let mut controller = None;
    for command in &commands {
        let (ok, out, error) = pipe(shell(&cluster, command), "");
        assert!(ok, "{command}\n{out}{error}");
        let printed = match command.as_str() {
            "kubectl flowcar explain deployment/web -n demo" => {
                "demo deployment/web: gets the sidecar, with eBPF"
            }
            "kubectl flowcar explain deployment/shop" => {
                "default deployment/shop: gets the sidecar, with eBPF"
            }
            "kubectl flowcar inject -f k8s/examples/web.yaml | kubectl apply --dry-run=server -f -" => {
                "deployment.apps/web"
            }
            "kubectl flowcar check" => "ok    dry-run pod: injected",
            _ => "",
        };
        assert!(out.contains(printed), "{command}\n{out}{error}");
        if command.starts_with("helm install") {
            // What nodes, Services and a controller manager would do.
            let address = json!({"url": cluster.url()});
            let set = |index| json!({"op": "replace", "path": format!("/webhooks/{index}/clientConfig"), "value": address});
            let all: Vec<_> = (0..3).map(set).collect();
            let patched = cluster.admin().patch(WEBHOOK, PatchKind::Json, &json!(all));
            patched.success();
            controller = Some(cluster.controller(&[]));
        }
    }
    assert!(controller.is_some());
    let path = "/apis/apps/v1/namespaces/default/deployments/shop";
    let shop = cluster.admin().get(path).success();
    assert_eq!(
        shop["spec"]["template"]["metadata"].get("annotations"),
        None
    );
}

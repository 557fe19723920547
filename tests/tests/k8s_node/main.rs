//! The whole of flowcar where it is meant to be: a kubelet starts what the webhook has injected. Needs what `make test-node`
//! makes first.

mod apps;
mod disk;
mod kubectl_flowcar_check;
mod node;
mod reported;
mod seen;
mod testbed;

use std::{sync::mpsc, thread};

use reported::{reported_but_for_a_gap, reported_by_both, reported_by_server};
use serde_json::json;
use testbed::{NAMESPACES, Pod, Stage};

/// How many connections a client makes before they are checked.
const SOME: usize = 6;

/// Connections that the Job makes.
const CALLS_OF_JOB: u64 = 25;

/// The pods of a server and of a client of it, both opted in.
struct Pair {
    web: Pod,
    client: Pod,
}

/// Starts a server and deploys a client of it.
fn start(stage: &Stage) -> Pod {
    stage.deploy("shop", &apps::web());
    let web = stage.pod("shop", "web");
    stage.deploy("shop", &apps::client("client", &web));
    web
}

/// One node for all of it: starting one takes longer than anything that is asked of it.
#[test]
fn on_a_node_with_either_cgroup_driver() {
    let Some(stage) = Stage::open() else { return };
    with_systemd_as_the_cgroup_driver(&stage);
    stage.node.use_cgroupfs();
    with_cgroupfs_as_the_cgroup_driver(&stage);
}

fn with_systemd_as_the_cgroup_driver(stage: &Stage) {
    let web = start(stage);
    // All at once, for the node has two processors.
    stage.create(
        "shop",
        "apps/v1",
        "deployments",
        &apps::running(apps::client("other", &web)),
    );
    stage.create(
        "shop",
        "batch/v1",
        "jobs",
        &apps::job("batch", &web, CALLS_OF_JOB),
    );
    // The very same Deployment, in a namespace that enforces Pod Security `restricted`.
    stage.deploy("strict", &apps::client("client", &web));
    let client = stage.pod("shop", "client");
    let pair = Pair { web, client };
    assert!(cgroup_of(stage, &pair.client).contains("kubepods.slice"));
    only_connections_of_the_pod_are_reported(stage, &pair);
    one_trace_and_one_edge(stage, &pair);
    top_shows_the_peers_of_a_deployment(stage, &pair.web);
    job_with_sidecar_completes(stage, &pair.web);
    let strict = restricted_namespace_gets_no_capabilities(stage, &pair.web);
    for pod in [&pair.web, &pair.client, &strict] {
        has_no_rights(stage, pod);
    }
    kubectl_flowcar_check::passes(stage);
    application_restart_keeps_flows_followed(stage, &pair);
    let pods = stage.all_pods();
    // Pods that are no longer needed are deleted at the same time.
    stage.kubectl("strict", &["delete", "deployments", "--all"]);
    stage.kubectl("shop", &["delete", "jobs", "--all", "--wait=false"]);
    deleted_pod_reports_everything(stage, &pair);
    let other = stage.pod("shop", "other");
    killed_sidecar_resumes(stage, &pair.web, &other);
    node_is_clean_after_the_pods(stage, pods);
}

fn with_cgroupfs_as_the_cgroup_driver(stage: &Stage) {
    let web = start(stage);
    stage.node.wait("client that was injected", || {
        (!stage.pods("shop", "client").is_empty()).then_some(())
    });
    // Most of this time is spent waiting for timeouts.
    let (counted, has_counted) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || kubectl_flowcar_check::reports_what_is_broken(stage, &counted));
        let client = stage.pod("shop", "client");
        connections_are_reported_with_cgroupfs(stage, &Pair { web, client });
        has_counted.recv().unwrap();
        node_is_clean_after_the_pods(stage, stage.all_pods());
    });
}

fn connections_are_reported_with_cgroupfs(stage: &Stage, pair: &Pair) {
    let cgroup = cgroup_of(stage, &pair.client);
    assert!(
        cgroup.contains("/kubepods/") && !cgroup.contains(".slice"),
        "{cgroup}"
    );
    reported_by_both(stage, &pair.web, &pair.client, SOME);
    has_no_rights(stage, &pair.client);
}

/// Where a pod's flowcar is, from the root of the node's tree.
fn cgroup_of(stage: &Stage, pod: &Pod) -> String {
    let found = stage.node.processes(&pod.uid, "flowcar");
    stage.node.shell(&format!("cat /proc/{}/cgroup", found[0]))
}

/// A third pod, which nobody opted in, calls the server, too.
fn only_connections_of_the_pod_are_reported(stage: &Stage, Pair { web, client }: &Pair) {
    let other = stage.pod("shop", "other");
    reported_by_both(stage, web, client, SOME);
    reported_by_server(stage, web, &other, SOME);
    let spans = stage.spans();
    assert!(spans.iter().all(|span| span.pod() != other.name));
    for (pod, workload) in [(web, "web"), (client, "client")] {
        for span in spans.iter().filter(|span| span.pod() == pod.name) {
            let resource = |key: &str| span.resource.get(key).map(String::as_str);
            assert_eq!(resource("k8s.pod.uid"), Some(&*pod.uid));
            assert_eq!(resource("k8s.pod.ip"), Some(&*pod.ip));
            assert_eq!(resource("k8s.namespace.name"), Some("shop"));
            assert_eq!(resource("k8s.deployment.name"), Some(workload));
            assert_eq!(resource("service.name"), Some(workload));
            assert_eq!(resource("k8s.node.name"), Some("node1"));
            assert_eq!(span.scope["flowcar.source"], "ebpf");
            assert_eq!(span.is_client(), workload == "client");
        }
        stage.books(pod, "balanced", |books| books.opened > 0 && books.balance());
    }
}

fn one_trace_and_one_edge(stage: &Stage, Pair { web, client }: &Pair) {
    let spans = stage.spans();
    let first = spans.iter().find(|span| span.pod() == client.name).unwrap();
    let trace = stage.jaeger.wait_for_trace(&first.trace, 2, node::LIMIT);
    let of_pods: Vec<_> = trace["processes"]
        .as_object()
        .unwrap()
        .values()
        .map(|process| {
            let tags = process["tags"].as_array().unwrap();
            tags.iter()
                .find(|tag| tag["key"] == "k8s.pod.name")
                .unwrap()["value"]
                .clone()
        })
        .collect();
    assert_eq!(of_pods.len(), 2, "{trace:#}");
    assert!(
        [web, client]
            .iter()
            .all(|pod| of_pods.contains(&json!(pod.name))),
        "{trace:#}"
    );
    stage.node.wait("edge from client to web in Jaeger", || {
        let edges = stage.jaeger.dependencies();
        let found = edges
            .iter()
            .any(|edge| edge["parent"] == "client" && edge["child"] == "web");
        found.then_some(())
    });
}

/// By exec in the sidecars of its pods, from both ends of the same connections.
fn top_shows_the_peers_of_a_deployment(stage: &Stage, web: &Pod) {
    let server = format!("{}:{}", web.ip, apps::PORT);
    let clients = format!("clients of :{}", apps::PORT);
    for (deployment, peer) in [("client", &server), ("web", &clients)] {
        let words = ["top", &format!("deployment/{deployment}"), "--once"];
        stage.node.wait(&format!("top of {deployment}"), || {
            let (ok, printed) = stage.kubectl_flowcar("shop", &words);
            println!("{printed}");
            let row = printed
                .lines()
                .find_map(|line| line.strip_prefix(peer.as_str()))?;
            // Pods that have the peer, and connections a second: there is always a next one.
            let figures: Vec<&str> = row.split_whitespace().collect();
            let has_opened = figures[2].parse().is_ok_and(|rate: f64| rate > 0.0);
            (ok && printed.starts_with("1 pod  ebpf") && figures[0] == "1" && has_opened)
                .then_some(())
        });
    }
}

/// As the node's kernel reports it, for each thread.
fn has_no_rights(stage: &Stage, pod: &Pod) {
    let found = stage.node.processes(&pod.uid, "flowcar");
    let [process] = found[..] else {
        panic!("not one flowcar in {}: {found:?}", pod.name)
    };
    let script = format!("cat /proc/{process}/task/*/status; ls /proc/{process}/task | wc -l");
    let printed = stage.node.shell(&script);
    let threads: usize = printed.lines().last().unwrap().trim().parse().unwrap();
    // Who may not set capabilities cannot empty the bounding set either; with no_new_privs it gives nothing.
    let none = ["Inh", "Prm", "Eff", "Amb"].map(|set| format!("Cap{set}:\t0000000000000000"));
    let expected = none
        .iter()
        .map(String::as_str)
        .chain(["NoNewPrivs:\t1", "Seccomp:\t2"]);
    for line in expected {
        assert_eq!(
            printed.lines().filter(|printed| *printed == line).count(),
            threads,
            "{line}:\n{printed}"
        );
    }
}

fn application_restart_keeps_flows_followed(stage: &Stage, Pair { web, client }: &Pair) {
    let before = stage.node.processes(&client.uid, "traffic");
    let [process] = before[..] else {
        panic!("not one application in {}: {before:?}", client.name)
    };
    let ended = apps::ended(stage, web, &client.ip).len();
    stage.node.shell(&format!("kill -9 {process}"));
    stage.node.wait("the application's next process", || {
        let now = stage.node.processes(&client.uid, "traffic");
        (now.len() == 1 && now != before).then_some(())
    });
    reported_by_both(stage, web, client, ended + SOME);
}

fn deleted_pod_reports_everything(stage: &Stage, Pair { web, client }: &Pair) {
    // Nothing recreates it.
    let owners = [
        &["deployment", "client"][..],
        &["replicaset", "-l", "app=client"],
    ];
    for owner in owners {
        let words = [&["delete", "--cascade=orphan"], owner].concat();
        stage.kubectl("shop", &words);
    }
    stage.kubectl("shop", &["delete", "pod", &client.name]);
    let ended = reported_by_both(stage, web, client, 1);
    let count = i64::try_from(ended).unwrap();
    stage.books(client, "closed, each with its connection", |books| {
        books.live == 0 && books.lost == 0 && books.closed == count && books.opened == count
    });
}

fn job_with_sidecar_completes(stage: &Stage, web: &Pod) {
    stage.node.wait("completed Job", || {
        let job = stage.get("shop", "batch/v1", "jobs/batch");
        (job["status"]["succeeded"] == 1).then_some(())
    });
    let pods = stage.pods("shop", "batch");
    let pod = Pod::of(&pods[0]);
    assert_eq!(reported_by_both(stage, web, &pod, 1) as u64, CALLS_OF_JOB);
    let spans = stage.spans();
    let mut of_pod = spans.iter().filter(|span| span.pod() == pod.name);
    assert!(of_pod.all(|span| span.resource["k8s.job.name"] == "batch"));
}

fn restricted_namespace_gets_no_capabilities(stage: &Stage, web: &Pod) -> Pod {
    let client = stage.pod("strict", "client");
    reported_by_both(stage, web, &client, SOME);
    let spans = stage.spans();
    let mut of_pod = spans.iter().filter(|span| span.pod() == client.name);
    assert!(of_pod.all(|span| span.scope["flowcar.source"] == "inet_diag"));
    client
}

/// The application goes on; the kubelet starts the sidecar again, which follows the same pod and reports the gap.
fn killed_sidecar_resumes(stage: &Stage, web: &Pod, other: &Pod) {
    let application = stage.node.processes(&web.uid, "traffic");
    let before = stage.node.processes(&web.uid, "flowcar");
    assert_eq!((application.len(), before.len()), (1, 1));
    stage.node.shell(&format!("kill -9 {}", before[0]));
    stage.node.wait("the sidecar's next process", || {
        let now = stage.node.processes(&web.uid, "flowcar");
        (now.len() == 1 && now != before).then_some(())
    });
    reported_but_for_a_gap(stage, web, other, SOME);
    assert_eq!(stage.node.processes(&web.uid, "traffic"), application);
    has_no_rights(stage, web);
    stage.books(web, "balanced, and name the gap", |books| {
        books.balance() && books.unfollowed_s > 0.0
    });
}

/// When all pods are deleted, the node is as it was, and without a trace of these.
fn node_is_clean_after_the_pods(stage: &Stage, uids: Vec<String>) {
    assert!(!uids.is_empty());
    assert!(stage.programs().iter().any(|kind| kind == "sock_ops"));
    for namespace in NAMESPACES {
        stage.kubectl(namespace, &["delete", "deployments,jobs", "--all"]);
    }
    stage.node.wait("cluster without pods", || {
        stage.all_pods().is_empty().then_some(())
    });
    stage.node.wait("node without programs of flowcar's", || {
        stage.programs().is_empty().then_some(())
    });
    for uid in uids {
        let script = format!(
            "grep -l -e {uid} -e {0} /proc/[0-9]*/mountinfo
            find /sys/fs/cgroup /var/lib/kubelet/pods -name '*{uid}*' -o -name '*{0}*'",
            uid.replace('-', "_")
        );
        stage
            .node
            .wait(&format!("node without a trace of {uid}"), || {
                stage.node.shell(&script).is_empty().then_some(())
            });
    }
}

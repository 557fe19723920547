//! All of it: a cluster with flowcar installed, a Collector that hands on to Jaeger, and a node.

use std::{env, fs, path::PathBuf};

use flowcar_tests::{
    cluster::{Cluster, Controller, tools},
    peers::{Collector, CollectorOptions, Jaeger, PatchKind},
    place::{require_file, require_root},
};
use jiff::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    node::{HOST, Network, Node, Trust},
    seen::{Books, Span, spans},
};

/// Where pods are made: one without bounds, and one that enforces Pod Security `restricted`.
pub(crate) const NAMESPACES: [&str; 2] = ["shop", "strict"];

/// Where a pod is made that does not get what it asked for.
pub(crate) const BROKEN: &str = "broken";

/// Fields are dropped from the first to the last.
pub(crate) struct Stage {
    pub(crate) node: Node,
    pub(crate) controller: Controller,
    pub(crate) cluster: Cluster,
    pub(crate) collector: Collector,
    pub(crate) jaeger: Jaeger,
    _files: TempDir,
    _trust: Trust,
    _network: Network,
}

/// A pod that runs.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) ip: String,
}

/// The archives that `make test-node` makes first; none, with a message, where it has not.
fn images() -> Option<Vec<PathBuf>> {
    let this = env::current_exe().unwrap();
    // TARGET/debug/deps/THIS
    let target = this.ancestors().nth(3).unwrap();
    let images = ["image/flowcar.tar", "node/apps.tar"].map(|name| target.join(name));
    let there = |image: &PathBuf| require_file(image, "make test-node");
    (require_root() && images.iter().all(there)).then_some(images.to_vec())
}

// === impl Stage ===

impl Stage {
    /// Starts it; none, with a message, where something is missing.
    pub(crate) fn open() -> Option<Self> {
        let images = images()?;
        let network = Network::enter();
        let net = network.net();
        let trust = Trust::new();
        let cluster = Cluster::start_on(trust.options(net.clone()));
        let restricted = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        cluster.api.create_namespace(NAMESPACES[1], &restricted);
        cluster.api.create_namespace(BROKEN, &json!({}));
        // Its image is not on the node: it runs beside the API server.
        let path = "/apis/apps/v1/namespaces/flowcar-system/deployments/flowcar-controller";
        let none = json!({"spec": {"replicas": 0}});
        cluster
            .admin()
            .patch(path, PatchKind::Merge, &none)
            .success();
        let jaeger = Jaeger::start_in(net.clone());
        let collector = Collector::start_with(CollectorOptions {
            net,
            overlay: json!({
                "exporters": {"otlphttp/jaeger": {"endpoint": jaeger.http_endpoint()}},
                "service": {"pipelines": {"traces": {"exporters": ["otlphttp", "otlphttp/jaeger"]}}},
            }),
            ..CollectorOptions::default()
        });
        let files = tempfile::tempdir().unwrap();
        let config = files.path().join("config.yaml");
        let endpoint = collector.grpc_endpoint().replace("127.0.0.1", HOST);
        let settings = json!({"imagePullPolicy": "Never", "defaults": {"endpoint": endpoint}});
        fs::write(&config, settings.to_string()).unwrap();
        let controller = cluster.controller(&[&format!("--config={}", config.display())]);
        let node = Node::start(&cluster.api, &trust, &images);
        Some(Self {
            node,
            controller,
            cluster,
            collector,
            jaeger,
            _files: files,
            _trust: trust,
            _network: network,
        })
    }

    /// `kubectl flowcar` in a namespace: whether it succeeded, and what it wrote.
    pub(crate) fn kubectl_flowcar(&self, namespace: &str, words: &[&str]) -> (bool, String) {
        let mut command = tools::kubectl_flowcar(&self.cluster.api.kubeconfig());
        command.args(["-n", namespace]).args(words);
        let (ok, out, error) = tools::pipe(command, "");
        (ok, out + &error)
    }

    /// The real kubectl, which has to succeed; what it wrote.
    pub(crate) fn kubectl(&self, namespace: &str, words: &[&str]) -> String {
        let mut command = self.cluster.api.kubectl();
        command.args(["-n", namespace]).args(words);
        tools::run(command, "")
    }

    /// Creates an object.
    pub(crate) fn create(&self, namespace: &str, api: &str, kind: &str, object: &Value) {
        let path = format!("/apis/{api}/namespaces/{namespace}/{kind}");
        self.cluster.admin().create(&path, object).success();
    }

    /// Creates a pod by itself.
    pub(crate) fn create_pod(&self, namespace: &str, pod: &Value) {
        self.cluster.create_pod(namespace, pod);
    }

    /// An object as it is.
    pub(crate) fn get(&self, namespace: &str, api: &str, object: &str) -> Value {
        let path = format!("/apis/{api}/namespaces/{namespace}/{object}");
        self.cluster.admin().get(&path).success()
    }

    /// Creates a Deployment, and opts it in as its owner would.
    pub(crate) fn deploy(&self, namespace: &str, deployment: &Value) {
        self.create(namespace, "apps/v1", "deployments", deployment);
        let name = deployment["metadata"]["name"].as_str().unwrap();
        let workload = format!("deployment/{name}");
        let (ok, printed) = self.kubectl_flowcar(namespace, &["enable", &workload]);
        assert!(ok, "{printed}");
        self.kubectl(namespace, &["scale", "--replicas=1", &workload]);
    }

    /// Waits for the one pod of an application, ready.
    pub(crate) fn pod(&self, namespace: &str, app: &str) -> Pod {
        self.node.wait(&format!("pod of {app} in {namespace}"), || {
            let pods = self.pods(namespace, app);
            pods.iter().find(|pod| is_ready(pod)).map(Pod::of)
        })
    }

    /// The pods of an application, or of all where it has no name.
    pub(crate) fn pods(&self, namespace: &str, app: &str) -> Vec<Value> {
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let pods = self.cluster.admin().get(&path).success()["items"]
            .as_array()
            .unwrap()
            .clone();
        let is = |pod: &Value| app.is_empty() || pod["metadata"]["labels"]["app"] == app;
        pods.into_iter().filter(is).collect()
    }

    /// The uids of all pods of these tests.
    pub(crate) fn all_pods(&self) -> Vec<String> {
        let pods = NAMESPACES
            .iter()
            .flat_map(|namespace| self.pods(namespace, ""));
        pods.map(|pod| Pod::of(&pod).uid).collect()
    }

    /// The kinds of programs on the node that flowcar has some of, without systemd's own, as the kernel lists them.
    pub(crate) fn programs(&self) -> Vec<String> {
        let printed = self.node.shell("bpftool --json prog show");
        let programs: Vec<Value> =
            serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"));
        let text =
            |program: &Value, key: &str| program[key].as_str().unwrap_or_default().to_owned();
        let others = programs
            .iter()
            .filter(|program| !text(program, "name").starts_with("sd_"));
        let kinds = others.map(|program| text(program, "type"));
        kinds
            .filter(|kind| ["sock_ops", "cgroup_sock", "cgroup_skb"].contains(&&**kind))
            .collect()
    }

    /// The lines that a container of a pod wrote so far, over all its runs, and when.
    pub(crate) fn log(&self, pod: &Pod, container: &str) -> Vec<(Timestamp, String)> {
        let Pod {
            namespace,
            name,
            uid,
            ..
        } = pod;
        let script = format!("cat /var/log/pods/{namespace}_{name}_{uid}/{container}/*.log");
        // Time, stream, a letter that marks whether the line is whole (CRI), text.
        let parts = |line: &str| {
            let mut parts = line.splitn(4, ' ');
            let at = parts.next()?.parse().ok()?;
            Some((at, parts.nth(2)?.to_owned()))
        };
        self.node.shell(&script).lines().filter_map(parts).collect()
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        spans(&self.collector.received())
    }

    /// Waits until a pod's books are as wished.
    #[track_caller]
    pub(crate) fn books(&self, pod: &Pod, what: &str, wished: impl Fn(Books) -> bool) -> Books {
        self.node
            .wait(&format!("books of {} that are {what}", pod.name), || {
                Books::of(&self.collector.received(), &pod.name).filter(|books| wished(*books))
            })
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let is = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    pod["metadata"].get("deletionTimestamp").is_none() && conditions.into_iter().flatten().any(is)
}

// === impl Pod ===

impl Pod {
    pub(crate) fn of(pod: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Self {
            namespace: text(&pod["metadata"]["namespace"]),
            name: text(&pod["metadata"]["name"]),
            uid: text(&pod["metadata"]["uid"]),
            ip: text(&pod["status"]["podIP"]),
        }
    }
}

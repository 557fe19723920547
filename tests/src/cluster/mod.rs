//! A cluster of one real API server, flowcar installed from its manifests, and its real controller beside it,
//! with the token and the rights of its own service account.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};

use crate::peers::{
    Api, ApiServer, ApiServerOptions, Client, Net, Port, Process, Program, eventually,
};

pub mod tools;

use tools::{base64_decoded, k8s, pipe, product, run};

/// How long what takes a moment may take on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);
/// Path of the webhooks' configuration.
pub const WEBHOOK: &str =
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/flowcar";
/// Path of the Secret with the webhook's certificates.
pub const SECRET: &str = "/api/v1/namespaces/flowcar-system/secrets/flowcar-webhook-tls";

/// Path of the Secret with the keys of the authorities that sign them.
pub const KEYS: &str = "/api/v1/namespaces/flowcar-system/secrets/flowcar-webhook-ca";

/// The API server, and where it calls the webhook.
pub struct Cluster {
    /// The API server.
    pub api: ApiServer,
    /// Where all of it runs.
    pub net: Net,
    port: Port,
}

/// A replica of the controller.
pub struct Controller {
    /// The program.
    pub process: Process,
    admin: Client,
    _port: Port,
}

// === impl Cluster ===

impl Cluster {
    /// Starts the API server and installs flowcar from the rendered manifests. The only change to them is that
    /// the API server calls an address instead of a Service, which has no proxy here.
    pub fn start() -> Self {
        Self::start_on(ApiServerOptions::default())
    }

    /// The same, on an API server of these options.
    pub fn start_on(options: ApiServerOptions) -> Self {
        let cluster = Self::bare_on(options);
        let mut kustomize = cluster.api.kubectl();
        kustomize.arg("kustomize").arg(k8s("manifests/base"));
        let url = cluster.url();
        let manifests = run(kustomize, "").replace(
            "    service:\n      name: flowcar-webhook\n      namespace: flowcar-system\n      path: /admit\n      port: 443\n",
            &format!("    url: {url}\n"),
        );
        assert_eq!(manifests.matches(&url).count(), 3, "three webhooks");
        cluster.apply(&manifests);
        cluster
    }

    /// Installs the chart with these values, but for what needs the definitions of others (cert-manager's).
    pub fn install_chart(&self, values: &[&str]) {
        let url = format!("webhook.url={}", self.url());
        let mut helm = self.api.helm();
        helm.args(["template", "flowcar"]).arg(k8s("chart"));
        helm.args(["--namespace=flowcar-system", "--kube-version=1.34.0"]);
        for value in values.iter().chain([&url.as_str()]) {
            helm.args(["--set", value]);
        }
        let rendered = run(helm, "");
        let ours = rendered
            .split("\n---\n")
            .filter(|document| !document.contains("apiVersion: cert-manager.io"));
        self.apply(&std::fs::read_to_string(k8s("manifests/base/namespace.yaml")).expect("a file"));
        self.apply(&ours.collect::<Vec<_>>().join("\n---\n"));
    }

    /// The API server with a namespace `shop`, and without flowcar.
    pub fn bare() -> Self {
        Self::bare_on(ApiServerOptions::default())
    }

    /// The same, on an API server of these options.
    pub fn bare_on(options: ApiServerOptions) -> Self {
        let net = options.net.clone();
        let port = net.claim_port();
        let cluster = Self {
            api: ApiServer::start_with(options),
            net,
            port,
        };
        cluster.api.create_namespace("shop", &json!({}));
        cluster
    }

    /// The API as the administrator sees it.
    pub fn admin(&self) -> &Api {
        self.api.admin()
    }

    /// `kubectl apply -f -`, which has to succeed; its warnings.
    pub fn apply(&self, manifests: &str) -> String {
        let mut kubectl = self.api.kubectl();
        kubectl.args(["apply", "-f", "-"]);
        let (ok, _, stderr) = pipe(kubectl, manifests);
        assert!(ok, "{stderr}");
        stderr
    }

    /// Where the API server calls the controller.
    pub fn address(&self) -> SocketAddr {
        self.net.socket(&self.port)
    }

    /// What the API server calls.
    pub fn url(&self) -> String {
        format!("https://{}/admit", self.address())
    }

    /// A client of the webhook that trusts its certificate, as the API server does.
    pub fn webhook(&self) -> Client {
        let secret = self.admin().get(SECRET).success();
        self.webhook_trusting(&base64_decoded(&secret["data"]["ca.crt"]))
    }

    /// A client of the webhook that trusts this authority.
    pub fn webhook_trusting(&self, ca: &str) -> Client {
        let base = format!("https://{}", self.address());
        Client::new(self.net.clone(), base, Some(ca))
    }

    /// The token of the controller's own service account.
    pub fn token(&self) -> String {
        self.api
            .service_account_token("flowcar-system", "flowcar-controller")
    }

    /// The replica that the API server calls.
    pub fn controller(&self, more: &[&str]) -> Controller {
        let controller = self.replica("one", self.address(), more);
        eventually("a published caBundle", LIMIT, || {
            self.is_published().then_some(())
        });
        self.wait_until_called();
        controller
    }

    /// The API server calls a webhook as its own copy of the configuration says, which is a moment older than what is stored.
    pub fn wait_until_called(&self) {
        let labels = json!({"app": "probe"});
        let probe = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "probe", "annotations": {"flowcar.io/inject": "enabled"}},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"containers": [{"name": "app", "image": "app:1"}]},
                },
            },
        });
        let path = "/apis/apps/v1/namespaces/shop/deployments?dryRun=All";
        eventually("a call of the webhook", LIMIT, || {
            let reply = self.admin().create(path, &probe);
            let set = &reply.json()["spec"]["template"]["metadata"]["annotations"];
            (set["flowcar.io/inject"] == "enabled").then_some(())
        });
    }

    /// A replica that listens there; ready when this returns.
    pub fn replica(&self, name: &str, listen: SocketAddr, more: &[&str]) -> Controller {
        let (program, admin_port) = self.program(name, listen, more);
        let admin = Client::new(
            self.net.clone(),
            format!("http://{}", self.net.socket(&admin_port)),
            None,
        );
        let probe = admin.clone();
        let process = Process::start(program, move || probe.finds("/readyz"));
        Controller {
            process,
            admin,
            _port: admin_port,
        }
    }

    fn program(&self, name: &str, listen: SocketAddr, more: &[&str]) -> (Program, Port) {
        let admin_port = self.net.claim_port();
        let dir = tempfile::Builder::new()
            .prefix("flowcar-controller-")
            .tempdir()
            .expect("a folder");
        let program = Program {
            name: "flowcar-controller",
            path: product("flowcar-controller"),
            args: Vec::new(),
            net: self.net.clone(),
            dir,
        };
        std::fs::create_dir(program.dir.path().join(".kube")).expect("a folder");
        let kubeconfig = self
            .api
            .kubeconfig_for(&format!("controller-{name}.json"), &self.token());
        std::fs::copy(kubeconfig, program.dir.path().join(".kube/config")).expect("a kubeconfig");
        let program = program
            .args([
                format!("--replica={name}"),
                format!("--listen={listen}"),
                format!("--admin-listen={}", self.net.socket(&admin_port)),
                "--names=127.0.0.1".to_owned(),
            ])
            .args(
                (!more.iter().any(|arg| arg.starts_with("--drain-delay")))
                    .then_some("--drain-delay=0s"),
            )
            .args(more);
        (program, admin_port)
    }

    /// Whether every webhook carries the bundle of the Secret.
    pub fn is_published(&self) -> bool {
        let secret = self.admin().get(SECRET);
        if !secret.is_ok() {
            return false;
        }
        let bundle = secret.json()["data"]["ca.crt"].clone();
        let webhooks = self.admin().get(WEBHOOK).success();
        let webhooks = webhooks["webhooks"].as_array().expect("webhooks").clone();
        bundle.is_string()
            && webhooks
                .iter()
                .all(|webhook| webhook["clientConfig"]["caBundle"] == bundle)
    }

    /// Creates a pod and returns it as the API server stored it.
    pub fn create_pod(&self, namespace: &str, pod: &Value) -> Value {
        self.admin()
            .create(&format!("/api/v1/namespaces/{namespace}/pods"), pod)
            .success()
    }

    /// The Events of a reason about an object of that name.
    pub fn events(&self, namespace: &str, reason: &str, name: &str) -> Vec<Value> {
        let list = self
            .admin()
            .get(&format!(
                "/apis/events.k8s.io/v1/namespaces/{namespace}/events"
            ))
            .success();
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items
            .into_iter()
            .filter(|event| event["reason"] == reason && event["regarding"]["name"] == name)
            .collect()
    }

    /// A counter of the API server: how often it let a pod pass because a webhook did not answer.
    pub fn failed_open(&self, webhook: &str) -> f64 {
        let text = self.admin().get("/metrics").text();
        let wanted = format!("name=\"{webhook}\"");
        let lines = text
            .lines()
            .filter(|line| line.starts_with("apiserver_admission_webhook_fail_open_count{"));
        lines
            .filter(|line| line.contains(&wanted))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

// === impl Controller ===

impl Controller {
    /// Whether its Service would send calls to it.
    pub fn is_ready(&self) -> bool {
        self.admin.get("/readyz").is_ok_and(|reply| reply.is_ok())
    }

    /// The value of a line of its metrics.
    pub fn metric(&self, line: &str) -> Option<f64> {
        let text = self.admin.get("/metrics").ok()?.text();
        let found = text.lines().find(|candidate| {
            candidate
                .strip_prefix(line)
                .is_some_and(|rest| rest.starts_with(' '))
        })?;
        found.rsplit(' ').next()?.parse().ok()
    }
}

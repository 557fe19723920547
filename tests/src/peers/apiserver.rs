//! A real Kubernetes API server with its etcd: it decides itself whether it takes an object.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use super::{
    Authority, Client, Etcd, Net, Pair, Peer, Port, Process, Program, Reply, binary, pki::new_key,
};

/// The token of the user `admin` in the group `system:masters`.
const ADMIN_TOKEN: &str = "admin-token-of-a-test";

/// An API server, its etcd, and what its clients need.
pub struct ApiServer {
    process: Process,
    etcd: Etcd,
    admin: Api,
    authority: Authority,
    _port: Port,
}

/// How to start an API server, where the defaults do not serve.
#[derive(Default)]
pub struct ApiServerOptions {
    /// Where it and its etcd run.
    pub net: Net,
    /// Further names and addresses for its serving certificate.
    pub names: Vec<String>,
    /// Further arguments. One that is given here and by default counts as it is here.
    pub args: Vec<String>,
}

/// The API server as one user sees it.
#[derive(Clone)]
pub struct Api {
    client: Client,
    token: String,
}

/// How a patch is to be read.
#[derive(Clone, Copy, Debug)]
pub enum PatchKind {
    /// A list of operations, RFC 6902.
    Json,
    /// RFC 7396.
    Merge,
    /// Kubernetes' own, which knows the keys of lists.
    Strategic,
    /// Server-side apply as this field manager.
    Apply {
        /// Whose fields they become.
        manager: &'static str,
        /// Whether to take fields from other managers.
        force: bool,
    },
}

// === impl ApiServer ===

impl ApiServer {
    /// Starts both on loopback.
    pub fn start() -> Self {
        Self::start_with(ApiServerOptions::default())
    }

    /// Starts both with `options`.
    ///
    /// # Panics
    /// When one is not built or does not become ready.
    pub fn start_with(options: ApiServerOptions) -> Self {
        let ApiServerOptions { net, names, args } = options;
        let etcd = Etcd::start_in(net.clone());
        let authority = Authority::new("flowcar tests");
        let port = net.claim_port();
        let program =
            program(&net, &port, &etcd, &serving_pair(&net, &names, &authority)).args(args);
        let base = format!("https://{}", net.socket(&port));
        let client = Client::new(net, base, Some(authority.certificate()));
        let admin = Api {
            client: client.with_token(ADMIN_TOKEN),
            token: ADMIN_TOKEN.to_owned(),
        };
        let probe = admin.client.clone();
        let process = Process::start(program, move || probe.finds("/readyz?verbose"));
        let server = Self {
            process,
            etcd,
            admin,
            authority,
            _port: port,
        };
        server.write("kubeconfig.json", &server.kubeconfig_content(ADMIN_TOKEN));
        server
    }

    /// The API as the cluster's administrator sees it.
    pub fn admin(&self) -> &Api {
        &self.admin
    }

    /// The API as the bearer of that token sees it.
    pub fn with_token(&self, token: &str) -> Api {
        Api {
            client: self.admin.client.with_token(token),
            token: token.to_owned(),
        }
    }

    /// The server's URL.
    pub fn url(&self) -> &str {
        self.admin.client.base()
    }

    /// The certificate, PEM, that clients trust it by.
    pub fn ca(&self) -> &str {
        self.authority.certificate()
    }

    /// The authority that signed its serving certificate.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Its etcd.
    pub fn etcd(&self) -> &Etcd {
        &self.etcd
    }

    /// Makes a namespace with these labels and its default service account, which in a cluster the controller
    /// manager makes.
    pub fn create_namespace(&self, name: &str, labels: &Value) {
        let namespace = json!({"metadata": {"name": name, "labels": labels}});
        self.admin
            .create("/api/v1/namespaces", &namespace)
            .success();
        self.create_service_account(name, "default");
    }

    /// Makes a service account.
    pub fn create_service_account(&self, namespace: &str, name: &str) {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        self.admin
            .create(&path, &json!({"metadata": {"name": name}}))
            .success();
    }

    /// A token of a service account, as a pod of it would have (one hour).
    pub fn service_account_token(&self, namespace: &str, name: &str) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        let answer = self
            .admin
            .create(&path, &json!({"spec": {"expirationSeconds": 3600}}))
            .success();
        answer["status"]["token"]
            .as_str()
            .expect("a token in a TokenRequest's status")
            .to_owned()
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.process.dir().join("kubeconfig.json")
    }

    /// A kubeconfig, in a file of that name, for the bearer of a token.
    pub fn kubeconfig_for(&self, file: &str, token: &str) -> PathBuf {
        self.write(file, &self.kubeconfig_content(token))
    }

    /// The real kubectl, as the administrator.
    pub fn kubectl(&self) -> Command {
        self.tool("kubectl")
    }

    /// The real helm, as the administrator.
    pub fn helm(&self) -> Command {
        self.tool("helm")
    }

    fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(binary(name));
        // Caches of discovery go where the server's own files go.
        command
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", self.process.dir())
            .env_remove("HTTPS_PROXY");
        command
    }

    fn kubeconfig_content(&self, token: &str) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {
                "server": self.url(),
                "certificate-authority": self.process.dir().join("ca.crt"),
            }}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        })
    }

    fn write(&self, file: &str, content: &Value) -> PathBuf {
        let path = self.process.dir().join(file);
        std::fs::write(&path, content.to_string()).expect("write into the API server's folder");
        path
    }
}

impl Peer for ApiServer {
    fn process(&self) -> &Process {
        &self.process
    }
}

/// The serving certificate, and the authority's certificate with it.
struct Serving {
    pair: Pair,
    ca: String,
}

fn serving_pair(net: &Net, names: &[String], authority: &Authority) -> Serving {
    let address = net.address().to_string();
    // The last two are how pods of a cluster call it.
    let usual = [
        address.as_str(),
        "localhost",
        "kubernetes.default.svc",
        "10.96.0.1",
    ];
    let all: Vec<&str> = usual
        .into_iter()
        .chain(names.iter().map(String::as_str))
        .collect();
    Serving {
        pair: authority.server(&all),
        ca: authority.certificate().to_owned(),
    }
}

fn program(net: &Net, port: &Port, etcd: &Etcd, serving: &Serving) -> Program {
    let program = Program::new("kube-apiserver", net.clone());
    program.write("ca.crt", &serving.ca);
    let certificate = program.write("server.crt", &serving.pair.certificate);
    let key = program.write("server.key", &serving.pair.key);
    // For reading, the server takes no ECDSA key in PKCS #8: it gets the public half.
    let accounts = new_key();
    let verify = program.write("service-accounts.pub", accounts.public_key_pem());
    let sign = program.write("service-accounts.key", accounts.serialize_pem());
    let tokens = program.write(
        "tokens.csv",
        format!("{ADMIN_TOKEN},admin,admin,system:masters\n"),
    );
    let (file, address) = (Path::display, net.address());
    program.args([
        format!("--etcd-servers={}", etcd.client_url()),
        format!("--bind-address={address}"),
        format!("--advertise-address={address}"),
        format!("--secure-port={}", port.number()),
        format!("--tls-cert-file={}", file(&certificate)),
        format!("--tls-private-key-file={}", file(&key)),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", file(&verify)),
        format!("--service-account-signing-key-file={}", file(&sign)),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        format!("--token-auth-file={}", file(&tokens)),
        "--authorization-mode=RBAC".to_owned(),
        "--allow-privileged=true".to_owned(),
    ])
}

// === impl Api ===

impl Api {
    /// The bearer token that it speaks with.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Reads an object or a list.
    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, "", Vec::new())
    }

    /// Creates an object in the collection at `path`.
    pub fn create(&self, path: &str, object: &Value) -> Reply {
        self.send(
            "POST",
            path,
            "application/json",
            object.to_string().into_bytes(),
        )
    }

    /// Replaces the object at `path`.
    pub fn replace(&self, path: &str, object: &Value) -> Reply {
        self.send(
            "PUT",
            path,
            "application/json",
            object.to_string().into_bytes(),
        )
    }

    /// Changes the object at `path`.
    pub fn patch(&self, path: &str, kind: PatchKind, patch: &Value) -> Reply {
        let body = patch.to_string().into_bytes();
        match kind {
            PatchKind::Json => self.send("PATCH", path, "application/json-patch+json", body),
            PatchKind::Merge => self.send("PATCH", path, "application/merge-patch+json", body),
            PatchKind::Strategic => self.send(
                "PATCH",
                path,
                "application/strategic-merge-patch+json",
                body,
            ),
            PatchKind::Apply { manager, force } => {
                let separator = if path.contains('?') { '&' } else { '?' };
                let path = format!("{path}{separator}fieldManager={manager}&force={force}");
                self.send("PATCH", &path, "application/apply-patch+yaml", body)
            }
        }
    }

    /// Deletes the object at `path`.
    pub fn delete(&self, path: &str) -> Reply {
        self.send("DELETE", path, "", Vec::new())
    }

    fn send(&self, method: &str, path: &str, content_type: &str, body: Vec<u8>) -> Reply {
        self.client
            .send(method, path, content_type, body)
            .unwrap_or_else(|error| {
                panic!("{method} {path}: the API server does not answer: {error}")
            })
    }
}

//! The sidecar's container and volumes.

use serde_json::{Map, Value, json};

use super::decide::Form;
use super::{CONTAINER, Context, owner, resources};
use crate::annotations::{Key, Overrides, TABLE, parse_secret_ref};
use crate::config::Settings;

const CGROUP_VOLUME: &str = "flowcar-host-cgroup";
const NO_TOKEN_VOLUME: &str = "flowcar-no-token";
const STATE_VOLUME: &str = "flowcar-state";

/// The names of the volumes that flowcar adds.
pub(super) const VOLUMES: [&str; 3] = [CGROUP_VOLUME, NO_TOKEN_VOLUME, STATE_VOLUME];

/// Where the sidecar finds the host's cgroup tree.
const HOST_CGROUP: &str = "/run/host-cgroup";

/// Where the sidecar leaves what it needs to know when its container starts again.
const STATE: &str = "/run/flowcar";

/// Most that this may take, which counts as the sidecar's memory: two files of as many flows as there may be by default.
const STATE_SIZE: &str = "16Mi";

/// Where the ServiceAccount admission plugin mounts a token, unless something is mounted there already.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Whom the form without capabilities runs as: nobody's number in distroless images.
const UNPRIVILEGED: u32 = 65_532;

/// All that decides what the sidecar looks like.
pub(super) struct Sidecar<'a> {
    pub(super) pod: &'a Value,
    pub(super) context: &'a Context,
    pub(super) settings: &'a Settings,
    pub(super) overrides: &'a Overrides,
    pub(super) form: Form,
}

// === impl Sidecar ===

impl Sidecar<'_> {
    pub(super) fn container(&self, notes: &mut Vec<String>) -> Value {
        let config = &self.settings.config;
        let mut container = Map::new();
        let mut set = |name: &str, value: Value| drop(container.insert(name.to_owned(), value));
        set("name", json!(CONTAINER));
        set(
            "image",
            json!(self.overrides.get(Key::Image).unwrap_or(&config.image)),
        );
        if let Some(policy) = config.image_pull_policy {
            set("imagePullPolicy", json!(policy));
        }
        set("command", json!(self.command()));
        set("env", Value::Array(self.env()));
        set(
            "resources",
            resources::resources(self.pod, self.overrides, self.settings, notes),
        );
        set("securityContext", self.security_context());
        set("volumeMounts", Value::Array(self.mounts()));
        // Every second for two minutes: loading under software emulation took 12 s.
        set("startupProbe", probe("started", 1, 120));
        // Each is a process that the node's runtime starts; an observer that hangs harms nobody until the next.
        set("livenessProbe", probe("live", 60, 3));
        set("terminationMessagePolicy", json!("FallbackToLogsOnError"));
        if self.form.native {
            set("restartPolicy", json!("Always"));
        }
        Value::Object(container)
    }

    pub(super) fn volumes(&self) -> Vec<Value> {
        let cgroup = json!({ "name": CGROUP_VOLUME, "hostPath": { "path": "/sys/fs/cgroup", "type": "Directory" } });
        let no_token = json!({ "name": NO_TOKEN_VOLUME, "emptyDir": {} });
        let state = json!({ "name": STATE_VOLUME, "emptyDir": { "medium": "Memory", "sizeLimit": STATE_SIZE } });
        self.with_cgroup(cgroup, [no_token, state])
    }

    fn mounts(&self) -> Vec<Value> {
        let cgroup = json!({ "name": CGROUP_VOLUME, "mountPath": HOST_CGROUP, "readOnly": true });
        let no_token =
            json!({ "name": NO_TOKEN_VOLUME, "mountPath": TOKEN_PATH, "readOnly": true });
        let state = json!({ "name": STATE_VOLUME, "mountPath": STATE });
        self.with_cgroup(cgroup, [no_token, state])
    }

    fn with_cgroup(&self, cgroup: Value, others: [Value; 2]) -> Vec<Value> {
        let cgroup = self.form.ebpf.then_some(cgroup);
        cgroup.into_iter().chain(others).collect()
    }

    fn command(&self) -> Vec<String> {
        let own = || vec!["flowcar".to_owned(), "export".to_owned()];
        let given = self
            .overrides
            .get(Key::Command)
            .and_then(crate::annotations::parse_command);
        given.map_or_else(own, |words| {
            words.iter().map(|word| literal(word)).collect()
        })
    }

    /// Kubernetes has no ambient capabilities: only root holds added ones. A pod-level `runAsNonRoot: true`
    /// would stop such a container, so both forms say explicitly who they are.
    fn security_context(&self) -> Value {
        let (user, capabilities) = if self.form.ebpf {
            (0, json!({ "drop": ["ALL"], "add": ["BPF", "NET_ADMIN"] }))
        } else {
            (UNPRIVILEGED, json!({ "drop": ["ALL"] }))
        };
        json!({
            "runAsUser": user,
            "runAsGroup": user,
            "runAsNonRoot": user != 0,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": capabilities,
            "seccompProfile": { "type": "RuntimeDefault" },
        })
    }

    fn env(&self) -> Vec<Value> {
        let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": path } } });
        let value = |name: &str, value: &str| json!({ "name": name, "value": literal(value) });
        let mut env = vec![
            field("FLOWCAR_POD_NAME", "metadata.name"),
            field("FLOWCAR_POD_NAMESPACE", "metadata.namespace"),
            field("FLOWCAR_POD_UID", "metadata.uid"),
            field("FLOWCAR_POD_IP", "status.podIP"),
            field("FLOWCAR_POD_IPS", "status.podIPs"),
            field("FLOWCAR_NODE_NAME", "spec.nodeName"),
        ];
        if let Some(owner) = self
            .context
            .workload
            .clone()
            .or_else(|| owner::of(self.pod))
        {
            env.push(value("FLOWCAR_OWNER_KIND", &owner.kind));
            env.push(value("FLOWCAR_OWNER_NAME", &owner.name));
        }
        if self.form.ebpf {
            env.push(value("FLOWCAR_HOST_CGROUP", HOST_CGROUP));
        }
        env.push(value("FLOWCAR_STATE", STATE));
        for row in &TABLE {
            let Some(name) = row.env else { continue };
            let given = self.overrides.get(row.key);
            let forced = (row.key == Key::Source).then(|| self.source());
            if let Some(text) = forced.or(given) {
                env.push(value(name, text));
            }
        }
        env.extend(self.headers());
        env
    }

    fn source(&self) -> &str {
        if self.form.ebpf {
            self.overrides.get(Key::Source).unwrap_or("auto")
        } else {
            "inet_diag"
        }
    }

    /// Optional, because a Secret that is missing must cost the headers and not the pod.
    fn headers(&self) -> Option<Value> {
        let (name, key) = parse_secret_ref(self.overrides.get(Key::HeadersSecret)?)?;
        let reference = json!({ "name": name, "key": key, "optional": true });
        Some(
            json!({ "name": "OTEL_EXPORTER_OTLP_HEADERS", "valueFrom": { "secretKeyRef": reference } }),
        )
    }
}

/// The kubelet expands `$(NAME)` in values and commands; doubling every `$` keeps a text as it was written.
fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

fn probe(question: &str, period: u32, failures: u32) -> Value {
    json!({
        "exec": { "command": ["flowcar", "probe", question] },
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    })
}

//! The sidecar's container and volumes.

use serde_json::{Map, Value, json};

use super::{CONTAINER, environment, sidecar::Sidecar, view, volumes, volumes::Volume};
use crate::annotations::Key;

/// The uid of the form without capabilities where the pod runs as root: `nobody` in distroless images.
const UNPRIVILEGED: u64 = 65_532;

// === impl Sidecar ===

impl Sidecar<'_> {
    pub(super) fn container(&self, resources: Value) -> Value {
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
        set("env", Value::Array(environment::of(self)));
        set("resources", resources);
        set("securityContext", self.security_context());
        let mounts = volumes::of(self).into_iter().map(|volume| volume.mount);
        set("volumeMounts", mounts.collect());
        // Every second for two minutes: loading under software emulation took 12 s.
        set("startupProbe", probe("started", 1, 120));
        // Each is a process that the node's runtime starts; a sidecar that hangs does no harm until the next probe.
        set("livenessProbe", probe("live", 60, 3));
        set("terminationMessagePolicy", json!("FallbackToLogsOnError"));
        if self.form.native {
            set("restartPolicy", json!("Always"));
        }
        Value::Object(container)
    }

    pub(super) fn volumes(&self) -> Vec<Value> {
        let volumes = volumes::of(self).into_iter();
        volumes.filter_map(Volume::into_pods).collect()
    }

    fn command(&self) -> Vec<String> {
        let own = || vec!["flowcar".to_owned(), "export".to_owned()];
        let given = self
            .overrides
            .get(Key::Command)
            .and_then(crate::annotations::parse_command);
        given.map_or_else(own, |words| {
            words
                .iter()
                .map(|word| environment::literal(word))
                .collect()
        })
    }

    /// Kubernetes has no ambient capabilities: only root holds added ones. A pod-level `runAsNonRoot: true`
    /// would stop such a container, so both forms set it explicitly.
    ///
    /// Otherwise the pod, the image (nobody) or the namespace decides the uid of the form without capabilities:
    /// OpenShift's `MustRunAsRange` refuses every uid outside the namespace's own range.
    fn security_context(&self) -> Value {
        let mut context = Map::new();
        let (user, group, capabilities) = if self.form.ebpf {
            let capabilities = json!({ "drop": ["ALL"], "add": ["BPF", "NET_ADMIN"] });
            (Some(0), Some(0), capabilities)
        } else {
            let (user, group) = self.unprivileged();
            (user, group, json!({ "drop": ["ALL"] }))
        };
        let mut set = |name: &str, value: Value| drop(context.insert(name.to_owned(), value));
        if let Some(user) = user {
            set("runAsUser", json!(user));
        }
        if let Some(group) = group {
            set("runAsGroup", json!(group));
        }
        set("runAsNonRoot", json!(!self.form.ebpf));
        set("privileged", json!(false));
        set("allowPrivilegeEscalation", json!(false));
        set("readOnlyRootFilesystem", json!(true));
        set("capabilities", capabilities);
        set("seccompProfile", json!({ "type": "RuntimeDefault" }));
        Value::Object(context)
    }

    /// User and group of the form without capabilities, where they have to be set.
    fn unprivileged(&self) -> (Option<u64>, Option<u64>) {
        let given = |key| self.overrides.get(key).and_then(|text| text.parse().ok());
        let pods = |field: &str| view::number(self.pod, field);
        let is_root = pods("/spec/securityContext/runAsUser") == Some(0);
        let user = given(Key::RunAsUser).or(is_root.then_some(UNPRIVILEGED));
        let group = given(Key::RunAsGroup).or(is_root.then_some(UNPRIVILEGED));
        (user, group)
    }
}

fn probe(question: &str, period: u32, failures: u32) -> Value {
    json!({
        "exec": { "command": ["flowcar", "probe", question] },
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    })
}

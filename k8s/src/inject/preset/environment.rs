//! The variables of a container that a pod brings along.

use serde_json::Value;

use super::Preset;
use crate::{
    annotations::{Annotation, Key, TABLE},
    inject::{
        Owner,
        environment::{COMPRESSION, IDENTITY, is_literal, with_references},
        owner, view,
        volumes::{
            AUTHORITIES, CHECKPOINTS, CLIENT_CERTIFICATE, CLIENT_KEY, HOST_CGROUP, OLD_CHECKPOINTS,
            Socket,
        },
    },
};

/// Variables that hold one value, where they are set.
const FIXED: [(&str, &str); 4] = [
    ("FLOWCAR_HOST_CGROUP", HOST_CGROUP),
    ("OTEL_EXPORTER_OTLP_CERTIFICATE", AUTHORITIES),
    ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", CLIENT_CERTIFICATE),
    ("OTEL_EXPORTER_OTLP_CLIENT_KEY", CLIENT_KEY),
];

const HOST_IP: (&str, &str) = ("FLOWCAR_HOST_IP", "status.hostIP");
const OWNER: [&str; 2] = ["FLOWCAR_OWNER_KIND", "FLOWCAR_OWNER_NAME"];
/// The owner's reference and the labels say which of these it is.
const OF_KUBERNETES: [&str; 7] = [
    "CronJob",
    "DaemonSet",
    "Deployment",
    "Job",
    "ReplicaSet",
    "ReplicationController",
    "StatefulSet",
];
const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";

/// Variables that the sidecar reads and that have none of its prefixes: they send the telemetry another way, or have another receiver
/// believed.
const SETTINGS_OF_OTHERS: [&str; 6] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

// === impl Preset ===

impl Preset<'_> {
    pub(super) fn is_environment(&self) -> bool {
        let env = view::list(self.container, "/env");
        let is_there = |(name, _): (&str, &str)| self.variable(name).is_some();
        env.iter().all(|entry| self.is_variable(entry))
            && IDENTITY.into_iter().all(is_there)
            && self.variable("FLOWCAR_HOST_CGROUP").is_some() == self.ebpf
            && (self.ebpf || self.value("FLOWCAR_SOURCE") == Some("inet_diag"))
            && TABLE.iter().all(|row| self.may_be_absent(row))
            && self.is_owner()
    }

    fn variable(&self, name: &str) -> Option<&Value> {
        let mut env = view::list(self.container, "/env").iter();
        env.find(|entry| view::is_named(entry, name))
    }

    fn value(&self, name: &str) -> Option<&str> {
        view::text(self.variable(name)?, "/value")
    }

    /// A variable that flowcar writes, as it writes it, or one that changes nothing in flowcar.
    fn is_variable(&self, entry: &Value) -> bool {
        let name = view::text(entry, "/name").unwrap_or_default();
        let is_known = name.starts_with("FLOWCAR_") || name.starts_with("OTEL_");
        if !is_known {
            return !self.is_foreign_setting(name);
        }
        // Of two entries of one name the last holds.
        let env = view::list(self.container, "/env").iter();
        env.filter(|other| view::is_named(other, name)).count() == 1 && self.is_written(name, entry)
    }

    /// Whether a variable of no prefix decides which program runs, or where its telemetry goes.
    fn is_foreign_setting(&self, name: &str) -> bool {
        let is_read = || SETTINGS_OF_OTHERS.contains(&name.to_ascii_uppercase().as_str());
        let is_bound = self.is_held && self.settings.bounds_endpoints();
        name == "PATH" || name.starts_with("LD_") || (is_bound && is_read())
    }

    fn is_written(&self, name: &str, entry: &Value) -> bool {
        let text = view::text(entry, "/value");
        let mut fields = IDENTITY.into_iter().chain([HOST_IP]);
        if let Some((_, path)) = fields.find(|(field, _)| *field == name) {
            let reference = view::text(entry, "/valueFrom/fieldRef/fieldPath");
            return entry.get("value").is_none() && reference == Some(path);
        }
        if let Some((_, fixed)) = FIXED.into_iter().find(|(fixed, _)| *fixed == name) {
            return text == Some(fixed);
        }
        if let Some(row) = TABLE.iter().find(|row| row.env == Some(name)) {
            return text.is_some_and(|text| self.is_setting(row, text));
        }
        match name {
            _ if OWNER.contains(&name) => text.is_some_and(is_literal),
            "FLOWCAR_STATE_DIR" => {
                self.may_have_checkpoints() && text.is_some_and(|text| self.is_checkpoints(text))
            }
            // An earlier version's name.
            "FLOWCAR_STATE" => self.may_have_checkpoints() && !self.is_current,
            HEADERS => self.is_headers(entry),
            _ => false,
        }
    }

    fn is_checkpoints(&self, path: &str) -> bool {
        let is_hosts = self.pod.pointer("/spec/hostIPC") == Some(&Value::Bool(true));
        (path == CHECKPOINTS && !is_hosts) || (path == OLD_CHECKPOINTS && !self.is_current)
    }

    fn may_have_checkpoints(&self) -> bool {
        let row = Annotation::of(Key::Checkpoint);
        let default = self.settings.defaults.get(row.key);
        let is_default = default.is_none_or(|value| value == "on");
        !self.is_held || is_default || self.settings.allows(row, "on")
    }

    /// Without the variable the sidecar's own default holds, where the operator has another and bounds what pods may choose.
    fn may_be_absent(&self, row: &'static Annotation) -> bool {
        let Some(name) = row.env.filter(|_| self.is_held) else {
            return true;
        };
        let has_default = match row.key {
            // The node's socket is left out where Pod Security forbids its directory, or its path is too long.
            Key::Endpoint => Socket::of(&self.settings.defaults)
                .is_none_or(|socket| self.ebpf && socket.excess().is_none()),
            _ => true,
        } && self.settings.defaults.get(row.key).is_some();
        let is_bound = self.settings.bounds(row.key);
        !has_default || !is_bound || self.variable(name).is_some()
    }

    /// A setting is bound by the limits of annotations. Where these do not hold, no reference to another variable may change
    /// its value all the same.
    fn is_setting(&self, row: &'static Annotation, text: &str) -> bool {
        // The kubelet's own escape.
        let plain = text.replace("$$", "$");
        let is_plain = match row.key {
            Key::Endpoint => with_references(&plain) == text,
            _ => is_literal(text),
        };
        if !is_plain {
            return false;
        }
        match row.key {
            // The content of another source is unknown.
            Key::ResourceAttributes => {
                self.settings.are_own_identity(&plain)
                    && (!self.is_held || self.settings.allows_attributes(&plain))
            }
            _ if !self.is_held => true,
            // It follows from the form.
            Key::Source => true,
            Key::Compression if plain == COMPRESSION => true,
            Key::ServiceName => {
                let annotations = view::annotations(self.pod);
                owner::service(self.pod, annotations).as_deref() == Some(&*plain)
                    || self.settings.allows(row, &plain)
            }
            Key::Endpoint => self.allows_endpoint(&plain),
            _ => self.settings.allows(row, &plain),
        }
    }

    fn is_headers(&self, entry: &Value) -> bool {
        let row = Annotation::of(Key::HeadersSecret);
        let part = |field: &str| view::text(entry, &format!("/valueFrom/secretKeyRef/{field}"));
        let Some((name, key)) = part("name").zip(part("key")) else {
            return false;
        };
        let is_own = self.settings.defaults.get(row.key) == Some(name);
        !self.is_held || is_own || self.settings.allows(row, &format!("{name}/{key}"))
    }

    /// The workload is the one that the owner's reference says, or one that could have made it: a file names the outermost.
    fn is_owner(&self) -> bool {
        let [kind, name] = OWNER.map(|name| self.value(name).unwrap_or_default());
        if kind.is_empty() && name.is_empty() {
            return true;
        }
        let [kind, name] = [kind, name].map(|text| text.replace("$$", "$"));
        let reported = Owner::new(&kind, &name);
        let mut references = view::list(self.pod, "/metadata/ownerReferences").iter();
        let mut could_be_made = || {
            !OF_KUBERNETES.contains(&kind.as_str())
                && references.any(|reference| {
                    let made = view::text(reference, "/name")
                        .and_then(|made| made.strip_prefix(name.as_str()));
                    reference["controller"] == true
                        && made.is_some_and(|rest| !name.is_empty() && rest.starts_with('-'))
                })
        };
        self.workload == Some(&reported)
            || owner::of(self.pod).as_ref() == Some(&reported)
            || could_be_made()
            // `kubectl create job --from=cronjob/NAME` leaves the Job's name to whoever runs it.
            || (kind == "CronJob" && self.is_of_a_job())
    }

    fn is_of_a_job(&self) -> bool {
        let references = view::list(self.pod, "/metadata/ownerReferences").iter();
        let mut jobs = references.filter(|reference| reference["kind"] == "Job");
        jobs.any(|reference| reference["controller"] == true)
    }
}

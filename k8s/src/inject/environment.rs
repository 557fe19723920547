//! The sidecar's environment.

use serde_json::{Value, json};

use super::{
    owner,
    sidecar::Sidecar,
    volumes::{
        AUTHORITIES, CHECKPOINTS, CLIENT_CERTIFICATE, CLIENT_KEY, HOST_CGROUP, Socket,
        has_checkpoints,
    },
};
use crate::annotations::{Key, REFERENCES, TABLE, parse_secret_ref};

/// The pod's identity: each variable, and the field of the pod that the kubelet fills it from.
pub(super) const IDENTITY: [(&str, &str); 6] = [
    ("FLOWCAR_POD_NAME", "metadata.name"),
    ("FLOWCAR_POD_NAMESPACE", "metadata.namespace"),
    ("FLOWCAR_POD_UID", "metadata.uid"),
    ("FLOWCAR_POD_IP", "status.podIP"),
    ("FLOWCAR_POD_IPS", "status.podIPs"),
    ("FLOWCAR_NODE_NAME", "spec.nodeName"),
];

/// How exports are compressed where nobody asks: the same attributes come with every point, so reports pack well.
pub(super) const COMPRESSION: &str = "gzip";

/// All variables, referenced ones first: the kubelet expands `$(NAME)` only where NAME stands before.
pub(super) fn of(sidecar: &Sidecar<'_>) -> Vec<Value> {
    let mut env: Vec<_> = IDENTITY
        .into_iter()
        .map(|(name, path)| field(name, path))
        .collect();
    let endpoint = sidecar.overrides.get(Key::Endpoint).unwrap_or_default();
    if endpoint.contains("$(FLOWCAR_HOST_IP)") {
        env.push(field("FLOWCAR_HOST_IP", "status.hostIP"));
    }
    env.extend(workload(sidecar));
    if sidecar.form.ebpf {
        env.push(value("FLOWCAR_HOST_CGROUP", HOST_CGROUP));
    }
    if has_checkpoints(sidecar) {
        env.push(value("FLOWCAR_STATE_DIR", CHECKPOINTS));
    }
    env.extend(settings(sidecar));
    env.extend(certificates(sidecar));
    env.extend(headers(sidecar));
    env
}

/// The workload, and a service name where the workload's own name is new every time.
fn workload(sidecar: &Sidecar<'_>) -> Vec<Value> {
    let annotations = sidecar.context.annotations(sidecar.pod);
    let reported = sidecar.context.workload.clone();
    let mut env = Vec::new();
    if let Some(owner) = reported.or_else(|| owner::of(sidecar.pod)) {
        env.push(value("FLOWCAR_OWNER_KIND", &owner.kind));
        env.push(value("FLOWCAR_OWNER_NAME", &owner.name));
    }
    let names_itself = sidecar.overrides.get(Key::ServiceName).is_some();
    if let Some(name) = owner::service(sidecar.pod, &annotations).filter(|_| !names_itself) {
        env.push(value("OTEL_SERVICE_NAME", &name));
    }
    env
}

/// The annotations' values, under the names of the sidecar's settings.
fn settings(sidecar: &Sidecar<'_>) -> Vec<Value> {
    let mut env = Vec::new();
    for row in &TABLE {
        let Some(name) = row.env else { continue };
        let given = sidecar.overrides.get(row.key);
        let forced = (row.key == Key::Source).then(|| source(sidecar));
        let default = (row.key == Key::Compression).then_some(COMPRESSION);
        match forced.or(given).or(default) {
            Some(text) if row.key == Key::Endpoint => {
                let socket = Socket::of(sidecar.overrides).map(|socket| socket.endpoint());
                let text = socket.unwrap_or_else(|| with_references(text));
                env.push(json!({ "name": name, "value": text }));
            }
            Some(text) => env.push(value(name, text)),
            None => {}
        }
    }
    env
}

fn source<'a>(sidecar: &'a Sidecar<'_>) -> &'a str {
    if sidecar.form.ebpf {
        sidecar.overrides.get(Key::Source).unwrap_or("auto")
    } else {
        "inet_diag"
    }
}

fn certificates(sidecar: &Sidecar<'_>) -> Vec<Value> {
    let given = |key| sidecar.overrides.get(key).is_some();
    let mut env = Vec::new();
    if given(Key::CaSecret) || given(Key::CaConfigMap) {
        env.push(value("OTEL_EXPORTER_OTLP_CERTIFICATE", AUTHORITIES));
    }
    if given(Key::ClientCertificateSecret) {
        let name = "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE";
        env.push(value(name, CLIENT_CERTIFICATE));
        env.push(value("OTEL_EXPORTER_OTLP_CLIENT_KEY", CLIENT_KEY));
    }
    env
}

/// Optional: the pod starts without the headers if the Secret is missing.
fn headers(sidecar: &Sidecar<'_>) -> Option<Value> {
    let (name, key) = parse_secret_ref(sidecar.overrides.get(Key::HeadersSecret)?)?;
    let reference = json!({ "name": name, "key": key, "optional": true });
    Some(
        json!({ "name": "OTEL_EXPORTER_OTLP_HEADERS", "valueFrom": { "secretKeyRef": reference } }),
    )
}

fn field(name: &str, path: &str) -> Value {
    json!({ "name": name, "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": path } } })
}

fn value(name: &str, text: &str) -> Value {
    json!({ "name": name, "value": literal(text) })
}

/// The kubelet expands `$(NAME)` in values and commands; doubling every `$` keeps a text as it was written.
pub(super) fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

/// Whether the kubelet leaves the text alone, as [`literal`] writes it.
pub(super) fn is_literal(text: &str) -> bool {
    literal(&text.replace("$$", "$")) == text
}

/// The text as it was written, but for the references that an endpoint may have, which the kubelet is to expand.
pub(super) fn with_references(text: &str) -> String {
    REFERENCES.iter().fold(literal(text), |text, name| {
        text.replace(&format!("$$({name})"), &format!("$({name})"))
    })
}

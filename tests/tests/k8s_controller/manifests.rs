//! The chart and what is rendered from it.

use std::process::Command;

use flowcar_tests::{
    cluster::tools::{k8s, run},
    peers::binary,
};
use serde_json::Value;

fn helm(args: &[&str]) -> (bool, String) {
    let mut command = Command::new(binary("helm"));
    command.args(["template", "flowcar"]).arg(k8s("chart"));
    let output = command
        .args(["--namespace", "flowcar-system", "--kube-version", "1.34.0"])
        .args(args)
        .output();
    let output = output.expect("helm runs");
    let text = if output.status.success() {
        output.stdout
    } else {
        output.stderr
    };
    (
        output.status.success(),
        String::from_utf8(text).expect("UTF-8"),
    )
}

#[test]
fn committed_base_is_the_rendered_chart() {
    let (ok, first) = helm(&[]);
    assert!(ok, "{first}");
    assert_eq!(helm(&[]).1, first);
    let committed = std::fs::read_to_string(k8s("manifests/base/flowcar.yaml")).expect("the base");
    assert_eq!(
        committed, first,
        "stale: run k8s/manifests/render and commit"
    );
    let secrets = first.split("\n---\n");
    let secrets: Vec<Value> = secrets
        .filter(|document| document.contains("kind: Secret\n"))
        .map(|document| serde_yaml_ng::from_str(document).expect("YAML"))
        .collect();
    let is_empty =
        |secret: &Value| secret.get("data").is_none() && secret.get("stringData").is_none();
    assert_eq!(secrets.len(), 2);
    assert!(secrets.iter().all(is_empty), "no secret is ever rendered");
}

#[test]
fn chart_passes_helm_lint() {
    let mut lint = Command::new(binary("helm"));
    lint.args(["lint", "--strict"]).arg(k8s("chart"));
    let out = run(lint, "");
    assert!(out.contains("0 chart(s) failed"), "{out}");
    let mut lint = Command::new(binary("helm"));
    lint.args(["lint", "--set", "replicas=none"])
        .arg(k8s("chart"));
    assert!(!lint.output().expect("helm runs").status.success());
}

#[test]
fn schema_refuses_invalid_values() {
    for value in [
        "config.strct=true",
        "config.podSecurityDefault=strict",
        "replicas=0",
        "certificates.source=self",
        "certificates.caLifetime=forever",
        "webhook.url=http://x",
        "webhook.url=https:///admit",
        "webhook.timeoutSeconds=31",
        "webhook.port=8080",
        "admin.port=8443",
        "webhook.configurationName=Flowcar",
        "config.locked={host-netwrok}",
        "config.locked={inject}",
        "config.maximum.peer=1",
        "config.maximum.memory-limit=much",
        "config.allowed.endpoint={http://c}",
        "config.requireTls=yes please",
        "config.hostCgroupPath=/",
        "config.hostCgroupPath=/sys/fs/cgroup/../..",
    ] {
        assert!(!helm(&["--set", value]).0, "{value}");
    }
    assert!(
        !helm(&["--set", "certificates.source=external"]).0,
        "cert-manager needs an issuer"
    );
    let (ok, external) = helm(&[
        "--set",
        "certificates.source=external,certificates.issuer.name=ca",
    ]);
    assert!(
        ok && external.contains("kind: Certificate")
            && external.contains("cert-manager.io/inject-ca-from")
    );
    assert!(
        !external.contains("watch, patch]"),
        "whoever makes no certificates needs no right to publish them"
    );
}

/// What a null takes away is a default: the schema names what has to be there.
#[test]
fn chart_without_a_value_renders_or_names_it() {
    let values = std::fs::read_to_string(k8s("chart/values.yaml")).expect("the values");
    let values: Value = serde_yaml_ng::from_str(&values).expect("YAML");
    let top = values.as_object().expect("values").iter();
    let inner = top.clone().flat_map(|(outer, value)| {
        let names = value.as_object().into_iter().flat_map(|value| value.keys());
        // A dot in a name is written otherwise.
        let names = names.filter(|name| !name.contains('.'));
        names.map(move |name| (outer.clone(), Some(name.clone())))
    });
    let all: Vec<_> = top
        .clone()
        .map(|(name, _)| (name.clone(), None))
        .chain(inner)
        .collect();
    let mut refused = Vec::new();
    for (outer, name) in all {
        let path = match &name {
            Some(name) => format!("{outer}.{name}"),
            None => outer.clone(),
        };
        let (ok, out) = helm(&["--set", &format!("{path}=null")]);
        if !ok {
            let place = if name.is_some() {
                format!("/{outer}")
            } else {
                String::new()
            };
            let missing = name.unwrap_or(outer);
            let expected = format!("at '{place}': missing property '{missing}'");
            assert!(out.contains(&expected), "{path}: {out}");
            refused.push(path);
        }
    }
    for path in [
        "certificates",
        "certificates.source",
        "webhook.failurePolicy",
        "image.repository",
    ] {
        assert!(refused.iter().any(|refused| refused == path), "{path}");
    }
    for path in [
        "config",
        "resources",
        "webhook.namespaceSelector",
        "webhook.url",
    ] {
        assert!(refused.iter().all(|refused| refused != path), "{path}");
    }
}

/// The certificate is for the host of `webhook.url`, without its port and brackets.
#[test]
fn certificate_is_for_the_host_of_the_url() {
    for (url, host, is_address) in [
        ("https://w.test/admit", "w.test", false),
        ("https://w.test:8443/admit", "w.test", false),
        ("https://10.0.0.1:8443/admit", "10.0.0.1", true),
        ("https://[fd00::1]/admit", "fd00::1", true),
        ("https://[fd00::1]:8443/admit", "fd00::1", true),
        ("https://[::1]:8443", "::1", true),
    ] {
        let (ok, own) = helm(&["--set", &format!("webhook.url={url}")]);
        let names = format!("- --names=flowcar-webhook.flowcar-system.svc,{host}\n");
        assert!(ok && own.contains(&names), "{url}: {own}");
        let external = "certificates.source=external,certificates.issuer.name=ca";
        let (ok, external) = helm(&["--set", &format!("{external},webhook.url={url}")]);
        let service = "  dnsNames:\n    - flowcar-webhook.flowcar-system.svc\n";
        let written = match is_address {
            true => format!("{service}  ipAddresses:\n    - {host}\n"),
            false => format!("{service}    - {host}\n"),
        };
        assert!(ok && external.contains(&written), "{url}: {external}");
        assert!(own.contains(&format!("url: {url:?}\n")), "{url}");
    }
}

/// The chart's schema and the controller's parser know the same fields.
#[test]
fn every_field_of_the_configuration_is_in_the_schema() {
    let schema = std::fs::read_to_string(k8s("chart/values.schema.json")).expect("the schema");
    let schema: Value = serde_json::from_str(&schema).expect("JSON");
    let properties = schema["properties"]["config"]["properties"]
        .as_object()
        .expect("properties");
    let mut config =
        serde_json::to_value(flowcar_k8s::config::Config::default()).expect("serialises");
    // Left out where it is Kubernetes' own default.
    config["imagePullPolicy"] = serde_json::json!("Always");
    let fields = config.as_object_mut().expect("fields");
    // The chart fills it in from webhook.namespaceSelector, so that the two cannot differ.
    fields.remove("namespaceSelector");
    let mut fields: Vec<_> = fields.keys().collect();
    fields.sort();
    let mut known: Vec<_> = properties.keys().collect();
    known.sort();
    assert_eq!(known, fields);
}

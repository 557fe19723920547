use serde_json::{Value, json};

use super::super::{Key, Problem};
use crate::config::Config;

/// Annotations under a configuration: the value of `key`, and what is reported.
fn judged(config: &str, annotations: &Value, key: Key) -> (Option<String>, Vec<String>) {
    let settings = Config::parse(config).expect("valid");
    let annotations = annotations.as_object().expect("annotations");
    let (overrides, problems) = settings.overrides(annotations);
    let message = problems.iter().map(Problem::to_string).collect();
    (overrides.get(key).map(str::to_owned), message)
}

#[test]
fn value_beyond_a_limit_falls_back_to_the_default() {
    let rows = [
        (
            "{locked: [host-network]}",
            json!({"flowcar.io/host-network": "force"}),
            Key::HostNetwork,
            None,
            "flowcar.io/host-network: ignored, the operator has locked it",
        ),
        (
            "{locked: [endpoint], defaults: {endpoint: 'https://c:4317'}}",
            json!({"flowcar.io/endpoint": "https://evil:4317"}),
            Key::Endpoint,
            Some("https://c:4317"),
            "the operator has locked it",
        ),
        (
            "{locked: [endpoint], defaults: {endpoint: 'unix:///run/otel/o.sock'}}",
            json!({"flowcar.io/endpoint-volume": "mine"}),
            Key::EndpointVolume,
            None,
            "the operator has locked it",
        ),
        (
            "{locked: [ca-configmap]}",
            json!({"flowcar.io/ca-secret": "mine"}),
            Key::CaSecret,
            None,
            "the operator has locked it",
        ),
        (
            "{locked: [headers-secret]}",
            json!({"flowcar.io/headers-secret": "payments"}),
            Key::HeadersSecret,
            None,
            "the operator has locked it",
        ),
        (
            "{allowed: {headers-secret: [otlp]}}",
            json!({"flowcar.io/headers-secret": "payments/key"}),
            Key::HeadersSecret,
            None,
            "ignored, the operator allows only otlp",
        ),
        (
            "{allowed: {headers-secret: [otlp]}}",
            json!({"flowcar.io/headers-secret": "otlp/key"}),
            Key::HeadersSecret,
            Some("otlp/key"),
            "",
        ),
        (
            "{maximum: {memory-limit: 256Mi}}",
            json!({"flowcar.io/memory-limit": "257Mi"}),
            Key::MemoryLimit,
            None,
            "ignored, the operator allows at most 256Mi",
        ),
        (
            "{maximum: {memory-limit: 256Mi}}",
            json!({"flowcar.io/memory-limit": "268435456"}),
            Key::MemoryLimit,
            Some("268435456"),
            "",
        ),
        (
            "{minimum: {cpu-request: 10m}}",
            json!({"flowcar.io/cpu-request": "0.005"}),
            Key::CpuRequest,
            None,
            "at least 10m",
        ),
        (
            "{maximum: {sampling: 100}}",
            json!({"flowcar.io/sampling": "101"}),
            Key::Sampling,
            None,
            "at most 100",
        ),
        (
            "{allowed: {exchange: [off]}}",
            json!({"flowcar.io/exchange": "on"}),
            Key::Exchange,
            None,
            "only off",
        ),
        (
            "{requireTls: true, defaults: {endpoint: 'https://c'}}",
            json!({"flowcar.io/endpoint": "HTTP://c:4317"}),
            Key::Endpoint,
            Some("https://c"),
            "the operator requires https:// or unix://",
        ),
    ];
    for (config, annotations, key, value, expected) in rows {
        let (found, message) = judged(config, &annotations, key);
        assert_eq!(found.as_deref(), value, "{config} {annotations}");
        match expected {
            "" => assert_eq!(message, Vec::<String>::new(), "{config}"),
            expected => assert!(
                message.len() == 1 && message[0].contains(expected),
                "{message:?}"
            ),
        }
    }
}

/// In every spelling: the sidecar decodes names.
#[test]
fn identity_attributes_of_a_pod_are_ignored() {
    let rows = [
        ("", "team=a,k8s.namespace.name=payments", Some("team=a"), 1),
        (
            "",
            "k8s%2Enamespace.name=payments,team=a",
            Some("team=a"),
            1,
        ),
        ("", "%6B8s.pod.uid=u", None, 1),
        ("", "K8S.pod.name=p", None, 1),
        ("", "k8s.cluster.name=c,k8s.node.name=n", None, 2),
        ("", "my.k8s.x=1", Some("my.k8s.x=1"), 0),
        ("", "service.name=other", Some("service.name=other"), 0),
        ("{locked: [service-name]}", "service.name=other", None, 1),
        (
            "{defaults: {resource-attributes: 'k8s.cluster.name=prod,zone=a'}}",
            "team=a,k8s.cluster.name=mine",
            Some("team=a,k8s.cluster.name=prod"),
            1,
        ),
    ];
    for (config, attributes, kept, problems) in rows {
        let annotations = json!({"flowcar.io/resource-attributes": attributes});
        let (found, message) = judged(config, &annotations, Key::ResourceAttributes);
        assert_eq!(message.len(), problems, "{attributes}: {message:?}");
        let default = config.contains("defaults").then_some("");
        assert_eq!(
            found.as_deref().or(default),
            kept.or(default),
            "{attributes}"
        );
    }
}

#[test]
fn namespace_defaults_obey_the_limits() {
    let settings = Config::parse("{locked: [host-network]}").expect("valid");
    let namespace = json!({"flowcar.io/host-network": "force", "flowcar.io/resource-attributes": "k8s.pod.name=p"});
    let namespace = namespace.as_object().expect("annotations");
    let (overrides, _) = settings.overrides_in(namespace, &serde_json::Map::new());
    assert_eq!(overrides.get(Key::HostNetwork), None);
    assert_eq!(overrides.get(Key::ResourceAttributes), None);
    assert_eq!(settings.namespace_errors(namespace).len(), 2);
}

#[test]
fn invalid_limits_are_reported() {
    for (config, message) in [
        ("{locked: [host-netwrok]}", "did you mean \"host-network\"?"),
        ("{locked: [inject]}", "webhook.namespaceSelector"),
        ("{maximum: {peer: none}}", "bounded by `allowed`"),
        ("{maximum: {memory-limit: much}}", "maximum: memory-limit"),
        (
            "{allowed: {peer: [nobody]}}",
            "allowed: peer has \"nobody\"",
        ),
        ("{allowed: {endpoint: ['http://c']}}", "allowedEndpoints"),
        ("{requireTls: true}", "requireTls: "),
        (
            "{requireTls: true, defaults: {endpoint: 'http://c'}}",
            "requireTls: ",
        ),
    ] {
        let error = Config::parse(config).expect_err(config).to_string();
        assert!(error.contains(message), "{error}");
    }
}

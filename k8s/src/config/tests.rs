use serde_json::{Value, json};

use super::{Config, Level, NAMESPACE_NAME, Settings};
use crate::annotations::Key;

#[test]
fn empty_file_is_the_default_configuration() {
    assert_eq!(Config::parse("").expect("valid").config, Config::default());
    assert_eq!(
        Config::parse("{}").expect("valid").hash,
        Settings::default().hash
    );
}

#[test]
fn defaults_are_read_by_the_table_of_annotations() {
    let settings =
        Config::parse("defaults: {endpoint: 'http://c:4317', log-level: warn}").expect("valid");
    assert_eq!(settings.defaults.get(Key::Endpoint), Some("http://c:4317"));
    assert_eq!(settings.defaults.get(Key::LogLevel), Some("warn"));
}

/// What Helm's YAML 1.1 makes of values that nobody quotes, down to large numbers as floating point.
#[test]
fn defaults_may_be_numbers_and_booleans() {
    let text = "{guaranteedCpu: 1, defaults: {sampling: 1e+06, exchange: true, dns: false, log-level: false, cpu-limit: 0.5, \
                memory-limit: 134217728, service-name: 7}}";
    let settings = Config::parse(text).expect("valid");
    assert_eq!(settings.config.guaranteed_cpu, "1");
    for (key, value) in [
        (Key::Sampling, "1000000"),
        (Key::Exchange, "on"),
        (Key::Dns, "off"),
        (Key::LogLevel, "off"),
        (Key::CpuLimit, "0.5"),
        (Key::MemoryLimit, "134217728"),
        (Key::ServiceName, "7"),
    ] {
        assert_eq!(settings.defaults.get(key), Some(value));
    }
    let wrong = "{defaults: {peer: true, sampling: [1], service-name: {a: b}}}";
    assert!(Config::parse(wrong).is_err());
    let error = Config::parse("{defaults: {peer: true}}").expect_err("no value of peer's");
    assert!(
        error.to_string().contains("flowcar.io/peer=\"true\""),
        "{error}"
    );
}

#[test]
fn pull_secrets_are_names() {
    let secrets = Config::parse("imagePullSecrets: [registry, a.b]").expect("valid");
    assert_eq!(secrets.config.image_pull_secrets, ["registry", "a.b"]);
    for wrong in ["Registry", "a/b", ""] {
        let text = format!("imagePullSecrets: [{wrong:?}]");
        assert!(Config::parse(&text).is_err(), "{wrong}");
    }
}

#[test]
fn mirrors_are_repositories() {
    let mirrors = Config::parse("imageMirrors: [mirror.test:5000/ghcr/flowcar]").expect("valid");
    assert_eq!(mirrors.config.image_mirrors.len(), 1);
    for wrong in [
        "mirror.test/flowcar:1",
        "mirror.test/flowcar@sha256:00",
        "A",
        "",
    ] {
        assert!(
            Config::parse(&format!("imageMirrors: [{wrong:?}]")).is_err(),
            "{wrong}"
        );
    }
}

#[test]
fn every_configuration_error_is_reported_at_once() {
    let text = "{image: A, guaranteedCpu: x, allowedEndpoints: [nowhere], defaults: {log-levle: warn, inject: enabled}}";
    let error = Config::parse(text).expect_err("five errors").to_string();
    for part in [
        "image=",
        "guaranteedCpu",
        "allowedEndpoints",
        "did you mean flowcar.io/log-level",
        "label the namespaces",
    ] {
        assert!(error.contains(part), "{part} in {error}");
    }
    let text = "{minimum: {sampling: 100, memory-limit: 1Gi}, maximum: {sampling: 10, memory-limit: 1024Mi}}";
    let error = Config::parse(text).expect_err("an empty range").to_string();
    let expected = "minimum: sampling=\"100\" is more than maximum, \"10\"";
    assert!(
        error.contains(expected) && !error.contains("memory-limit"),
        "{error}"
    );
    assert!(
        Config::parse("imgae: x")
            .expect_err("unknown field")
            .to_string()
            .contains("imgae")
    );
}

#[test]
fn hash_changes_with_every_field() {
    let hash = |text: &str| Config::parse(text).expect("valid").hash;
    assert_eq!(hash("strict: true"), hash("strict: true"));
    assert_ne!(hash("strict: true"), hash(""));
    assert_ne!(hash("defaults: {peer: none}"), hash(""));
    assert_eq!(hash("").len(), 16);
}

#[test]
fn pod_security_levels_are_read_as_the_plugin_reads_them() {
    let level = |value: &str| {
        let labels = serde_json::json!({"pod-security.kubernetes.io/enforce": value});
        Level::of_namespace(labels.as_object().expect("object"), Level::Privileged)
    };
    assert_eq!(level("privileged"), Level::Privileged);
    assert_eq!(level("baseline"), Level::Baseline);
    assert_eq!(level("restricted"), Level::Restricted);
    assert_eq!(level("strict"), Level::Restricted);
    assert_eq!(
        Level::of_namespace(&serde_json::Map::new(), Level::Baseline),
        Level::Baseline
    );
}

#[test]
fn namespaces_outside_the_selector_are_left_out() {
    let expression = |operator: &str, values: Value| json!({"matchExpressions": [{"key": "a", "operator": operator, "values": values}]});
    let rows = [
        (json!({}), [false, false, false]),
        (json!({"matchLabels": {"a": "1"}}), [false, true, true]),
        (expression("In", json!(["1", "3"])), [false, true, true]),
        // Kubernetes' rule: it holds without the label.
        (expression("NotIn", json!(["1"])), [true, false, false]),
        (expression("Exists", json!([])), [false, false, true]),
        (expression("DoesNotExist", json!([])), [true, true, false]),
    ];
    for (selector, expected) in rows {
        let settings = Config::parse(&json!({"namespaceSelector": selector}).to_string());
        let settings = settings.expect("a selector");
        let found = [json!({"a": "1"}), json!({"a": "2"}), json!({"b": "1"})].map(|labels| {
            let mut labels = labels.as_object().expect("labels").clone();
            // Nothing is known of this one.
            assert!(!settings.leaves_out(&labels));
            labels.insert(NAMESPACE_NAME.to_owned(), json!("shop"));
            settings.leaves_out(&labels)
        });
        assert_eq!(found, expected, "{selector}");
    }
    for wrong in [
        expression("Near", json!(["1"])),
        json!({"matchExpressions": [{"key": "a", "operator": "In"}]}),
    ] {
        let config = json!({"namespaceSelector": wrong}).to_string();
        let error = Config::parse(&config).expect_err(&config).to_string();
        assert!(error.contains("namespaceSelector: "), "{error}");
    }
}

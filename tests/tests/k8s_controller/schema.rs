//! The chart's schema and the controller take, and refuse, the same configurations.

use flowcar_k8s::annotations::{INJECT, Kind, PREFIX, TABLE};
use flowcar_k8s::config::Config;
use serde_json::{Value, json};

use super::values::template;

/// Whether the chart takes this configuration; then the controller has to, too.
fn is_taken(config: &Value) -> bool {
    let (ok, manifests, _) = template(&json!({"config": config}));
    if !ok {
        return false;
    }
    let maps = manifests
        .split("\n---\n")
        .filter(|document| document.contains("kind: ConfigMap\n"));
    let map: Value = serde_yaml_ng::from_str(maps.last().expect("the ConfigMap")).expect("YAML");
    let text = map["data"]["config.yaml"].as_str().expect("a text");
    if let Err(error) = Config::parse(text) {
        panic!("{config} passes the schema: {error}");
    }
    true
}

/// The chart and the controller take, and refuse, the same limits.
#[test]
fn limits_of_annotations_are_checked_by_the_schema() {
    let (mut locked, mut amounts, mut allowed) = (Vec::new(), json!({}), json!({}));
    for row in TABLE.iter().filter(|row| row.name != INJECT) {
        let name = row.name.strip_prefix(PREFIX).expect("ours");
        locked.push(name);
        match row.kind {
            Kind::Integer { .. } | Kind::Cpu | Kind::Memory => amounts[name] = json!(row.example),
            _ => assert!(
                !is_taken(&json!({"maximum": {name: row.example}})),
                "{name}"
            ),
        }
        if name != "endpoint" {
            allowed[name] = json!([row.example]);
        }
        if !matches!(row.kind, Kind::Text { .. }) {
            assert!(!is_taken(&json!({"allowed": {name: ["?"]}})), "{name}");
        }
    }
    let all = json!({"locked": locked, "minimum": amounts, "maximum": amounts, "allowed": allowed});
    assert!(is_taken(&all), "{all}");
    assert!(!is_taken(&json!({"allowed": {"endpoint": ["http://c"]}})));
    for (config, taken) in [
        (json!({"locked": ["inject"]}), false),
        (json!({"allowed": {"exchange": [false]}}), true),
        (json!({"maximum": {"sampling": 1000}}), true),
        (json!({"requireTls": true}), false),
        (json!({"requireTls": false}), true),
        (
            json!({"requireTls": true, "defaults": {"endpoint": "http://c"}}),
            false,
        ),
        (
            json!({"requireTls": true, "defaults": {"endpoint": "https://c"}}),
            true,
        ),
        (
            json!({"requireTls": true, "defaults": {"endpoint": "unix:///run/otel/o.sock"}}),
            true,
        ),
        (json!({"imageMirrors": ["mirror.test:5000/a/b"]}), true),
        (json!({"imageMirrors": ["mirror.test/a:1"]}), false),
        (
            json!({"hostCgroupPath": "/sys/fs/cgroup/kubepods.slice"}),
            true,
        ),
    ] {
        assert_eq!(is_taken(&config), taken, "{config}");
    }
}

/// The chart and the controller take, and refuse, the same defaults.
#[test]
fn defaults_of_annotations_are_checked_by_the_schema() {
    let taken = |name: &str, value: &Value| is_taken(&json!({"defaults": {name: value}}));
    for row in TABLE.iter().filter(|row| row.name != INJECT) {
        let name = row.name.strip_prefix(PREFIX).expect("ours");
        assert!(
            taken(name, &json!(row.example)),
            "{name} is to be in values.schema.json"
        );
        let wrong = match row.kind {
            Kind::Text { .. } => json!(""),
            _ => json!("?"),
        };
        assert!(!taken(name, &wrong), "{name}: {wrong}");
        assert!(!taken(name, &json!(["a"])), "{name}: a list");
        if let Kind::Choice(words) = row.kind {
            assert!(words.iter().all(|word| taken(name, &json!(word))), "{name}");
        }
    }
    for (name, value) in [
        ("sampling", json!(100)),
        ("sampling", json!(1_000_000)),
        ("sampling", json!("100")),
        ("exchange", json!(true)),
        ("log-level", json!(false)),
        ("cpu-request", json!(1)),
        ("cpu-limit", json!(0.5)),
        ("memory-limit", json!(134_217_728)),
        ("memory-limit", json!("128Mi")),
        ("service-name", json!(7)),
    ] {
        assert!(taken(name, &value), "{name}: {value}");
    }
    for (name, value) in [
        ("sampling", json!(0)),
        ("sampling", json!(1.5)),
        ("sampling", json!(true)),
        ("peer", json!(true)),
        ("log-level", json!("loud")),
        ("endpoint", json!("collector:4317")),
        ("cpu-limit", json!("much")),
        ("inject", json!("enabled")),
        ("log-levle", json!("warn")),
    ] {
        assert!(!taken(name, &value), "{name}: {value}");
    }
}

/// The chart and the controller take, and refuse, the same endpoints.
#[test]
fn endpoints_are_checked_by_the_schema() {
    let long = format!("unix:///run/{}", "s".repeat(102));
    let longest = &long[..long.len() - 1];
    for endpoint in [
        "http://c",
        "HTTPS://c.example_1.test:4317/v1?a=b$c(d)$",
        "http://10.0.0.1:65535",
        "http://[::1]:4317",
        "http://[fe80::1%25eth0]:1",
        "http://$(FLOWCAR_HOST_IP):4317",
        "http://[$(FLOWCAR_HOST_IP)]:4317",
        "https://$(FLOWCAR_NODE_NAME).nodes/$(FLOWCAR_POD_NAMESPACE)",
        "unix:///run/otel/o.sock",
        longest,
        "",
        "c:4317",
        "ftp://c",
        "http://",
        "http://c:",
        "http://c:0",
        "http://c:65536",
        "http://[::1]:0",
        "http://[::1",
        "http://@c:4317",
        "http://u:p@c",
        "http://c*:4317",
        "http://c~",
        "http://c;d",
        "http://c,d",
        "http://c=d+e",
        "http://$(HOST_IP):4317",
        "http://c/$(X)",
        "http://c/ü",
        "http://c?ü",
        "http://c/#f",
        "http://c d",
        "http://ü",
        "unix:///o.sock",
        "unix:///run/../o.sock",
        "unix:///run//o.sock",
        "unix:///run/otel/",
        "unix:///proc/1/o.sock",
        "unix:///run/$(FLOWCAR_POD_NAMESPACE)/o.sock",
        &long,
    ] {
        for config in [
            json!({"defaults": {"endpoint": endpoint}}),
            json!({"allowedEndpoints": [endpoint]}),
        ] {
            let is_read = Config::parse(&config.to_string()).is_ok();
            assert_eq!(is_taken(&config), is_read, "{config}");
        }
    }
    assert!(is_taken(
        &json!({"allowedEndpoints": ["https://*.example.test"]})
    ));
    assert!(!is_taken(
        &json!({"defaults": {"endpoint": "https://*.example.test"}})
    ));
}

//! The chart's schema and the controller take, and refuse, the same configurations.

use flowcar_k8s::{
    annotations::{INJECT, Kind, PREFIX, TABLE},
    config::Config,
};
use flowcar_tests::cluster::tools::k8s;
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

/// What the schema takes the controller takes, or it would end at its start, and no webhook would answer.
#[test]
fn strings_are_checked_by_the_schema_as_the_controller_reads_them() {
    let long = |length| "a".repeat(length);
    let (name, key) = (long(254), format!("a/{}", long(254)));
    let rows: &[(&[&str], &[&str], &[&str])] = &[
        (
            &["sampling"],
            &["1", "100", "0100", "1000000"],
            &["", "0", "000", "1000001", "2000000", "-1", "1.5", "1e3"],
        ),
        (
            &["run-as-user", "run-as-group"],
            &["1", "65532", "2147483647"],
            &["0", "00", "2147483648", "9999999999", "root"],
        ),
        (
            &["cpu-request", "cpu-limit"],
            &[
                "1m", "250m", "64000m", "64", "64.0", "0.5", ".5", "1.", "1.125", "0.001",
            ],
            &[
                "0", "0.0", "100", "65", "64001m", "0.5m", "0.0005", "1.0005", "1 ", "-1", "64.5",
                "1n",
            ],
        ),
        (
            &["memory-limit"],
            &[
                "16Mi",
                "128Mi",
                "16Gi",
                "1.5Gi",
                "0.5Gi",
                "16777216",
                "17179869184",
                "32M",
                "1G",
                "16384Ki",
                "1e9",
                "20000k",
            ],
            &[
                "128",
                "8Mi",
                "15Mi",
                "64Ti",
                "17Gi",
                "1.1Gi",
                "16777215",
                "17179869185",
                "16M",
                "18G",
                "16383Ki",
                "16mi",
                "16777216.5",
                "1e7",
                "16.1Mi",
                "0",
            ],
        ),
        (
            &["headers-secret", "ca-secret", "ca-configmap"],
            &["a", "a.b", "a/b", "a/.b", "a-1/K_e-y.1"],
            &[
                "a..b", "a.", ".a", "a-", "A", "a/", "a/.", "a/..b", "a/b/c", &name, &key,
            ],
        ),
        (
            &["endpoint-volume", "client-certificate-secret"],
            &["a", "a.b", "a-1"],
            &["a..b", "a.-b", "a/b", "A", &name],
        ),
        (
            &["resource-attributes"],
            &["a=b", "a=", "a=b c", "a.b=c,d=e%2Cf", "a=%C3%BC", "a|b=c"],
            &[
                "a b=c",
                "a=b,",
                "=b",
                "a=b=c",
                "a=ü",
                "a=%FF",
                "%FF=a",
                "a=%C3",
                "a=%ED%A0%80",
                "a=\t",
            ],
        ),
        (
            &["service-name"],
            &["a", "süß", " a ", "$(POD)"],
            &[" ", "", "\u{a0}", "a\nb", "a\u{7f}"],
        ),
        (
            &["command"],
            &[r#"["a"]"#, r#" [ "/a", "--b=\"c\"" ] "#, r#"["\u00e4"]"#],
            &[
                "[1]",
                "[]",
                r#"[""]"#,
                r#"["a",]"#,
                r#"["\u0000"]"#,
                r#"["\ud800"]"#,
                "{}",
                r#"["a" "b"]"#,
            ],
        ),
        (
            &["image"],
            &[
                "a",
                "a/b",
                "r.example/a:1",
                "localhost:5000/a",
                "r:80/a-b__c:v1.0_x",
                "R.example/a",
            ],
            &[
                "a//b",
                "/a",
                "a/",
                "A",
                "a:",
                "a:-x",
                "a..b",
                "a_b.c/d",
                "r.example:0/a",
                "r.example:65536/a",
                "a@sha256:00",
                "-a/b",
                "a___b",
            ],
        ),
    ];
    for (names, valid, invalid) in rows {
        for (value, expected) in valid
            .iter()
            .map(|value| (value, true))
            .chain(invalid.iter().map(|value| (value, false)))
        {
            for name in *names {
                let config = json!({"defaults": {*name: value}});
                assert_eq!(
                    Config::parse(&config.to_string()).is_ok(),
                    expected,
                    "controller: {config}"
                );
                assert_eq!(is_taken(&config), expected, "schema: {config}");
            }
        }
    }
    for (config, expected) in [
        (json!({"guaranteedCpu": "65"}), false),
        (json!({"guaranteedCpu": 0.0005}), false),
        (json!({"guaranteedCpu": 0.5}), true),
        (json!({"defaults": {"memory-limit": 128}}), false),
        (json!({"defaults": {"cpu-limit": 100}}), false),
        (json!({"defaults": {"run-as-user": 0}}), false),
        (json!({"maximum": {"memory-limit": "64Ti"}}), false),
        (json!({"image": "a//b"}), false),
        (json!({"imageMirrors": ["a//b"]}), false),
        (json!({"imageMirrors": ["a..b"]}), false),
        (json!({"imagePullSecrets": ["a..b"]}), false),
    ] {
        assert_eq!(
            Config::parse(&config.to_string()).is_ok(),
            expected,
            "{config}"
        );
        assert_eq!(is_taken(&config), expected, "{config}");
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

/// An error of the schema has words in it, and the words themselves are never taken.
#[test]
fn errors_of_the_schema_are_short_and_say_what_is_wanted() {
    for (config, wanted) in [
        (json!({"defaults": {"image": "A"}}), "an image, as "),
        (
            json!({"defaults": {"endpoint": "c:4317"}}),
            "http:// or https:// with a host",
        ),
        (
            json!({"defaults": {"memory-limit": "5Zi"}}),
            "bytes from 16Mi to 16Gi, as 128Mi",
        ),
        (
            json!({"maximum": {"cpu-limit": "65"}}),
            "processors from 1m to 64",
        ),
        (
            json!({"defaults": {"run-as-user": "root"}}),
            "a whole number from 1 to 2147483647",
        ),
        (
            json!({"defaults": {"resource-attributes": "team"}}),
            "pairs of key=value",
        ),
        (json!({"imageMirrors": ["a:1"]}), "a repository without tag"),
    ] {
        let (ok, _, error) = template(&json!({"config": config}));
        assert!(!ok && error.contains(wanted), "{config}: {error}");
        assert!(error.lines().all(|line| line.len() < 250), "{error}");
    }
    let schema = std::fs::read_to_string(k8s("chart/values.schema.json")).expect("the schema");
    let schema: Value = serde_json::from_str(&schema).expect("JSON");
    let mut words = 0;
    let mut open = vec![&schema];
    while let Some(value) = open.pop() {
        if let Some(wanted) = value.get("else") {
            assert_eq!(wanted["pattern"], wanted["not"]["pattern"], "{wanted}");
            words += 1;
        }
        let is_hidden = |name: &str| matches!(name, "if" | "not");
        let printed = value.get("pattern").and_then(Value::as_str);
        assert!(printed.is_none_or(|text| text.len() < 110), "{printed:?}");
        match value {
            Value::Object(members) => {
                let inner = members.iter().filter(|(name, _)| !is_hidden(name));
                open.extend(inner.map(|(_, value)| value));
            }
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
    assert!(words > 10, "{words}");
}

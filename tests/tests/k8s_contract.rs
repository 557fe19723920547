//! What the injector writes into a container, the sidecar understands: by the sidecar's own reader of its environment.

use std::collections::BTreeSet;
use std::path::Path;

use flowcar::config::{
    Compression, Config, Histograms, LogFormat, Protocol, SETTINGS, SourceChoice, Target,
    TraceParent,
};
use flowcar::series::PeerNaming;
use flowcar_k8s::annotations::{Annotation, Key, Kind, TABLE};
use flowcar_k8s::config::Settings;
use flowcar_k8s::inject::{Context, inject};
use serde_json::{Map, Value, json};

/// What the kubelet would fill in, by field.
const FIELDS: [(&str, &str); 6] = [
    ("metadata.name", "web-5d4f-x7k2p"),
    ("metadata.namespace", "shop"),
    ("metadata.uid", "4c1e0a52-3f7e-4a53-9b86-0c8f3d2a6b11"),
    ("status.podIP", "10.1.2.3"),
    ("status.podIPs", "10.1.2.3,fd00::3"),
    ("spec.nodeName", "node-a"),
];

/// What the Secret of the headers holds.
const HEADERS: &str = "authorization=Bearer%20abc,x-tenant=a";

/// One value of an annotation, and whether a sidecar's settings are what it asks for.
type Case = (Key, &'static str, fn(&Config) -> bool);

/// By hand, from `k8s/ANNOTATIONS.md`.
const CASES: &[Case] = &[
    (Key::Endpoint, "http://collector.observability:4317", |c| {
        endpoints(c) == ["http://collector.observability:4317/"; 2]
    }),
    (Key::Endpoint, "HTTPS://[::1]:4317/v1", |c| {
        endpoints(c) == ["https://[::1]:4317/v1"; 2]
    }),
    (Key::Exchange, "on", |c| c.exchanges),
    (Key::Exchange, "off", |c| !c.exchanges),
    (Key::Protocol, "grpc", |c| {
        endpoints(c) == ["http://localhost:4317/"; 2]
            && targets(c).all(|t| t.protocol == Protocol::Grpc)
    }),
    (Key::Protocol, "http/protobuf", |c| {
        endpoints(c)
            == [
                "http://localhost:4318/v1/metrics",
                "http://localhost:4318/v1/traces",
            ]
            && targets(c).all(|t| t.protocol == Protocol::HttpProtobuf)
    }),
    (Key::HeadersSecret, "otlp-auth/headers", |c| {
        targets(c).all(has_headers)
    }),
    (Key::Compression, "none", |c| {
        targets(c).all(|t| t.compression.is_none())
    }),
    (Key::Compression, "gzip", |c| {
        targets(c).all(|t| t.compression == Some(Compression::Gzip))
    }),
    (Key::Compression, "zstd", |c| {
        targets(c).all(|t| t.compression == Some(Compression::Zstd))
    }),
    (Key::Source, "auto", |c| c.source == SourceChoice::Auto),
    (Key::Source, "ebpf", |c| c.source == SourceChoice::Ebpf),
    (Key::Source, "inet_diag", |c| {
        c.source == SourceChoice::InetDiag
    }),
    (Key::ServiceName, "checkout", |c| {
        c.service_name.as_deref() == Some("checkout")
    }),
    (Key::ServiceName, "süß $(FLOWCAR_POD_NAME) $$", |c| {
        c.service_name.as_deref() == Some("süß $(FLOWCAR_POD_NAME) $$")
    }),
    (
        Key::ResourceAttributes,
        "team=payments,deployment.environment.name=staging",
        |c| {
            attributes(c)
                == [
                    ("team", "payments"),
                    ("deployment.environment.name", "staging"),
                ]
        },
    ),
    (Key::ResourceAttributes, "a=,b=c%2Cd", |c| {
        attributes(c) == [("a", ""), ("b", "c,d")]
    }),
    (Key::Peer, "auto", |c| c.naming.peer == PeerNaming::Auto),
    (Key::Peer, "address", |c| {
        c.naming.peer == PeerNaming::Address
    }),
    (Key::Peer, "prefix", |c| {
        c.naming.peer == PeerNaming::Prefix { v4: 24, v6: 64 }
    }),
    (Key::Peer, "none", |c| c.naming.peer == PeerNaming::None),
    (Key::Ports, "include", |c| c.naming.ports),
    (Key::Ports, "exclude", |c| !c.naming.ports),
    (Key::Sampling, "100", |c| c.spans_per_second == 100),
    (Key::Sampling, "200", |c| c.spans_per_second == 200),
    (Key::Sampling, "1", |c| c.spans_per_second == 1),
    (Key::Sampling, "1000000", |c| {
        c.spans_per_second == 1_000_000
    }),
    (Key::TraceParent, "auto", |c| {
        c.trace_parent == TraceParent::Auto
    }),
    (Key::TraceParent, "always", |c| {
        c.trace_parent == TraceParent::Always
    }),
    (Key::TraceParent, "never", |c| {
        c.trace_parent == TraceParent::Never
    }),
    (Key::Histograms, "exponential", |c| {
        c.histograms == Histograms::Exponential
    }),
    (Key::Histograms, "explicit", |c| {
        c.histograms == Histograms::Explicit
    }),
    (Key::LogLevel, "off", |c| log(c) == "off"),
    (Key::LogLevel, "error", |c| log(c) == "error"),
    (Key::LogLevel, "warn", |c| log(c) == "warn"),
    (Key::LogLevel, "info", |c| log(c) == "info"),
    (Key::LogLevel, "debug", |c| log(c) == "debug"),
    (Key::LogLevel, "trace", |c| log(c) == "trace"),
    (Key::LogFormat, "text", |c| c.log_format == LogFormat::Text),
    (Key::LogFormat, "json", |c| c.log_format == LogFormat::Json),
];

fn targets(config: &Config) -> impl Iterator<Item = &Target> {
    let (metrics, traces) = (&config.export.metrics, &config.export.traces);
    [metrics, traces]
        .into_iter()
        .map(|target| target.as_ref().expect("both signals are exported"))
}

/// Of metrics and of spans.
fn endpoints(config: &Config) -> Vec<String> {
    targets(config)
        .map(|target| target.endpoint.to_string())
        .collect()
}

fn has_headers(target: &Target) -> bool {
    let sent = target
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()));
    sent.eq([
        ("authorization", b"Bearer abc".as_slice()),
        ("x-tenant", b"a"),
    ])
}

fn attributes(config: &Config) -> Vec<(&str, &str)> {
    config
        .resource_attributes
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect()
}

/// `flowcar export` logs from info on where nothing is set.
fn log(config: &Config) -> &str {
    config.log.as_deref().unwrap_or("info")
}

/// The environment of the container that the pod gets, as the kubelet would start it.
fn environment(pod: &Value) -> Vec<(String, String)> {
    let context = Context {
        namespace: "shop".to_owned(),
        namespace_labels: Map::new(),
        own_namespace: "flowcar-system".to_owned(),
        native_sidecar: true,
        workload: None,
        workload_annotations: Map::new(),
        opted_in: false,
    };
    let mut pod = pod.clone();
    let patch = inject(&pod, &context, &Settings::default()).patch;
    json_patch::patch(&mut pod, &patch).expect("the patch applies");
    let containers = pod["spec"]["initContainers"]
        .as_array()
        .into_iter()
        .flatten();
    let ours = containers.filter(|container| {
        container["name"] == "flowcar" && container["livenessProbe"].is_object()
    });
    let env = ours.flat_map(|container| container["env"].as_array().expect("an environment"));
    env.map(|entry| (text(&entry["name"]).to_owned(), value_of(entry)))
        .collect()
}

/// `$$` is the kubelet's way of writing `$` (Kubernetes, "Define Dependent Environment Variables").
fn value_of(entry: &Value) -> String {
    let source = &entry["valueFrom"];
    if source["secretKeyRef"].is_object() {
        return HEADERS.to_owned();
    }
    if source.is_null() {
        return text(&entry["value"]).replace("$$", "$");
    }
    let path = text(&source["fieldRef"]["fieldPath"]);
    let field = FIELDS.iter().find(|(field, _)| *field == path);
    field.expect("a field of the downward API").1.to_owned()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

/// What the sidecar makes of an environment; `flowcar export` is what the injected container runs.
fn understood(env: Vec<(String, String)>, whose: &str) -> Config {
    let known: BTreeSet<_> = SETTINGS.iter().map(|setting| setting.name).collect();
    let names: BTreeSet<_> = env.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names.difference(&known).count(), 0, "{whose}: {names:?}");
    assert_eq!(names.len(), env.len(), "{whose}: a name twice");
    let config = Config::from_vars(env).unwrap_or_else(|mistakes| panic!("{whose}: {mistakes}"));
    config.with_default_endpoint()
}

fn annotated(annotations: &[(&str, &str)]) -> Config {
    let mut written = json!({"flowcar.io/inject": "enabled"});
    for (name, value) in annotations {
        written[*name] = json!(value);
    }
    let pod = json!({
        "metadata": {"name": "p", "annotations": written},
        "spec": {"containers": [{"name": "app", "image": "app:1"}]},
    });
    let env = environment(&pod);
    assert!(!env.is_empty(), "{annotations:?}: injected");
    understood(env, &format!("{annotations:?}"))
}

#[test]
fn every_annotation_has_the_effect_that_it_names_and_no_other_has() {
    let plain = annotated(&[]);
    for (key, value, holds) in CASES {
        let row = Annotation::of(*key);
        assert!(
            holds(&annotated(&[(row.name, value)])),
            "{}={value}",
            row.name
        );
        assert_eq!(
            holds(&plain),
            *value == row.default,
            "{}: the default is {}",
            row.name,
            row.default
        );
    }
}

#[test]
fn no_annotation_is_left_out() {
    let proven = |key: Key, value: &str| CASES.iter().any(|(k, v, _)| *k == key && *v == value);
    for row in &TABLE {
        annotated(&[(row.name, row.example)]);
        if row.env.is_none() {
            continue;
        }
        assert!(proven(row.key, row.example), "{}: its example", row.name);
        if let Kind::Choice(words) = row.kind {
            assert!(
                words.iter().all(|word| proven(row.key, word)),
                "{}: {words:?}",
                row.name
            );
        }
    }
}

#[test]
fn golden_pods_are_understood() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/k8s");
    let mut injected = 0;
    for file in std::fs::read_dir(folder).expect("the golden pods") {
        let path = file.expect("a file").path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let name = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .expect("a name")
            .to_owned();
        let text = std::fs::read_to_string(&path).expect("a golden pod");
        let pod: Value = serde_yaml_ng::from_str(&text).expect("YAML");
        let env = environment(&pod);
        if env.is_empty() {
            assert!(name.ends_with("-taken"), "{name} is injected");
            continue;
        }
        injected += 1;
        let Config { pod, .. } = understood(env, &name);
        let found = [pod.name, pod.namespace, pod.uid, pod.ip, pod.ips, pod.node];
        assert_eq!(
            found.map(Option::unwrap_or_default),
            FIELDS.map(|(_, value)| value.to_owned()),
            "{name}"
        );
        assert_eq!(
            pod.owner_kind.is_some(),
            name.starts_with("owner-"),
            "{name}"
        );
        assert_eq!(
            pod.owner_name.is_some(),
            name.starts_with("owner-"),
            "{name}"
        );
    }
    assert!(injected >= 15, "{injected} injected");
}

#[test]
fn every_override_together_has_every_effect() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/k8s/every-override.yaml");
    let text = std::fs::read_to_string(path).expect("the golden pod");
    let pod: Value = serde_yaml_ng::from_str(&text).expect("YAML");
    let config = understood(environment(&pod), "every-override");
    assert_eq!(
        endpoints(&config),
        ["https://c:4317/v1/metrics", "https://c:4317/v1/traces"]
    );
    let all = |holds: fn(&Target) -> bool| targets(&config).all(holds);
    assert!(all(
        |t| t.protocol == Protocol::HttpProtobuf && t.compression == Some(Compression::Zstd)
    ));
    assert!(all(has_headers));
    assert_eq!(config.service_name.as_deref(), Some("pay$(X)"));
    assert_eq!(attributes(&config), [("team", "a")]);
    assert_eq!(config.naming.peer, PeerNaming::Prefix { v4: 24, v6: 64 });
    assert!(!config.naming.ports);
    assert_eq!(config.spans_per_second, 5);
    assert_eq!(config.trace_parent, TraceParent::Never);
    assert_eq!(config.histograms, Histograms::Explicit);
    assert_eq!(
        (log(&config), config.log_format),
        ("debug", LogFormat::Json)
    );
}

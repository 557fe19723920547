//! What the injector writes into a container, the sidecar understands: by the sidecar's own reader of its environment.

use std::{collections::BTreeSet, path::Path};

use flowcar::{
    config::{
        Compression, Config, Histograms, LogFormat, Protocol, SETTINGS, SourceChoice, Target,
        TraceParent,
    },
    series::PeerLabel,
};
use flowcar_k8s::{
    annotations::{Annotation, Key, Kind, TABLE},
    config::Settings,
    inject::{Context, inject},
};
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
    // gRPC uses host and port only.
    (Key::Endpoint, "HTTPS://[::1]:4317/v1", |c| {
        endpoints(c) == ["https://[::1]:4317/"; 2]
    }),
    (Key::Exchange, "on", |c| c.exchanges == Some(true)),
    (Key::Exchange, "off", |c| c.exchanges != Some(true)),
    (Key::Dns, "on", |c| c.names),
    (Key::Dns, "off", |c| !c.names),
    (Key::Containers, "on", |c| c.container_stats),
    (Key::Containers, "off", |c| !c.container_stats),
    (Key::Peer, "name", |c| c.naming.peer == PeerLabel::Name),
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
    (Key::Peer, "auto", |c| c.naming.peer == PeerLabel::Auto),
    (Key::Peer, "address", |c| {
        c.naming.peer == PeerLabel::Address
    }),
    (Key::Peer, "prefix", |c| {
        c.naming.peer == PeerLabel::Prefix { v4: 24, v6: 64 }
    }),
    (Key::Peer, "none", |c| c.naming.peer == PeerLabel::None),
    (Key::Ports, "include", |c| c.naming.ports),
    (Key::Ports, "exclude", |c| !c.naming.ports),
    (Key::Container, "on", |c| c.containers),
    (Key::Container, "off", |c| !c.containers),
    (Key::Process, "on", |c| c.processes),
    (Key::Process, "off", |c| !c.processes),
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
    let config = Config::from_vars(env).unwrap_or_else(|errors| panic!("{whose}: {errors}"));
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
fn every_annotation_has_its_effect_and_no_other() {
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
fn every_annotation_is_tested() {
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
fn sidecar_accepts_the_environment_of_golden_pods() {
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
fn all_overrides_together_take_effect() {
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
    assert_eq!(config.naming.peer, PeerLabel::Prefix { v4: 24, v6: 64 });
    assert!(!config.naming.ports);
    assert_eq!(
        (config.containers, config.container_stats, config.processes),
        (false, true, false)
    );
    assert_eq!(config.spans_per_second, 5);
    assert_eq!(config.trace_parent, TraceParent::Never);
    assert_eq!(config.histograms, Histograms::Explicit);
    assert_eq!(
        (log(&config), config.log_format),
        ("debug", LogFormat::Json)
    );
}

/// Endpoints, and whether the injector and the sidecar take them.
const ENDPOINTS: &[(&str, bool)] = &[
    ("http://c", true),
    ("http://c:4317", true),
    ("HTTPS://C.Example_1.test:65535/v1?a=b", true),
    ("http://10.0.0.1:1/", true),
    ("http://[::1]:4317", true),
    ("http://[::ffff:10.0.0.1]", true),
    ("http://[fe80::1%25eth0]:4317", true),
    ("http://[fe80::1%eth0]:4317", true),
    ("http://c/%C3%BC", true),
    ("http://c?x=1&y=2", true),
    ("unix:///run/otel/otlp.sock", true),
    ("unix:///run/ü/otlp.sock", true),
    ("", false),
    ("http://", false),
    ("http:///v1", false),
    ("http:c", false),
    ("ftp://c", false),
    ("http://c:", false),
    ("http://c:0", false),
    ("http://c:65536", false),
    ("http://c:+80", false),
    ("http://c:80:81", false),
    ("http://[::1]:0", false),
    ("http://[::1]:", false),
    ("http://[::1]4317", false),
    ("http://[::1", false),
    ("http://[c]:4317", false),
    ("http://[fe80::1%25]:4317", false),
    ("http://::1:4317", false),
    ("http://@c:4317", false),
    ("http://u:p@c", false),
    ("http://c*:4317", false),
    ("http://c~", false),
    ("http://c'd", false),
    ("http://c!", false),
    ("http://c$d", false),
    ("http://(c)", false),
    ("http://c;d", false),
    ("http://c=d", false),
    ("http://c,d", false),
    ("http://c+d", false),
    ("http://c&d", false),
    ("http://c%41", false),
    ("http://ü", false),
    ("http://c/ü", false),
    ("http://c?ü", false),
    ("http://c/#f", false),
    ("http://c/#", false),
    ("http://c d", false),
    ("http://c/a b", false),
    ("http://c\n/a", false),
    ("http://c/\u{7f}", false),
    ("http://c/<b>", false),
    ("http://c\\d", false),
    ("unix://run/otlp.sock", false),
    ("unix:run/otlp.sock", false),
];

/// The sidecar takes these, and the injector does not: why.
const ONLY_THE_SIDECAR: &[(&str, &str)] = &[
    ("c:4317", "https for gRPC only: the scheme is to be seen"),
    (
        "unix:/run/otel/otlp.sock",
        "one way of writing it is enough",
    ),
    ("http://c\n", "what is around a value does not matter to it"),
    ("unix:///otlp.sock", "the root cannot be mounted"),
    ("unix:///run/../otlp.sock", "Kubernetes mounts no such path"),
    ("unix:///run//otlp.sock", "one way of writing it is enough"),
    ("unix:///run/otel/", "a directory"),
    ("unix:///proc/1/otlp.sock", "the container has its own"),
    (
        "unix:///run/a:b/otlp.sock",
        "Kubernetes mounts no such path",
    ),
];

#[test]
fn injector_accepts_the_endpoints_that_the_sidecar_accepts() {
    let by_injector = |endpoint: &str| Annotation::of(Key::Endpoint).kind.accepts(endpoint);
    let by_sidecar = |endpoint: &str| {
        ["grpc", "http/protobuf"].map(|protocol| {
            let vars = [
                ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ];
            let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned()));
            // An empty one is as one that is not set.
            !endpoint.is_empty() && Config::from_vars(vars).is_ok()
        })
    };
    let long = |length: usize| {
        let path = "/run/otel/";
        format!("unix://{path}{}", "s".repeat(length - path.len()))
    };
    let lengths = [
        (long(107), true),
        (long(108), false),
        (format!("http://c/{}", "a".repeat(2000)), true),
    ];
    let all = ENDPOINTS
        .iter()
        .map(|(endpoint, taken)| ((*endpoint).to_owned(), *taken));
    for (endpoint, taken) in all.chain(lengths) {
        assert_eq!(by_injector(&endpoint), taken, "the injector: {endpoint}");
        assert_eq!(by_sidecar(&endpoint), [taken; 2], "the sidecar: {endpoint}");
    }
    for (endpoint, why) in ONLY_THE_SIDECAR {
        assert!(
            !by_injector(endpoint) && by_sidecar(endpoint)[0],
            "{endpoint}: {why}"
        );
    }
}

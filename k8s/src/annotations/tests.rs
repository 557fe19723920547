use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::super::{Annotation, Key, Kind, Overrides, Permissions, Problem, TABLE};
use crate::{config::Config, text::WARNING_CHARS};

fn annotations(pairs: &[(&str, &str)]) -> Map<String, Value> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect()
}

fn parse(pairs: &[(&str, &str)]) -> (Overrides, Vec<Problem>) {
    Overrides::parse(
        &annotations(pairs),
        &Permissions {
            image_and_command: true,
            endpoints: Vec::new(),
        },
    )
}

fn endpoints(patterns: &[&str]) -> Permissions {
    Permissions {
        image_and_command: false,
        endpoints: patterns.iter().map(|p| (*p).to_owned()).collect(),
    }
}

#[test]
fn names_are_unique_and_valid_for_the_api_server() {
    let mut names: Vec<_> = TABLE.iter().map(|row| row.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), TABLE.len());
    for name in names {
        let short = name.strip_prefix("flowcar.io/").expect("the prefix");
        assert!(
            short.len() <= 63 && short.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'),
            "{name}"
        );
    }
}

#[test]
fn every_example_is_valid() {
    for row in &TABLE {
        assert!(row.kind.accepts(row.example), "{}", row.name);
    }
}

/// Valid values and boundaries, invalid values and one past each boundary, by hand.
#[test]
fn every_kind_accepts_valid_values_only() {
    let cases: &[(Key, &[&str], &[&str])] = &[
        (
            Key::Inject,
            &["enabled", "disabled"],
            &["", "true", "Enabled", "enabled "],
        ),
        (
            Key::Endpoint,
            &[
                "http://a",
                "https://a.b:1/v1",
                "http://[::1]:4317",
                "HTTP://A:4317",
                "http://10.0.0.1:65535",
                "http://$(FLOWCAR_HOST_IP):4317",
                "http://[$(FLOWCAR_HOST_IP)]:4317",
                "https://$(FLOWCAR_NODE_NAME).nodes:4317",
                "http://[fe80::1%25eth0]:4317",
                "http://a_b:4317/%C3%BC?x=1",
                "unix:///run/otel/otlp.sock",
            ],
            &[
                "",
                "a:4317",
                "grpc://a",
                "http://",
                "http:a",
                "http://u:p@a",
                "http://u@a",
                "http://a b",
                "http://a\n",
                "http://a:65536",
                "http://a/#f",
                "http://süß",
                "http://a/<b>",
                "http://$(HOST_IP):4317",
                "http://$(FLOWCAR_HOST_IP",
                "unix://run/a.sock",
                "unix:///a.sock",
                "unix:///run/../a.sock",
                "unix:///run//a.sock",
                "unix:///run/otel/",
                "unix:///proc/1/a.sock",
                "unix:///run/$(FLOWCAR_POD_NAMESPACE)/a.sock",
                "http://a:",
                "http://a:0",
                "http://[::1]:0",
                "http://@a:4317",
                "http://a*:4317",
                "http://a/ü",
                "http://a?ü",
            ],
        ),
        (
            Key::EndpointVolume,
            &["otel", "a-1"],
            &["", "A", "a/b", "a_b"],
        ),
        (
            Key::Protocol,
            &["grpc", "http/protobuf"],
            &["http", "http/json", "GRPC"],
        ),
        (
            Key::HeadersSecret,
            &["a", "otlp-auth", "a/b", "a.b/K_e-y.1"],
            &[
                "", "/", "a/", "/b", "A", "a/b/c", "a_b", "-a", "a/..b", "a/.", "a b",
            ],
        ),
        (Key::CaSecret, &["a", "a/b.pem"], &["", "A", "a/b/c"]),
        (Key::CaConfigMap, &["a", "a/b.pem"], &["", "A", "a/b/c"]),
        (
            Key::ClientCertificateSecret,
            &["a", "a.b"],
            &["", "a/b", "A"],
        ),
        (
            Key::RunAsUser,
            &["1", "2147483647"],
            &["", "0", "-1", "2147483648", "root"],
        ),
        (Key::RunAsGroup, &["1", "2147483647"], &["0", "2147483648"]),
        (Key::Checkpoint, &["on", "off"], &["true"]),
        (Key::Compression, &["none", "gzip", "zstd"], &["", "br"]),
        (
            Key::ServiceName,
            &["a", "süß", "$(POD)"],
            &["", "  ", "a\u{0}", "a\nb"],
        ),
        (
            Key::ResourceAttributes,
            &["a=b", "a=", "a.b=c,d=e%2Cf"],
            &[
                "", "a", "=b", "a=b,", "a=b=c", "a b=c", "a=b\n", "a=ü", "a=%FF", "%FF=a",
            ],
        ),
        (
            Key::Source,
            &["auto", "ebpf", "inet_diag"],
            &["bpf", "inet-diag"],
        ),
        (
            Key::Peer,
            &["auto", "name", "address", "prefix", "none"],
            &["", "all"],
        ),
        (
            Key::Ports,
            &["include", "exclude"],
            &["", "include:80", "Exclude", "22"],
        ),
        (Key::Exchange, &["on", "off"], &["true", "ON"]),
        (Key::Dns, &["on", "off"], &["true", "ON"]),
        (Key::Containers, &["on", "off"], &["true", "ON"]),
        (Key::Container, &["on", "off"], &["true", "ON"]),
        (Key::Process, &["on", "off"], &["true", "ON"]),
        (
            Key::Sampling,
            &["1", "1000000"],
            &[
                "",
                "0",
                "-1",
                "1000001",
                "1.5",
                "+1",
                " 1",
                "1e3",
                "99999999999999999999999",
            ],
        ),
        (Key::TraceParent, &["auto", "always", "never"], &["yes"]),
        (Key::Histograms, &["exponential", "explicit"], &["exp"]),
        (
            Key::LogLevel,
            &["off", "error", "warn", "info", "debug", "trace"],
            &["warning", "INFO"],
        ),
        (Key::LogFormat, &["text", "json"], &["logfmt"]),
        (
            Key::CpuRequest,
            &["1m", "0.5", "64", "64000m", "1"],
            &["", "0", "0.5m", "64001m", "-1", "1 ", "one", "1n"],
        ),
        (Key::CpuLimit, &["1m", "64"], &["0", "65"]),
        (
            Key::MemoryRequest,
            &["16Mi", "16Gi", "32M", "16777216"],
            &["", "16777215", "15Mi", "17Gi", "16mi", "16777216.5", "1"],
        ),
        (Key::MemoryLimit, &["16Mi", "16Gi"], &["8Mi", "1Ti"]),
        (Key::HostNetwork, &["skip", "force"], &["true"]),
        (
            Key::Image,
            &[
                "a",
                "a/b",
                "r.example/a:1",
                "localhost:5000/a",
                "a@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
                "r:80/a-b__c:v1.0_x",
            ],
            &[
                "",
                "A",
                "a:",
                "a b",
                "/a",
                "a/",
                "a//b",
                "a@sha256:00",
                "r.example:0/a",
                "a:-x",
                "r.example/a\n",
                "a..b",
            ],
        ),
        (
            Key::Command,
            &["[\"a\"]", "[\"/flowcar\",\"export\",\"--x=$(Y)\"]"],
            &["", "a", "[]", "[1]", "{}", "[\"\"]", "[\"a\\u0000\"]"],
        ),
    ];
    assert_eq!(cases.len(), TABLE.len(), "a case for every row");
    for (key, valid, invalid) in cases {
        let row = Annotation::of(*key);
        for value in *valid {
            assert!(
                row.kind.accepts(value),
                "{} should take {value:?}",
                row.name
            );
        }
        for value in *invalid {
            assert!(
                !row.kind.accepts(value),
                "{} should refuse {value:?}",
                row.name
            );
        }
    }
}

#[test]
fn too_long_values_are_refused() {
    let text = |n| "x".repeat(n);
    assert!(Annotation::of(Key::ServiceName).kind.accepts(&text(255)));
    assert!(!Annotation::of(Key::ServiceName).kind.accepts(&text(256)));
    assert!(!Annotation::of(Key::HeadersSecret).kind.accepts(&text(254)));
}

#[test]
fn valid_override_sets_its_environment_variable() {
    let (overrides, problems) = parse(&[
        ("flowcar.io/sampling", "7"),
        ("flowcar.io/log-level", "debug"),
        ("other.io/x", "y"),
    ]);
    assert_eq!(problems, []);
    assert_eq!(overrides.get(Key::Sampling), Some("7"));
    assert_eq!(
        overrides.env().collect::<Vec<_>>(),
        [("FLOWCAR_SPANS_PER_SECOND", "7"), ("FLOWCAR_LOG", "debug")]
    );
}

#[test]
fn invalid_value_keeps_the_default_and_suggests_nearest() {
    let (overrides, problems) = parse(&[("flowcar.io/log-level", "degub")]);
    assert_eq!(overrides, Overrides::default());
    assert_eq!(
        problems[0].to_string(),
        r#"flowcar.io/log-level="degub": ignored; did you mean "debug"?"#
    );
    let (_, problems) = parse(&[("flowcar.io/sampling", "lots")]);
    assert_eq!(
        problems[0].to_string(),
        r#"flowcar.io/sampling="lots": ignored; expected whole number 1 to 1000000"#
    );
}

/// The likeliest mistake is the content instead of the Secret's name.
#[test]
fn no_problem_quotes_what_may_be_a_secret() {
    let is_word = |kind| {
        matches!(
            kind,
            Kind::Choice(_) | Kind::Integer { .. } | Kind::Cpu | Kind::Memory
        )
    };
    for row in TABLE.iter().filter(|row| !is_word(row.kind)) {
        for secret in [
            "authorization=Bearer s3cret",
            "https://user:s3cret@c",
            "https://s3cret@c",
            "\u{0}s3cret",
            "s3cret//S3",
        ] {
            let (_, problems) = parse(&[(row.name, secret)]);
            for problem in problems {
                let text = problem.to_string();
                assert!(!text.contains("s3cret"), "{text}");
                assert!(text.starts_with(row.name), "{text}");
            }
        }
    }
    let (_, problems) = parse(&[("flowcar.io/headers-secret", "authorization=Bearer s3cret")]);
    assert_eq!(
        problems[0].to_string(),
        "flowcar.io/headers-secret: ignored; expected NAME or NAME/KEY"
    );
    for (config, value) in [
        ("allowedEndpoints: ['https://d']", "https://c/v1/s3cret"),
        (
            "allowedEndpoints: ['https://d']",
            "https://c?api-key=s3cret",
        ),
        (
            "{requireTls: true, defaults: {endpoint: 'https://d'}}",
            "http://c:4317/?api-key=s3cret",
        ),
    ] {
        let settings = Config::parse(config).expect("valid");
        let (_, problems) = settings.overrides(&annotations(&[("flowcar.io/endpoint", value)]));
        let text = problems[0].to_string();
        assert!(text.contains("://c") && !text.contains("s3cret"), "{text}");
    }
    let config = "{allowed: {headers-secret: [a], service-name: [b]}}";
    let settings = Config::parse(config).expect("valid");
    for name in ["flowcar.io/headers-secret", "flowcar.io/service-name"] {
        let (_, problems) = settings.overrides(&annotations(&[(name, "s3cret")]));
        let text = problems[0].to_string();
        assert!(
            text.contains("the operator allows only") && !text.contains("s3cret"),
            "{text}"
        );
    }
}

#[test]
fn unknown_annotation_suggests_the_nearest_name() {
    for (written, meant) in [
        ("flowcar.io/end-point", "flowcar.io/endpoint"),
        ("flowcar.io/logLevel", "flowcar.io/log-level"),
        ("flowcar.io/log_level", "flowcar.io/log-level"),
        ("flowcar.io/memory-limits", "flowcar.io/memory-limit"),
        ("flowcar.io/injcet", "flowcar.io/inject"),
        ("flowcar.oi/endpoint", "flowcar.io/endpoint"),
        ("flowcar.dev/inject", "flowcar.io/inject"),
    ] {
        let (_, problems) = parse(&[(written, "x")]);
        assert_eq!(
            problems[0].to_string(),
            format!("{written}: unknown, ignored; did you mean {meant}?")
        );
    }
    let (_, problems) = parse(&[("flowcar.io/colour", "x")]);
    assert_eq!(
        problems[0].to_string(),
        "flowcar.io/colour: unknown, ignored; see the table of annotations"
    );
}

#[test]
fn foreign_annotations_and_flowcars_marks_are_ignored() {
    let (_, problems) = parse(&[
        ("sidecar.istio.io/inject", "false"),
        ("inject", "x"),
        ("flowcar.io/status", "{}"),
        ("flowcar.io/copied", "inject"),
    ]);
    assert_eq!(problems, []);
}

#[test]
fn image_and_command_need_permission() {
    let map = annotations(&[("flowcar.io/image", "a"), ("flowcar.io/command", "[\"a\"]")]);
    let (overrides, problems) = Overrides::parse(&map, &Permissions::default());
    assert_eq!(overrides, Overrides::default());
    assert_eq!(problems.len(), 2);
    assert!(
        problems
            .iter()
            .all(|problem| problem.reason() == "not_permitted")
    );
    let (overrides, problems) = parse(&[("flowcar.io/image", "a")]);
    assert_eq!((overrides.get(Key::Image), problems.len()), (Some("a"), 0));
}

#[test]
fn endpoint_allow_list_cannot_be_bypassed() {
    let list = endpoints(&[
        "https://*.example.com:4317",
        "http://collector.obs:4318/v1",
        "https://one.test",
        "http://$(FLOWCAR_HOST_IP):4317",
        "unix:///run/otel/otlp.sock",
    ]);
    for allowed in [
        "https://a.example.com:4317",
        "https://A.b.EXAMPLE.com:4317/",
        "http://collector.obs:4318/v1",
        "http://collector.obs:4318/v1/metrics",
        "https://one.test:443",
        "http://$(FLOWCAR_HOST_IP):4317",
        "unix:///run/otel/otlp.sock",
    ] {
        assert!(list.allows_endpoint(allowed), "{allowed}");
    }
    for refused in [
        "https://example.com:4317",
        "https://.example.com:4317",
        "https://evilexample.com:4317",
        "https://a.example.com.evil:4317",
        "https://a.example.com",
        "http://a.example.com:4317",
        "https://evil/?a.example.com:4317",
        "http://collector.obs:4318/v10",
        "http://collector.obs:4318/v1/../other",
        "http://collector.obs:4318",
        "http://$(FLOWCAR_NODE_NAME):4317",
        "unix:///run/other/otlp.sock",
    ] {
        assert!(!list.allows_endpoint(refused), "{refused}");
    }
    let (_, problems) = Overrides::parse(
        &annotations(&[("flowcar.io/endpoint", "http://evil")]),
        &list,
    );
    assert_eq!(problems[0].reason(), "endpoint_not_allowed");
}

proptest! {
    /// Parsing any text ends, and every problem fits a warning on one line.
    #[test]
    fn parsing_never_panics_and_its_messages_are_short(
        pairs in prop::collection::btree_map("(flowcar\\.io/)?[a-z-]{0,30}|flowcar\\.io/\\PC{0,300}", "\\PC{0,300}|[\\x00-\\x7f]{0,40}", 0..6),
        key in 0..TABLE.len(), value in ".{0,400}",
    ) {
        let mut map: Map<String, Value> = pairs.into_iter().map(|(k, v)| (k, json!(v))).collect();
        map.insert(TABLE[key].name.to_owned(), json!(value));
        let (_, problems) = Overrides::parse(&map, &Permissions::default());
        for problem in problems {
            let text = problem.to_string();
            prop_assert!(text.chars().count() <= WARNING_CHARS, "{} characters: {text}", text.chars().count());
            prop_assert!(!text.contains('\n'));
        }
    }
}

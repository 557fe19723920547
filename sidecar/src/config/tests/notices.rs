//! Notices about the settings: which appear, and which do not.

use super::*;

fn notices(vars: &[(&str, &str)]) -> Vec<String> {
    let config = read(vars).expect("good settings");
    config.notices.iter().map(ToString::to_string).collect()
}

#[test]
fn secret_in_the_wrong_variable_is_not_shown() {
    let key = "-----BEGIN PRIVATE KEY-----\ns3cret\n-----END PRIVATE KEY-----";
    for name in [
        "OTEL_EXPORTER_OTLP_CERTIFICATE",
        "OTEL_EXPORTER_OTLP_CLIENT_KEY",
        "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
        "OTEL_EXPORTER_OTLP_HEADERS_FILE",
        "OTEL_EXPORTER_OTLP_HEADERS",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
        "HTTPS_PROXY",
    ] {
        for value in [
            key,
            "authorization=s3cret",
            "Bearer s3cret",
            "http://u:s3cret@c:0",
        ] {
            let other = if name == "HTTPS_PROXY" {
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4317")
            } else {
                ("OTEL_SERVICE_NAME", "shop")
            };
            let vars = [other, (name, value)];
            let message = match read(&vars) {
                Ok(config) => format!("{config:?}"),
                Err(errors) => errors.to_string(),
            };
            assert!(!message.contains("s3cret"), "{name}={value}: {message}");
        }
    }
    let query = "http://collector:4318/base?token=s3cret";
    for protocol in ["grpc", "http/protobuf"] {
        let vars = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", query),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ];
        let config = read(&vars).expect("good settings");
        assert!(!format!("{config:?}").contains("s3cret"), "{config:?}");
        assert_eq!(config.notices.is_empty(), protocol != "grpc");
        let url = config.export.traces.expect("spans").url();
        // gRPC sends neither path nor query.
        let expected = match protocol {
            "grpc" => "http://collector:4318/",
            _ => "http://collector:4318/base/v1/traces?(hidden)",
        };
        assert_eq!(url, expected);
    }
}

#[test]
fn command_settings_never_stop_flowcar() {
    let from_command = |vars: &[(&str, &str)]| {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Config::from_vars_of(vars.iter().map(owned), Shared::Restored)
    };
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
    for (name, value, metrics, traces) in [
        ("OTEL_TRACES_EXPORTER", "console", true, false),
        ("OTEL_METRICS_EXPORTER", "prometheus", false, true),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", false, false),
        (
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
            "http/json",
            true,
            false,
        ),
        ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "10s", false, true),
        ("OTEL_EXPORTER_OTLP_HEADERS", "s3cret", false, false),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere", false, false),
        (
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "http://collector:0",
            true,
            false,
        ),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1", false, true),
        ("HTTP_PROXY", "socks5://proxy:1080", false, false),
    ] {
        let config = from_command(&[endpoint, (name, value)]).expect("no reason not to run");
        let export = (
            config.export.metrics.is_some(),
            config.export.traces.is_some(),
        );
        assert_eq!(export, (metrics, traces), "{name}={value}");
        let [message] = &config.notices[..] else {
            panic!("{name}={value}: {:?}", config.notices)
        };
        let message = message.to_string();
        assert!(
            message.starts_with(name) && message.contains("exported"),
            "{message}"
        );
        assert!(!message.contains("s3cret"), "{message}");
        read(&[endpoint, (name, value)]).expect_err("flowcar's own");
    }
    // A value that an SDK accepts gives no notice.
    let config = from_command(&[endpoint, ("OTEL_BSP_SCHEDULE_DELAY", "1")]).expect("settings");
    assert_eq!(config.notices, []);
    // Errors in flowcar's own variables still stop it.
    from_command(&[("FLOWCAR_RING_BYTES", "5000")]).expect_err("an error");
    let config = from_command(&[("FLOWCAR_RINGS", "5000")]).expect("no error");
    assert_eq!(config.notices.len(), 1);
}

#[test]
fn ineffective_setting_is_reported_once() {
    let message = notices(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317/base"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
        ("FLOWCAR_LOG_LEVEL", "debug"),
        ("FLOWCAR_PORT_443_TCP", "tcp://10.0.0.1:443"),
        ("PATH", "/bin"),
    ]);
    let expected = [
        "OTEL_EXPORTER_OTLP_ENDPOINT has a path or a query, which gRPC does not send: only its host and port are used",
        "OTEL_BSP_MAX_QUEUE_SIZE is not honoured; set FLOWCAR_SPAN_QUEUE",
        "FLOWCAR_LOG_LEVEL is not a setting of flowcar; did you mean FLOWCAR_LOG?",
    ];
    assert_eq!(message, expected);
}

#[test]
fn lower_case_name_is_a_different_variable() {
    let config = read(&[("FLOWCAR_LOG", "warn"), ("FLOWCAR_log", "debug")]).expect("settings");
    assert_eq!(config.log.as_deref(), Some("warn"));
    assert_eq!(config.notices.len(), 1);
}

/// If flowcar exited, the whole pod would not start.
#[test]
fn wrong_secret_does_not_stop_the_sidecar() {
    let pod = ("FLOWCAR_POD_UID", "8c1f");
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4317");
    let headers = ("OTEL_EXPORTER_OTLP_HEADERS", "s3cret");
    let message = notices(&[pod, endpoint, headers]).join("\n");
    assert!(
        message.starts_with("OTEL_EXPORTER_OTLP_HEADERS are wrong (its 1st part"),
        "{message}"
    );
    assert!(!message.contains("s3cret"), "{message}");
    assert!(
        read(&[endpoint, headers]).is_err(),
        "a header that is set by hand is reported at once"
    );

    let ca = ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/run/flowcar-tls/ca.crt");
    let message = notices(&[pod, endpoint, ca]).join("\n");
    assert!(
        message.contains("/run/flowcar-tls/ca.crt, which cannot be read")
            && message.contains("exports fail until"),
        "{message}"
    );
    let elsewhere = ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/run/flowcar-tlsx/ca.crt");
    assert!(read(&[pod, endpoint, elsewhere]).is_err());
}

/// Headers carry credentials: who sends them in plain text, or to whatever listens on this host, is warned, once for each variable.
#[test]
fn headers_without_encryption_are_reported() {
    const OTHERS: Option<&str> = Some("over the network, where others may read it: use https://");
    const ANY: Option<&str> = Some("any process may listen in the receiver's place");
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("headers");
    std::fs::write(&path, "authorization=Bearer%20s3cret\n").expect("a file");
    let file = path.to_str().expect("a path");
    for (endpoint, part) in [
        ("http://collector:4317", OTHERS),
        ("HTTP://192.0.2.1:4317", OTHERS),
        ("http://[2001:db8::1]:4317", OTHERS),
        ("http://localhost.example.org:4317", OTHERS),
        ("http://localhost:4317", ANY),
        ("http://LOCALHOST.:4317", ANY),
        ("http://127.8.0.1:4317", ANY),
        ("http://[::1]:4317", ANY),
        ("http://[::ffff:127.0.0.1]:4317", ANY),
        ("https://collector:4317", None),
        ("https://localhost:4317", None),
        ("unix:///run/otel/otlp.sock", None),
    ] {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
        assert!(notices(&[endpoint]).is_empty(), "no headers: {endpoint:?}");
        for headers in [
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=s3cret"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "authorization=s3cret"),
            ("OTEL_EXPORTER_OTLP_HEADERS_FILE", file),
            ("OTEL_EXPORTER_OTLP_METRICS_HEADERS_FILE", file),
        ] {
            for protocol in ["grpc", "http/protobuf"] {
                let protocol = ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol);
                let found = notices(&[endpoint, headers, protocol]);
                let what = format!("{endpoint:?} {headers:?} {protocol:?}: {found:?}");
                assert_eq!(found.len(), usize::from(part.is_some()), "{what}");
                assert!(!what.replace(headers.1, "").contains("s3cret"), "{what}");
                if let (Some(part), [notice]) = (part, &found[..]) {
                    assert!(
                        notice.starts_with(&format!("{} goes ", headers.0))
                            && notice.contains(part),
                        "{what}"
                    );
                }
            }
        }
    }
    let by_scheme = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=s3cret"),
        ("OTEL_EXPORTER_OTLP_INSECURE", "true"),
    ];
    assert_eq!(notices(&by_scheme[..2]).len(), 0);
    assert_eq!(notices(&by_scheme).len(), 1);
}

/// Other clients accept such a certificate by its common name.
#[test]
fn certificate_without_alternative_name_is_reported() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("ca.crt");
    let path = path.to_str().expect("a path");
    for (common_name, endpoint, expected) in [
        ("c.test", "https://c.test:4317", Some("=DNS:c.test")),
        ("192.0.2.1", "https://192.0.2.1:4317", Some("=IP:192.0.2.1")),
        ("c.test", "http://c.test:4317", None),
        ("an authority", "https://c.test:4317", None),
    ] {
        let mut params = rcgen::CertificateParams::default();
        let name = rcgen::DnType::CommonName;
        params.distinguished_name.push(name, common_name);
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        std::fs::write(path, certificate.pem()).expect("a file");
        let found = notices(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", path),
        ]);
        assert_eq!(found.len(), usize::from(expected.is_some()), "{found:?}");
        if let (Some(end), [notice]) = (expected, &found[..]) {
            let start = format!(
                "OTEL_EXPORTER_OTLP_CERTIFICATE is {path}, whose certificate has {common_name} as its common name and no subjectAltName"
            );
            assert!(
                notice.starts_with(&start) && notice.ends_with(end),
                "{notice}"
            );
        }
    }
}

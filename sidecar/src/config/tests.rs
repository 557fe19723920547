use std::{collections::BTreeSet, path::Path, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::certs::{ClientFiles, TlsFiles};

mod notices;
mod rules;

fn read(vars: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Config::from_vars(vars.iter().map(owned))
}

fn endpoints(vars: &[(&str, &str)]) -> (String, String) {
    let export = read(vars).expect("good settings").export;
    let url = |target: Option<Target>| target.expect("an endpoint").endpoint.to_string();
    (url(export.metrics), url(export.traces))
}

#[test]
fn all_errors_are_reported_each_on_its_own_line() {
    let errors = read(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://collector"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "10s"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1"),
        ("FLOWCAR_RING_BYTES", "5000"),
        ("FLOWCAR_PEER_PREFIX", "33/64"),
    ])
    .expect_err("seven errors");
    let names: Vec<_> = errors.iter().map(|error| error.name.as_str()).collect();
    let expected = BTreeSet::from([
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
        "OTEL_EXPORTER_OTLP_HEADERS",
        "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
        "OTEL_METRIC_EXPORT_INTERVAL",
        "FLOWCAR_RING_BYTES",
        "FLOWCAR_PEER_PREFIX",
    ]);
    assert_eq!(names.len(), 7, "{errors}");
    assert_eq!(BTreeSet::from_iter(names), expected);
    let text = errors.to_string();
    assert_eq!(text.lines().count(), 7, "{text}");
    let interval = "OTEL_METRIC_EXPORT_INTERVAL=1: is less than 100 ms; set it to 100 or more";
    assert!(text.lines().any(|line| line == interval), "{text}");
}

#[test]
fn http_adds_the_signals_path_to_the_common_endpoint_only() {
    let http = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    // The specification's own examples (protocol/exporter, "Endpoint URLs for OTLP/HTTP").
    assert_eq!(
        endpoints(&[
            http,
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
        ]),
        (
            "http://collector:4318/v1/metrics".to_owned(),
            "http://collector:4318/v1/traces".to_owned()
        )
    );
    assert_eq!(
        endpoints(&[
            http,
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                "http://collector:4318/mycollector/"
            ),
            (
                "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
                "https://collector/v1/mymetrics"
            ),
        ]),
        (
            "https://collector/v1/mymetrics".to_owned(),
            "http://collector:4318/mycollector/v1/traces".to_owned()
        )
    );
}

#[test]
fn a_grpc_endpoint_without_a_scheme_is_https_unless_insecure() {
    let bare = ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317");
    let insecure = ("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "true");
    assert_eq!(
        endpoints(&[bare, insecure]),
        (
            "https://collector:4317/".to_owned(),
            "http://collector:4317/".to_owned()
        )
    );
    let http = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    read(&[bare, http]).expect_err("HTTP needs the scheme");
}

#[test]
fn no_endpoint_means_no_export_unless_default_is_requested() {
    let config = read(&[("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf")]).unwrap();
    assert_eq!(config.export, Export::default());
    let export = config.with_default_endpoint().export;
    let metrics = export.metrics.expect("metrics by default").endpoint;
    let traces = export.traces.expect("spans by default").endpoint;
    assert_eq!(metrics, "http://localhost:4318/v1/metrics");
    assert_eq!(traces, "http://localhost:4317/");
}

#[test]
fn a_signal_can_be_turned_off() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
    let config = read(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]).unwrap();
    assert!(config.export.metrics.is_some() && config.export.traces.is_none());
    let config = read(&[endpoint, ("OTEL_SDK_DISABLED", "TRUE")]).unwrap();
    assert_eq!(config.with_default_endpoint().export, Export::default());
}

#[test]
fn signal_variable_wins_and_empty_counts_as_unset() {
    let config = read(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "none"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
        ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", ""),
    ])
    .unwrap();
    let (metrics, traces) = (
        config.export.metrics.expect("metrics"),
        config.export.traces.expect("spans"),
    );
    assert_eq!(metrics.compression, Some(Compression::Gzip));
    assert_eq!(traces.compression, None);
    assert_eq!(metrics.timeout, Some(Duration::from_millis(2500)));
}

#[test]
fn headers_are_decoded_and_never_shown() {
    let secret = "s3cret";
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
    let headers = format!("authorization=Bearer%20{secret}, x-tenant = a%2Cb");
    let config = read(&[endpoint, ("OTEL_EXPORTER_OTLP_HEADERS", &headers)]).unwrap();
    let target = config.export.traces.clone().expect("spans");
    let headers: Vec<_> = target
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().expect("a text")))
        .collect();
    assert_eq!(
        headers,
        [("authorization", "Bearer s3cret"), ("x-tenant", "a,b")]
    );
    assert!(!format!("{config:?}").contains(secret));

    let wrong = format!("auth orization={secret}");
    let errors = read(&[endpoint, ("OTEL_EXPORTER_OTLP_HEADERS", &wrong)]).unwrap_err();
    assert!(!errors.to_string().contains(secret), "{errors}");
    let user = format!("http://me:{secret}@collector:4317");
    let errors = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &user)]).unwrap_err();
    assert!(!errors.to_string().contains(secret), "{errors}");
}

#[test]
fn exactly_the_settings_of_the_table_are_read() {
    let default = format!("{:?}", read(&[]).unwrap().with_default_endpoint());
    for setting in SETTINGS {
        // Proxies are for receivers elsewhere: see the next test.
        if setting.name.ends_with("_PROXY") {
            continue;
        }
        // Nonsense to all but the settings that take any text; `true` is what the booleans take.
        let changed = ["%zz nonsense", "true"].into_iter().any(|value| {
            match read(&[(setting.name, value)]) {
                Ok(config) => format!("{:?}", config.with_default_endpoint()) != default,
                Err(errors) => errors.iter().all(|error| error.name == setting.name),
            }
        });
        assert!(changed, "{} changes nothing", setting.name);
    }
    let table = markdown();
    assert_eq!(table.lines().count(), SETTINGS.len() + 2);
}

#[test]
fn proxy_settings_of_the_table_are_read() {
    let proxies = SETTINGS.iter().map(|setting| setting.name);
    let proxies: Vec<_> = proxies.filter(|name| name.ends_with("_PROXY")).collect();
    assert_eq!(proxies.len(), 4, "{proxies:?}");
    for name in proxies {
        for name in [name.to_owned(), name.to_ascii_lowercase()] {
            let (endpoint, other, value) = match name.to_ascii_uppercase().as_str() {
                "HTTPS_PROXY" => ("https://collector:4317", "FLOWCAR_LOG", "proxy:1"),
                "NO_PROXY" => ("http://collector:4317", "ALL_PROXY", "collector"),
                _ => ("http://collector:4317", "FLOWCAR_LOG", "proxy:1"),
            };
            let rest = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint), (other, "debug")];
            let without = read(&rest).expect("good settings").export;
            let with = read(&[rest[0], rest[1], (&name, value)]);
            let with = with.expect("good settings").export;
            assert_ne!(with, without, "{name} changes nothing");
        }
    }
}

#[test]
fn table_defaults_match_the_code() {
    let default = format!("{:?}", read(&[]).unwrap().with_default_endpoint());
    for setting in SETTINGS {
        let quoted = setting
            .default
            .strip_prefix('`')
            .and_then(|rest| rest.strip_suffix('`'));
        let Some(value) = quoted else { continue };
        let config = read(&[(setting.name, value)]).expect("the default is a good value");
        assert_eq!(
            format!("{:?}", config.with_default_endpoint()),
            default,
            "{}={value}",
            setting.name
        );
    }
}

proptest! {
    #[test]
    fn arbitrary_value_never_panics_or_blames_another_setting(
        at in 0..SETTINGS.len(),
        value in "\\PC{0,40}",
    ) {
        let name = SETTINGS[at].name;
        if let Err(errors) = read(&[(name, &value)]) {
            for error in errors.iter() {
                prop_assert_eq!(&error.name, name);
            }
        }
    }
}

/// A key, and a certificate that signs itself, in files.
fn pem(dir: &Path, name: &str) -> (String, String) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("a certificate");
    let write = |end: &str, text: String| {
        let path = dir.join(format!("{name}.{end}"));
        std::fs::write(&path, text).expect("a file");
        path.to_str().expect("a path").to_owned()
    };
    (
        write("crt", certificate.pem()),
        write("key", key.serialize_pem()),
    )
}

#[test]
fn signal_certificates_win_over_common_ones() {
    let dir = tempfile::tempdir().expect("a folder");
    let (any, any_key) = pem(dir.path(), "any");
    let (own, own_key) = pem(dir.path(), "own");
    let export = read(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4317"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", &any),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &any),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &any_key),
        ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", &own),
        ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", &own),
        ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", &own_key),
    ])
    .expect("good settings")
    .export;
    for (target, certificate, key) in [
        (export.metrics, &any, &any_key),
        (export.traces, &own, &own_key),
    ] {
        let expected = TlsFiles {
            authorities: Some(certificate.into()),
            client: Some(ClientFiles {
                certificate: certificate.into(),
                key: key.into(),
            }),
        };
        assert_eq!(target.expect("a target").tls, expected);
    }
}

#[test]
fn wrong_certificate_file_error_names_the_file() {
    let dir = tempfile::tempdir().expect("a folder");
    let (certificate, key) = pem(dir.path(), "a");
    let (_, other_key) = pem(dir.path(), "b");
    let absent = dir
        .path()
        .join("absent")
        .to_str()
        .expect("a path")
        .to_owned();
    let wrong = |vars: &[(&str, &str)]| read(vars).expect_err("errors").to_string();

    let text = wrong(&[
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", &key),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &absent),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &certificate),
        ("FLOWCAR_RING_BYTES", "5000"),
    ]);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    let error = |name: &str, path: &str, why: &str| {
        let start = format!("OTEL_EXPORTER_OTLP_{name}={path}: {why}");
        assert!(
            lines.iter().any(|line| line.starts_with(&start)),
            "{start}\n{text}"
        );
    };
    error("CERTIFICATE", &key, "has no PEM certificate in it");
    error("CLIENT_CERTIFICATE", &absent, "cannot be read");
    error("CLIENT_KEY", &certificate, "has no PEM private key in it");

    let text = wrong(&[
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &certificate),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &other_key),
    ]);
    let start = format!(
        "OTEL_EXPORTER_OTLP_CLIENT_KEY={other_key}: does not go with the certificate {certificate}"
    );
    assert!(
        text.starts_with(&start) && text.lines().count() == 1,
        "{text}"
    );

    let text = wrong(&[("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &certificate)]);
    assert!(
        text.contains("is of no use alone; set OTEL_EXPORTER_OTLP_CLIENT_KEY"),
        "{text}"
    );
}

#[test]
fn a_receiver_may_listen_on_a_socket_of_this_host() {
    for (protocol, url) in [
        ("grpc", "http://localhost/"),
        ("http/protobuf", "http://localhost/v1/metrics"),
    ] {
        for text in ["unix:///run/collector.sock", "unix:/run/collector.sock"] {
            let target = read(&[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", text),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ]);
            let target = target
                .expect("good settings")
                .export
                .metrics
                .expect("a target");
            assert_eq!(
                target.socket.as_deref(),
                Some(Path::new("/run/collector.sock"))
            );
            assert_eq!(target.endpoint.to_string(), url);
            assert_eq!(target.url(), "unix:///run/collector.sock");
        }
    }
    let errors = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "unix:collector.sock")]);
    let text = errors.expect_err("one").to_string();
    assert!(
        text.contains("has no absolute path; set it to unix:///"),
        "{text}"
    );
}

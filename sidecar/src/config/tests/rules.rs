//! OpenTelemetry's rules for values.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

use super::*;

#[test]
fn only_true_is_true_and_invalid_boolean_is_reported() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317");
    for (value, is_true, error) in [
        ("true", true, false),
        ("TRUE", true, false),
        ("True", true, false),
        ("false", false, false),
        ("FALSE", false, false),
        ("", false, false),
        (" ", false, false),
        ("1", false, true),
        ("0", false, true),
        ("yes", false, true),
        ("on", false, true),
        ("t", false, true),
        ("truee", false, true),
    ] {
        let vars = [endpoint, ("OTEL_SDK_DISABLED", value)];
        let config = read(&vars).expect("no reason not to start");
        assert_eq!(config.export == Export::default(), is_true, "{value}");
        assert_eq!(config.notices.len(), usize::from(error), "{value}");
        let vars = [endpoint, ("OTEL_EXPORTER_OTLP_INSECURE", value)];
        let config = read(&vars).expect("no reason not to start");
        let metrics = config.export.metrics.expect("metrics");
        let scheme = if is_true { "http" } else { "https" };
        assert_eq!(metrics.endpoint.scheme_str(), Some(scheme), "{value}");
        assert_eq!(config.notices.len(), usize::from(error), "{value}");
    }
}

#[test]
fn otlp_is_taken_from_a_list_of_exporters() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
    for (value, wanted, error) in [
        ("otlp", true, 0),
        ("OTLP", true, 0),
        ("otlp,otlp", true, 0),
        (" otlp , ", true, 0),
        (",", true, 0),
        ("none", false, 0),
        ("none,none", false, 0),
        ("otlp,console", true, 1),
        ("prometheus, otlp", true, 1),
    ] {
        let config = read(&[endpoint, ("OTEL_METRICS_EXPORTER", value)]).expect(value);
        assert_eq!(config.export.metrics.is_some(), wanted, "{value}");
        assert!(config.export.traces.is_some(), "{value}");
        assert_eq!(config.notices.len(), error, "{value}");
    }
    for (value, wrong) in [
        ("console", "is an exporter that flowcar has not"),
        ("prometheus", "is an exporter that flowcar has not"),
        ("console,zipkin", "is an exporter that flowcar has not"),
        ("otlp,none", "has none beside others"),
        ("none,console", "has none beside others"),
        ("otpl", "is not known"),
        ("otlp,otpl", "is not known"),
    ] {
        let errors = read(&[endpoint, ("OTEL_TRACES_EXPORTER", value)]).expect_err(value);
        let line = format!("OTEL_TRACES_EXPORTER={value}: {wrong}; set it to otlp, or to none");
        assert_eq!(errors.to_string(), line);
    }
}

#[test]
fn log_records_are_sent_where_their_exporter_is_otlp_only() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
    let http = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    for (value, wanted) in [
        (None, false),
        (Some("none"), false),
        (Some(","), false),
        (Some("otlp"), true),
        (Some("otlp,console"), true),
    ] {
        let set = value.map(|value| ("OTEL_LOGS_EXPORTER", value));
        let settings: Vec<_> = [endpoint, http].into_iter().chain(set).collect();
        let config = read(&settings).expect("good settings");
        let url = config.export.logs.map(|target| target.url());
        let expected = wanted.then(|| "http://collector:4318/v1/logs".to_owned());
        assert_eq!(url, expected, "{value:?}");
    }
    // Their own endpoint is taken as it is; without one, the default.
    let on = ("OTEL_LOGS_EXPORTER", "otlp");
    let own = (
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
        "http://logs:4318/at/all",
    );
    let config = read(&[endpoint, http, on, own]).expect("good settings");
    let url = config.export.logs.expect("a target").url();
    assert_eq!(url, "http://logs:4318/at/all");
    assert!(read(&[on]).expect("settings").export.logs.is_none());
    let config = read(&[on]).expect("settings").with_default_endpoint();
    let url = config.export.logs.expect("a target").url();
    assert_eq!(url, "http://localhost:4317/");
    let off = ("OTEL_SDK_DISABLED", "true");
    let config = read(&[on, off]).expect("settings").with_default_endpoint();
    assert!(config.export.logs.is_none());
    // Off, a wrong setting of log records stops nothing, and is reported as one that changes nothing.
    let wrong = ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/json");
    let config = read(&[endpoint, wrong]).expect("settings");
    let [notice] = &config.notices[..] else {
        panic!("{:?}", config.notices)
    };
    let expected = "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL changes nothing: flowcar sends log records with OTEL_LOGS_EXPORTER=otlp only";
    assert_eq!(notice.to_string(), expected);
    read(&[endpoint, wrong, on]).expect_err("flowcar's own");
}

#[test]
fn malformed_resource_attributes_are_all_ignored() {
    for (value, wrong) in [
        ("a=1,b", "its 2nd part is not key=value"),
        ("a=1,=2", "its 2nd part has no key"),
        ("a=%FF,b=2", "its 1st part is not valid UTF-8"),
        (
            "a=1,b=50%",
            "its 2nd part has a % without two hexadecimal digits",
        ),
        (
            "a=1,%zz=2",
            "its 2nd part has a % without two hexadecimal digits",
        ),
        (
            "a=1,b=%2",
            "its 2nd part has a % without two hexadecimal digits",
        ),
    ] {
        let config = read(&[("OTEL_RESOURCE_ATTRIBUTES", value)]).expect("no reason not to start");
        assert_eq!(config.resource_attributes, [], "{value}");
        let [error] = &config.notices[..] else {
            panic!("{value}: {:?}", config.notices)
        };
        let start = format!("OTEL_RESOURCE_ATTRIBUTES is not used at all, because {wrong}");
        assert!(error.to_string().starts_with(&start), "{error}");
    }
    for (value, expected) in [
        ("a=1,b=2", &[("a", "1"), ("b", "2")][..]),
        (" a = 1 ,, b=2,", &[("a", "1"), ("b", "2")]),
        ("a=x%2Cy%3D%25", &[("a", "x,y=%")]),
        ("a%20b=1", &[("a b", "1")]),
        ("a=b=c", &[("a", "b=c")]),
        ("a=", &[("a", "")]),
        ("service.name=,a=1", &[("a", "1")]),
        ("service.name=shop", &[("service.name", "shop")]),
        (",", &[]),
    ] {
        let config = read(&[("OTEL_RESOURCE_ATTRIBUTES", value)]).expect(value);
        let found = config.resource_attributes.iter();
        let found: Vec<_> = found.map(|(key, value)| (&**key, &**value)).collect();
        assert_eq!(found, expected, "{value}");
        assert_eq!(config.notices, [], "{value}");
    }
}

/// Bytes that are no UTF-8, where wrong content stops nothing: discarded, counted as false, or an error only where it applies.
#[test]
fn raw_bytes_follow_the_rule_of_their_setting() {
    let read = |endpoint: &str, name: &str, value: &[u8]| {
        let set = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_bytes()),
            (name, value),
        ];
        let set = set.map(|(name, value)| (name.into(), OsStr::from_bytes(value).to_owned()));
        Config::from_vars_os(set, Shared::Ours)
    };
    let (http, https) = ("http://collector:4317", "https://collector:4317");
    for (endpoint, name, value, notice, error) in [
        (
            http,
            "OTEL_RESOURCE_ATTRIBUTES",
            &b"a=1,team=\xff"[..],
            "is not used at all, because its 2nd part is not valid UTF-8",
            "",
        ),
        (
            http,
            "OTEL_SDK_DISABLED",
            b"tr\xffue",
            "counts as false",
            "",
        ),
        (https, "HTTP_PROXY", b"http://pr\xffoxy:1", "", ""),
        (
            http,
            "HTTP_PROXY",
            b"http://pr\xffoxy:1",
            "",
            "has a character in its host",
        ),
        (http, "NO_PROXY", b"\xff", "", ""),
        (http, "OTEL_SERVICE_NAME", b"\xff", "", "is not valid UTF-8"),
        (http, "FLOWCAR_LOG", b"\xff", "", "is not valid UTF-8"),
    ] {
        match read(endpoint, name, value) {
            Ok(config) => {
                let notices = config.notices.iter().map(ToString::to_string);
                let notices = notices.collect::<Vec<_>>().join("\n");
                assert_eq!(error, "", "{name}");
                assert!(notices.contains(notice), "{name}: {notices}");
                assert_eq!(notices.is_empty(), notice.is_empty(), "{name}: {notices}");
                assert_eq!(config.resource_attributes, [], "{name}");
                assert!(config.export.metrics.is_some(), "{name}");
            }
            Err(errors) => {
                let errors = errors.to_string();
                assert!(!error.is_empty() && errors.contains(error), "{errors}");
            }
        }
    }
}

#[test]
fn timeout_of_zero_is_no_limit() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
    for (value, expected) in [
        ("0", None),
        ("00", None),
        ("1", Some(1)),
        ("2500", Some(2500)),
    ] {
        let config = read(&[endpoint, ("OTEL_EXPORTER_OTLP_TIMEOUT", value)]).expect(value);
        let expected = expected.map(Duration::from_millis);
        assert_eq!(config.export.metrics.expect("metrics").timeout, expected);
    }
    read(&[("OTEL_EXPORTER_OTLP_TIMEOUT", "-1")]).expect_err("no time");
}

#[test]
fn header_names_are_literal_and_values_are_decoded() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
    for (value, expected) in [
        ("a=1,b=2", &[("a", "1"), ("b", "2")][..]),
        ("x%2Dy=a%2Db", &[("x%2dy", "a-b")]),
        ("a=b=c==", &[("a", "b=c==")]),
        (" A = b c ", &[("a", "b c")]),
        ("a=", &[("a", "")]),
    ] {
        let config = read(&[endpoint, ("OTEL_EXPORTER_OTLP_HEADERS", value)]).expect(value);
        let headers = config.export.metrics.expect("metrics").headers;
        let found = headers.iter();
        let found: Vec<_> = found
            .map(|(name, value)| (name.as_str(), value.to_str().expect("a text")))
            .collect();
        assert_eq!(found, expected, "{value}");
    }
    for value in [
        "s3cret",
        "a=1,s3cret",
        "authorization: Bearer s3cret=",
        "Bearer s3cret==",
        "=s3cret",
        "a=s3cret%0Ab",
        "a=s3cret%FF",
        "content-length=s3cret",
        "Transfer-Encoding=s3cret",
    ] {
        let vars = [endpoint, ("OTEL_EXPORTER_OTLP_HEADERS", value)];
        let error = read(&vars).expect_err(value).to_string();
        assert!(
            error.starts_with("OTEL_EXPORTER_OTLP_HEADERS=(hidden): "),
            "{error}"
        );
        assert!(!error.contains("s3cret"), "{error}");
    }
}

#[test]
fn headers_are_read_from_a_file() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("headers");
    let name = path.to_str().expect("a path");
    let own = dir.path().join("own");
    std::fs::write(&own, "b=2").expect("a file");
    let own = own.to_str().expect("a path");
    std::fs::write(&path, "authorization=Bearer%20s3cret\r\n\nx-a=1, x-b=2\n").expect("a file");
    let vars = [
        endpoint,
        ("OTEL_EXPORTER_OTLP_HEADERS_FILE", name),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS_FILE", own),
    ];
    let export = read(&vars).expect("good settings").export;
    let files = [export.metrics, export.traces].map(|of| of.expect("a target").headers_file);
    assert_eq!(files, [Some(name.into()), Some(own.into())]);
    let headers = Headers::read(&path).expect("headers");
    let found = headers.iter();
    let found: Vec<_> = found
        .map(|(name, value)| (name.as_str(), value.to_str().expect("a text")))
        .collect();
    let expected = [
        ("authorization", "Bearer s3cret"),
        ("x-a", "1"),
        ("x-b", "2"),
    ];
    assert_eq!(found, expected);
    for (content, wrong) in [
        (
            &b"s3cret"[..],
            "is wrong: its 1st part is not name=value; write name=value on a line, the value percent-encoded",
        ),
        (
            b"a=1\nauthorization: Bearer s3cret=\n",
            "is wrong: its 2nd part has : behind a header's name; write = instead of :, and",
        ),
        (
            b"Authorization: Bearer s3cret\n",
            "is wrong: its 1st part has : behind a header's name; write = instead of :, and",
        ),
        (
            b"Bearer s3cret=\n",
            "is wrong: its 1st part does not begin with a header's name",
        ),
        (
            b"host=s3cret",
            "is wrong: \"host\" is set by flowcar; leave that header out",
        ),
        (
            b"# the s3cret\na=1\n",
            "has a line that begins with #, and comments are not allowed; take it out",
        ),
        (
            b"a=1\r\n  #b=s3cret\n",
            "has a line that begins with #, and comments are not allowed; take it out",
        ),
        (b"a=s3cret\xFF", "is not UTF-8"),
        (b"\n \n", "has no header in it"),
        (b"", "is empty"),
        (&[b'a'; 70_000], "has more than 65536 bytes"),
    ] {
        std::fs::write(&path, content).expect("a file");
        let error = read(&vars).expect_err(wrong).to_string();
        let start = format!("OTEL_EXPORTER_OTLP_HEADERS_FILE={name}: {wrong}");
        assert!(error.starts_with(&start), "{error}");
        assert!(!error.contains("s3cret"), "{error}");
    }
    // With a byte order mark, as some editors write it.
    std::fs::write(&path, b"\xEF\xBB\xBFx-a=1\n").expect("a file");
    let headers = Headers::read(&path).expect("headers");
    let names: Vec<_> = headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["x-a"]);
    let absent = [
        endpoint,
        ("OTEL_EXPORTER_OTLP_HEADERS_FILE", "/nowhere/headers"),
    ];
    let error = read(&absent).expect_err("no file").to_string();
    assert!(
        error.contains("=/nowhere/headers: cannot be read (No such file"),
        "{error}"
    );
}

#[test]
fn time_that_may_be_zero_is_a_number_of_milliseconds() {
    for (name, end) in [
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0 is no limit"),
        ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "0 is no limit"),
        ("FLOWCAR_SERIES_IDLE", "0 is never"),
        ("FLOWCAR_SPAN_INTERVAL", "0 is never"),
    ] {
        let logs = ("OTEL_LOGS_EXPORTER", "otlp");
        for value in ["-1", "10s", "1.5", "18446744073709551616"] {
            let error = read(&[logs, (name, value)]).expect_err(value).to_string();
            let start = format!("{name}={value}: is not a number of milliseconds; ");
            assert!(error.starts_with(&start) && error.ends_with(end), "{error}");
        }
        for value in ["0", "1"] {
            read(&[logs, (name, value)]).expect(value);
        }
    }
}

//! Every way in which a URL can be written, and what becomes of it.

use super::*;

fn read(text: &str, protocol: Protocol) -> Result<Endpoint, ParseError> {
    endpoint(text, protocol, false)
}

/// The URL for metrics below an endpoint for any signal.
fn below(text: &str) -> String {
    let endpoint = read(text, Protocol::HttpProtobuf).and_then(|of| of.below("/v1/metrics"));
    let endpoint = endpoint.unwrap_or_else(|wrong| panic!("{text}: {wrong:?}"));
    endpoint.uri.to_string()
}

#[test]
fn signal_path_comes_before_the_query() {
    for (text, expected) in [
        ("http://c:4318", "http://c:4318/v1/metrics"),
        ("http://c:4318/", "http://c:4318/v1/metrics"),
        ("http://c:4318//", "http://c:4318/v1/metrics"),
        ("http://c/base", "http://c/base/v1/metrics"),
        ("http://c/base/", "http://c/base/v1/metrics"),
        ("http://c/base?token=1", "http://c/base/v1/metrics?token=1"),
        ("http://c/base/?token=1", "http://c/base/v1/metrics?token=1"),
        ("http://c?token=1", "http://c/v1/metrics?token=1"),
        ("http://c/?token=1", "http://c/v1/metrics?token=1"),
        ("http://c/b?t=a/&u=/b/", "http://c/b/v1/metrics?t=a/&u=/b/"),
        ("http://c/b?t=a?b", "http://c/b/v1/metrics?t=a?b"),
        ("http://c/b?", "http://c/b/v1/metrics?"),
        (
            "http://c/a%2Fb?t=%2F%23",
            "http://c/a%2Fb/v1/metrics?t=%2F%23",
        ),
        ("http://c/b?mail=a@b", "http://c/b/v1/metrics?mail=a@b"),
        ("HTTPS://C:443/b", "https://C:443/b/v1/metrics"),
        ("http://[::1]:4318/b", "http://[::1]:4318/b/v1/metrics"),
        (
            "http://[fe80::1%25eth0]:4318/b?t=1",
            "http://[fe80::1]:4318/b/v1/metrics?t=1",
        ),
    ] {
        assert_eq!(below(text), expected, "{text}");
    }
}

#[test]
fn address_zone_is_used_locally_only() {
    for (text, zone, shown) in [
        (
            "http://[fe80::1%25lo]:4317",
            "lo",
            "http://[fe80::1%25lo]:4317/",
        ),
        (
            "http://[fe80::1%lo]:4317",
            "lo",
            "http://[fe80::1%25lo]:4317/",
        ),
        (
            "[fe80::1%25eth0.7]:4317",
            "eth0.7",
            "https://[fe80::1%25eth0.7]:4317/",
        ),
        (
            "http://[fe80::1%252]/?key=a",
            "2",
            "http://[fe80::1%252]/?(hidden)",
        ),
    ] {
        let endpoint = read(text, Protocol::Grpc).expect(text);
        assert_eq!(endpoint.zone.as_deref(), Some(zone), "{text}");
        assert!(!endpoint.uri.to_string().contains('%'), "{text}");
        assert_eq!(super::shown(&endpoint.uri, Some(zone)), shown);
    }
}

#[test]
fn malformed_url_error_names_the_cause() {
    for (text, wrong) in [
        ("http://c:99999", "has a port that is not one of 1 to 65535"),
        ("http://c:65536", "has a port that is not one of 1 to 65535"),
        ("http://c:0", "has a port that is not one of 1 to 65535"),
        ("http://c:00000", "has a port that is not one of 1 to 65535"),
        (
            "http://c:99999999999999999999",
            "has a port that is not one of 1 to 65535",
        ),
        (
            "http://[::1]:99999",
            "has a port that is not one of 1 to 65535",
        ),
        ("http://c:", "has a : and no port behind it"),
        ("http://c:/b", "has a : and no port behind it"),
        ("http://[::1]:", "has a : and no port behind it"),
        ("http://c:http", "has a port that is not a number"),
        ("http://c:+80", "has a port that is not a number"),
        ("http://c:-1", "has a port that is not a number"),
        ("http://c:80a", "has a port that is not a number"),
        ("http://c:0x50", "has a port that is not a number"),
        ("http://", "has no host"),
        ("http:///b", "has no host"),
        ("http://:4317", "has no host"),
        ("http://?t=1", "has no host"),
        ("http://::1", "has more than one : in its host"),
        ("http://::1:4317", "has more than one : in its host"),
        ("http://c:4317:4317", "has more than one : in its host"),
        ("http://[::1", "has a [ without its ]"),
        (
            "http://[]:4317",
            "has something else than an IPv6 address between [ and ]",
        ),
        (
            "http://[c]:4317",
            "has something else than an IPv6 address between [ and ]",
        ),
        (
            "http://[10.0.0.1]",
            "has something else than an IPv6 address between [ and ]",
        ),
        (
            "http://[::1]4317",
            "has something else than :port behind its ]",
        ),
        (
            "http://[fe80::1%25]:4317",
            "has no interface's name behind the %",
        ),
        (
            "http://[fe80::1%]:4317",
            "has no interface's name behind the %",
        ),
        (
            "http://[fe80::1%25a%25b]:4317",
            "has no interface's name behind the %",
        ),
        ("http://c%2Ed:4317", "has a character in its host"),
        ("http://c*d", "has a character in its host"),
        ("http://\\c", "has a character in its host"),
        (
            "http://sammler.köln:4317",
            "has characters that are not ASCII",
        ),
        ("http://c/b?t=ü", "has characters that are not ASCII"),
        (
            "http://c d:4317",
            "has a space or a control character in it",
        ),
        (
            "http://c\n:4317",
            "has a space or a control character in it",
        ),
        ("http://c/b#part", "has a fragment"),
        ("http://c/b?t=a#b", "has a fragment"),
        ("http://c#", "has a fragment"),
        ("http://u@c:4317", "has a user in it"),
        ("http://u:p@c:4317", "has a user in it"),
        ("http://@c:4317", "has a user in it"),
        ("ftp://c", "does not begin with http:// or https://"),
        ("grpc://c:4317", "does not begin with http:// or https://"),
        ("dns:///c:4317", "does not begin with http:// or https://"),
        ("://c", "does not begin with http:// or https://"),
    ] {
        for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
            let error = read(text, protocol).expect_err(text);
            assert!(error.wrong.starts_with(wrong), "{text}: {error:?}");
            assert!(!error.remedy.is_empty(), "{text}");
        }
    }
    for text in [
        "c",
        "c:4318",
        "localhost:4318/b",
        "http:/c",
        "http:c",
        "[::1]:4318",
        "",
    ] {
        let error = read(text, Protocol::HttpProtobuf).expect_err(text);
        assert_eq!(
            error.wrong, "does not begin with http:// or https://",
            "{text}"
        );
    }
    for (text, wrong) in [
        ("http:/c", "has a : and no port behind it"),
        ("http:c", "has a port that is not a number"),
        (":4317", "has no host"),
        ("", "has no host"),
        ("s3cr3tK3yZq9Xw", "has neither a scheme nor a port"),
        ("s3cr3tK3yZq9Xw/", "has neither a scheme nor a port"),
        (
            "a-key-of-letters-alone-that-no-label-is-as-long-as",
            "has neither a scheme nor a port",
        ),
        ("http//user:secret@c", "has a path and no scheme"),
        ("http//c:4317", "has a path and no scheme"),
        ("https//", "has a path and no scheme"),
        ("c:4317/secret", "has a path and no scheme"),
        ("c:4317?secret", "has a path and no scheme"),
        ("[::1]/secret", "has a path and no scheme"),
    ] {
        let error = read(text, Protocol::Grpc).expect_err(text);
        assert_eq!(error.wrong, wrong, "{text}");
    }
    let long = format!("unix:///{}", "s".repeat(107));
    for text in ["unix:", "unix://", "unix:c.sock", "unix://c.sock", &long] {
        let error = read(text, Protocol::Grpc).expect_err(text);
        assert!(error.wrong.starts_with("has "), "{error:?}");
        assert!(error.remedy.contains("unix:///run/"), "{error:?}");
    }
}

#[test]
fn without_a_scheme_grpc_is_https() {
    for (text, insecure, expected) in [
        ("c:4317", false, "https://c:4317/"),
        ("c:4317", true, "http://c:4317/"),
        ("c", false, "https://c/"),
        ("c/", false, "https://c/"),
        ("c1:4317/", false, "https://c1:4317/"),
        ("collector2", false, "https://collector2/"),
        (
            "otel-collector.observability.svc.cluster.local",
            false,
            "https://otel-collector.observability.svc.cluster.local/",
        ),
        (
            "otlp.eu-west-1.example",
            false,
            "https://otlp.eu-west-1.example/",
        ),
        ("[::1]:4317", true, "http://[::1]:4317/"),
        ("http://c:4317", false, "http://c:4317/"),
        ("https://c:4317", true, "https://c:4317/"),
        ("c_1.example.", false, "https://c_1.example./"),
    ] {
        let endpoint = endpoint(text, Protocol::Grpc, insecure).expect(text);
        assert_eq!(endpoint.uri.to_string(), expected, "{text}");
    }
}

#[test]
fn key_in_a_path_is_not_shown() {
    for (text, expected) in [
        ("http://c:4318", "http://c:4318/"),
        ("http://c/base/v1/metrics", "http://c/base/v1/metrics"),
        ("http://c/otlp-http_2/v1", "http://c/otlp-http_2/v1"),
        (
            "http://c/api/v1/namespaces/o/services/c:4318/proxy",
            "http://c/api/v1/namespaces/o/services/c:4318/proxy",
        ),
        ("http://c/user:s3cret@x", "http://c/(hidden)"),
        ("http://c/v1/s3cr3tK3yZq9Xw", "http://c/v1/(hidden)"),
        (
            "http://c/key=s3cret/v1?a=b",
            "http://c/(hidden)/v1?(hidden)",
        ),
        ("http://c/v1;jsessionid=s3cret", "http://c/(hidden)"),
        (
            "http://c/b5f6a2d0-94a1-4d5b-9c6f-0f8a7c1e2d3b",
            "http://c/(hidden)",
        ),
    ] {
        let endpoint = read(text, Protocol::HttpProtobuf).expect(text);
        assert_eq!(shown(&endpoint.uri, None), expected);
    }
}

#[test]
fn possible_secret_is_not_shown() {
    for (text, expected) in [
        ("ftp://collector:4317/base", "ftp://collector:4317/base"),
        ("collector:99999", "collector:99999"),
        ("http://[fe80::1%25lo]:0", "http://[fe80::1%25lo]:0"),
        ("http://c:0/b?key=s3cret", "http://c:0/b?(hidden)"),
        ("http://c/b#s3cret", "http://c/b#(hidden)"),
        ("http://u:s3cret@c", "(hidden)"),
        // The user's part of a URL ends at the first of these, whatever was meant.
        ("http://u:s3/cret@c", "(hidden)"),
        ("http://u:s3?cret@c", "(hidden)"),
        ("http://u:s3#cret@c", "(hidden)"),
        ("http://u:s3cret", "(hidden)"),
        ("u:s3cret@c:4317", "(hidden)"),
        ("authorization=s3cret", "(hidden)"),
        ("Bearer s3cret", "(hidden)"),
        ("-----BEGIN PRIVATE KEY-----\ns3cret", "(hidden)"),
    ] {
        assert_eq!(shown_text(text), expected);
    }
    assert_eq!(shown_text(&"s3cret".repeat(100)), "(hidden)");
}

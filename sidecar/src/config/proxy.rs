//! `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, read as curl and Go's programs read them.

use std::{fmt, net::IpAddr};

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;

use super::{
    endpoint::{self, Endpoint},
    error::ParseError,
    reader::Reader,
    settings,
};

/// The HTTP proxy that the connections to a receiver go through.
#[derive(Clone, PartialEq)]
pub struct Proxy {
    /// Its name or address; IPv6 without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The credentials that are sent to it (RFC 7617); secret.
    pub authorization: Option<HeaderValue>,
    /// The variable that names it.
    pub variable: String,
}

impl fmt::Display for Proxy {
    /// Without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        if host.contains(':') {
            write!(f, "http://[{host}]:{port}")
        } else {
            write!(f, "http://{host}:{port}")
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({})", self.variable)
    }
}

/// The proxy for `endpoint`, by its scheme. This host is always reached without one, as in Go.
pub(super) fn proxy(endpoint: &Endpoint, reader: &mut Reader) -> Option<Proxy> {
    let own = if endpoint.uri.scheme_str() == Some("https") {
        &settings::HTTPS_PROXY
    } else {
        &settings::HTTP_PROXY
    };
    let mut set = [own, &settings::ALL_PROXY].into_iter();
    let (setting, variable) = set.find_map(|of| Some((of, reader.find(of)?)))?;
    if endpoint.socket.is_some() || endpoint.zone.is_some() || is_this_host(&endpoint.uri) {
        return None;
    }
    let no = reader.read(&settings::NO_PROXY).unwrap_or_default();
    let uri = without_trailing_dot(&endpoint.uri);
    let exempt = exempt(&no, &uri)?;
    match parse(&variable.value) {
        Ok(url) => {
            let matcher = Matcher::builder().all(url).no(exempt).build();
            let found = matcher.intercept(&uri)?;
            let uri = found.uri();
            let host = uri.host().unwrap_or_default();
            Some(Proxy {
                host: host.trim_matches(['[', ']']).to_owned(),
                port: uri.port_u16().unwrap_or(80),
                authorization: found.basic_auth().cloned(),
                variable: variable.name.to_owned(),
            })
        }
        // A proxy that is not used here may be wrong.
        Err(wrong) if is_used(&uri, exempt) => {
            reader.error(setting, wrong);
            None
        }
        Err(_) => None,
    }
}

fn is_used(uri: &Uri, exempt: String) -> bool {
    let any = Matcher::builder().all("http://proxy:1").no(exempt).build();
    any.intercept(uri).is_some()
}

/// The same with the host's name as `NO_PROXY` has it: `collector.` is `collector`.
fn without_trailing_dot(uri: &Uri) -> Uri {
    let host = uri.host().unwrap_or_default();
    let port = uri.port().map(|port| format!(":{port}"));
    let authority = format!("{}{}", host.trim_end_matches('.'), port.unwrap_or_default());
    let mut parts = uri.clone().into_parts();
    parts.authority = authority.parse().ok().or(parts.authority);
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

/// Whether the host is this one by its name or address.
pub(super) fn is_this_host(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    let host = host.trim_matches(['[', ']']).trim_end_matches('.');
    let address = host.parse::<IpAddr>();
    address.map_or(host.eq_ignore_ascii_case("localhost"), |address| {
        address.to_canonical().is_loopback()
    })
}

/// The entries of `NO_PROXY` that may apply to `uri`, as the matcher takes them; none if every host is exempt. An entry with a
/// port applies to that port, `*.example.org` is `.example.org`.
fn exempt(no: &str, uri: &Uri) -> Option<String> {
    let default = if uri.scheme_str() == Some("https") {
        443
    } else {
        80
    };
    let port = uri.port_u16().unwrap_or(default);
    let mut entries = Vec::new();
    for entry in no.split(|c: char| c == ',' || c.is_whitespace()) {
        if entry == "*" {
            return None;
        }
        let entry = entry.strip_prefix('*').unwrap_or(entry);
        // More than one colon without brackets is an IPv6 address.
        let (host, of) = match entry.rsplit_once(':') {
            Some((host, of)) if !host.contains(':') || host.ends_with(']') => (host, Some(of)),
            _ => (entry, None),
        };
        if of.is_none_or(|of| of.parse() == Ok(port)) {
            entries.push(host.trim_matches(['[', ']']).trim_end_matches('.'));
        }
    }
    Some(entries.join(","))
}

/// The proxy's URL, if flowcar supports it.
fn parse(text: &str) -> Result<String, ParseError> {
    const REMEDY: &str =
        "set it to http://proxy:3128, for example, or name the receiver's host in NO_PROXY";
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    if scheme.eq_ignore_ascii_case("https") {
        let wrong = "is a proxy behind TLS, which flowcar does not support";
        return Err(ParseError::new(wrong, REMEDY));
    }
    if !scheme.eq_ignore_ascii_case("http") {
        let wrong = "is not an HTTP proxy, the only kind that flowcar supports";
        return Err(ParseError::new(wrong, REMEDY));
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (user, host) = match authority.rsplit_once('@') {
        // The password may have an @, too.
        Some((user, host)) => (format!("{}@", user.replace('@', "%40")), host),
        None => (String::new(), authority),
    };
    let host = endpoint::split(host).map_err(|wrong| ParseError::new(wrong, REMEDY))?;
    if host.zone.is_some() {
        return Err(ParseError::new(
            "has an interface's name in its host",
            REMEDY,
        ));
    }
    let url = format!("http://{user}{host}");
    url.parse::<Uri>()
        .map_err(|error| endpoint::not_a_url(&error))?;
    Ok(url)
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, ConfigErrors, Target};

    fn target(endpoint: &str, vars: &[(&str, &str)]) -> Result<Target, ConfigErrors> {
        let endpoint = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)];
        let vars = endpoint.iter().chain(vars);
        let vars = vars.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Ok(Config::from_vars(vars)?.export.metrics.expect("a target"))
    }

    fn proxy(endpoint: &str, vars: &[(&str, &str)]) -> Option<String> {
        let proxy = target(endpoint, vars).expect("good settings").proxy;
        proxy.map(|proxy| proxy.to_string())
    }

    #[test]
    fn endpoint_scheme_selects_the_proxy_variable() {
        let both = [("HTTP_PROXY", "http://a:1"), ("HTTPS_PROXY", "http://b:2")];
        for (endpoint, expected) in [
            ("http://c:4317", Some("http://a:1")),
            ("https://c:4317", Some("http://b:2")),
            ("c:4317", Some("http://b:2")),
            // This host.
            ("http://localhost:4317", None),
            ("http://LOCALHOST.:4317", None),
            ("http://127.0.0.1:4317", None),
            ("http://127.9.9.9:4317", None),
            ("http://[::1]:4317", None),
            ("http://[::ffff:127.0.0.1]:4317", None),
            ("http://[fe80::1%25eth0]:4317", None),
            ("unix:///run/c.sock", None),
        ] {
            assert_eq!(proxy(endpoint, &both).as_deref(), expected, "{endpoint}");
        }
        for (vars, expected) in [
            (&[("HTTPS_PROXY", "http://b:2")][..], None),
            (&[("ALL_PROXY", "http://d:4")], Some("http://d:4")),
            (
                &[("HTTP_PROXY", "http://a:1"), ("ALL_PROXY", "http://d:4")],
                Some("http://a:1"),
            ),
            (&[("http_proxy", "http://e:5")], Some("http://e:5")),
            (
                &[("HTTP_PROXY", "http://a:1"), ("http_proxy", "http://e:5")],
                Some("http://a:1"),
            ),
            (
                &[("HTTP_PROXY", " "), ("http_proxy", "http://e:5")],
                Some("http://e:5"),
            ),
            (&[("HTTP_PROXY", "a:1")], Some("http://a:1")),
            (&[("HTTP_PROXY", "http://a")], Some("http://a:80")),
            (&[("HTTP_PROXY", "http://a:1/")], Some("http://a:1")),
            (
                &[("HTTP_PROXY", "http://[fd00::1]:3128")],
                Some("http://[fd00::1]:3128"),
            ),
            (&[("HTTP_PROXY", "http://a:1"), ("no_proxy", "c")], None),
        ] {
            assert_eq!(
                proxy("http://c:4317", vars).as_deref(),
                expected,
                "{vars:?}"
            );
        }
    }

    #[test]
    fn no_proxy_exempts_hosts() {
        for (endpoint, no, exempt) in [
            ("http://c.example.org:4317", "example.org", true),
            ("http://c.example.org:4317", ".example.org", true),
            ("http://c.example.org:4317", "*.example.org", true),
            ("http://c.example.org:4317", "C.EXAMPLE.ORG", true),
            ("http://c.example.org:4317", "other, c.example.org", true),
            ("http://c.example.org:4317", "other c.example.org", true),
            ("http://c.example.org:4317", "*", true),
            ("http://10.1.2.3:4317", "*", true),
            ("http://c.example.org:4317", "c.example.org:4317", true),
            ("http://c.example.org:4317", "c.example.org:4318", false),
            ("http://c.example.org", "c.example.org:80", true),
            ("https://c.example.org", "c.example.org:443", true),
            ("http://cexample.org:4317", "example.org", false),
            ("http://example.org.evil:4317", "example.org", false),
            (
                "http://c.observability.svc.cluster.local:4317",
                ".svc,.cluster.local",
                true,
            ),
            ("http://10.1.2.3:4317", "10.1.2.3", true),
            ("http://10.1.2.3:4317", "10.0.0.0/8", true),
            ("http://11.1.2.3:4317", "10.0.0.0/8", false),
            ("http://10.1.2.3:4317", "10.1.2.3:4317", true),
            ("http://10.1.2.3:4317", "10.1.2.3:1", false),
            ("http://[fd00::1]:4317", "fd00::1", true),
            ("http://[fd00::1]:4317", "[fd00::1]", true),
            ("http://[fd00::1]:4317", "[fd00::1]:4317", true),
            ("http://[fd00::1]:4317", "[fd00::1]:1", false),
            ("http://[fd00::1]:4317", "fd00::/8", true),
            ("http://[fe00::1]:4317", "fd00::/8", false),
            // With a dot behind it a name is the same.
            (
                "http://c.o.svc.cluster.local.:4317",
                ".svc,.cluster.local",
                true,
            ),
            ("http://c.example.org.:4317", "c.example.org", true),
            ("http://c.example.org.:4317", "c.example.org.:4317", true),
            ("http://c.example.org.:4317", "c.example.org:4318", false),
            ("https://c.example.org.", "c.example.org:443", true),
            ("http://c.example.org.:4317", "example.com", false),
        ] {
            let vars = [("ALL_PROXY", "http://proxy:3128"), ("NO_PROXY", no)];
            assert_eq!(proxy(endpoint, &vars).is_none(), exempt, "{endpoint}, {no}");
        }
    }

    #[test]
    fn proxy_credentials_are_sent_and_never_shown() {
        // RFC 7617's own example, percent-encoded for a URL; and passwords with an @, encoded or not.
        for (user, expected) in [
            ("Aladdin:open%20sesame", "QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
            ("user:p%40sesame", "dXNlcjpwQHNlc2FtZQ=="),
            ("user:p@sesame", "dXNlcjpwQHNlc2FtZQ=="),
            ("user:@sesame@", "dXNlcjpAc2VzYW1lQA=="),
            ("me@home:sesame", "bWVAaG9tZTpzZXNhbWU="),
        ] {
            let value = format!("http://{user}@proxy:3128");
            let target = target("https://c:4317", &[("HTTPS_PROXY", &value)]).expect(user);
            let proxy = target.proxy.as_ref().expect("a proxy");
            assert_eq!((&*proxy.host, proxy.port), ("proxy", 3128), "{user}");
            let sent = proxy.authorization.as_ref().expect("credentials");
            assert_eq!(sent, &*format!("Basic {expected}"), "{user}");
            let shown = format!("{proxy} {proxy:?} {target:?}");
            assert!(
                !shown.contains("sesame") && !shown.contains(expected),
                "{shown}"
            );
        }
    }

    #[test]
    fn unusable_proxy_is_an_error_where_it_applies() {
        for (value, wrong) in [
            ("https://proxy:3128", "is a proxy behind TLS"),
            ("socks5://proxy:1080", "is not an HTTP proxy"),
            (
                "http://proxy:99999",
                "has a port that is not one of 1 to 65535",
            ),
            ("http://proxy:", "has a : and no port behind it"),
            ("http://", "has no host"),
            ("http://u:s3cret@", "has no host"),
            (
                "http://u:s3cret@proxy:0",
                "has a port that is not one of 1 to 65535",
            ),
            ("http://u:s3 cret@proxy:1", "is not a URL"),
        ] {
            let vars = [("HTTP_PROXY", value)];
            let error = target("http://c:4317", &vars).expect_err(value).to_string();
            assert!(error.starts_with("HTTP_PROXY="), "{error}");
            assert!(error.contains(&format!(": {wrong}")), "{error}");
            assert!(!error.contains("s3"), "{error}");
            for endpoint in ["http://localhost:4317", "https://c:4317"] {
                assert_eq!(proxy(endpoint, &vars), None, "{value}");
            }
            assert_eq!(proxy("http://c:4317", &[vars[0], ("NO_PROXY", "c")]), None);
        }
    }
}

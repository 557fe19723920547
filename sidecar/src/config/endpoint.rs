//! A receiver's URL: which part is dialled, which is sent, and which may be shown (RFC 3986, RFC 6874).

use std::{fmt, net::Ipv6Addr, path::PathBuf};

use http::{Uri, uri::PathAndQuery};

use super::{error::ParseError, signal::Protocol};

/// The longest path that a Unix-domain socket's address has room for, in bytes (unix(7): 108 with a NUL).
const LONGEST_SOCKET: usize = 107;

/// Longer texts without a scheme or a port are not shown, and none with a digit in its only label: no label of a host's name is longer in
/// practice, and keys have digits.
const LONGEST_NAME: usize = 32;

/// Words of letters and digits that are as long may be keys.
const LEAST_KEY: usize = 12;

/// Longer texts are not shown: keys are long.
const LONGEST_SHOWN: usize = 200;

/// A URL, taken apart.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Endpoint {
    /// The URL of requests: scheme, host without a zone, path and query.
    pub(super) uri: Uri,
    /// The interface that a link-local IPv6 address is on.
    pub(super) zone: Option<String>,
    /// The Unix-domain socket, for `unix:///path`.
    pub(super) socket: Option<PathBuf>,
}

/// Host, zone and port of a URL.
pub(super) struct Authority<'a> {
    /// A name or an address, without brackets.
    pub(super) host: &'a str,
    /// Whether it is an IPv6 address, which URLs have in brackets.
    pub(super) is_v6: bool,
    pub(super) zone: Option<&'a str>,
    pub(super) port: Option<u16>,
}

/// Parses a receiver's URL. The scheme may be missing with gRPC only: then it is https, or http if `insecure`, and there is no path.
/// A key that was pasted here is nobody's name: without a port it is refused.
pub(super) fn endpoint(
    text: &str,
    protocol: Protocol,
    insecure: bool,
) -> Result<Endpoint, ParseError> {
    if let Some(path) = socket(text) {
        return on_socket(path);
    }
    let example = || format!("set it to {}, for example", protocol.default_endpoint());
    let (scheme, rest) = match (text.split_once("://"), protocol) {
        (Some((scheme, rest)), _) => (scheme, rest),
        (None, Protocol::Grpc) if insecure => ("http", text),
        (None, Protocol::Grpc) => ("https", text),
        (None, Protocol::HttpProtobuf) => ("", text),
    };
    if !["http", "https"]
        .iter()
        .any(|known| known.eq_ignore_ascii_case(scheme))
    {
        return Err(ParseError::new(
            "does not begin with http:// or https://",
            example(),
        ));
    }
    if !text.is_ascii() {
        return Err(ParseError::new(
            "has characters that are not ASCII",
            "write the host in Punycode (xn--...), and percent-encode the rest",
        ));
    }
    if text.contains(|c: char| c.is_ascii_whitespace() || c.is_ascii_control()) {
        return Err(ParseError::new(
            "has a space or a control character in it",
            "percent-encode it, or take it out",
        ));
    }
    if rest.contains('#') {
        return Err(ParseError::new(
            "has a fragment (what follows #), which HTTP never sends",
            "take it out, or write # as %23 if it belongs to the query",
        ));
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if authority.contains('@') {
        let remedy = "take it out, and send the credentials in OTEL_EXPORTER_OTLP_HEADERS";
        return Err(ParseError::new("has a user in it", remedy));
    }
    let authority = split(authority).map_err(|wrong| ParseError::new(wrong, example()))?;
    if !text.contains("://") {
        if authority.port.is_none() && !authority.is_v6 && host_may_be_key(authority.host) {
            return Err(ParseError::new(
                "has neither a scheme nor a port",
                example(),
            ));
        }
        if !matches!(path, "" | "/") {
            return Err(ParseError::new("has a path and no scheme", example()));
        }
    }
    Ok(Endpoint {
        uri: format!("{scheme}://{authority}{path}")
            .parse()
            .map_err(|error| not_a_url(&error))?,
        zone: authority.zone.map(str::to_owned),
        socket: None,
    })
}

/// Host, zone and port of `host:port`, `[address]:port` or `[address%25zone]:port`.
pub(super) fn split(authority: &str) -> Result<Authority<'_>, &'static str> {
    if let Some(inside) = authority.strip_prefix('[') {
        let (inside, rest) = inside.split_once(']').ok_or("has a [ without its ]")?;
        // RFC 6874 writes % as %25; people, and curl, also write it plainly.
        let (host, zone) = match inside.split_once('%') {
            Some((host, zone)) => (host, Some(zone.strip_prefix("25").unwrap_or(zone))),
            None => (inside, None),
        };
        if host.parse::<Ipv6Addr>().is_err() {
            return Err("has something else than an IPv6 address between [ and ]");
        }
        if zone.is_some_and(|zone| !is_name(zone)) {
            return Err("has no interface's name behind the % of its IPv6 address");
        }
        return Ok(Authority {
            host,
            is_v6: true,
            zone,
            port: port(rest)?,
        });
    }
    let (host, rest) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
    if rest.matches(':').count() > 1 {
        return Err("has more than one : in its host (an IPv6 address belongs in [ ])");
    }
    if host.is_empty() {
        return Err("has no host");
    }
    if !is_name(host) {
        return Err("has a character in its host that no host's name has");
    }
    Ok(Authority {
        host,
        is_v6: false,
        zone: None,
        port: port(rest)?,
    })
}

/// Whether these are the characters of the names of hosts and interfaces; `_` is in the names of many services.
fn is_name(text: &str) -> bool {
    let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    !text.is_empty() && text.chars().all(named)
}

impl fmt::Display for Authority<'_> {
    /// As requests have it: without the zone, which means nothing to the other end (RFC 6874, 4).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_v6 {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(self.host)?;
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// The port in `:port`; none in nothing.
fn port(rest: &str) -> Result<Option<u16>, &'static str> {
    let Some(digits) = rest.strip_prefix(':') else {
        return if rest.is_empty() {
            Ok(None)
        } else {
            Err("has something else than :port behind its ]")
        };
    };
    if digits.is_empty() {
        return Err("has a : and no port behind it");
    }
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err("has a port that is not a number");
    }
    match digits.parse::<u16>() {
        Ok(0) | Err(_) => Err("has a port that is not one of 1 to 65535"),
        Ok(port) => Ok(Some(port)),
    }
}

/// The path in `unix:///path` or `unix:/path` (gRPC's naming of Unix-domain sockets).
fn socket(text: &str) -> Option<PathBuf> {
    let path = text.strip_prefix("unix:")?;
    let path = path.strip_prefix("//").unwrap_or(path);
    Some(PathBuf::from(path))
}

fn on_socket(path: PathBuf) -> Result<Endpoint, ParseError> {
    let example = "set it to unix:///run/collector.sock, for example";
    if !path.is_absolute() {
        return Err(ParseError::new("has no absolute path", example));
    }
    if path.as_os_str().len() > LONGEST_SOCKET {
        let wrong =
            format!("has a path of more than {LONGEST_SOCKET} bytes, which no socket can have");
        return Err(ParseError::new(wrong, example));
    }
    Ok(Endpoint {
        uri: Uri::from_static("http://localhost"),
        zone: None,
        socket: Some(path),
    })
}

impl Endpoint {
    /// Its scheme, host and port.
    pub(super) fn without_path(self) -> Self {
        let mut parts = self.uri.clone().into_parts();
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
        Self {
            uri: Uri::from_parts(parts).unwrap_or(self.uri),
            ..self
        }
    }

    /// The signal's URL below this one: its path behind this one's, its query last.
    pub(super) fn below(self, path: &str) -> Result<Self, ParseError> {
        let text = self.uri.to_string();
        let (base, query) = text.split_at(text.find('?').unwrap_or(text.len()));
        let uri = format!("{}{path}{query}", base.trim_end_matches('/'));
        Ok(Self {
            uri: uri.parse().map_err(|error| not_a_url(&error))?,
            ..self
        })
    }
}

/// A URL for people: its query, which may be a key, and what may be one in its path are hidden.
pub(super) fn shown(uri: &Uri, zone: Option<&str>) -> String {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let authority = match zone {
        Some(zone) => authority.replacen(']', &format!("%25{zone}]"), 1),
        None => authority.to_owned(),
    };
    let scheme = uri.scheme_str().unwrap_or_default();
    let path = shown_path(uri.path());
    let query = uri.query().map_or("", |_| "?(hidden)");
    format!("{scheme}://{authority}{path}{query}")
}

/// A URL's path for people. Some receivers have a key in it: segments that may be one are hidden, and so are parameters of a segment (RFC
/// 3986 section 3.3) and what was meant as a user's part.
pub fn shown_path(path: &str) -> String {
    let segments = path.split('/').map(|segment| match may_be_secret(segment) {
        true => "(hidden)",
        false => segment,
    });
    segments.collect::<Vec<_>>().join("/")
}

fn may_be_secret(segment: &str) -> bool {
    let is_one_word = !segment.contains(['-', '_', '.']);
    let is_mixed = segment.contains(|c: char| c.is_ascii_digit())
        && segment.contains(|c: char| c.is_ascii_alphabetic());
    segment.len() > LONGEST_NAME
        || segment.contains(['@', '=', ';', ','])
        || (segment.len() >= LEAST_KEY && is_one_word && is_mixed)
}

/// A text that is to be a URL, for people; hidden as far as it may be a secret.
pub(super) fn shown_text(text: &str) -> String {
    let hidden = "(hidden)";
    let (before, end) = match text.find(['?', '#']) {
        Some(at) => (&text[..at], format!("{}{hidden}", &text[at..=at])),
        None => (text, String::new()),
    };
    let after_scheme = before.split_once("://").map_or(before, |(_, rest)| rest);
    let authority = after_scheme.split('/').next().unwrap_or_default();
    let behind = authority
        .rsplit_once(']')
        .map_or(authority, |(_, rest)| rest);
    let port = behind.rsplit_once(':').map_or("", |(_, port)| port);
    // Without the @, `name:password` has the form of `host:port`.
    let plain_port = port.bytes().all(|byte| byte.is_ascii_digit());
    let odd = |c: char| matches!(c, '@' | '=' | ',') || c.is_whitespace() || c.is_control();
    let token = !text.contains("://") && port.is_empty() && may_be_key(text);
    if token
        || text.contains('@')
        || before.contains(odd)
        || !plain_port
        || before.len() > LONGEST_SHOWN
    {
        return hidden.to_owned();
    }
    format!("{before}{end}")
}

/// Whether a host without a scheme and a port may be a key: a part of it is long, or it is one word of letters and digits.
fn host_may_be_key(host: &str) -> bool {
    host.split('.').any(|label| label.len() > LONGEST_NAME)
        || (!host.contains('.') && may_be_secret(host))
}

/// Whether a text without a scheme and a port may be a key: it is long, or has no dot and a digit.
fn may_be_key(text: &str) -> bool {
    text.len() > LONGEST_NAME || !text.contains('.') && text.contains(|c: char| c.is_ascii_digit())
}

pub(super) fn not_a_url(error: &http::uri::InvalidUri) -> ParseError {
    let wrong = format!("is not a URL ({error})");
    ParseError::new(wrong, "set it to http://collector:4317, for example")
}

#[cfg(test)]
mod tests;

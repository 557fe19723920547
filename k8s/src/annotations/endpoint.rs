//! Endpoints, as strictly as the sidecar reads them (`sidecar/src/config/endpoint.rs`): one that it refuses ends it.
//! `tests/tests/k8s_contract.rs` compares the two.

use std::net::Ipv6Addr;

/// The sidecar's own variables that an endpoint may refer to, as `$(NAME)`; the kubelet fills them in.
pub(crate) const REFERENCES: [&str; 3] = [
    "FLOWCAR_HOST_IP",
    "FLOWCAR_NODE_NAME",
    "FLOWCAR_POD_NAMESPACE",
];

/// The longest path that a Unix-domain socket's address has room for, in bytes (unix(7): 108 with a NUL).
pub(crate) const LONGEST_SOCKET: usize = 107;

/// The longest endpoint, in characters.
const LONGEST: usize = 2048;

/// The path of a `unix:///path` endpoint.
pub(crate) fn socket_path(endpoint: &str) -> Option<&str> {
    endpoint
        .strip_prefix("unix://")
        .filter(|path| path.starts_with('/'))
}

/// The endpoint with a value for each reference: an IPv6 address in brackets, an IPv4 address elsewhere.
pub(super) fn with_values(endpoint: &str) -> String {
    let endpoint = endpoint.replace("[$(FLOWCAR_HOST_IP)]", "[fd00::1]");
    let endpoint = endpoint.replace("$(FLOWCAR_HOST_IP)", "192.0.2.1");
    REFERENCES.iter().fold(endpoint, |text, name| {
        text.replace(&format!("$({name})"), "name")
    })
}

/// Whether the sidecar takes it, and finds the socket where it is one.
pub(super) fn is_endpoint(value: &str) -> bool {
    if value.chars().count() > LONGEST {
        return false;
    }
    if let Some(path) = socket_path(value) {
        return is_socket_path(path);
    }
    let value = with_values(value);
    // Any other reference would reach the sidecar as it is written.
    if value.contains("$(") {
        return false;
    }
    is_url(&value)
}

/// A path whose directory can be mounted: absolute, without `..`, and in a directory that is not the root.
fn is_socket_path(path: &str) -> bool {
    let parts: Vec<_> = path.split('/').skip(1).collect();
    let is_part = |part: &&str| {
        let is_refused = |c: char| matches!(c, ':' | '$') || c.is_whitespace() || c.is_control();
        !matches!(*part, "" | "." | "..") && !part.contains(is_refused)
    };
    path.len() <= LONGEST_SOCKET
        && parts.len() >= 2
        && parts.iter().all(is_part)
        && !matches!(parts[0], "proc" | "sys" | "dev")
}

fn is_url(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else {
        return false;
    };
    let is_http = ["http", "https"]
        .iter()
        .any(|known| known.eq_ignore_ascii_case(scheme));
    // HTTP never sends a fragment, and credentials belong into a Secret.
    let is_sent = |c: char| c.is_ascii_graphic() && c != '#';
    if !is_http || !rest.chars().all(is_sent) {
        return false;
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let Some(authority) = without_zone(authority) else {
        return false;
    };
    // Nor is anything encoded that a browser would encode (RFC 3986).
    format!("{scheme}://{authority}{path}")
        .parse::<http::Uri>()
        .is_ok()
}

/// A host and its port, as requests have them: without the interface of a link-local address (RFC 6874).
fn without_zone(authority: &str) -> Option<String> {
    if let Some(inside) = authority.strip_prefix('[') {
        let (inside, port) = inside.split_once(']')?;
        let (host, zone) = match inside.split_once('%') {
            Some((host, zone)) => (host, Some(zone.strip_prefix("25").unwrap_or(zone))),
            None => (inside, None),
        };
        let is_host = host.parse::<Ipv6Addr>().is_ok() && zone.is_none_or(is_name);
        return (is_host && is_port(port)).then(|| format!("[{host}]{port}"));
    }
    let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
    (is_name(host) && is_port(port)).then(|| authority.to_owned())
}

/// Whether these are the characters of the names of hosts and interfaces.
fn is_name(text: &str) -> bool {
    let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    !text.is_empty() && text.chars().all(named)
}

/// `:port`, or nothing.
fn is_port(text: &str) -> bool {
    let Some(digits) = text.strip_prefix(':') else {
        return text.is_empty();
    };
    digits.bytes().all(|digit| digit.is_ascii_digit())
        && digits.parse::<u16>().is_ok_and(|port| port > 0)
}

//! Where a signal goes, and how.

use std::{fmt, path::PathBuf, time::Duration};

use http::Uri;

use super::{
    endpoint,
    headers::Headers,
    proxy::Proxy,
    signal::{Compression, Protocol, Signal},
};
use crate::certs::TlsFiles;

/// Where each signal goes; `None` for one that is not exported.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Export {
    /// Metrics.
    pub metrics: Option<Target>,
    /// Spans.
    pub traces: Option<Target>,
    /// Log records.
    pub logs: Option<Target>,
}

// === impl Export ===

impl Export {
    /// Where a signal goes.
    pub const fn of(&self, signal: Signal) -> Option<&Target> {
        match signal {
            Signal::Metrics => self.metrics.as_ref(),
            Signal::Traces => self.traces.as_ref(),
            Signal::Logs => self.logs.as_ref(),
        }
    }

    /// The same, to be set.
    pub(super) const fn of_mut(&mut self, signal: Signal) -> &mut Option<Target> {
        match signal {
            Signal::Metrics => &mut self.metrics,
            Signal::Traces => &mut self.traces,
            Signal::Logs => &mut self.logs,
        }
    }
}

/// Where a signal goes, and how.
#[derive(Clone, PartialEq)]
pub struct Target {
    /// The URL, scheme included; for HTTP with the signal's path. For a socket, the URL in the requests over it.
    pub endpoint: Uri,
    /// The interface that a link-local IPv6 address is on.
    pub zone: Option<String>,
    /// The Unix-domain socket that the receiver listens on, for `unix:///path`.
    pub socket: Option<PathBuf>,
    /// The proxy in between.
    pub proxy: Option<Proxy>,
    /// The transport.
    pub protocol: Protocol,
    /// Sent with every request.
    pub headers: Headers,
    /// More headers, in a file that is read again when it changes; they win over headers of the same name.
    pub headers_file: Option<PathBuf>,
    /// Time for one request and its answer; none for no limit.
    pub timeout: Option<Duration>,
    /// The compression of requests.
    pub compression: Option<Compression>,
    /// Certificates, for https.
    pub tls: TlsFiles,
    /// The variables of this signal alone that are set, each with the common one, which then has no effect.
    pub own_variables: Vec<OwnVariable>,
}

/// A variable of one signal, and the common one that it replaces.
pub type OwnVariable = (&'static str, &'static str);

// === impl Target ===

impl Target {
    /// The URL as the settings name it, for people: without the query, which may be a key.
    pub fn url(&self) -> String {
        match &self.socket {
            Some(path) => format!("unix://{}", path.display()),
            None => endpoint::shown(&self.endpoint, self.zone.as_deref()),
        }
    }

    /// Whether a proxy forwards the requests. Encrypted requests and HTTP/2 are tunnelled.
    pub fn is_forwarded(&self) -> bool {
        self.proxy.is_some()
            && self.protocol == Protocol::HttpProtobuf
            && self.endpoint.scheme_str() != Some("https")
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // All fields are named, so that a new one is not forgotten.
        let Self {
            endpoint: _,
            zone: _,
            socket: _,
            proxy,
            protocol,
            headers,
            headers_file,
            timeout,
            compression,
            tls,
            own_variables,
        } = self;
        f.debug_struct("Target")
            .field("url", &self.url())
            .field("proxy", proxy)
            .field("protocol", protocol)
            .field("headers", headers)
            .field("headers_file", headers_file)
            .field("timeout", timeout)
            .field("compression", compression)
            .field("tls", tls)
            .field("own_variables", own_variables)
            .finish()
    }
}

/// The text with the variables that are in force: each of the signal's `own` in place of the common one.
pub fn in_force(own: &[OwnVariable], text: &str) -> String {
    let with_own = |text: String, (own, common): &OwnVariable| with_name(&text, common, own);
    own.iter().fold(text.to_owned(), with_own)
}

/// The text with another variable where `name` is a whole name.
fn with_name(text: &str, name: &str, by: &str) -> String {
    let (mut replaced, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once(name) {
        replaced.push_str(before);
        let is_longer = after.starts_with(|next: char| next == '_' || next.is_alphanumeric());
        replaced.push_str(if is_longer { name } else { by });
        rest = after;
    }
    replaced + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_names_are_replaced() {
        let own = [
            ("A_B_TRACES_C", "A_B_C"),
            ("A_B_TRACES_C_FILE", "A_B_C_FILE"),
        ];
        for (text, expected) in [
            ("check A_B_C", "check A_B_TRACES_C"),
            ("set A_B_C=x, or A_B_C_D", "set A_B_TRACES_C=x, or A_B_C_D"),
            ("A_B_C_FILE and A_B_C", "A_B_TRACES_C_FILE and A_B_TRACES_C"),
            ("check it", "check it"),
        ] {
            assert_eq!(in_force(&own, text), expected);
            assert_eq!(in_force(&[], text), text);
        }
    }
}

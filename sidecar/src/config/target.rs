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
}

// === impl Target ===

impl Target {
    /// The URL as the settings name it, for people: without the query, which may be a key.
    pub fn url(&self) -> String {
        match &self.socket {
            Some(path) => format!("unix://{}", path.display()),
            None => endpoint::shown(&self.endpoint, self.zone.as_deref()),
        }
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
            .finish()
    }
}

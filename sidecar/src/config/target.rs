//! Where a signal goes, and how.

use std::{fmt, path::PathBuf, time::Duration};

use http::Uri;

use super::{endpoint, headers::Headers, proxy::Proxy};
use crate::certs::TlsFiles;

/// Where each signal goes; `None` for one that is not exported.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Export {
    /// Metrics.
    pub metrics: Option<Target>,
    /// Spans.
    pub traces: Option<Target>,
}

/// A kind of telemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// Metrics.
    Metrics,
    /// Spans.
    Traces,
}

/// Where a signal goes, and how.
#[derive(Clone, PartialEq)]
pub struct Target {
    /// The URL, scheme included; for HTTP with the signal's path. Of a socket, what requests over it are told.
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
    /// More of them, in a file that is read again when it changes; of one name those hold.
    pub headers_file: Option<PathBuf>,
    /// Time for one request and its answer; none for as long as it takes.
    pub timeout: Option<Duration>,
    /// What requests are packed with.
    pub compression: Option<Compression>,
    /// Certificates, for https.
    pub tls: TlsFiles,
}

/// OTLP's transports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `grpc`
    Grpc,
    /// `http/protobuf`
    HttpProtobuf,
}

/// How requests are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// RFC 1952
    Gzip,
    /// RFC 8878
    Zstd,
}

// === impl Signal ===

impl Signal {
    /// The signal that a variable is of, by its name, if it is of one alone.
    pub(super) fn of_variable(name: &str) -> Option<Self> {
        match name {
            name if name.contains("_METRIC") => Some(Self::Metrics),
            name if name.contains("_TRACES_") => Some(Self::Traces),
            _ => None,
        }
    }

    pub(super) const fn not_exported(self) -> &'static str {
        match self {
            Self::Metrics => "metrics are not exported",
            Self::Traces => "spans are not exported",
        }
    }

    /// The signal's name in paths and figures.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Traces => "traces",
        }
    }

    pub(super) const fn prefix(self) -> &'static str {
        match self {
            Self::Metrics => "OTEL_EXPORTER_OTLP_METRICS_",
            Self::Traces => "OTEL_EXPORTER_OTLP_TRACES_",
        }
    }
}

// === impl Target ===

impl Target {
    /// Where it is, as the settings say it, for people: without the query, which may be a key.
    pub fn url(&self) -> String {
        match &self.socket {
            Some(path) => format!("unix://{}", path.display()),
            None => endpoint::shown(&self.endpoint, self.zone.as_deref()),
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // All of it is named, so that a new field is not forgotten.
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

// === impl Protocol ===

impl Protocol {
    /// Its name in settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::HttpProtobuf => "http/protobuf",
        }
    }

    pub(super) const fn default_endpoint(self) -> &'static str {
        match self {
            Self::Grpc => "http://localhost:4317",
            Self::HttpProtobuf => "http://localhost:4318",
        }
    }
}

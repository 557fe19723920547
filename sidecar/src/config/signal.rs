//! What is exported, and the protocols for it.

/// A kind of telemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// Metrics.
    Metrics,
    /// Spans.
    Traces,
    /// Log records.
    Logs,
}

/// OTLP's transports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `grpc`
    Grpc,
    /// `http/protobuf`
    HttpProtobuf,
}

/// The compression of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// RFC 1952
    Gzip,
    /// RFC 8878
    Zstd,
}

// === impl Signal ===

impl Signal {
    /// All signals.
    pub(super) const ALL: [Self; 3] = [Self::Metrics, Self::Traces, Self::Logs];

    /// The signal of a variable, by its name, if it belongs to one signal.
    pub(super) fn of_variable(name: &str) -> Option<Self> {
        match name {
            name if name.contains("_METRIC") => Some(Self::Metrics),
            name if name.contains("_TRACES_") => Some(Self::Traces),
            name if name.contains("_LOGS_") => Some(Self::Logs),
            _ => None,
        }
    }

    pub(super) const fn not_exported(self) -> &'static str {
        match self {
            Self::Metrics => "metrics are not exported",
            Self::Traces => "spans are not exported",
            Self::Logs => "log records are not exported",
        }
    }

    /// The signal's name in paths and figures.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Traces => "traces",
            Self::Logs => "logs",
        }
    }

    /// What its exports consist of.
    pub const fn items(self) -> &'static str {
        match self {
            Self::Metrics => "points",
            Self::Traces => "spans",
            Self::Logs => "log records",
        }
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

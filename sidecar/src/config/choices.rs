//! The values of settings that are one of a few words.

/// `OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Temporality {
    /// All sums and histograms since the start.
    Cumulative,
    /// Counters and histograms since the last report; up-down counters since the start.
    Delta,
    /// Histograms since the last report, all sums since the start: what the preference asks for of
    /// asynchronous counters, which ours are, being read from the kernel's.
    LowMemory,
}

/// `FLOWCAR_SELF_METRICS`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelfMetricsLevel {
    /// Once a minute those that show flowcar's health; counters of losses only if they are not zero.
    Basic,
    /// All, with each report.
    Detailed,
    /// None.
    None,
}

/// `FLOWCAR_HISTOGRAMS`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Histograms {
    /// OTLP exponential histograms.
    Exponential,
    /// OTLP histograms whose bounds are powers of two of a second.
    Explicit,
}

/// `FLOWCAR_TRACE_PARENT`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceParent {
    /// If the peer's address is not public, so that a flowcar may follow the peer.
    Auto,
    /// On every server span.
    Always,
    /// On none.
    Never,
}

/// `FLOWCAR_SOURCE`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceChoice {
    /// eBPF, and inet_diag where eBPF is refused.
    Auto,
    /// eBPF, or nothing.
    Ebpf,
    /// inet_diag alone.
    InetDiag,
}

/// `FLOWCAR_LOG_FORMAT`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

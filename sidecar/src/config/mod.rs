//! flowcar's settings, read from the environment. Nothing else reads the environment.
//!
//! envy fills flat structs of texts, which cannot fail; this module parses them, so that **all** errors are
//! reported together. An empty value counts as unset (OpenTelemetry's rule for environment variables).

mod endpoint;
mod error;
mod export;
mod headers;
mod names;
mod parse;
mod proxy;
mod raw;
mod reader;
mod settings;
mod signal;
mod target;

use std::{env, path::PathBuf, time::Duration};

use crate::series::{PeerLabel, SeriesLabels};

pub use error::{ConfigError, ConfigErrors, Notice};
pub use headers::Headers;
pub use proxy::Proxy;
pub use settings::{SETTINGS, Setting, markdown};
pub use signal::{Compression, Protocol, Signal};
pub use target::{Export, Target};

use error::ParseError;
use raw::{Raw, RawFlowcar, RawSdk};
use reader::Reader;

/// All settings, with their defaults filled in.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where connections are read.
    pub source: SourceChoice,
    /// Where each signal goes, for the signals whose endpoint is set.
    pub export: Export,
    /// Where each signal would go by default.
    defaults: Export,
    /// Time from one report of metrics to the next.
    pub report_interval: Duration,
    /// `OTEL_SERVICE_NAME`
    pub service_name: Option<String>,
    /// `OTEL_RESOURCE_ATTRIBUTES`, decoded.
    pub resource_attributes: Vec<(String, String)>,
    /// Whether sums count since the start or since the last report.
    pub temporality: Temporality,
    /// The kind of histograms.
    pub histograms: Histograms,
    /// What names a series, and how many there may be.
    pub naming: SeriesLabels,
    /// The time without a connection or a new value after which a series is dropped; zero for never.
    pub series_idle: Duration,
    /// Which self metrics flowcar sends.
    pub self_metrics: SelfMetricsLevel,
    /// The most flows in the table.
    pub max_flows: usize,
    /// Size of the kernel's ring buffer, bytes.
    pub ring_bytes: u32,
    /// Whether exchanges are measured, packet by packet.
    pub exchanges: bool,
    /// Whether a server's span names the client's as its parent.
    pub trace_parent: TraceParent,
    /// The most spans sent a second.
    pub spans_per_second: u32,
    /// The most spans that wait.
    pub span_queue: usize,
    /// The most memory for spans that wait, bytes.
    pub span_queue_bytes: usize,
    /// Time after which an open connection sends a span for its life so far; zero for never.
    pub span_interval: Duration,
    /// The name of the log level, if it is set.
    pub log: Option<String>,
    /// The form of log lines.
    pub log_format: LogFormat,
    /// Time for the last exports after SIGTERM.
    pub shutdown_timeout: Duration,
    /// The directory for the checkpoint of `flowcar export`, if there is one.
    pub state_dir: Option<PathBuf>,
    /// Where the node's cgroup tree is mounted, in which flowcar finds the pod's cgroup.
    pub host_cgroup: PathBuf,
    /// The pod that flowcar is a part of, by the downward API.
    pub pod: Pod,
    /// Warnings to log at the start.
    pub notices: Vec<Notice>,
}

/// The owner of the variables that are not flowcar's own: OpenTelemetry's, and those of proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shared {
    /// flowcar: an error in one stops it.
    Ours,
    /// A command, whose environment flowcar has as well: an error in one gives a notice, and its signal is not exported.
    Restored,
}

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

/// The pod's identity, from the environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// `FLOWCAR_POD_NAME`
    pub name: Option<String>,
    /// `FLOWCAR_POD_NAMESPACE`
    pub namespace: Option<String>,
    /// `FLOWCAR_POD_UID`
    pub uid: Option<String>,
    /// `FLOWCAR_POD_IP`
    pub ip: Option<String>,
    /// `FLOWCAR_POD_IPS`: all of them, separated by commas.
    pub ips: Option<String>,
    /// `FLOWCAR_NODE_NAME`
    pub node: Option<String>,
    /// `FLOWCAR_HOST_IP`: the node's address.
    pub host_ip: Option<String>,
    /// `FLOWCAR_OWNER_KIND`
    pub owner_kind: Option<String>,
    /// `FLOWCAR_OWNER_NAME`
    pub owner_name: Option<String>,
}

// === impl Pod ===

impl Pod {
    /// Whether flowcar is in a pod, by its environment.
    pub const fn is_known(&self) -> bool {
        self.uid.is_some()
    }
}

// === impl Config ===

impl Config {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// Every setting that does not parse; for variables of others see [`Shared`].
    pub fn from_env(shared: Shared) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::default();
        let vars = env::vars_os()
            .filter_map(|(name, value)| {
                let name = name.into_string().ok()?;
                if SETTINGS.iter().any(|setting| setting.name == name) {
                    return reader.unicode(name, value);
                }
                let value = value.to_string_lossy().into_owned();
                raw::concerns(&name).then_some((name, value))
            })
            .collect();
        Self::read(vars, reader, shared)
    }

    /// Reads the variables given.
    ///
    /// # Errors
    /// Every setting that does not parse; for variables of others see [`Shared`].
    pub fn from_vars_of(
        vars: impl IntoIterator<Item = (String, String)>,
        shared: Shared,
    ) -> Result<Self, ConfigErrors> {
        Self::read(vars.into_iter().collect(), Reader::default(), shared)
    }

    /// Reads the variables given, all of them flowcar's.
    ///
    /// # Errors
    /// Every setting that does not parse.
    pub fn from_vars(
        vars: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigErrors> {
        Self::from_vars_of(vars, Shared::Ours)
    }

    /// The same. A signal without an endpoint goes to OpenTelemetry's default: this host's port 4317 (gRPC) or 4318 (HTTP).
    #[must_use]
    pub fn with_default_endpoint(mut self) -> Self {
        let Export { metrics, traces } = self.defaults.clone();
        self.export.metrics = self.export.metrics.or(metrics);
        self.export.traces = self.export.traces.or(traces);
        self
    }
    fn read(
        mut vars: Vec<(String, String)>,
        mut reader: Reader,
        shared: Shared,
    ) -> Result<Self, ConfigErrors> {
        // By OpenTelemetry's rule an empty value counts as unset.
        vars.iter_mut()
            .for_each(|(_, value)| *value = value.trim().to_owned());
        vars.retain(|(_, value)| !value.is_empty());
        let raw = Raw::from_vars(&vars);
        let (export, defaults) = export::read(&raw, &mut reader);
        let mut config = Self::assemble(export, defaults, &raw, &mut reader);
        for (name, value) in &vars {
            // The command's variables are not flowcar's to check.
            if shared == Shared::Ours || name.starts_with("FLOWCAR_") {
                reader.unused(name, value);
            }
        }
        if shared == Shared::Restored {
            for signal in reader.tolerate() {
                config.leave_out(signal);
            }
        }
        reader.finish(|notices| Self { notices, ..config })
    }

    fn leave_out(&mut self, signal: Signal) {
        for export in [&mut self.export, &mut self.defaults] {
            match signal {
                Signal::Metrics => export.metrics = None,
                Signal::Traces => export.traces = None,
            }
        }
    }

    fn assemble(export: Export, defaults: Export, raw: &Raw, reader: &mut Reader) -> Self {
        let RawSdk {
            metric_export_interval,
            service_name,
            resource_attributes,
            ..
        } = &raw.sdk;
        let own = &raw.flowcar;
        Self {
            source: reader.read("FLOWCAR_SOURCE", &own.source, SourceChoice::Auto, |text| {
                parse::choice(
                    text,
                    &[
                        ("auto", SourceChoice::Auto),
                        ("ebpf", SourceChoice::Ebpf),
                        ("inet_diag", SourceChoice::InetDiag),
                    ],
                )
            }),
            export,
            defaults,
            report_interval: reader.read(
                "OTEL_METRIC_EXPORT_INTERVAL",
                metric_export_interval,
                Duration::from_secs(10),
                parse::interval,
            ),
            service_name: service_name.clone(),
            resource_attributes: attributes(resource_attributes.as_deref(), reader),
            temporality: reader.read(
                "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
                &raw.metrics.temporality_preference,
                Temporality::Cumulative,
                |text| {
                    parse::choice(
                        text,
                        &[
                            ("cumulative", Temporality::Cumulative),
                            ("delta", Temporality::Delta),
                            ("lowmemory", Temporality::LowMemory),
                        ],
                    )
                },
            ),
            histograms: reader.read(
                "FLOWCAR_HISTOGRAMS",
                &own.histograms,
                Histograms::Exponential,
                |text| {
                    parse::choice(
                        text,
                        &[
                            ("exponential", Histograms::Exponential),
                            ("explicit", Histograms::Explicit),
                        ],
                    )
                },
            ),
            naming: naming(own, reader),
            series_idle: reader.read(
                "FLOWCAR_SERIES_IDLE",
                &own.series_idle,
                Duration::from_secs(3_600),
                parse::millis_or_never,
            ),
            self_metrics: reader.read(
                "FLOWCAR_SELF_METRICS",
                &own.self_metrics,
                SelfMetricsLevel::Basic,
                |text| {
                    parse::choice(
                        text,
                        &[
                            ("basic", SelfMetricsLevel::Basic),
                            ("detailed", SelfMetricsLevel::Detailed),
                            ("none", SelfMetricsLevel::None),
                        ],
                    )
                },
            ),
            max_flows: reader.read("FLOWCAR_MAX_FLOWS", &own.max_flows, 65_536, parse::count),
            ring_bytes: reader.read(
                "FLOWCAR_RING_BYTES",
                &own.ring_bytes,
                1 << 20,
                parse::ring_bytes,
            ),
            exchanges: reader.read("FLOWCAR_EXCHANGE", &own.exchange, false, |text| {
                parse::choice(text, &[("on", true), ("off", false)])
            }),
            trace_parent: reader.read(
                "FLOWCAR_TRACE_PARENT",
                &own.trace_parent,
                TraceParent::Auto,
                |text| {
                    parse::choice(
                        text,
                        &[
                            ("auto", TraceParent::Auto),
                            ("always", TraceParent::Always),
                            ("never", TraceParent::Never),
                        ],
                    )
                },
            ),
            spans_per_second: reader.read(
                "FLOWCAR_SPANS_PER_SECOND",
                &own.spans_per_second,
                200,
                |text| parse::count(text).map(|count| u32::try_from(count).unwrap_or(u32::MAX)),
            ),
            span_queue: reader.read("FLOWCAR_SPAN_QUEUE", &own.span_queue, 2048, parse::count),
            span_queue_bytes: reader.read(
                "FLOWCAR_SPAN_QUEUE_BYTES",
                &own.span_queue_bytes,
                8 << 20,
                parse::count,
            ),
            span_interval: reader.read(
                "FLOWCAR_SPAN_INTERVAL",
                &own.span_interval,
                Duration::from_secs(60),
                parse::millis_or_never,
            ),
            log: reader.read("FLOWCAR_LOG", &own.log, None, |text| {
                parse::level(text).map(|level| Some(level.to_string()))
            }),
            log_format: reader.read(
                "FLOWCAR_LOG_FORMAT",
                &own.log_format,
                LogFormat::Text,
                |text| {
                    parse::choice(
                        text,
                        &[("text", LogFormat::Text), ("json", LogFormat::Json)],
                    )
                },
            ),
            shutdown_timeout: reader.read(
                "FLOWCAR_SHUTDOWN_TIMEOUT",
                &own.shutdown_timeout,
                Duration::from_secs(5),
                parse::millis,
            ),
            state_dir: own.state_dir.as_deref().map(PathBuf::from),
            host_cgroup: own
                .host_cgroup
                .as_deref()
                .unwrap_or("/run/host-cgroup")
                .into(),
            pod: pod(own),
            notices: Vec::new(),
        }
    }
}

/// All of them or, if one is malformed, none (OpenTelemetry specification, "Specifying resource information via an
/// environment variable").
fn attributes(text: Option<&str>, reader: &mut Reader) -> Vec<(String, String)> {
    let name = "OTEL_RESOURCE_ATTRIBUTES";
    parse::attributes(text.unwrap_or_default()).unwrap_or_else(|ParseError { wrong, remedy }| {
        reader.notice(
            name,
            format!("is not used at all, because {wrong}; {remedy}"),
        );
        Vec::new()
    })
}

fn naming(own: &RawFlowcar, reader: &mut Reader) -> SeriesLabels {
    SeriesLabels {
        peer: peer(own, reader),
        ports: reader.read("FLOWCAR_PORTS", &own.ports, true, |text| {
            parse::choice(text, &[("include", true), ("exclude", false)])
        }),
        limit: reader.read(
            "FLOWCAR_SERIES_LIMIT",
            &own.series_limit,
            2000,
            parse::count,
        ),
    }
}

fn peer(own: &RawFlowcar, reader: &mut Reader) -> PeerLabel {
    let (v4, v6) = reader.read(
        "FLOWCAR_PEER_PREFIX",
        &own.peer_prefix,
        (24, 64),
        parse::prefixes,
    );
    reader.read("FLOWCAR_PEER", &own.peer, PeerLabel::Auto, |text| {
        parse::choice(
            text,
            &[
                ("auto", PeerLabel::Auto),
                ("address", PeerLabel::Address),
                ("prefix", PeerLabel::Prefix { v4, v6 }),
                ("none", PeerLabel::None),
            ],
        )
    })
}

fn pod(own: &RawFlowcar) -> Pod {
    Pod {
        name: own.pod_name.clone(),
        namespace: own.pod_namespace.clone(),
        uid: own.pod_uid.clone(),
        ip: own.pod_ip.clone(),
        ips: own.pod_ips.clone(),
        node: own.node_name.clone(),
        host_ip: own.host_ip.clone(),
        owner_kind: own.owner_kind.clone(),
        owner_name: own.owner_name.clone(),
    }
}

#[cfg(test)]
mod tests;

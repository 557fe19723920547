//! What flowcar is told by its environment. The only reader of it.
//!
//! envy fills flat structs of texts, which cannot fail; this room parses them, so that **all** mistakes are
//! reported together. An empty value is as good as none (OpenTelemetry's rule for environment variables).

mod endpoint;
mod export;
mod headers;
mod mistake;
mod names;
mod parse;
mod proxy;
mod raw;
mod settings;
mod target;

use std::{env, path::PathBuf, time::Duration};

use crate::{
    follower::Limits,
    series::{Naming, PeerNaming},
    source::ebpf::Options,
};

pub use headers::Headers;
pub use mistake::{Mistake, Mistakes, Notice};
pub use proxy::Proxy;
pub use settings::{SETTINGS, Setting, markdown};
pub use target::{Compression, Export, Protocol, Signal, Target};

use mistake::{Reader, Wrong};
use raw::{Raw, RawFlowcar, RawSdk};

/// All settings, with their defaults filled in.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where flows are learnt of.
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
    /// Whether sums are since the start or since the last report.
    pub temporality: Temporality,
    /// The kind of histograms.
    pub histograms: Histograms,
    /// What names a series, and how many there may be.
    pub naming: Naming,
    /// How long a series may have no connection and nothing new before it is dropped; zero for ever.
    pub series_idle: Duration,
    /// Which of its own figures flowcar sends.
    pub self_metrics: SelfMetrics,
    /// Flows in the table, at most.
    pub max_flows: usize,
    /// Size of the kernel's ring buffer, bytes.
    pub ring_bytes: u32,
    /// Whether exchanges are measured, packet by packet.
    pub exchanges: bool,
    /// Whether a server's span names the client's as its parent.
    pub trace_parent: TraceParent,
    /// Spans sent, at most.
    pub spans_per_second: u32,
    /// Spans waiting, at most.
    pub span_queue: usize,
    /// Memory that waiting spans take, at most, bytes.
    pub span_queue_bytes: usize,
    /// Time after which an open connection sends a span for its life so far; zero for never.
    pub span_interval: Duration,
    /// The least severe messages that are logged, by their level's name; what is fitting where it is not set.
    pub log: Option<String>,
    /// The form of log lines.
    pub log_format: LogFormat,
    /// Time for the last exports after SIGTERM.
    pub shutdown_timeout: Duration,
    /// Where `flowcar export` leaves what the flowcar after it needs to know, if anywhere.
    pub state: Option<PathBuf>,
    /// Where the node's cgroup tree is mounted, in which the pod's cgroup is looked for.
    pub host_cgroup: PathBuf,
    /// The pod that flowcar is a part of, by the downward API.
    pub pod: Pod,
    /// What is worth a line at the start.
    pub notices: Vec<Notice>,
}

/// Whose the variables are that are not flowcar's own: OpenTelemetry's, and those of proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shared {
    /// flowcar's: a mistake in one stops it.
    Ours,
    /// A command's, whose environment flowcar has as well: of a mistake in one there is a notice, and what it is of is
    /// not exported.
    Inherited,
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
pub enum SelfMetrics {
    /// Once a minute what tells whether flowcar is well; of what counts losses only what was ever lost.
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
    /// Where the peer's address is not a public one, so that a flowcar may follow it.
    Auto,
    /// On every server span.
    Always,
    /// On none.
    Never,
}

/// `FLOWCAR_SOURCE`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceChoice {
    /// eBPF, and inet_diag where that is refused.
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

/// Who the pod is, as far as the environment says.
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
    /// Every setting that does not parse; of inherited ones see [`Shared`].
    pub fn from_env(shared: Shared) -> Result<Self, Mistakes> {
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
    /// Every setting that does not parse; of inherited ones see [`Shared`].
    pub fn from_vars_of(
        vars: impl IntoIterator<Item = (String, String)>,
        shared: Shared,
    ) -> Result<Self, Mistakes> {
        Self::read(vars.into_iter().collect(), Reader::default(), shared)
    }

    /// Reads the variables given, all of them flowcar's.
    ///
    /// # Errors
    /// Every setting that does not parse.
    pub fn from_vars(vars: impl IntoIterator<Item = (String, String)>) -> Result<Self, Mistakes> {
        Self::from_vars_of(vars, Shared::Ours)
    }

    /// The same, with a signal whose endpoint is not set sent to where OpenTelemetry says it goes by default: to
    /// this host's port 4317 (gRPC) or 4318 (HTTP).
    #[must_use]
    pub fn with_default_endpoint(mut self) -> Self {
        let Export { metrics, traces } = self.defaults.clone();
        self.export.metrics = self.export.metrics.or(metrics);
        self.export.traces = self.export.traces.or(traces);
        self
    }

    /// What bounds and names the flows that are followed.
    pub const fn limits(&self) -> Limits {
        Limits {
            report: self.report_interval,
            flows: self.max_flows,
            naming: self.naming,
            series_idle: self.series_idle,
            budget: None,
        }
    }

    /// What the kernel programs are loaded with.
    pub const fn programs(&self) -> Options {
        Options {
            ring_bytes: self.ring_bytes,
            exchanges: self.exchanges,
        }
    }

    fn read(
        mut vars: Vec<(String, String)>,
        mut reader: Reader,
        shared: Shared,
    ) -> Result<Self, Mistakes> {
        // By OpenTelemetry's rule an empty value is as good as none.
        vars.iter_mut()
            .for_each(|(_, value)| *value = value.trim().to_owned());
        vars.retain(|(_, value)| !value.is_empty());
        let raw = Raw::from_vars(&vars);
        let (export, defaults) = export::read(&raw, &mut reader);
        let mut config = Self::assemble(export, defaults, &raw, &mut reader);
        for (name, value) in &vars {
            // What a command is told by is its own matter.
            if shared == Shared::Ours || name.starts_with("FLOWCAR_") {
                reader.unused(name, value);
            }
        }
        if shared == Shared::Inherited {
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
                SelfMetrics::Basic,
                |text| {
                    parse::choice(
                        text,
                        &[
                            ("basic", SelfMetrics::Basic),
                            ("detailed", SelfMetrics::Detailed),
                            ("none", SelfMetrics::None),
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
            state: own.state.as_deref().map(PathBuf::from),
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

/// All of them or, where one is malformed, none (OpenTelemetry specification, "Specifying resource information via an
/// environment variable").
fn attributes(text: Option<&str>, reader: &mut Reader) -> Vec<(String, String)> {
    let name = "OTEL_RESOURCE_ATTRIBUTES";
    parse::attributes(text.unwrap_or_default()).unwrap_or_else(|Wrong { wrong, remedy }| {
        reader.notice(
            name,
            format!("is not used at all, because {wrong}; {remedy}"),
        );
        Vec::new()
    })
}

fn naming(own: &RawFlowcar, reader: &mut Reader) -> Naming {
    Naming {
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

fn peer(own: &RawFlowcar, reader: &mut Reader) -> PeerNaming {
    let (v4, v6) = reader.read(
        "FLOWCAR_PEER_PREFIX",
        &own.peer_prefix,
        (24, 64),
        parse::prefixes,
    );
    reader.read("FLOWCAR_PEER", &own.peer, PeerNaming::Auto, |text| {
        parse::choice(
            text,
            &[
                ("auto", PeerNaming::Auto),
                ("address", PeerNaming::Address),
                ("prefix", PeerNaming::Prefix { v4, v6 }),
                ("none", PeerNaming::None),
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

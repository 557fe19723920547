//! flowcar's settings, read from the environment. Nothing else reads the environment.
//!
//! envy reads it into maps of texts, which cannot fail; the entries of the table of settings parse them, so that **all** errors are
//! reported together. An empty value counts as unset (OpenTelemetry's rule for environment variables).

mod choices;
mod endpoint;
mod environment;
mod error;
mod export;
mod headers;
mod names;
mod parse;
mod proxy;
mod reader;
mod setting;
mod settings;
mod signal;
mod target;

use std::{env, ffi::OsString, path::PathBuf, time::Duration};

pub use choices::{
    Histograms, LogFormat, SelfMetricsLevel, SourceChoice, Temporality, TraceParent,
};
pub use endpoint::shown_path;
use environment::Environment;
use error::ParseError;
pub use error::{ConfigError, ConfigErrors, Notice};
pub use headers::Headers;
pub use proxy::Proxy;
use reader::Reader;
pub use setting::Row;
pub use settings::SETTINGS;
pub use signal::{Compression, Protocol, Signal};
pub use target::{Export, OwnVariable, Target, in_force};

use crate::series::{PeerLabel, SeriesLabels};

/// All settings, with their defaults filled in.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where connections are read.
    pub source: SourceChoice,
    /// Where each signal goes, for the signals whose endpoint is set.
    pub export: Export,
    /// `OTEL_SDK_DISABLED`: whether no signal is exported.
    pub sdk_disabled: bool,
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
    /// Whether exchanges are measured, packet by packet. `None`: the command decides.
    pub exchanges: Option<bool>,
    /// `FLOWCAR_DNS`: whether DNS messages are read, for names.
    pub names: bool,
    /// `FLOWCAR_CONTAINER`: whether the container of each flow is a resource of its own.
    pub containers: bool,
    /// `FLOWCAR_CONTAINERS`: whether the statistics of containers are read from their cgroups.
    pub container_stats: bool,
    /// `FLOWCAR_PROCESS`: whether spans have the process of their flow.
    pub processes: bool,
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
        self.uid.is_some() || self.name.is_some() || self.namespace.is_some()
    }
}

// === impl Config ===

impl Config {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// Every setting that does not parse; for variables of others see [`Shared`].
    pub fn from_env(shared: Shared) -> Result<Self, ConfigErrors> {
        Self::from_vars_os(env::vars_os(), shared)
    }

    /// Whether exchanges are measured: not where neither the setting nor the command asks for them.
    pub fn measures_exchanges(&self) -> bool {
        self.exchanges.unwrap_or(false)
    }

    fn from_vars_os(
        vars: impl IntoIterator<Item = (OsString, OsString)>,
        shared: Shared,
    ) -> Result<Self, ConfigErrors> {
        let mut unreadable = Vec::new();
        let vars = vars
            .into_iter()
            .filter_map(|(name, value)| {
                let name = name.into_string().ok()?;
                if !SETTINGS.iter().any(|setting| setting.name == name) {
                    let value = value.to_string_lossy().into_owned();
                    return concerns(&name).then_some((name, value));
                }
                reader::unicode(name, value)
                    .map_err(|error| unreadable.push(error))
                    .ok()
            })
            .collect();
        Self::read(vars, unreadable, shared)
    }

    /// Reads the variables given.
    ///
    /// # Errors
    /// Every setting that does not parse; for variables of others see [`Shared`].
    pub fn from_vars_of(
        vars: impl IntoIterator<Item = (String, String)>,
        shared: Shared,
    ) -> Result<Self, ConfigErrors> {
        Self::read(vars.into_iter().collect(), Vec::new(), shared)
    }

    /// Reads the variables given, all of them flowcar's.
    ///
    /// ```
    /// use flowcar::config::Config;
    ///
    /// let set = |name: &str, value: &str| [(name.to_owned(), value.to_owned())];
    /// let config = Config::from_vars(set("FLOWCAR_MAX_FLOWS", "1000")).expect("a number");
    /// assert_eq!(config.max_flows, 1_000);
    ///
    /// let errors = Config::from_vars(set("FLOWCAR_MAX_FLOWS", "many")).expect_err("no number");
    /// assert!(errors.to_string().contains("FLOWCAR_MAX_FLOWS"));
    /// ```
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
        for signal in Signal::ALL {
            let export = self.export.of_mut(signal);
            *export = export.take().or_else(|| self.defaults.of(signal).cloned());
        }
        self
    }
    fn read(
        mut vars: Vec<(String, String)>,
        unreadable: Vec<ConfigError>,
        shared: Shared,
    ) -> Result<Self, ConfigErrors> {
        // By OpenTelemetry's rule an empty value counts as unset.
        vars.iter_mut()
            .for_each(|(_, value)| *value = value.trim().to_owned());
        vars.retain(|(_, value)| !value.is_empty());
        let mut reader = Reader::new(Environment::new(&vars), unreadable);
        let (export, defaults) = export::read(&mut reader);
        let mut config = Self::assemble(export, defaults, &mut reader);
        for (name, value) in &vars {
            // The command's variables are not flowcar's to check.
            if shared == Shared::Ours || name.starts_with("FLOWCAR_") {
                reader.unused(name, value);
                if names::is_of_log_records(name) && !export::sends_log_records(&reader) {
                    reader.notice(name, names::NO_LOG_RECORDS);
                }
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
            *export.of_mut(signal) = None;
        }
    }

    fn assemble(export: Export, defaults: Export, reader: &mut Reader) -> Self {
        Self {
            source: reader.read(&settings::FLOWCAR_SOURCE),
            export,
            sdk_disabled: reader.boolean(&settings::OTEL_SDK_DISABLED),
            defaults,
            report_interval: reader.read(&settings::OTEL_METRIC_EXPORT_INTERVAL),
            service_name: reader.read(&settings::OTEL_SERVICE_NAME),
            resource_attributes: attributes(reader),
            temporality: reader.read(&settings::OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE),
            histograms: reader.read(&settings::FLOWCAR_HISTOGRAMS),
            naming: naming(reader),
            series_idle: reader.read(&settings::FLOWCAR_SERIES_IDLE),
            self_metrics: reader.read(&settings::FLOWCAR_SELF_METRICS),
            max_flows: reader.read(&settings::FLOWCAR_MAX_FLOWS),
            ring_bytes: reader.read(&settings::FLOWCAR_RING_BYTES),
            exchanges: reader.read(&settings::FLOWCAR_EXCHANGE),
            names: reader.read(&settings::FLOWCAR_DNS),
            containers: reader.read(&settings::FLOWCAR_CONTAINER),
            container_stats: reader.read(&settings::FLOWCAR_CONTAINERS),
            processes: reader.read(&settings::FLOWCAR_PROCESS),
            trace_parent: reader.read(&settings::FLOWCAR_TRACE_PARENT),
            spans_per_second: reader.read(&settings::FLOWCAR_SPANS_PER_SECOND),
            span_queue: reader.read(&settings::FLOWCAR_SPAN_QUEUE),
            span_queue_bytes: reader.read(&settings::FLOWCAR_SPAN_QUEUE_BYTES),
            span_interval: reader.read(&settings::FLOWCAR_SPAN_INTERVAL),
            log: reader.read(&settings::FLOWCAR_LOG),
            log_format: reader.read(&settings::FLOWCAR_LOG_FORMAT),
            shutdown_timeout: reader.read(&settings::FLOWCAR_SHUTDOWN_TIMEOUT),
            state_dir: reader.read(&settings::FLOWCAR_STATE_DIR),
            host_cgroup: reader
                .read(&settings::FLOWCAR_HOST_CGROUP)
                .into_owned()
                .into(),
            pod: pod(reader),
            notices: Vec::new(),
        }
    }
}

/// Whether flowcar reads the variable, or somebody may think that it does.
fn concerns(name: &str) -> bool {
    let proxy = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"];
    name.starts_with("OTEL_")
        || name.starts_with("FLOWCAR_")
        || proxy.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// All of them or, if one is malformed, none (OpenTelemetry specification, "Specifying resource information via an
/// environment variable").
fn attributes(reader: &mut Reader) -> Vec<(String, String)> {
    let setting = &settings::OTEL_RESOURCE_ATTRIBUTES;
    reader
        .try_read(setting)
        .unwrap_or_else(|ParseError { wrong, remedy }| {
            let text = format!("is not used at all, because {wrong}; {remedy}");
            reader.notice_about(setting, text);
            Vec::new()
        })
}

fn naming(reader: &mut Reader) -> SeriesLabels {
    SeriesLabels {
        peer: peer(reader),
        ports: reader.read(&settings::FLOWCAR_PORTS),
        limit: reader.read(&settings::FLOWCAR_SERIES_LIMIT),
    }
}

fn peer(reader: &mut Reader) -> PeerLabel {
    let (v4, v6) = reader.read(&settings::FLOWCAR_PEER_PREFIX);
    match reader.read(&settings::FLOWCAR_PEER) {
        PeerLabel::Prefix { .. } => PeerLabel::Prefix { v4, v6 },
        other => other,
    }
}

fn pod(reader: &mut Reader) -> Pod {
    Pod {
        name: reader.read(&settings::FLOWCAR_POD_NAME),
        namespace: reader.read(&settings::FLOWCAR_POD_NAMESPACE),
        uid: reader.read(&settings::FLOWCAR_POD_UID),
        ip: reader.read(&settings::FLOWCAR_POD_IP),
        ips: reader.read(&settings::FLOWCAR_POD_IPS),
        node: reader.read(&settings::FLOWCAR_NODE_NAME),
        host_ip: reader.read(&settings::FLOWCAR_HOST_IP),
        owner_kind: reader.read(&settings::FLOWCAR_OWNER_KIND),
        owner_name: reader.read(&settings::FLOWCAR_OWNER_NAME),
    }
}

/// The table of settings in Markdown.
pub fn markdown() -> String {
    setting::markdown(SETTINGS)
}

#[cfg(test)]
mod tests;

//! The raw environment, read by envy: flat structs of texts, so that nothing can fail to deserialize.

use serde::{Deserialize, de::DeserializeOwned};

/// Every variable that flowcar reads.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) sdk: RawSdk,
    pub(super) any: RawSignal,
    pub(super) metrics: RawSignal,
    pub(super) traces: RawSignal,
    pub(super) flowcar: RawFlowcar,
    pub(super) proxies: RawProxies,
}

/// `OTEL_*`
#[derive(Debug, Deserialize)]
pub(super) struct RawSdk {
    pub(super) sdk_disabled: Option<String>,
    pub(super) metrics_exporter: Option<String>,
    pub(super) traces_exporter: Option<String>,
    pub(super) metric_export_interval: Option<String>,
    pub(super) service_name: Option<String>,
    pub(super) resource_attributes: Option<String>,
}

/// `OTEL_EXPORTER_OTLP_*`, `OTEL_EXPORTER_OTLP_METRICS_*` and `OTEL_EXPORTER_OTLP_TRACES_*`
#[derive(Debug, Deserialize)]
pub(super) struct RawSignal {
    pub(super) endpoint: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) headers: Option<String>,
    pub(super) headers_file: Option<String>,
    pub(super) timeout: Option<String>,
    pub(super) compression: Option<String>,
    pub(super) insecure: Option<String>,
    pub(super) certificate: Option<String>,
    pub(super) client_certificate: Option<String>,
    pub(super) client_key: Option<String>,
    /// For metrics only.
    pub(super) temporality_preference: Option<String>,
}

/// `FLOWCAR_*`
#[derive(Debug, Deserialize)]
pub(super) struct RawFlowcar {
    pub(super) source: Option<String>,
    pub(super) peer: Option<String>,
    pub(super) peer_prefix: Option<String>,
    pub(super) ports: Option<String>,
    pub(super) series_limit: Option<String>,
    pub(super) series_idle: Option<String>,
    pub(super) self_metrics: Option<String>,
    pub(super) max_flows: Option<String>,
    pub(super) ring_bytes: Option<String>,
    pub(super) exchange: Option<String>,
    pub(super) trace_parent: Option<String>,
    pub(super) spans_per_second: Option<String>,
    pub(super) span_queue: Option<String>,
    pub(super) span_queue_bytes: Option<String>,
    pub(super) span_interval: Option<String>,
    pub(super) histograms: Option<String>,
    pub(super) log: Option<String>,
    pub(super) log_format: Option<String>,
    pub(super) shutdown_timeout: Option<String>,
    pub(super) state_dir: Option<String>,
    pub(super) host_cgroup: Option<String>,
    pub(super) pod_name: Option<String>,
    pub(super) pod_namespace: Option<String>,
    pub(super) pod_uid: Option<String>,
    pub(super) pod_ip: Option<String>,
    pub(super) pod_ips: Option<String>,
    pub(super) node_name: Option<String>,
    pub(super) host_ip: Option<String>,
    pub(super) owner_kind: Option<String>,
    pub(super) owner_name: Option<String>,
}

/// The proxies' variables, which programs of all kinds read; of two spellings the one in capitals wins.
#[derive(Debug)]
pub(super) struct RawProxies {
    pub(super) http: Option<Named>,
    pub(super) https: Option<Named>,
    pub(super) all: Option<Named>,
    pub(super) no: Option<Named>,
}

/// A variable's name and its value.
pub(super) type Named = (String, String);

// === impl Raw ===

impl Raw {
    /// The variables with a value: an empty one counts as unset.
    pub(super) fn from_vars(vars: &[Named]) -> Self {
        Self {
            sdk: part(vars, "OTEL_"),
            any: part(vars, "OTEL_EXPORTER_OTLP_"),
            metrics: part(vars, "OTEL_EXPORTER_OTLP_METRICS_"),
            traces: part(vars, "OTEL_EXPORTER_OTLP_TRACES_"),
            flowcar: part(vars, "FLOWCAR_"),
            proxies: RawProxies {
                http: either(vars, "HTTP_PROXY"),
                https: either(vars, "HTTPS_PROXY"),
                all: either(vars, "ALL_PROXY"),
                no: either(vars, "NO_PROXY"),
            },
        }
    }
}

/// Whether flowcar reads the variable, or somebody may think that it does.
pub(super) fn concerns(name: &str) -> bool {
    let proxy = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"];
    name.starts_with("OTEL_")
        || name.starts_with("FLOWCAR_")
        || proxy.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// envy ignores the case of names, and takes a name that occurs twice for an error.
fn part<T: DeserializeOwned>(vars: &[Named], prefix: &'static str) -> T {
    let vars = vars
        .iter()
        .filter(|(name, _)| !name.contains(|c: char| c.is_ascii_lowercase()));
    envy::prefixed(prefix)
        .from_iter(vars.cloned())
        .expect("optional texts take any value, or none")
}

fn either(vars: &[Named], name: &str) -> Option<Named> {
    let find = |name: &str| vars.iter().find(|(known, _)| known == name);
    find(name)
        .or_else(|| find(&name.to_ascii_lowercase()))
        .cloned()
}

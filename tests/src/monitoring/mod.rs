//! The rules of k8s/prometheus and the dashboards of k8s/grafana, for the tests that run them.

pub mod dashboards;

use std::{
    fs,
    path::{Path, PathBuf},
};

use flowcar::otlp::names::{ATTRIBUTES, Kind, METRICS};
use serde_yaml_ng::Value;

/// Resource attributes that docs/prometheus.md has promoted to labels.
const PROMOTED: [&str; 4] = [
    "service_name",
    "k8s_namespace_name",
    "k8s_pod_name",
    "k8s_node_name",
];

/// A recording or alert rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The alert's name, or that of the series that is recorded.
    pub name: String,
    /// Whether it is an alert rule.
    pub is_alert: bool,
    /// Its query.
    pub expr: String,
    /// Where the alert is explained; empty for a recording rule.
    pub runbook_url: String,
}

/// The folder of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every rule of k8s/prometheus/flowcar.rules.yaml, in its order.
pub fn rules() -> Vec<Rule> {
    let path = repository().join("k8s/prometheus/flowcar.rules.yaml");
    let text = fs::read_to_string(path).expect("the rules");
    let file: Value = serde_yaml_ng::from_str(&text).expect("YAML");
    let groups = file["groups"].as_sequence().expect("groups");
    let rules = groups
        .iter()
        .flat_map(|group| group["rules"].as_sequence().expect("rules"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rule = |rule: &Value| Rule {
        name: text(&rule["alert"]) + &text(&rule["record"]),
        is_alert: rule["alert"].is_string(),
        expr: text(&rule["expr"]),
        runbook_url: text(&rule["annotations"]["runbook_url"]),
    };
    rules.map(rule).collect()
}

/// Every alert rule.
pub fn alerts() -> Vec<Rule> {
    rules().into_iter().filter(|rule| rule.is_alert).collect()
}

/// The names of series and labels in a query: words with an underscore or a colon that are no function of PromQL.
pub fn names(query: &str) -> Vec<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    // What stands between quotes are values.
    for outside in query.split('"').step_by(2) {
        let mut rest = outside;
        while let Some(start) = rest.find(is_part) {
            let word: String = rest[start..].chars().take_while(|c| is_part(*c)).collect();
            rest = &rest[start + word.len()..];
            let is_function = rest.starts_with('(');
            let is_time = word.starts_with(|c: char| c.is_ascii_digit());
            let is_keyword = ["group_left", "group_right"].contains(&&*word);
            if word.contains(['_', ':']) && !is_function && !is_keyword && !is_time {
                found.push(word);
            }
        }
    }
    found
}

/// Series and labels of kube-state-metrics, and labels that are made of these.
const OF_KUBE_STATE: [&str; 8] = [
    "kube_node_labels",
    "kube_pod_info",
    "kube_pod_status_phase",
    "label_topology_kubernetes_io_zone",
    "host_network",
    "pod_ip",
    "peer_zone",
    "zone",
];

/// Whether Prometheus has a series or a label of this name by flowcar's table, or by kube-state-metrics.
pub fn known_name(name: &str) -> bool {
    let is_label = ATTRIBUTES
        .iter()
        .any(|(attribute, ..)| attribute.replace(['.', '-'], "_") == name);
    is_label
        || PROMOTED.contains(&name)
        || OF_KUBE_STATE.contains(&name)
        || METRICS
            .iter()
            .any(|metric| series_name(metric.name, metric.unit, metric.kind) == name)
}

/// The name that Prometheus's OTLP receiver gives a metric.
fn series_name(name: &str, unit: &str, kind: Kind) -> String {
    let unit = match unit {
        "s" => "_seconds",
        "By" => "_bytes",
        _ => "",
    };
    let total = match kind {
        Kind::Counter => "_total",
        _ => "",
    };
    format!("{}{unit}{total}", name.replace('.', "_"))
}

/// The query with the series that other rules record replaced by the queries that they are recorded by, so that it can be asked of a
/// Prometheus that has not recorded them for long. Series with matchers stay as they are.
pub fn inline(query: &str, rules: &[Rule]) -> String {
    let mut query = query.to_owned();
    for rule in rules.iter().rev().filter(|rule| !rule.is_alert) {
        let mut written = String::new();
        let mut rest = query.as_str();
        while let Some(at) = rest.find(&rule.name) {
            written.push_str(&rest[..at]);
            rest = &rest[at + rule.name.len()..];
            let expr = rule.expr.trim();
            if rest.starts_with('{') {
                written.push_str(&rule.name);
            } else if let Some(range) = rest.strip_prefix('[') {
                let (range, after) = range.split_once(']').expect("the end of a range");
                written.push_str(&format!("({expr})[{range}:2m]"));
                rest = after;
            } else if let Some(offset) = rest.strip_prefix(" offset ") {
                let end = offset
                    .find(|c: char| !c.is_ascii_alphanumeric())
                    .unwrap_or(offset.len());
                let (offset, after) = offset.split_at(end);
                written.push_str(&format!("last_over_time(({expr})[5m:1m] offset {offset})"));
                rest = after;
            } else {
                written.push_str(&format!("({expr})"));
            }
        }
        written.push_str(rest);
        query = written;
    }
    query
}

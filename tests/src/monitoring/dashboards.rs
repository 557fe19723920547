//! The dashboards of k8s/grafana/dashboards.yaml, and the JSON that Grafana imports.

use std::{collections::BTreeMap, fs};

use serde::Deserialize;
use serde_json::{Value, json};

use super::repository;

/// Columns of Grafana's grid.
const COLUMNS: u32 = 24;
/// Rows that a panel takes.
const HEIGHT: u32 = 8;
/// Panels side by side.
const ACROSS: u32 = 2;

/// A dashboard.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dashboard {
    /// Its name in URLs, and that of its file.
    pub uid: String,
    /// Its title.
    pub title: String,
    /// What it shows, and for whom.
    pub description: String,
    /// Names of its variables, in order.
    pub variables: Vec<String>,
    /// Its panels, by row.
    pub rows: Vec<Row>,
}

/// A row of panels with a title.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Its title.
    pub title: String,
    /// Its panels, from left to right.
    pub panels: Vec<Panel>,
}

/// A panel.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Panel {
    /// Its title.
    pub title: String,
    /// What it shows, and what a high value means.
    pub description: String,
    /// Grafana's name of the unit.
    pub unit: String,
    /// A table of the latest values, in place of a graph.
    #[serde(default)]
    pub table: bool,
    /// Its queries.
    pub queries: Vec<Query>,
}

/// A query of a panel.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// What its series are called, with labels as `{{label}}`.
    pub legend: String,
    /// PromQL, with Grafana's variables.
    pub expr: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    /// The query that a variable's values come from.
    variables: BTreeMap<String, String>,
    dashboards: Vec<Dashboard>,
}

fn source() -> Source {
    let path = repository().join("k8s/grafana/dashboards.yaml");
    let text = fs::read_to_string(path).expect("the dashboards");
    serde_yaml_ng::from_str(&text).expect("the form of a dashboard")
}

/// Every dashboard.
pub fn dashboards() -> Vec<Dashboard> {
    source().dashboards
}

/// Every dashboard's file name and JSON.
pub fn json() -> Vec<(String, String)> {
    let source = source();
    let file = |dashboard: &Dashboard| {
        let value = dashboard_json(dashboard, &source.variables);
        let text = serde_json::to_string_pretty(&value).expect("JSON");
        (format!("{}.json", dashboard.uid), text + "\n")
    };
    source.dashboards.iter().map(file).collect()
}

fn datasource() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

fn dashboard_json(dashboard: &Dashboard, variables: &BTreeMap<String, String>) -> Value {
    let mut list = vec![json!({
        "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus",
    })];
    list.extend(
        dashboard
            .variables
            .iter()
            .map(|name| variable(name, &variables[name])),
    );
    json!({
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["flowcar"],
        "schemaVersion": 39,
        "editable": true,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": list},
        "links": [{
            "title": "flowcar", "type": "dashboards", "tags": ["flowcar"], "asDropdown": true, "includeVars": true,
            "keepTime": true,
        }],
        "panels": panels(dashboard),
    })
}

fn variable(name: &str, query: &str) -> Value {
    json!({
        "name": name,
        "type": "query",
        "datasource": datasource(),
        "query": {"query": query, "refId": name},
        "definition": query,
        // At each change of the time range.
        "refresh": 2,
        "sort": 1,
        "multi": true,
        "includeAll": true,
        // Also what has no such label, as on a host.
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    })
}

fn panels(dashboard: &Dashboard) -> Vec<Value> {
    let mut panels = Vec::new();
    let mut y = 0;
    for row in &dashboard.rows {
        panels.push(json!({
            "id": panels.len() + 1, "type": "row", "title": row.title, "collapsed": false, "panels": [],
            "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
        }));
        y += 1;
        for (number, panel) in (0u32..).zip(&row.panels) {
            let width = COLUMNS / ACROSS;
            let place = json!({
                "x": number % ACROSS * width, "y": y + number / ACROSS * HEIGHT, "w": width, "h": HEIGHT,
            });
            panels.push(panel_json(panel, panels.len() + 1, place));
        }
        let lines = u32::try_from(row.panels.len()).expect("few panels");
        y += lines.div_ceil(ACROSS) * HEIGHT;
    }
    panels
}

fn panel_json(panel: &Panel, id: usize, place: Value) -> Value {
    let targets = ('A'..).zip(&panel.queries).map(|(id, query)| {
        let mut target = json!({
            "refId": id.to_string(), "datasource": datasource(), "expr": query.expr.trim(), "legendFormat": query.legend,
        });
        if panel.table {
            target["instant"] = json!(true);
            target["format"] = json!("table");
        }
        target
    });
    json!({
        "id": id,
        "type": if panel.table { "table" } else { "timeseries" },
        "title": panel.title,
        "description": panel.description,
        "datasource": datasource(),
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": targets.collect::<Vec<_>>(),
    })
}

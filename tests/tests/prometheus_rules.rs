//! The alert and recording rules of k8s/prometheus: promtool's verdict, their runbooks, and the names in them.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use flowcar_tests::{
    monitoring::{self, Rule, alerts, known_name, repository, rules},
    peers::binary,
};

const HEAD: &str = "\
# Generated from flowcar.rules.yaml: FLOWCAR_BLESS=1 cargo test --test prometheus_rules
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: flowcar
  labels:
    app.kubernetes.io/name: flowcar
spec:
";

fn promtool(args: &[&str]) {
    let output = Command::new(binary("promtool"))
        .args(args)
        .current_dir(repository().join("k8s/prometheus"))
        .output()
        .expect("promtool starts");
    assert!(
        output.status.success(),
        "promtool {args:?}:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn promtool_accepts_the_rules() {
    promtool(&["check", "rules", "--lint-fatal", "flowcar.rules.yaml"]);
}

#[test]
fn each_alert_fires_on_its_fault_and_none_on_clean_traffic() {
    promtool(&["test", "rules", "flowcar.rules.test.yaml"]);
}

#[test]
fn every_alert_has_a_unit_test() {
    let path = repository().join("k8s/prometheus/flowcar.rules.test.yaml");
    let tests = fs::read_to_string(path).expect("the tests");
    for alert in alerts() {
        let expected = format!("alertname=\"{}\"", alert.name);
        assert!(tests.contains(&expected), "{}", alert.name);
    }
}

#[test]
fn every_alert_has_its_paragraph_and_every_paragraph_its_alert() {
    let page = fs::read_to_string(repository().join("docs/troubleshooting.md")).expect("the page");
    let paragraphs = page.split("\n### alert: ").skip(1);
    let paragraphs: Vec<_> = paragraphs
        .map(|text| text.split("\n#").next().expect("a paragraph"))
        .collect();
    let headings: Vec<_> = paragraphs
        .iter()
        .map(|text| text.lines().next().expect("a heading").to_owned())
        .collect();
    let names: Vec<_> = alerts().into_iter().map(|alert| alert.name).collect();
    assert_eq!(headings, names, "in the order of the rules");
    for text in paragraphs {
        for part in ["- **Symptom:**", "- **Meaning:**", "- **Do:**"] {
            assert!(text.contains(part), "no {part} in {text}");
        }
    }
    let list = fs::read_to_string(repository().join("docs/prometheus.md")).expect("the page");
    for Rule {
        name, runbook_url, ..
    } in alerts()
    {
        let anchor = format!("alert-{}", name.to_lowercase());
        let url = env!("CARGO_PKG_REPOSITORY");
        let url = format!("{url}/blob/main/docs/troubleshooting.md#{anchor}");
        assert_eq!(runbook_url, url, "{name}");
        assert!(list.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn every_name_in_a_rule_is_one_of_flowcars_table() {
    let recorded: BTreeSet<_> = rules().into_iter().map(|rule| rule.name).collect();
    for rule in rules() {
        for name in monitoring::names(&rule.expr) {
            assert!(
                known_name(&name) || recorded.contains(&name),
                "{name} in {}",
                rule.name
            );
        }
    }
}

#[test]
fn the_operators_manifest_has_the_same_rules() {
    let folder = repository().join("k8s/prometheus");
    let rules = fs::read_to_string(folder.join("flowcar.rules.yaml")).expect("the rules");
    let groups = &rules[rules.find("groups:").expect("groups")..];
    let indented = groups.lines().map(|line| format!("  {line}\n"));
    let written: String = [HEAD.to_owned()].into_iter().chain(indented).collect();
    bless(&folder.join("prometheusrule.yaml"), &written);
}

/// The file has this text; `FLOWCAR_BLESS=1` writes it.
fn bless(path: &Path, text: &str) {
    if std::env::var_os("FLOWCAR_BLESS").is_some() {
        fs::write(path, text).expect("the file can be written");
    }
    let committed = fs::read_to_string(path).unwrap_or_default();
    assert_eq!(
        committed,
        text,
        "{}: FLOWCAR_BLESS=1 writes it",
        path.display()
    );
}

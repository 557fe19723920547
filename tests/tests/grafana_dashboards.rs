//! The dashboards of k8s/grafana: the JSON is generated from dashboards.yaml, and every panel can be understood and asks for what there is.

use std::{collections::BTreeSet, fs};

use flowcar_tests::monitoring::{
    dashboards::{dashboards, json},
    known_name, names, repository, rules,
};

#[test]
fn the_json_is_generated_from_the_source() {
    let folder = repository().join("k8s/grafana");
    for (name, text) in json() {
        let path = folder.join(name);
        if std::env::var_os("FLOWCAR_BLESS").is_some() {
            fs::write(&path, &text).expect("the dashboard can be written");
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(
            committed,
            text,
            "{}: FLOWCAR_BLESS=1 writes it",
            path.display()
        );
    }
    let files = fs::read_dir(&folder).expect("the folder");
    let files = files.map(|file| file.expect("a file").file_name().into_string().unwrap());
    let written: BTreeSet<_> = json().into_iter().map(|(name, _)| name).collect();
    let found: BTreeSet<_> = files.filter(|name| name.ends_with(".json")).collect();
    assert_eq!(found, written);
}

#[test]
fn every_panel_is_explained_and_asks_for_names_of_the_table() {
    let recorded: BTreeSet<_> = rules().into_iter().map(|rule| rule.name).collect();
    for dashboard in dashboards() {
        for panel in dashboard.rows.iter().flat_map(|row| &row.panels) {
            let place = format!("{}, {}", dashboard.title, panel.title);
            assert!(panel.description.len() > 5, "{place}");
            for query in &panel.queries {
                let expr = query.expr.replace("[$__rate_interval]", "[5m]");
                for name in names(&expr) {
                    let is_known = known_name(&name) || recorded.contains(&name);
                    assert!(is_known, "{place}: {name}");
                }
                assert!(query.expr.contains("$namespace"), "{place}");
                let labels = query.legend.split("{{").skip(1);
                for label in labels.map(|rest| rest.split("}}").next().expect("a label")) {
                    assert!(known_name(label), "{place}: {label}");
                    assert!(query.expr.contains(label), "{place}: {label}");
                }
            }
        }
    }
}

//! Golden pods: for each `tests/golden/k8s/NAME.yaml` the patch, the warnings and the decision, as committed.
//!
//! `k8s_controller` checks such patches against the API server; these tests detect changes.
//! `FLOWCAR_BLESS=1` writes them anew, and the diff is to be read.

use std::path::{Path, PathBuf};

use flowcar_k8s::{
    config::Settings,
    inject::{Context, inject, uninject},
};
use serde_json::{Map, Value, json};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/k8s")
}

fn pods() -> Vec<PathBuf> {
    let files = std::fs::read_dir(golden()).expect("the golden pods");
    let mut pods: Vec<_> = files
        .map(|file| file.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    pods.sort();
    pods
}

fn context() -> Context {
    Context {
        namespace: "shop".to_owned(),
        namespace_labels: Map::new(),
        own_namespace: "flowcar-system".to_owned(),
        native_sidecar: true,
        workload: None,
        workload_annotations: Map::new(),
        opted_in: false,
    }
}

#[test]
fn golden_pods_get_their_golden_patches() {
    let pods = pods();
    assert!(pods.len() >= 14, "{} golden pods", pods.len());
    for path in pods {
        let text = std::fs::read_to_string(&path).expect("a golden pod");
        let pod: Value = serde_yaml_ng::from_str(&text).expect("YAML");
        let outcome = inject(&pod, &context(), &Settings::default());
        let mut result = json!({
            "decision": format!("{:?}", outcome.decision), "warnings": outcome.warnings(), "patch": outcome.patch,
        });
        // The hash follows version and configuration, which have tests of their own.
        blank_hash(&mut result, &Settings::default().hash);
        let written = format!("{}\n", serde_json::to_string_pretty(&result).expect("JSON"));
        let golden = path.with_extension("json");
        if std::env::var_os("FLOWCAR_BLESS").is_some() {
            std::fs::write(&golden, &written).expect("the golden result can be written");
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        assert_eq!(written, expected, "{}", path.display());
        let mut patched = pod.clone();
        json_patch::patch(&mut patched, &outcome.patch).expect("the patch applies");
        assert_eq!(uninject(&patched), pod, "{}", path.display());
    }
}

fn blank_hash(value: &mut Value, hash: &str) {
    match value {
        Value::String(text) => *text = text.replace(hash, "HASH"),
        Value::Array(items) => items.iter_mut().for_each(|item| blank_hash(item, hash)),
        Value::Object(members) => members
            .values_mut()
            .for_each(|member| blank_hash(member, hash)),
        _ => {}
    }
}

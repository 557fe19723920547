//! Properties that hold for any bytes: one function for each input, for coverage-guided fuzzing and for property tests.
//! Each panics where a property does not hold.

use json_patch::PatchOperation;
use serde_json::{Map, Value};

use crate::{
    admit::{Cluster, Request},
    annotations::{Overrides, Permissions},
    budget::Budgets,
    cli::{Files, inject_text, uninject_text},
    config::Settings,
    inject::{Context, Decision, inject, uninject},
    text::WARNING_CHARS,
};

/// The body of a request: an answer that allows, echoes the uid, and has a patch that fits the object.
///
/// # Panics
/// Where one of these does not hold.
pub fn review(body: &[u8]) {
    let sent: Value = serde_json::from_slice(body).unwrap_or_default();
    let cluster = Cluster {
        namespace_labels: Map::new(),
        budgets: Budgets::default(),
        own_namespace: "flowcar-system".to_owned(),
        native_sidecar: true,
    };
    let answer = match Request::decode(body) {
        Ok(request) => request.answer(cluster, &Settings::default()),
        Err(malformed) => malformed.answer(),
    };
    let response = &answer.review["response"];
    let uid = sent.pointer("/request/uid").and_then(Value::as_str);
    // A review that is too deep for the parser is answered under its uid all the same.
    if !sent.is_null() {
        assert_eq!(response["uid"], uid.unwrap_or_default());
    }
    assert_eq!(response["allowed"], true);
    assert_eq!(
        response.get("patch").is_some(),
        response.get("patchType").is_some()
    );
    if let Some(patch) = response.get("patch") {
        let bytes: k8s_openapi::ByteString = serde_json::from_value(patch.clone()).expect("base64");
        let patch: json_patch::Patch = serde_json::from_slice(&bytes.0).expect("a JSON patch");
        let mut object = sent["request"]["object"].clone();
        json_patch::patch(&mut object, &patch).expect("a patch that fits");
    }
}

/// A pod as JSON: what is added is only added, once, and undone exactly, in every form.
///
/// # Panics
/// Where one of these does not hold.
pub fn mutation(pod: &[u8]) {
    let Ok(pod) = serde_json::from_slice::<Value>(pod) else {
        return;
    };
    let had_status = pod
        .pointer("/metadata/annotations/flowcar.io~1status")
        .is_some();
    for (native_sidecar, level) in [(true, "privileged"), (false, "restricted")] {
        let labels = [(
            "pod-security.kubernetes.io/enforce".to_owned(),
            level.into(),
        )];
        let context = Context {
            namespace: "shop".to_owned(),
            namespace_labels: labels.into_iter().collect(),
            own_namespace: "flowcar-system".to_owned(),
            native_sidecar,
            workload: None,
            workload_annotations: Map::new(),
            opted_in: true,
        };
        let outcome = inject(&pod, &context, &Settings::default());
        let mut once = pod.clone();
        json_patch::patch(&mut once, &outcome.patch).expect("a patch that fits");
        let adds = |operation: &PatchOperation| matches!(operation, PatchOperation::Add(_));
        assert!(outcome.patch.0.iter().all(adds));
        let again = inject(&once, &context, &Settings::default());
        assert!(again.patch.0.is_empty(), "a second patch");
        if matches!(outcome.decision, Decision::Injected(_)) {
            let there = Decision::AlreadyInjected { current: true };
            assert_eq!(again.decision, there);
        }
        // A forged status is replaced, and not restored.
        if !had_status {
            assert_eq!(uninject(&once), pod);
        }
    }
}

/// Annotations, one `name=value` a line: every problem is reported in one short line.
///
/// # Panics
/// Where one of these does not hold.
pub fn annotations(lines: &[u8]) {
    let text = String::from_utf8_lossy(lines);
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let written: Map<String, Value> = pairs
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    for image_and_command in [false, true] {
        let permissions = Permissions {
            image_and_command,
            endpoints: vec!["https://*.example.com".to_owned()],
        };
        let (overrides, problems) = Overrides::parse(&written, &permissions);
        assert!(overrides.env().count() + problems.len() <= written.len());
        for problem in problems {
            let reported = problem.to_string();
            assert!(reported.chars().count() <= WARNING_CHARS, "{reported}");
            assert!(!reported.contains(char::is_control), "{reported}");
        }
    }
}

/// A file of `kubectl flowcar inject`: what it was is what `uninject` makes of it again.
///
/// # Panics
/// Where that does not hold.
pub fn file(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let files = Files::new(Settings::default(), "flowcar-system".to_owned());
    let Ok(injected) = inject_text(text, &files) else {
        return;
    };
    if text.contains("flowcar.io/status") {
        return;
    }
    let clean = uninject_text(text).expect("it was read before").text;
    let back = uninject_text(&injected.text).expect("what is written is YAML");
    assert_eq!(back.text, clean);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{annotations, file, mutation, review};

    const POD: &str = r#"{"kind": "Pod", "metadata": {"name": "p", "annotations": {"flowcar.io/inject": "enabled", "flowcar.io/peer": "none"}}, "spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}], "initContainers": null, "volumes": [{"name": "v"}]}}"#;

    const FILE: &str = "\
# ä
kind: Deployment
metadata: {name: web, annotations: {flowcar.io/inject: enabled}}
spec:
  template: &template
    metadata:
      annotations:
        a: |
          text # 日本
    spec: # b
      initContainers:
      # c
      - name: i
        args: [\"x: y\", 'z']
      containers:
        - {name: c, image: d}
---
kind: List
items:
- kind: Pod
  spec:
    volumes: []
    containers: [ {name: e} ]
- kind: Job
  spec: {template: *template}
";

    fn cut(text: &str, at: usize, length: usize, with: &[u8]) -> Vec<u8> {
        let start = at % (text.len() + 1);
        let end = (start + length).min(text.len());
        let (before, after) = (&text.as_bytes()[..start], &text.as_bytes()[end..]);
        [before, with, after].concat()
    }

    fn snippet() -> impl Strategy<Value = Vec<u8>> {
        let words = prop::sample::select(vec![
            "",
            "\n",
            " ",
            "  ",
            "- ",
            ": ",
            "#",
            " # x",
            "{",
            "}",
            "[",
            "]",
            "'",
            "\"",
            "|",
            ">",
            "&a ",
            "*template",
            "!!str ",
            "null",
            "~",
            "\t",
            "---\n",
            "...\n",
            "? ",
            "<<: *template",
            "\r\n",
            "kind: Pod\n",
            "é",
            "# 😀\r\n",
            "日本: |\n",
            "\u{2028}",
            "\u{85}",
            ",",
        ]);
        let any = prop::collection::vec(any::<u8>(), 0..4);
        prop_oneof![4 => words.prop_map(|word| word.as_bytes().to_vec()), 1 => any]
    }

    proptest! {
        #[test]
        fn mutated_review_is_answered(at: usize, length in 0..6_usize, with in snippet()) {
            let body = format!(r#"{{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {{"uid": "u", "kind": {{"kind": "Pod"}}, "namespace": "shop", "object": {POD}}}}}"#);
            review(&cut(&body, at, length, &with));
        }

        #[test]
        fn mutated_pod_is_injected_and_restored(at: usize, length in 0..6_usize, with in snippet()) {
            mutation(&cut(POD, at, length, &with));
        }

        #[test]
        fn mutated_annotations_are_parsed(at: usize, length in 0..6_usize, with in snippet()) {
            let lines = "flowcar.io/endpoint=https://a.example.com\nflowcar.io/command=[\"a\"]\nflowcar.io/sampling=1\nflowcar.io/x=\n";
            annotations(&cut(lines, at, length, &with));
        }

        #[test]
        fn mutated_file_is_injected_and_restored(at: usize, length in 0..6_usize, with in snippet(), again: usize, more in snippet()) {
            let once = String::from_utf8_lossy(&cut(FILE, at, length, &with)).into_owned();
            file(&cut(&once, again, 0, &more));
        }
    }
}

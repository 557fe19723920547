mod kinds;
mod refused;
mod styles;

use serde_json::json;

use super::{Files, Rewritten, inject_text, objects, uninject_text};
use crate::config::Settings;

fn files() -> Files {
    Files::new(Settings::default(), "flowcar-system".to_owned())
}

/// A Deployment whose pod spec is this, by lines that are indented by six.
fn deployment(spec: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\nspec:\n  template:\n    spec:\n{spec}"
    )
}

/// Injected, and back to the byte.
fn returns(text: &str) -> String {
    let injected = inject_text(text, &files()).unwrap_or_else(|error| panic!("{text}: {error:#}"));
    assert!(injected.is_complete, "{text}\n{:?}", injected.messages);
    assert_ne!(injected.text, text);
    let back = uninject_text(&injected.text).expect("YAML");
    assert_eq!(back.text, text, "from\n{}", injected.text);
    injected.text
}

const FILE: &str = "\
# first
apiVersion: v1
kind: Namespace
metadata:
  name: locked
  labels: {pod-security.kubernetes.io/enforce: restricted}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web # the name
  namespace: locked
spec:
  template:
    metadata:
      labels: {app: web}
    spec:
      # what runs
      containers:
        - name: web
          image: web:1
---
apiVersion: v1
kind: List
items:
  - apiVersion: batch/v1
    kind: CronJob
    metadata:
      name: nightly
    spec:
      schedule: '0 0 * * *'
      jobTemplate:
        spec:
          template:
            spec:
              restartPolicy: Never
              initContainers:
                - name: prepare
              containers:
                - name: run
  - apiVersion: v1
    kind: Service
    metadata:
      name: web
---
apiVersion: v1
kind: Pod
metadata:
  name: never
  annotations:
    flowcar.io/inject: disabled
spec:
  containers: []
";

#[test]
fn every_pod_of_a_file_is_injected_and_undone() {
    let Rewritten { text, messages, .. } = inject_text(FILE, &files()).expect("YAML");
    let all = objects(&text).expect("YAML");
    assert_eq!(all.len(), 5);
    let web = &all[1]["spec"]["template"]["spec"];
    assert_eq!(web["initContainers"][0]["name"], "flowcar");
    // The Namespace in the same file sets its Pod Security level.
    assert_eq!(
        web["initContainers"][0]["securityContext"]["runAsNonRoot"],
        true
    );
    let nightly = &all[2]["spec"]["jobTemplate"]["spec"]["template"]["spec"];
    assert_eq!(nightly["initContainers"][0]["name"], "flowcar");
    assert_eq!(nightly["initContainers"][1]["name"], "prepare");
    let owner = nightly["initContainers"][0]["env"]
        .as_array()
        .expect("env")
        .iter()
        .find(|e| e["name"] == "FLOWCAR_OWNER_KIND");
    assert_eq!(owner.expect("an owner")["value"], "CronJob");
    assert_eq!(all[4]["spec"], json!({"containers": []}));
    for comment in ["# first\n", "name: web # the name", "# what runs"] {
        assert!(text.contains(comment), "{comment} in\n{text}");
    }
    assert!(
        messages
            .iter()
            .any(|line| line == "deployment/web: injected"),
        "{messages:?}"
    );
    assert!(
        messages
            .iter()
            .any(|line| line.starts_with("pod/never: not injected: ")),
        "{messages:?}"
    );

    let again = inject_text(&text, &files()).expect("YAML");
    assert_eq!(again.text, text, "a second time changes nothing");
    let back = uninject_text(&text).expect("YAML").text;
    assert_eq!(objects(&back).expect("YAML"), objects(FILE).expect("YAML"));
    assert_eq!(back, FILE, "to the byte");
    assert_eq!(
        uninject_text(FILE).expect("YAML").text,
        FILE,
        "nothing to undo, nothing touched"
    );
}

#[test]
fn uninject_restores_the_examples_byte_for_byte() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    for file in std::fs::read_dir(folder).expect("the examples") {
        let path = file.expect("a file").path();
        let text = std::fs::read_to_string(&path).expect("an example");
        let Rewritten {
            text: injected,
            messages,
            ..
        } = inject_text(&text, &files()).expect("YAML");
        assert!(
            messages.iter().all(|line| line.ends_with(": injected")),
            "{messages:?}"
        );
        assert_ne!(injected, text);
        let lines: Vec<_> = injected.lines().collect();
        assert!(text.lines().all(|line| lines.contains(&line)), "{injected}");
        assert_eq!(
            uninject_text(&injected).expect("YAML").text,
            text,
            "{}",
            path.display()
        );
    }
}

#[test]
fn workload_annotations_count_before_they_are_copied() {
    let with = |annotations: &str| {
        let text = FILE.replace(
            "  namespace: locked\n",
            &format!("  annotations: {annotations}\n"),
        );
        let Rewritten { text, messages, .. } = inject_text(&text, &files()).expect("YAML");
        (objects(&text).expect("YAML")[1].clone(), messages)
    };
    let (web, _) = with("{flowcar.io/peer: none, flowcar.io/inject: enabled}");
    let sidecar = &web["spec"]["template"]["spec"]["initContainers"][0];
    let env = sidecar["env"].as_array().expect("env");
    assert!(
        env.iter()
            .any(|e| e["name"] == "FLOWCAR_PEER" && e["value"] == "none")
    );
    assert_eq!(
        web["metadata"]["annotations"]
            .as_object()
            .expect("annotations")
            .len(),
        2
    );
    for (annotations, expected) in [
        (
            "{flowcar.io/inject: disabled}",
            "not injected: the pod is annotated",
        ),
        (
            "{flowcar.io/inject: disbled}",
            r#"did you mean "disabled"?"#,
        ),
    ] {
        let (web, messages) = with(annotations);
        assert_eq!(web["spec"]["template"]["spec"].get("initContainers"), None);
        assert!(
            messages.iter().any(|line| line.contains(expected)),
            "{messages:?}"
        );
    }
    let (_, messages) = with("{flowcar.io/pear: none}");
    assert!(
        messages
            .iter()
            .any(|line| line.contains("did you mean flowcar.io/peer?")),
        "{messages:?}"
    );
}

#[test]
fn json_stays_json() {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}});
    let compact = pod.to_string();
    let text = inject_text(&compact, &files()).expect("JSON").text;
    assert_eq!(uninject_text(&text).expect("JSON").text, compact);
    let value: serde_json::Value = serde_json::from_str(&text).expect("still JSON");
    assert_eq!(value["spec"]["initContainers"][0]["name"], "flowcar");
    let kind = text.find("\"kind\"").expect("a kind");
    assert!(
        text.find("apiVersion").expect("a version") < kind
            && kind < text.find("metadata").expect("metadata"),
        "in its order"
    );
    let pretty = format!("{}\n", serde_json::to_string_pretty(&pod).expect("JSON"));
    let injected = inject_text(&pretty, &files()).expect("JSON").text;
    assert_eq!(uninject_text(&injected).expect("JSON").text, pretty);
}

#[test]
fn invalid_yaml_is_reported() {
    assert!(inject_text("a: [", &files()).is_err());
    let empty = "# nothing here\n";
    assert_eq!(inject_text(empty, &files()).expect("YAML").text, empty);
}

/// However many there are, those that cannot be changed do not keep the others from it.
#[test]
fn every_object_is_injected_that_can_be() {
    // The comment looks like one that keeps a token: it would not come back.
    let bad = "- kind: Pod\n  metadata: {name: bad}\n  spec:\n    volumes: # flowcar: was x\n    containers:\n    - name: a\n";
    let good = "- kind: Pod\n  metadata: {name: p}\n  spec:\n    containers:\n    - name: a\n";
    for (good_ones, bad_ones) in [(1, 1), (150, 1), (150, 150), (0, 150)] {
        let (good, bad) = (good.repeat(good_ones / 2), bad.repeat(bad_ones));
        let more = "- kind: Pod\n  metadata: {name: q}\n  spec:\n    containers:\n    - name: a\n"
            .repeat(good_ones - good_ones / 2);
        let text = format!("kind: List\nitems:\n{good}{bad}{more}");
        let injected = inject_text(&text, &files()).expect("YAML");
        let refused = injected
            .messages
            .iter()
            .filter(|line| line.starts_with("pod/bad: not injected: line "))
            .count();
        assert_eq!(
            (injected.text.matches("name: flowcar\n").count(), refused),
            (good_ones, bad_ones),
            "{:?}",
            injected.messages
        );
        assert_eq!(uninject_text(&injected.text).expect("YAML").text, text);
    }
}

#[test]
fn items_of_a_typed_list_have_its_kind() {
    let item = |name: &str, more: &str| {
        format!(
            "- metadata:\n    name: {name}\n    {more}\n  spec:\n    template:\n      spec:\n        containers:\n        - name: a\n"
        )
    };
    let off = "annotations: {flowcar.io/inject: disabled}";
    let text = format!(
        "apiVersion: apps/v1\nkind: DeploymentList\nitems:\n{}{}",
        item("web", "labels: {}"),
        item("no-more", off)
    );
    let injected = inject_text(&text, &files()).expect("YAML");
    assert_eq!(injected.messages[0], "deployment/web: injected");
    assert!(
        injected.messages[1].starts_with("deployment/no-more: not injected: "),
        "{:?}",
        injected.messages
    );
    assert_eq!(injected.text.matches("FLOWCAR_POD_UID").count(), 1);
    assert_eq!(
        objects(&injected.text).expect("YAML")[0]["apiVersion"],
        "apps/v1"
    );
    assert!(
        !injected.text.contains("kind: Deployment\n"),
        "{}",
        injected.text
    );
    assert_eq!(uninject_text(&injected.text).expect("YAML").text, text);
    let pods = "kind: PodList\napiVersion: v1\nitems: [{metadata: {name: p}, spec: {containers: [{name: a}]}}]\n";
    let injected = returns(pods);
    assert!(injected.contains("FLOWCAR_POD_UID") && !injected.contains("FLOWCAR_OWNER_KIND"));
    returns(
        r#"{"kind": "PodList", "apiVersion": "v1", "items": [{"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}}]}"#,
    );
    // To kubectl this is no list, whatever its kind is called.
    let named = "apiVersion: x.test/v1\nkind: AllowList\nmetadata: {name: l}\nspec: {template: {spec: {containers: [{name: a}]}}}\n";
    returns(named);
}

const SHARED: &str = "\
apiVersion: v1
kind: List
items:
- apiVersion: apps/v1
  kind: Deployment
  metadata: {name: a}
  spec:
    template:
      spec: &pod
        containers:
        - name: a
        volumes:
        - name: v
- apiVersion: apps/v1
  kind: Deployment
  metadata: {name: b}
  spec:
    template:
      spec:
        <<: *pod
        initContainers:
        - name: migrate
";

#[test]
fn merged_spec_loses_nothing() {
    let text = returns(SHARED);
    let names = |spec: &serde_json::Value, list: &str| -> Vec<String> {
        let items = spec[list].as_array().cloned().unwrap_or_default();
        items
            .iter()
            .map(|item| item["name"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    let all = objects(&text).expect("YAML");
    let spec = |index: usize| &all[index]["spec"]["template"]["spec"];
    assert_eq!(names(spec(0), "initContainers"), ["flowcar"]);
    assert_eq!(names(spec(1), "initContainers"), ["flowcar", "migrate"]);
    for index in [0, 1] {
        assert_eq!(names(spec(index), "volumes")[0], "v");
        assert!(names(spec(index), "volumes").len() > 1);
    }
}

#[test]
fn edit_of_a_shared_node_is_refused_with_its_line() {
    // The second is `disabled`, so the shared spec cannot change.
    let other_no = SHARED.replace(
        "{name: b}\n  spec:\n    template:\n",
        "{name: b}\n  spec:\n    template:\n      metadata: {annotations: {flowcar.io/inject: disabled}}\n",
    );
    let whole = SHARED.replace(
        "      spec:\n        <<: *pod\n        initContainers:\n        - name: migrate\n",
        "      spec: *pod\n",
    );
    // go-yaml lets a merge behind a key win.
    let late = SHARED.replace(
        "        <<: *pod\n        initContainers:\n        - name: migrate\n",
        "        initContainers:\n        - name: migrate\n        <<: *pod\n",
    );
    for (text, refused) in [
        (&other_no, "deployment/a"),
        (&whole, "deployment/a"),
        (&late, "deployment/a"),
    ] {
        let injected = inject_text(text, &files()).expect("YAML");
        assert!(!injected.is_complete);
        let line = format!("{refused}: not injected: line ");
        assert!(
            injected
                .messages
                .iter()
                .any(|messages| messages.starts_with(&line)),
            "{:?}",
            injected.messages
        );
        let (before, after) = (
            objects(text).expect("YAML"),
            objects(&injected.text).expect("YAML"),
        );
        assert_eq!(before[0], after[0], "left as it was");
        let back = uninject_text(&injected.text).expect("YAML");
        assert_eq!(back.text, *text);
    }
}

#[test]
fn booleans_are_read_as_kubectl_reads_them() {
    let text = deployment("      hostNetwork: yes\n      containers: [{name: a}]\n");
    let injected = inject_text(&text, &files()).expect("YAML");
    assert_eq!(injected.text, text);
    assert!(
        injected.messages[0].contains("host's network"),
        "{:?}",
        injected.messages
    );
}

#[test]
fn tag_applies_to_its_own_document_only() {
    let text = format!(
        "kind: ConfigMap\ndata: !vault {{a: !x b}}\n---\n{}",
        deployment("      containers: [{name: a}]\n")
    );
    returns(&text);
}

/// As `kubectl get -o yaml` shows a Deployment that the webhook wrote.
#[test]
fn uninject_removes_what_the_webhook_copied() {
    let text = "\
apiVersion: apps/v1
kind: Deployment
metadata:
  annotations:
    flowcar.io/inject: enabled
  name: web
spec:
  template:
    metadata:
      annotations:
        flowcar.io/copied: inject
        flowcar.io/inject: enabled
        flowcar.io/workload: Deployment/web
      labels:
        app: web
    spec:
      containers:
      - name: a
";
    let clean = uninject_text(text).expect("YAML").text;
    let template = "    metadata:\n      labels:\n        app: web\n";
    assert!(clean.contains(template), "{clean}");
    assert_eq!(
        clean.matches("flowcar.io/").count(),
        1,
        "its own stays: {clean}"
    );
    let with_team = text.replace("      labels:", "        team: x\n      labels:");
    let clean = uninject_text(&with_team).expect("YAML").text;
    assert!(
        clean.contains("      annotations:\n        team: x\n"),
        "{clean}"
    );
}

#[test]
fn long_list_is_injected_whole() {
    let item = "- kind: Pod\n  metadata: {name: p}\n  spec:\n    containers:\n    - name: a\n    volumes:\n    - name: v\n";
    let text = format!("kind: List\nitems:\n{}", item.repeat(600));
    let injected = returns(&text);
    assert_eq!(injected.matches("name: flowcar\n").count(), 600);
}

#[test]
fn pod_denied_by_strict_mode_is_not_complete() {
    let strict = Files {
        settings: crate::config::Config::parse("strict: true").expect("valid"),
        ..files()
    };
    let pod = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  annotations:\n    flowcar.io/peer: x\nspec:\n  containers:\n    - name: a\n";
    let denied = inject_text(pod, &strict).expect("YAML");
    assert!(
        !denied.is_complete && denied.text == pod,
        "{:?}",
        denied.messages
    );
    assert!(
        denied
            .messages
            .join(" ")
            .contains("denied, as the controller is strict")
    );
    assert!(inject_text(pod, &files()).expect("YAML").is_complete);
}

/// What the file itself says of the namespace counts, as the webhook would read it there.
#[test]
fn budgets_of_the_file_count() {
    let limits = "      containers: [{name: a, resources: {limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 100m}}}]\n";
    let quota = |namespace: &str, name: &str, hard: &str| {
        format!(
            "apiVersion: v1\nkind: ResourceQuota\nmetadata: {{name: {name}{namespace}}}\nspec: {{hard: {hard}}}\n---\n"
        )
    };
    let range = "apiVersion: v1\nkind: LimitRange\nmetadata: {name: r}\nspec: {limits: [{type: Container, max: {cpu: 1}}]}\n---\n";
    let wants = "{limits.cpu: 2}";
    let none = "{limits.cpu: 1010m, limits.memory: 1Gi}";
    for (before, cpu) in [
        (String::new(), Some(false)),
        (quota("", "q", wants), Some(true)),
        (quota(", namespace: default", "q", wants), Some(true)),
        (quota(", namespace: other", "q", wants), Some(false)),
        (range.to_owned(), Some(true)),
        (quota("", "q", none), None),
        // In place of one of the cluster's.
        (quota("", "old", wants), Some(true)),
    ] {
        let mut files = files();
        let old = json!({"kind": "ResourceQuota", "metadata": {"name": "old"}, "spec": {"hard": {"limits.memory": "1Gi"}}});
        if before.contains("name: old") {
            files.add_budget("default", &old);
        }
        let text = format!("{before}{}", deployment(limits));
        let injected = inject_text(&text, &files).expect("YAML");
        let sidecar = injected.text.split("initContainers").nth(1);
        match cpu {
            Some(cpu) => {
                let sidecar =
                    sidecar.unwrap_or_else(|| panic!("{before}: {:?}", injected.messages));
                let limits = sidecar.split("limits:").nth(1).expect("limits");
                let limits = limits.split("securityContext").next().expect("a part");
                assert_eq!(limits.contains("cpu: \"100m\""), cpu, "{before}: {limits}");
            }
            None => assert!(
                sidecar.is_none() && injected.messages.join("; ").contains("no room"),
                "{before}: {:?}",
                injected.messages
            ),
        }
    }
}

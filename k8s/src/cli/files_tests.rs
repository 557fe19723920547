use super::{Files, inject_text, objects, uninject_text};
use crate::config::Settings;
use serde_json::json;

fn files() -> Files {
    Files::new(Settings::default(), "flowcar-system".to_owned())
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
    let (text, told) = inject_text(FILE, &files()).expect("YAML");
    let all = objects(&text).expect("YAML");
    assert_eq!(all.len(), 5);
    let web = &all[1]["spec"]["template"]["spec"];
    assert_eq!(web["initContainers"][0]["name"], "flowcar");
    // The Namespace in the same file says what may be in it.
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
        told.iter().any(|line| line == "deployment/web: injected"),
        "{told:?}"
    );
    assert!(
        told.iter()
            .any(|line| line.starts_with("pod/never: not injected: ")),
        "{told:?}"
    );

    let (again, _) = inject_text(&text, &files()).expect("YAML");
    assert_eq!(again, text, "a second time changes nothing");
    let back = uninject_text(&text).expect("YAML");
    assert_eq!(objects(&back).expect("YAML"), objects(FILE).expect("YAML"));
    assert_eq!(back, FILE, "to the byte");
    assert_eq!(
        uninject_text(FILE).expect("YAML"),
        FILE,
        "nothing to undo, nothing touched"
    );
}

#[test]
fn the_examples_come_back_to_the_byte() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    for file in std::fs::read_dir(folder).expect("the examples") {
        let path = file.expect("a file").path();
        let text = std::fs::read_to_string(&path).expect("an example");
        let (injected, told) = inject_text(&text, &files()).expect("YAML");
        assert!(
            told.iter().all(|line| line.ends_with(": injected")),
            "{told:?}"
        );
        assert_ne!(injected, text);
        let lines: Vec<_> = injected.lines().collect();
        assert!(text.lines().all(|line| lines.contains(&line)), "{injected}");
        assert_eq!(
            uninject_text(&injected).expect("YAML"),
            text,
            "{}",
            path.display()
        );
    }
}

#[test]
fn a_workloads_own_annotations_count_as_if_they_were_copied() {
    let with = |annotations: &str| {
        let text = FILE.replace(
            "  namespace: locked\n",
            &format!("  annotations: {annotations}\n"),
        );
        let (text, told) = inject_text(&text, &files()).expect("YAML");
        (objects(&text).expect("YAML")[1].clone(), told)
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
    for (annotations, said) in [
        (
            "{flowcar.io/inject: disabled}",
            "not injected: the pod is annotated",
        ),
        (
            "{flowcar.io/inject: disbled}",
            r#"did you mean "disabled"?"#,
        ),
    ] {
        let (web, told) = with(annotations);
        assert_eq!(web["spec"]["template"]["spec"].get("initContainers"), None);
        assert!(told.iter().any(|line| line.contains(said)), "{told:?}");
    }
    let (_, told) = with("{flowcar.io/pear: none}");
    assert!(
        told.iter()
            .any(|line| line.contains("did you mean flowcar.io/peer?")),
        "{told:?}"
    );
}

#[test]
fn json_stays_json() {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}});
    let (text, _) = inject_text(&pod.to_string(), &files()).expect("JSON");
    let value: serde_json::Value = serde_json::from_str(&text).expect("still JSON");
    assert_eq!(value["spec"]["initContainers"][0]["name"], "flowcar");
    let kind = text.find("\"kind\"").expect("a kind");
    assert!(
        text.find("apiVersion").expect("a version") < kind
            && kind < text.find("metadata").expect("metadata"),
        "in its order"
    );
    let pretty = format!("{}\n", serde_json::to_string_pretty(&pod).expect("JSON"));
    let (injected, _) = inject_text(&pretty, &files()).expect("JSON");
    assert_eq!(uninject_text(&injected).expect("JSON"), pretty);
}

#[test]
fn what_is_no_yaml_is_said() {
    assert!(inject_text("a: [", &files()).is_err());
    let empty = "# nothing here\n";
    assert_eq!(inject_text(empty, &files()).expect("YAML").0, empty);
}

//! Kinds that flowcar does not know, and whose pods the sidecars are.

use super::*;

#[test]
fn unknown_kind_is_injected_by_its_templates_shape() {
    let rollout = "apiVersion: argoproj.io/v1alpha1\nkind: Rollout\nmetadata:\n  name: web\nspec:\n  template:\n    spec:\n      containers:\n        - name: web\n          image: web:1\n";
    let template = "apiVersion: v1\nkind: PodTemplate\nmetadata:\n  name: t\ntemplate:\n  spec:\n    containers:\n      - name: web\n";
    let two = "apiVersion: x.test/v1\nkind: Two\nmetadata:\n  name: two\nspec:\n  a:\n    template:\n      spec:\n        containers:\n          - name: a\n  b:\n    template:\n      spec:\n        containers:\n          - name: b\n";
    for (file, sidecars) in [(rollout, 1), (template, 1), (two, 2)] {
        let injected = inject_text(file, &files()).expect("YAML");
        assert!(injected.is_complete, "{:?}", injected.messages);
        let found = injected.text.matches("FLOWCAR_POD_UID").count();
        assert_eq!(
            found, sidecars,
            "{:?}\n{}",
            injected.messages, injected.text
        );
        assert_eq!(uninject_text(&injected.text).expect("YAML").text, file);
    }
}

#[test]
fn unknown_kind_without_a_template_is_reported() {
    let messages = |text: &str| {
        inject_text(text, &files())
            .expect("YAML")
            .messages
            .join("; ")
    };
    let reference = "apiVersion: argoproj.io/v1alpha1\nkind: Rollout\nmetadata: {name: web}\nspec: {workloadRef: {name: web}}\n";
    assert_eq!(
        messages(reference),
        "rollout/web: not injected: no pod template was found in it"
    );
    assert_eq!(
        messages("apiVersion: v1\nkind: Service\nmetadata: {name: web}\n"),
        ""
    );
    let broken = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n";
    assert!(messages(broken).contains("no pod template"));
}

#[test]
fn messages_say_which_template_they_are_about() {
    let job = "\
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata: {name: train}
spec:
  pytorchReplicaSpecs:
    Master:
      template: {spec: {containers: [{name: a}]}}
    Worker:
      template: {spec: {hostNetwork: true, containers: [{name: a}]}}
";
    let messages = inject_text(job, &files()).expect("YAML").messages;
    let skipped =
        "pytorchjob/train: spec.pytorchReplicaSpecs.Worker.template: flowcar: not injected";
    assert!(messages[0].starts_with(skipped), "{messages:?}");
    assert_eq!(messages[1..], ["pytorchjob/train: injected"]);
}

/// The owner that each sidecar of a text names, in its order.
fn owners(text: &str) -> Vec<String> {
    let value = |line: &str| {
        line.trim()
            .trim_start_matches("value: ")
            .trim_matches('"')
            .to_owned()
    };
    let lines: Vec<_> = text.lines().collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        if line.trim() == "- name: FLOWCAR_OWNER_KIND" {
            found.push(format!(
                "{}/{}",
                value(lines[index + 1]),
                value(lines[index + 3])
            ));
        }
    }
    found
}

/// As in an OpenShift Template or a ManifestWork.
#[test]
fn workload_inside_an_object_is_the_owner_of_its_pods() {
    let nested = "\
apiVersion: template.openshift.io/v1
kind: Template
metadata:
  name: outer
objects:
- apiVersion: apps/v1
  kind: Deployment
  metadata:
    name: web
    annotations:
      flowcar.io/peer: none
  spec:
    template:
      spec:
        containers:
        - name: a
- apiVersion: v1
  kind: Pod
  metadata:
    name: alone
  spec:
    containers:
    - name: a
- apiVersion: batch/v1
  kind: CronJob
  metadata:
    name: nightly
    annotations:
      flowcar.io/inject: disabled
  spec:
    jobTemplate:
      spec:
        template:
          spec:
            containers:
            - name: a
- apiVersion: apps.openshift.io/v1
  kind: DeploymentConfig
  metadata:
    name: config
  spec:
    template:
      spec:
        containers:
        - image: a
";
    let injected = inject_text(nested, &files()).expect("YAML");
    assert_eq!(
        owners(&injected.text),
        ["Deployment/web", "DeploymentConfig/config"]
    );
    assert_eq!(
        injected.text.matches("FLOWCAR_POD_UID").count(),
        3,
        "{}",
        injected.text
    );
    assert_eq!(injected.text.matches("- name: FLOWCAR_PEER").count(), 1);
    assert_eq!(uninject_text(&injected.text).expect("YAML").text, nested);
}

#[test]
fn job_of_a_cluster_names_what_made_it() {
    let job = "apiVersion: batch/v1\nkind: Job\nmetadata:\n  name: manual\n  ownerReferences:\n  - {kind: CronJob, name: nightly, controller: true}\nspec:\n  template:\n    spec:\n      containers:\n      - name: a\n";
    assert_eq!(owners(&returns(job)), ["CronJob/nightly"]);
}

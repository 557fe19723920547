mod budgets;

use serde_json::{Value, json};
use strum::IntoEnumIterator as _;

use super::{explain_pod, judge};
use crate::{
    annotations::{Annotation, Key, Problem, ProblemKind, TABLE},
    cli::Files,
    config::{Config, Settings},
    inject::{Decision, DecisionKind, NotOptedIn, Skip, SkipKind, inject},
};

fn files() -> Files {
    Files::new(Settings::default(), "flowcar-system".to_owned())
}

fn configured(text: &str) -> Files {
    Files {
        settings: Config::parse(text).expect("valid"),
        ..files()
    }
}

fn labelled(value: &str) -> Files {
    let labels = json!({"flowcar.io/inject": value});
    let labels = labels.as_object().expect("labels").clone();
    Files {
        namespaces: [("default".to_owned(), labels)].into(),
        ..files()
    }
}

fn pod(annotations: &Value, spec: &Value) -> Value {
    let mut pod = json!({"kind": "Pod", "metadata": {"name": "p", "annotations": annotations}, "spec": {"containers": [{"name": "a"}]}});
    let fields = spec.as_object().expect("fields").clone();
    pod["spec"].as_object_mut().expect("a spec").extend(fields);
    pod
}

fn on() -> Value {
    json!({"flowcar.io/inject": "enabled"})
}

fn asked(spec: Value) -> Value {
    pod(&on(), &spec)
}

fn annotated(name: &str, value: &str) -> Value {
    let mut annotations = on();
    annotations[name] = json!(value);
    pod(&annotations, &json!({}))
}

fn injected(pod: &Value, files: &Files) -> Value {
    let mut pod = pod.clone();
    let outcome = inject(&pod, &files.context(&pod, false), &files.settings);
    json_patch::patch(&mut pod, &outcome.patch).expect("the patch applies");
    pod
}

/// Clear: one line, not cut off, and with something behind its colon.
fn is_clear(line: &str) -> bool {
    let words = line.split_whitespace().count();
    words >= 4 && line.len() <= 200 && !line.contains('\n') && !line.ends_with([':', ';', ' '])
}

/// A pod that asks for little, in a namespace with this LimitRange or ResourceQuota.
fn budgeted(object: Value, expected: &'static str) -> (Value, Files, &'static str) {
    let resources = json!({"requests": {"cpu": "1m", "memory": "1Mi"}});
    let pod = asked(json!({"containers": [{"name": "a", "resources": resources}]}));
    let mut files = files();
    files.add_budget("default", &object);
    (pod, files, expected)
}

/// A pod for every skip; a new skip does not compile without one.
fn skipped(kind: SkipKind) -> (Value, Files, &'static str) {
    let plain = |pod, expected| (pod, files(), expected);
    match kind {
        SkipKind::UnknownValue => plain(annotated("flowcar.io/inject", "on"), "did you mean"),
        SkipKind::Malformed => {
            let bare = json!({"kind": "Pod", "metadata": {"annotations": on()}});
            plain(bare, "the pod has no spec")
        }
        SkipKind::ExcludedNamespace => {
            let mut pod = asked(json!({}));
            pod["metadata"]["namespace"] = json!("kube-system");
            plain(pod, "kube-system is never injected")
        }
        SkipKind::NamespaceLeftOut => {
            let mut files = configured(
                "namespaceSelector: {matchExpressions: [{key: fargate, operator: DoesNotExist}]}",
            );
            let namespace = json!({"kind": "Namespace", "metadata": {"name": "default", "labels": {"fargate": "yes"}}});
            files.learn_namespaces(&[namespace]);
            (asked(json!({})), files, "leaves namespace default out")
        }
        SkipKind::MirrorPod => plain(annotated("kubernetes.io/config.mirror", "x"), "mirror pod"),
        SkipKind::HostNetwork => plain(asked(json!({"hostNetwork": true})), "force overrules"),
        SkipKind::Windows => plain(asked(json!({"os": {"name": "windows"}})), "Windows"),
        SkipKind::VirtualNode => plain(
            asked(json!({"nodeSelector": {"type": "virtual-kubelet"}})),
            "a virtual kubelet",
        ),
        SkipKind::AnnotationsFull => plain(annotated("a", &"x".repeat(260_000)), "no room"),
        SkipKind::PodBudget => plain(
            asked(json!({"resources": {"limits": {"memory": "10Mi"}}})),
            "the pod's own memory limit is 10Mi, and the sidecar needs 16Mi",
        ),
        SkipKind::LimitRange => budgeted(
            json!({"kind": "LimitRange", "metadata": {"name": "r"},
                "spec": {"limits": [{"type": "Container", "min": {"example.test/device": "1"}}]}}),
            "LimitRange r wants example.test/device",
        ),
        SkipKind::Quota => budgeted(
            json!({"kind": "ResourceQuota", "metadata": {"name": "q"}, "status": {"hard": {"requests.memory": "1Mi"}}}),
            "ResourceQuota q has no room",
        ),
        SkipKind::UserNamespace => plain(asked(json!({"hostUsers": false})), "source=inet_diag"),
        SkipKind::Sandboxed => plain(asked(json!({"runtimeClassName": "kata-fc"})), "kata-fc"),
        SkipKind::NameTaken => plain(
            asked(json!({"initContainers": [{"name": "flowcar"}]})),
            "container named flowcar",
        ),
        SkipKind::ReservedMount => {
            let mounts = json!([{"name": "flowcar-host-cgroup", "mountPath": "/node"}]);
            plain(
                asked(json!({"containers": [{"name": "a", "volumeMounts": mounts}]})),
                "which only flowcar may mount",
            )
        }
        SkipKind::Preset => {
            let mut pod = injected(&asked(json!({})), &files());
            pod["spec"]["initContainers"][0]["image"] = json!("evil.example/flowcar:1");
            plain(pod, "not as flowcar writes it (image)")
        }
        SkipKind::WouldNeverEnd => {
            let old = Files {
                native_sidecar: false,
                ..files()
            };
            (
                asked(json!({"restartPolicy": "Never"})),
                old,
                "never complete",
            )
        }
    }
}

#[test]
fn every_skip_is_explained_in_one_sentence() {
    for kind in SkipKind::iter() {
        let (pod, files, expected) = skipped(kind);
        let (_, outcome) = judge(&pod, &files, false).expect("a pod");
        let Decision::Skipped(skip) = &outcome.decision else {
            panic!("{kind:?}: {:?}", outcome.decision);
        };
        assert_eq!(SkipKind::from(skip), kind);
        for stored in [false, true] {
            let lines = explain_pod(&pod, &files, stored);
            assert_eq!(lines, [format!("gets no sidecar: {skip}")], "{kind:?}");
            assert!(
                lines[0].contains(expected) && is_clear(&lines[0]),
                "{lines:?}"
            );
        }
    }
}

/// A pod for every problem; a new problem does not compile without one.
fn pod_with(kind: ProblemKind) -> (Value, Files, &'static str) {
    let plain = |pod, expected| (pod, files(), expected);
    match kind {
        ProblemKind::UnknownKey => plain(
            annotated("flowcar.io/end-point", "x"),
            "did you mean flowcar.io/endpoint?",
        ),
        ProblemKind::InvalidValue => plain(
            annotated("flowcar.io/peer", "nobody"),
            "expected auto | name | address | prefix | none",
        ),
        ProblemKind::NotPermitted => plain(
            annotated("flowcar.io/image", "a"),
            "the controller's configuration does not allow it",
        ),
        ProblemKind::EndpointNotAllowed => (
            annotated("flowcar.io/endpoint", "http://evil"),
            configured("allowedEndpoints: ['https://*.example.com']"),
            "not on the allow-list",
        ),
        ProblemKind::Locked => (
            annotated("flowcar.io/host-network", "force"),
            configured("locked: [host-network]"),
            "the operator has locked it",
        ),
        ProblemKind::OutOfBounds => (
            annotated("flowcar.io/memory-limit", "1Gi"),
            configured("maximum: {memory-limit: 256Mi}"),
            "the operator allows at most 256Mi",
        ),
        ProblemKind::Identity => plain(
            annotated(
                "flowcar.io/resource-attributes",
                "k8s.namespace.name=payments",
            ),
            "k8s.namespace.name is ignored",
        ),
        ProblemKind::TlsRequired => (
            annotated("flowcar.io/endpoint", "http://collector:4317"),
            configured("{requireTls: true, defaults: {endpoint: 'https://collector:4317'}}"),
            "the operator requires https:// or unix://",
        ),
        ProblemKind::RequestAboveLimit => plain(
            annotated("flowcar.io/memory-request", "1Gi"),
            "above the memory limit",
        ),
    }
}

#[test]
fn every_problem_is_explained_in_one_sentence() {
    for kind in ProblemKind::iter() {
        let (pod, files, expected) = pod_with(kind);
        let (_, outcome) = judge(&pod, &files, false).expect("a pod");
        let kinds: Vec<_> = outcome.problems.iter().map(ProblemKind::from).collect();
        assert_eq!(kinds, [kind]);
        let lines = explain_pod(&pod, &files, false);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("gets the sidecar"), "{lines:?}");
        assert!(
            lines[1].contains(expected) && is_clear(&lines[1]),
            "{lines:?}"
        );
    }
}

#[test]
fn invalid_value_is_explained_with_what_is_expected() {
    for row in TABLE.iter().filter(|row| row.key != Key::Inject) {
        let files = configured("allowImageAndCommand: true");
        let lines = explain_pod(&annotated(row.name, "\u{1f648} "), &files, false);
        let lines = if row.key == Key::ServiceName {
            // It takes every text but an empty one.
            assert_eq!(lines.len(), 1);
            explain_pod(&annotated(row.name, ""), &files, false)
        } else {
            lines
        };
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[1].starts_with(row.name) && lines[1].contains("expected"));
    }
}

#[test]
fn every_missing_opt_in_is_explained() {
    for reason in NotOptedIn::iter() {
        let (pod, files) = match reason {
            NotOptedIn::PodDisabled => {
                let annotations = json!({"flowcar.io/inject": "disabled"});
                (pod(&annotations, &json!({})), labelled("enabled"))
            }
            NotOptedIn::NotRequested => (pod(&json!({}), &json!({})), files()),
            NotOptedIn::NamespaceDisabled => (pod(&json!({}), &json!({})), labelled("no")),
        };
        let lines = explain_pod(&pod, &files, false);
        assert_eq!(lines, [format!("gets no sidecar: {reason}")]);
        assert!(is_clear(&lines[0]));
    }
}

/// A label opts in a namespace; pods and workloads take the annotation.
#[test]
fn label_on_a_pod_or_workload_is_explained() {
    let labelled_pod = |value: &str, annotations: Value| {
        let mut pod = pod(&annotations, &json!({}));
        pod["metadata"]["labels"] = json!({"flowcar.io/inject": value});
        pod
    };
    let mut workload = deployment("Deployment", &json!({}), &json!({}));
    workload["metadata"]["labels"] = json!({"flowcar.io/inject": "enabled"});
    let mut template = deployment("Deployment", &json!({}), &json!({}));
    template["spec"]["template"]["metadata"]["labels"] = json!({"flowcar.io/inject": "enabled"});
    let note = |on: &str| {
        format!(
            "the label flowcar.io/inject is for namespaces: on a {on}, write it as an annotation"
        )
    };
    let (off, none) = (json!({"flowcar.io/inject": "disabled"}), || json!({}));
    for (object, files, expected) in [
        (labelled_pod("enabled", none()), files(), Some("pod")),
        (labelled_pod("true", none()), files(), Some("pod")),
        (
            labelled_pod("disabled", none()),
            labelled("enabled"),
            Some("pod"),
        ),
        (workload.clone(), files(), Some("Deployment")),
        (template, files(), Some("pod")),
        // What becomes of them is what the label asks for, or an annotation says more.
        (labelled_pod("enabled", none()), labelled("enabled"), None),
        (labelled_pod("disabled", none()), files(), None),
        (labelled_pod("disabled", on()), files(), None),
        (labelled_pod("enabled", off), files(), None),
        (workload, labelled("enabled"), None),
    ] {
        let lines = explain_pod(&object, &files, false);
        assert_eq!(lines.get(1), expected.map(note).as_ref(), "{object}");
    }
}

#[test]
fn every_decision_is_explained_for_pod_and_template() {
    for kind in DecisionKind::iter() {
        let plain = asked(json!({}));
        let strict = configured("strict: true");
        let (object, files, would, did) = match kind {
            DecisionKind::Injected => (
                plain,
                files(),
                "gets the sidecar, with eBPF, before every other container",
                "opted in, and the webhook did not see it",
            ),
            DecisionKind::AlreadyInjected => (
                injected(&plain, &files()),
                files(),
                "has the sidecar, in the ebpf form, by flowcar ",
                "has the sidecar, in the ebpf form, by flowcar ",
            ),
            DecisionKind::NotOptedIn => (
                pod(&json!({}), &json!({})),
                files(),
                "gets no sidecar: nobody asked",
                "gets no sidecar: nobody asked",
            ),
            DecisionKind::Skipped => (
                asked(json!({"hostNetwork": true})),
                files(),
                "gets no sidecar: the pod is on",
                "gets no sidecar: the pod is on",
            ),
            DecisionKind::Denied => (
                annotated("flowcar.io/peer", "x"),
                strict,
                "is denied: its annotations have errors",
                "is denied: its annotations have errors",
            ),
        };
        let (_, outcome) = judge(&object, &files, false).expect("a pod");
        assert_eq!(DecisionKind::from(&outcome.decision), kind);
        for (stored, start) in [(false, would), (true, did)] {
            let line = &explain_pod(&object, &files, stored)[0];
            assert!(line.starts_with(start) && is_clear(line), "{line}");
        }
    }
}

#[test]
fn running_pod_is_explained_with_its_successor() {
    let renewed = configured("defaults: {peer: none}");
    let with = injected(&asked(json!({})), &files());
    let line = |pod: &Value, files: &Files| explain_pod(pod, files, true).remove(0);
    assert!(line(&with, &renewed).ends_with("restart the workload to renew it"));
    // Its memory is more than the operator allows by now.
    let mut large = asked(json!({}));
    large["metadata"]["annotations"]["flowcar.io/memory-limit"] = json!("1Gi");
    let large = injected(&large, &files());
    let bound = configured("maximum: {memory-limit: 256Mi}");
    let expected = line(&large, &bound);
    assert!(
        expected.starts_with("has the sidecar, in the ebpf form")
            && expected
                .ends_with("and the operator does not allow its resources now: restart the workload to renew it"),
        "{expected}"
    );
    let mut off = with.clone();
    off["metadata"]["annotations"]["flowcar.io/inject"] = json!("disabled");
    let expected = line(&off, &files());
    assert!(
        expected.starts_with("has the sidecar, in the ebpf form"),
        "{expected}"
    );
    assert!(
        expected.contains("; a new pod gets no sidecar: the pod is annotated"),
        "{expected}"
    );
    let mut skipped = injected(&asked(json!({"hostNetwork": true})), &files());
    skipped["metadata"]["annotations"]["flowcar.io/host-network"] = json!("force");
    let expected = line(&skipped, &files());
    assert!(
        expected.starts_with("was not injected: the pod is on the host's network"),
        "{expected}"
    );
    assert!(expected.ends_with("; a new pod would be"), "{expected}");
}

fn deployment(kind: &str, own: &Value, template: &Value) -> Value {
    json!({
        "kind": kind, "metadata": {"name": "web", "annotations": own},
        "spec": {"template": {"metadata": {"annotations": template}, "spec": {"containers": [{"name": "a"}]}}},
    })
}

#[test]
fn workload_is_explained_by_its_own_annotations() {
    let own = json!({"flowcar.io/inject": "enabled", "flowcar.io/pear": "none", "flowcar.io/source": "inet_diag"});
    let lines = explain_pod(&deployment("Deployment", &own, &json!({})), &files(), false);
    assert_eq!(
        lines,
        [
            "gets the sidecar, without capabilities (inet_diag), before every other container",
            "flowcar.io/pear: unknown, ignored; did you mean flowcar.io/peer?",
        ]
    );
    let typo = json!({"flowcar.io/inject": "enable"});
    for stored in [false, true] {
        let lines = explain_pod(
            &deployment("Deployment", &typo, &json!({})),
            &files(),
            stored,
        );
        let expected =
            r#"gets no sidecar: flowcar.io/inject="enable" is unknown; did you mean "enabled"?"#;
        assert_eq!(lines, [expected]);
    }
    let template = json!({"flowcar.io/inject": "disabled"});
    let line = &explain_pod(&deployment("Deployment", &on(), &template), &files(), true)[0];
    assert!(
        line.starts_with("gets no sidecar: the pod is annotated"),
        "its own goes first: {line}"
    );
}

#[test]
fn workload_without_the_copied_opt_in_is_found() {
    for (kind, expected) in [
        ("Deployment", "flowcar enable or disable again"),
        ("Job", "create the Job anew"),
    ] {
        let line = &explain_pod(&deployment(kind, &on(), &json!({})), &files(), true)[0];
        assert!(line.ends_with(expected) && is_clear(line), "{line}");
    }
    let left = json!({"flowcar.io/inject": "enabled", "flowcar.io/copied": "inject", "flowcar.io/workload": "Deployment/web"});
    let line = &explain_pod(&deployment("Deployment", &json!({}), &left), &files(), true)[0];
    assert!(
        line.starts_with("its pods do not follow its annotations"),
        "{line}"
    );
    let line = &explain_pod(&deployment("ReplicaSet", &on(), &json!({})), &files(), true)[0];
    assert!(
        line.starts_with("gets no sidecar: nobody asked"),
        "nothing is copied from it: {line}"
    );
}

#[test]
fn explanations_contain_no_line_breaks() {
    let skip = Skip::UnknownValue {
        value: "a\nb".repeat(50),
    };
    let problem = Problem::InvalidValue {
        row: Annotation::of(Key::Peer),
        value: "x\ny".repeat(50),
    };
    assert!(is_clear(&skip.to_string()) && is_clear(&problem.to_string()));
}

fn own(version: &str, kind: &str, spec: Value) -> Value {
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": "web", "annotations": on()}, "spec": spec})
}

#[test]
fn annotation_without_effect_is_explained_with_where_it_counts() {
    let template = json!({"template": {"spec": {"containers": [{"name": "a"}]}}});
    let tasks = json!({"tasks": [template]});
    for (version, kind, spec, place) in [
        (
            "argoproj.io/v1alpha1",
            "Rollout",
            &template,
            "spec.template.metadata.annotations",
        ),
        (
            "apps/v1",
            "ReplicaSet",
            &template,
            "spec.template.metadata.annotations",
        ),
        (
            "v1",
            "ReplicationController",
            &template,
            "spec.template.metadata.annotations",
        ),
        (
            "apps.kruise.io/v1beta1",
            "StatefulSet",
            &template,
            "spec.template.metadata.annotations",
        ),
        (
            "batch.volcano.sh/v1alpha1",
            "Job",
            &tasks,
            "spec.tasks.0.template.metadata.annotations",
        ),
    ] {
        let object = own(version, kind, spec.clone());
        for stored in [false, true] {
            let lines = explain_pod(&object, &files(), stored);
            assert_eq!(lines.len(), 2, "{lines:?}");
            assert!(
                lines[0].starts_with("gets no sidecar: nobody asked: ") && lines[0].contains(place),
                "{lines:?}"
            );
            let unused = format!(
                "flowcar.io/inject: without effect on a {kind} itself; write it to {place}"
            );
            assert_eq!(lines[1], unused);
            assert!(lines.iter().all(|line| is_clear(line)), "{lines:?}");
        }
        let text = object.to_string();
        let injected = crate::cli::inject_text(&text, &files()).expect("JSON");
        let unused = "flowcar.io/inject: without effect";
        assert!(
            injected.messages.iter().any(|line| line.contains(unused)),
            "{:?}",
            injected.messages
        );
    }
    let deployment = own("apps/v1", "Deployment", template);
    assert_eq!(explain_pod(&deployment, &files(), false).len(), 1);
}

#[test]
fn every_template_of_an_object_is_explained() {
    let pod = |more: Value| {
        let mut pod =
            json!({"metadata": {"annotations": on()}, "spec": {"containers": [{"name": "a"}]}});
        pod["spec"]
            .as_object_mut()
            .expect("a spec")
            .extend(more.as_object().expect("fields").clone());
        json!({"template": {"spec": {"template": pod}}})
    };
    let jobs = json!([pod(json!({})), pod(json!({"hostNetwork": true}))]);
    let object = json!({"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": {"name": "two"}, "spec": {"replicatedJobs": jobs}});
    let lines = explain_pod(&object, &files(), false);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].starts_with("spec.replicatedJobs.0.template.spec.template: gets the sidecar"),
        "{lines:?}"
    );
    assert!(
        lines[1].starts_with(
            "spec.replicatedJobs.1.template.spec.template: gets no sidecar: the pod is on"
        ),
        "{lines:?}"
    );
}

#[test]
fn every_object_of_a_file_that_may_have_pods_is_explained() {
    let found = json!([
        {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "k"}, "spec": {"template": {"spec": {"containers": [{"image": "x"}]}}}},
        {"apiVersion": "monitoring.coreos.com/v1", "kind": "Prometheus", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "prometheus"}]}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {}},
    ]);
    let found: Vec<Value> = found.as_array().expect("objects").clone();
    let lines = super::messages(&found, &files(), false);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].starts_with("default service/k: gets no sidecar: nobody asked: "),
        "{lines:?}"
    );
    assert_eq!(
        lines[1],
        "default prometheus/p: has no pod template that flowcar can find"
    );
}

use serde_json::{Value, json};
use strum::IntoEnumIterator as _;

use super::{explain_pod, judge};
use crate::annotations::{Annotation, Key, Problem, ProblemKind, TABLE};
use crate::cli::Files;
use crate::config::{Config, Settings};
use crate::inject::{Decision, DecisionKind, NotOptedIn, Skip, SkipKind, inject};

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
fn budgeted(object: Value, said: &'static str) -> (Value, Files, &'static str) {
    let resources = json!({"requests": {"cpu": "1m", "memory": "1Mi"}});
    let pod = asked(json!({"containers": [{"name": "a", "resources": resources}]}));
    let mut files = files();
    files.add_budget("default", &object);
    (pod, files, said)
}

/// A pod for every skip; a new skip does not compile without one.
fn skipped(kind: SkipKind) -> (Value, Files, &'static str) {
    let plain = |pod, said| (pod, files(), said);
    match kind {
        SkipKind::UnknownValue => plain(annotated("flowcar.io/inject", "on"), "did you mean"),
        SkipKind::Malformed => plain(asked(json!({"volumes": {}})), "/spec/volumes"),
        SkipKind::ExcludedNamespace => {
            let mut pod = asked(json!({}));
            pod["metadata"]["namespace"] = json!("kube-system");
            plain(pod, "kube-system is never injected")
        }
        SkipKind::MirrorPod => plain(annotated("kubernetes.io/config.mirror", "x"), "mirror pod"),
        SkipKind::HostNetwork => plain(asked(json!({"hostNetwork": true})), "force overrules"),
        SkipKind::Windows => plain(asked(json!({"os": {"name": "windows"}})), "Windows"),
        SkipKind::VirtualNode => plain(
            asked(json!({"nodeSelector": {"type": "virtual-kubelet"}})),
            "a virtual kubelet",
        ),
        SkipKind::AnnotationsFull => plain(annotated("a", &"x".repeat(260_000)), "no room"),
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
fn every_skip_has_one_clear_sentence() {
    for kind in SkipKind::iter() {
        let (pod, files, said) = skipped(kind);
        let (_, outcome) = judge(&pod, &files, false).expect("a pod");
        let Decision::Skipped(skip) = &outcome.decision else {
            panic!("{kind:?}: {:?}", outcome.decision);
        };
        assert_eq!(SkipKind::from(skip), kind);
        for stored in [false, true] {
            let lines = explain_pod(&pod, &files, stored);
            assert_eq!(lines, [format!("gets no sidecar: {skip}")], "{kind:?}");
            assert!(lines[0].contains(said) && is_clear(&lines[0]), "{lines:?}");
        }
    }
}

/// A pod for every mistake; a new one does not compile without.
fn mistaken(kind: ProblemKind) -> (Value, Files, &'static str) {
    let plain = |pod, said| (pod, files(), said);
    match kind {
        ProblemKind::UnknownKey => plain(
            annotated("flowcar.io/end-point", "x"),
            "did you mean flowcar.io/endpoint?",
        ),
        ProblemKind::InvalidValue => plain(
            annotated("flowcar.io/peer", "nobody"),
            "expected auto | address | prefix | none",
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
fn every_mistake_has_one_clear_sentence_and_its_pod_another() {
    for kind in ProblemKind::iter() {
        let (pod, files, said) = mistaken(kind);
        let (_, outcome) = judge(&pod, &files, false).expect("a pod");
        let kinds: Vec<_> = outcome.problems.iter().map(ProblemKind::from).collect();
        assert_eq!(kinds, [kind]);
        let lines = explain_pod(&pod, &files, false);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("gets the sidecar"), "{lines:?}");
        assert!(lines[1].contains(said) && is_clear(&lines[1]), "{lines:?}");
    }
}

#[test]
fn a_wrong_value_of_any_annotation_is_named_with_what_is_right() {
    for row in TABLE.iter().filter(|row| row.key != Key::Inject) {
        let files = configured("allowImageAndCommand: true");
        let lines = explain_pod(&annotated(row.name, "\u{1f648} "), &files, false);
        let mistake = if row.key == Key::ServiceName {
            // It takes every text but an empty one.
            assert_eq!(lines.len(), 1);
            explain_pod(&annotated(row.name, ""), &files, false)
        } else {
            lines
        };
        assert_eq!(mistake.len(), 2, "{mistake:?}");
        assert!(mistake[1].starts_with(row.name) && mistake[1].contains("expected"));
    }
}

#[test]
fn every_reason_not_to_be_asked_is_told() {
    for reason in NotOptedIn::iter() {
        let (pod, files) = match reason {
            NotOptedIn::PodDisabled => {
                let annotations = json!({"flowcar.io/inject": "disabled"});
                (pod(&annotations, &json!({})), labelled("enabled"))
            }
            NotOptedIn::NothingSaid => (pod(&json!({}), &json!({})), files()),
            NotOptedIn::NamespaceDisabled => (pod(&json!({}), &json!({})), labelled("no")),
        };
        let lines = explain_pod(&pod, &files, false);
        assert_eq!(lines, [format!("gets no sidecar: {reason}")]);
        assert!(is_clear(&lines[0]));
    }
}

#[test]
fn every_decision_is_told_of_what_is_and_of_what_would_be() {
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
                "is denied: its annotations have mistakes",
                "is denied: its annotations have mistakes",
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
fn a_pod_that_runs_tells_what_it_has_and_what_its_successor_would_have() {
    let renewed = configured("defaults: {peer: none}");
    let with = injected(&asked(json!({})), &files());
    let line = |pod: &Value, files: &Files| explain_pod(pod, files, true).remove(0);
    assert!(line(&with, &renewed).ends_with("restart the workload to renew it"));
    let mut off = with.clone();
    off["metadata"]["annotations"]["flowcar.io/inject"] = json!("disabled");
    let said = line(&off, &files());
    assert!(
        said.starts_with("has the sidecar, in the ebpf form"),
        "{said}"
    );
    assert!(
        said.contains("; a new pod gets no sidecar: the pod is annotated"),
        "{said}"
    );
    let mut skipped = injected(&asked(json!({"hostNetwork": true})), &files());
    skipped["metadata"]["annotations"]["flowcar.io/host-network"] = json!("force");
    let said = line(&skipped, &files());
    assert!(
        said.starts_with("was not injected: the pod is on the host's network"),
        "{said}"
    );
    assert!(said.ends_with("; a new pod would be"), "{said}");
}

fn deployment(kind: &str, own: &Value, template: &Value) -> Value {
    json!({
        "kind": kind, "metadata": {"name": "web", "annotations": own},
        "spec": {"template": {"metadata": {"annotations": template}, "spec": {"containers": [{"name": "a"}]}}},
    })
}

#[test]
fn a_workload_is_explained_by_its_own_annotations_too() {
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
        let said =
            r#"gets no sidecar: flowcar.io/inject="enable" is unknown; did you mean "enabled"?"#;
        assert_eq!(lines, [said]);
    }
    let template = json!({"flowcar.io/inject": "disabled"});
    let line = &explain_pod(&deployment("Deployment", &on(), &template), &files(), true)[0];
    assert!(
        line.starts_with("gets no sidecar: the pod is annotated"),
        "its own goes first: {line}"
    );
}

#[test]
fn a_workload_whose_template_was_never_written_is_found() {
    for (kind, said) in [
        ("Deployment", "flowcar enable or disable again"),
        ("Job", "create the Job anew"),
    ] {
        let line = &explain_pod(&deployment(kind, &on(), &json!({})), &files(), true)[0];
        assert!(line.ends_with(said) && is_clear(line), "{line}");
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
fn sentences_name_what_was_written_without_its_line_breaks() {
    let skip = Skip::UnknownValue {
        value: "a\nb".repeat(50),
    };
    let problem = Problem::InvalidValue {
        row: Annotation::of(Key::Peer),
        value: "x\ny".repeat(50),
    };
    assert!(is_clear(&skip.to_string()) && is_clear(&problem.to_string()));
}

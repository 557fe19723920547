//! Who gets one, who does not, and why.

use super::*;

#[test]
fn opt_in_of_the_pod_precedes_the_namespaces() {
    let silent = json!({"metadata": {}, "spec": {"containers": []}});
    let decision =
        |pod: &Value, context: &Context| inject(pod, context, &Settings::default()).decision;
    assert_eq!(
        decision(&silent, &context()),
        Decision::NotOptedIn(NotOptedIn::NotRequested)
    );
    let on = labelled("flowcar.io/inject", "enabled");
    assert!(matches!(decision(&silent, &on), Decision::Injected(_)));
    let off = labelled("flowcar.io/inject", "disabled");
    assert_eq!(
        decision(&silent, &off),
        Decision::NotOptedIn(NotOptedIn::NamespaceDisabled)
    );
    assert!(
        matches!(decision(&pod(), &off), Decision::Injected(_)),
        "the pod is nearer than the namespace"
    );
    let disabled = annotated("flowcar.io/inject", "disabled");
    for context in [
        on,
        Context {
            opted_in: true,
            ..context()
        },
    ] {
        assert_eq!(
            decision(&disabled, &context),
            Decision::NotOptedIn(NotOptedIn::PodDisabled)
        );
    }
}

#[test]
fn misspelled_opt_in_annotation_is_reported() {
    let pod = json!({"metadata": {"annotations": {"flowcar.io/injcet": "enabled"}}, "spec": {"containers": []}});
    let outcome = run(&pod);
    assert_eq!(
        outcome.decision,
        Decision::NotOptedIn(NotOptedIn::NotRequested)
    );
    assert_eq!(
        outcome.warnings(),
        ["flowcar.io/injcet: unknown, ignored; did you mean flowcar.io/inject?"]
    );
}

#[test]
fn every_skip_has_its_reason() {
    let context = context();
    let cases = [
        (annotated("flowcar.io/inject", "yes"), "unknown_value"),
        (
            with("/metadata/annotations/flowcar.io~1inject", json!(true)),
            "unknown_value",
        ),
        (with("/spec/hostNetwork", json!(true)), "host_network"),
        (with("/spec/os", json!({"name": "windows"})), "windows"),
        (
            with("/spec/nodeSelector", json!({"kubernetes.io/os": "windows"})),
            "windows",
        ),
        (
            with("/spec/nodeSelector", json!({"type": "virtual-kubelet"})),
            "virtual_node",
        ),
        (
            with("/spec/schedulerName", json!("fargate-scheduler")),
            "virtual_node",
        ),
        (annotated("a", &"x".repeat(260_000)), "annotations_full"),
        (with("/spec/hostUsers", json!(false)), "user_namespace"),
        (with("/spec/runtimeClassName", json!("gvisor")), "sandboxed"),
        (
            with("/spec/runtimeClassName", json!("kata-qemu")),
            "sandboxed",
        ),
        (
            annotated("kubernetes.io/config.mirror", "abc"),
            "mirror_pod",
        ),
        (
            with("/spec/containers", json!([{"name": "flowcar"}])),
            "name_taken",
        ),
        (
            with("/spec/initContainers", json!([{"name": "flowcar"}])),
            "name_taken",
        ),
        (
            with("/spec/volumes", json!([{"name": "flowcar-host-cgroup"}])),
            "name_taken",
        ),
        (with("/spec/containers", json!("x")), "malformed"),
        (with("/spec/volumes", json!({})), "malformed"),
        (with("/spec/initContainers", json!(1)), "malformed"),
        (
            json!({"metadata": {"annotations": {"flowcar.io/inject": "enabled"}}}),
            "malformed",
        ),
    ];
    let spec_of = |spec: Value| {
        let mut pod = pod();
        pod["spec"] = spec;
        skip_of(&pod, &context).to_string()
    };
    assert_eq!(spec_of(Value::Null), "the pod has no spec");
    assert_eq!(spec_of(json!("x")), "the pod's /spec has the wrong type");
    for (pod, reason) in cases {
        let skip = skip_of(&pod, &context);
        assert_eq!(skip.reason(), reason, "{pod}");
        let outcome = run(&pod);
        let marked = patched(&pod, &outcome);
        if reason != "malformed" {
            let status = marked["metadata"]["annotations"]["flowcar.io/status"]
                .as_str()
                .expect("a status");
            assert!(
                status.contains(reason) && status.contains("message"),
                "{status}"
            );
        }
        assert_eq!(marked["spec"], pod["spec"], "only the reason is written");
        assert_eq!(uninject(&marked), pod);
        assert_eq!(run(&marked).patch.0.len(), 0, "marked once");
    }
    for namespace in ["kube-system", "kube-public", "flowcar-system"] {
        let there = Context {
            namespace: namespace.to_owned(),
            ..context.clone()
        };
        assert_eq!(skip_of(&pod(), &there).reason(), "excluded_namespace");
    }
}

#[test]
fn annotations_can_overrule_a_skip() {
    let mut forced = with("/spec/hostNetwork", json!(true));
    forced["metadata"]["annotations"]["flowcar.io/host-network"] = json!("force");
    assert!(matches!(run(&forced).decision, Decision::Injected(_)));
    let mut diag = with("/spec/hostUsers", json!(false));
    diag["metadata"]["annotations"]["flowcar.io/source"] = json!("inet_diag");
    assert!(matches!(run(&diag).decision, Decision::Injected(_)));
    // Without eBPF a user namespace makes no difference.
    for level in ["baseline", "restricted"] {
        let context = labelled("pod-security.kubernetes.io/enforce", level);
        let pod = with("/spec/hostUsers", json!(false));
        let decision = inject(&pod, &context, &Settings::default()).decision;
        let form = Form {
            ebpf: false,
            native: true,
        };
        assert_eq!(decision, Decision::Injected(form), "{level}");
    }
    assert!(matches!(
        run(&with("/spec/hostUsers", json!(true))).decision,
        Decision::Injected(_)
    ));
    assert!(matches!(
        run(&with("/spec/runtimeClassName", json!("runc"))).decision,
        Decision::Injected(_)
    ));
}

#[test]
fn invalid_opt_in_value_suggests_the_nearest() {
    let skip = skip_of(&annotated("flowcar.io/inject", "enable"), &context());
    assert_eq!(
        skip.to_string(),
        r#"flowcar.io/inject="enable" is unknown; did you mean "enabled"?"#
    );
    let skip = skip_of(&annotated("flowcar.io/inject", "disbled"), &context());
    assert!(skip.to_string().contains(r#"did you mean "disabled"?"#));
}

#[test]
fn strict_mode_denies_errors_and_nothing_else() {
    let strict = Config {
        strict: true,
        ..Config::default()
    }
    .check()
    .expect("valid");
    for pod in [
        annotated("flowcar.io/peer", "x"),
        annotated("flowcar.io/per", "none"),
        annotated("flowcar.io/inject", "x"),
    ] {
        let outcome = inject(&pod, &context(), &strict);
        assert_eq!(outcome.decision, Decision::Denied);
        assert!(outcome.patch.0.is_empty() && !outcome.warnings().is_empty());
    }
    assert!(matches!(
        inject(&pod(), &context(), &strict).decision,
        Decision::Injected(_)
    ));
    let host = inject(&with("/spec/hostNetwork", json!(true)), &context(), &strict);
    assert_eq!(
        host.decision,
        Decision::Skipped(Skip::HostNetwork),
        "a skip is no error"
    );
}

/// The API server counts names and values (`TotalAnnotationSizeLimitB`).
#[test]
fn annotations_stay_within_the_api_servers_limit() {
    for length in (254_000..262_144).step_by(500) {
        for inject in ["enabled", "yes"] {
            let mut pod = annotated("flowcar.io/inject", inject);
            pod["metadata"]["annotations"]["a"] = json!("x".repeat(length));
            let after = patched(&pod, &run(&pod));
            let annotations = after["metadata"]["annotations"]
                .as_object()
                .expect("annotations");
            let size: usize = annotations
                .iter()
                .map(|(name, value)| name.len() + value.as_str().expect("a text").len())
                .sum();
            assert!(size <= 262_144, "{length}: {size}");
        }
    }
}

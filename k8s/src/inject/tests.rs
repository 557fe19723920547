use json_patch::PatchOperation;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{Context, Decision, Form, NotOptedIn, Outcome, Owner, Skip, inject, uninject};
use crate::config::{Config, Settings};
use crate::text::WARNING_CHARS;

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

fn labelled(name: &str, value: &str) -> Context {
    let namespace_labels = Map::from_iter([(name.to_owned(), json!(value))]);
    Context {
        namespace_labels,
        ..context()
    }
}

fn pod() -> Value {
    json!({
        "metadata": {"generateName": "web-", "annotations": {"flowcar.io/inject": "enabled"}},
        "spec": {"containers": [{"name": "app", "image": "app:1"}]},
    })
}

fn with(pointer: &str, value: Value) -> Value {
    let mut pod = pod();
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
    let name = name.replace("~1", "/");
    pod.pointer_mut(parent).expect("the parent")[name] = value;
    pod
}

fn annotated(name: &str, value: &str) -> Value {
    let mut pod = pod();
    pod["metadata"]["annotations"][name] = json!(value);
    pod
}

fn run(pod: &Value) -> Outcome {
    inject(pod, &context(), &Settings::default())
}

fn patched(pod: &Value, outcome: &Outcome) -> Value {
    let mut pod = pod.clone();
    json_patch::patch(&mut pod, &outcome.patch).expect("the patch applies");
    pod
}

/// The sidecar of the patched pod.
fn sidecar(pod: &Value, outcome: &Outcome) -> Value {
    let pod = patched(pod, outcome);
    let lists = [&pod["spec"]["initContainers"], &pod["spec"]["containers"]];
    let found = lists
        .iter()
        .filter_map(|list| list.as_array())
        .flatten()
        .find(|c| c["name"] == "flowcar");
    found.expect("a sidecar").clone()
}

fn env(container: &Value, name: &str) -> Option<Value> {
    container["env"]
        .as_array()?
        .iter()
        .find(|entry| entry["name"] == name)
        .cloned()
}

fn env_value(container: &Value, name: &str) -> Option<String> {
    Some(env(container, name)?["value"].as_str()?.to_owned())
}

fn skip_of(pod: &Value, context: &Context) -> Skip {
    let outcome = inject(pod, context, &Settings::default());
    match outcome.decision.clone() {
        Decision::Skipped(skip) => {
            assert!(outcome.warnings()[0].starts_with("flowcar: not injected: "));
            skip
        }
        other => panic!("expected a skip, got {other:?}"),
    }
}

#[test]
fn an_opted_in_pod_gets_a_native_sidecar_before_every_other_container() {
    let pod = with("/spec/initContainers", json!([{"name": "migrate"}]));
    let outcome = run(&pod);
    assert_eq!(
        outcome.decision,
        Decision::Injected(Form {
            ebpf: true,
            native: true
        })
    );
    assert_eq!(outcome.warnings(), Vec::<String>::new());
    let result = patched(&pod, &outcome);
    let first = &result["spec"]["initContainers"][0];
    assert_eq!(
        (&first["name"], &first["restartPolicy"]),
        (&json!("flowcar"), &json!("Always"))
    );
    assert_eq!(result["spec"]["initContainers"][1]["name"], "migrate");
    assert_eq!(result["spec"]["containers"], pod["spec"]["containers"]);
}

/// The security context that was tried on a node, and nothing beyond it.
#[test]
fn the_ebpf_form_has_two_capabilities_and_no_more() {
    let pod = pod();
    let outcome = run(&pod);
    let container = sidecar(&pod, &outcome);
    let expected = json!({
        "runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": false, "privileged": false,
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"], "add": ["BPF", "NET_ADMIN"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    assert_eq!(container["securityContext"], expected);
    let mounts = container["volumeMounts"].as_array().expect("mounts");
    assert!(mounts.iter().all(|mount| mount["readOnly"] == true));
    assert!(
        mounts
            .iter()
            .any(|mount| mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount")
    );
    let volumes = patched(&pod, &outcome)["spec"]["volumes"].clone();
    assert_eq!(
        volumes[0]["hostPath"],
        json!({"path": "/sys/fs/cgroup", "type": "Directory"})
    );
    assert_eq!(container.get("ports"), None, "no port of ours can clash");
}

#[test]
fn pod_security_takes_the_capabilities_and_the_host_path_away_and_says_so() {
    for level in ["baseline", "restricted", "mistyped"] {
        let pod = annotated("flowcar.io/source", "ebpf");
        let outcome = inject(
            &pod,
            &labelled("pod-security.kubernetes.io/enforce", level),
            &Settings::default(),
        );
        assert_eq!(
            outcome.decision,
            Decision::Injected(Form {
                ebpf: false,
                native: true
            }),
            "{level}"
        );
        let container = sidecar(&pod, &outcome);
        assert_eq!(
            container["securityContext"]["capabilities"],
            json!({"drop": ["ALL"]})
        );
        assert_eq!(container["securityContext"]["runAsNonRoot"], true);
        assert_eq!(
            env_value(&container, "FLOWCAR_SOURCE").as_deref(),
            Some("inet_diag")
        );
        assert_eq!(env(&container, "FLOWCAR_HOST_CGROUP"), None);
        assert!(
            !patched(&pod, &outcome)["spec"]
                .to_string()
                .contains("hostPath")
        );
        assert!(
            outcome.warnings()[0].contains("inet_diag"),
            "{:?}",
            outcome.warnings()
        );
    }
}

#[test]
fn asking_for_inet_diag_gives_the_form_without_capabilities_anywhere() {
    let pod = annotated("flowcar.io/source", "inet_diag");
    let outcome = run(&pod);
    assert_eq!(
        outcome.decision,
        Decision::Injected(Form {
            ebpf: false,
            native: true
        })
    );
    assert_eq!(outcome.warnings(), Vec::<String>::new());
}

#[test]
fn without_native_sidecars_a_regular_container_goes_last() {
    let old = Context {
        native_sidecar: false,
        ..context()
    };
    let pod = pod();
    let outcome = inject(&pod, &old, &Settings::default());
    assert_eq!(
        outcome.decision,
        Decision::Injected(Form {
            ebpf: true,
            native: false
        })
    );
    let result = patched(&pod, &outcome);
    assert_eq!(result["spec"]["containers"][1]["name"], "flowcar");
    assert_eq!(result["spec"]["containers"][1].get("restartPolicy"), None);
    assert_eq!(result["spec"].get("initContainers"), None);
}

#[test]
fn without_native_sidecars_a_pod_that_should_end_is_left_alone() {
    let old = Context {
        native_sidecar: false,
        ..context()
    };
    let job = with(
        "/metadata/ownerReferences",
        json!([{"kind": "Job", "name": "j", "controller": true}]),
    );
    assert_eq!(skip_of(&job, &old), Skip::WouldNeverEnd);
    assert_eq!(
        skip_of(&with("/spec/restartPolicy", json!("Never")), &old),
        Skip::WouldNeverEnd
    );
    assert_eq!(
        skip_of(&with("/spec/restartPolicy", json!("OnFailure")), &old),
        Skip::WouldNeverEnd
    );
    assert!(matches!(run(&job).decision, Decision::Injected(_)));
}

#[test]
fn who_is_opted_in() {
    let silent = json!({"metadata": {}, "spec": {"containers": []}});
    let decision =
        |pod: &Value, context: &Context| inject(pod, context, &Settings::default()).decision;
    assert_eq!(
        decision(&silent, &context()),
        Decision::NotOptedIn(NotOptedIn::NothingSaid)
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
fn a_slip_in_the_opt_in_itself_is_heard() {
    let pod = json!({"metadata": {"annotations": {"flowcar.io/injcet": "enabled"}}, "spec": {"containers": []}});
    let outcome = run(&pod);
    assert_eq!(
        outcome.decision,
        Decision::NotOptedIn(NotOptedIn::NothingSaid)
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
        assert_eq!(run(&marked).patch.0.len(), 0, "said once");
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
fn what_overrules_a_skip() {
    let mut forced = with("/spec/hostNetwork", json!(true));
    forced["metadata"]["annotations"]["flowcar.io/host-network"] = json!("force");
    assert!(matches!(run(&forced).decision, Decision::Injected(_)));
    let mut diag = with("/spec/hostUsers", json!(false));
    diag["metadata"]["annotations"]["flowcar.io/source"] = json!("inet_diag");
    assert!(matches!(run(&diag).decision, Decision::Injected(_)));
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
fn a_wrong_value_of_the_opt_in_names_the_right_word() {
    let skip = skip_of(&annotated("flowcar.io/inject", "enable"), &context());
    assert_eq!(
        skip.to_string(),
        r#"flowcar.io/inject="enable" is unknown; did you mean "enabled"?"#
    );
    let skip = skip_of(&annotated("flowcar.io/inject", "disbled"), &context());
    assert!(skip.to_string().contains(r#"did you mean "disabled"?"#));
}

#[test]
fn strict_mode_denies_every_mistake_and_only_mistakes() {
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
        "a skip is no mistake"
    );
}

#[test]
fn the_environment_carries_the_downward_api_and_the_overrides() {
    let mut pod = annotated("flowcar.io/endpoint", "http://c:4317");
    pod["metadata"]["annotations"]["flowcar.io/headers-secret"] = json!("auth/token");
    pod["metadata"]["annotations"]["flowcar.io/service-name"] = json!("pay$(HOME)");
    let container = sidecar(&pod, &run(&pod));
    for (name, path) in [
        ("FLOWCAR_POD_NAME", "metadata.name"),
        ("FLOWCAR_POD_NAMESPACE", "metadata.namespace"),
        ("FLOWCAR_POD_UID", "metadata.uid"),
        ("FLOWCAR_POD_IP", "status.podIP"),
        ("FLOWCAR_POD_IPS", "status.podIPs"),
        ("FLOWCAR_NODE_NAME", "spec.nodeName"),
    ] {
        assert_eq!(
            env(&container, name).expect(name)["valueFrom"]["fieldRef"]["fieldPath"],
            path
        );
    }
    assert_eq!(
        env_value(&container, "OTEL_EXPORTER_OTLP_ENDPOINT").as_deref(),
        Some("http://c:4317")
    );
    assert_eq!(
        env_value(&container, "FLOWCAR_SOURCE").as_deref(),
        Some("auto")
    );
    // The kubelet turns `$$` into `$`, so that nothing in an annotation is expanded.
    assert_eq!(
        env_value(&container, "OTEL_SERVICE_NAME").as_deref(),
        Some("pay$$(HOME)")
    );
    let headers = env(&container, "OTEL_EXPORTER_OTLP_HEADERS").expect("headers");
    assert_eq!(
        headers["valueFrom"]["secretKeyRef"],
        json!({"name": "auth", "key": "token", "optional": true})
    );
}

#[test]
fn a_pods_override_goes_before_the_operators_default() {
    let settings = Config::parse("defaults: {log-level: warn, peer: none}").expect("valid");
    let pod = annotated("flowcar.io/log-level", "debug");
    let container = sidecar(&pod, &inject(&pod, &context(), &settings));
    assert_eq!(
        env_value(&container, "FLOWCAR_LOG").as_deref(),
        Some("debug")
    );
    assert_eq!(
        env_value(&container, "FLOWCAR_PEER").as_deref(),
        Some("none")
    );
}

#[test]
fn the_workload_is_read_from_the_owner() {
    let owned = |kind: &str, name: &str, hash: Option<&str>, mark: Option<&str>| {
        let mut pod = with(
            "/metadata/ownerReferences",
            json!([{"kind": kind, "name": name, "controller": true}]),
        );
        if let Some(hash) = hash {
            pod["metadata"]["labels"] = json!({"pod-template-hash": hash});
        }
        if let Some(mark) = mark {
            pod["metadata"]["annotations"]["flowcar.io/workload"] = json!(mark);
        }
        let container = sidecar(&pod, &run(&pod));
        let part = |name| env_value(&container, name).expect("an owner");
        format!(
            "{}/{}",
            part("FLOWCAR_OWNER_KIND"),
            part("FLOWCAR_OWNER_NAME")
        )
    };
    assert_eq!(
        owned("ReplicaSet", "web-1-5d4f", Some("5d4f"), None),
        "Deployment/web-1"
    );
    assert_eq!(
        owned("ReplicaSet", "web-5d4f", None, None),
        "ReplicaSet/web-5d4f"
    );
    assert_eq!(
        owned("ReplicaSet", "web-5d4f", Some("other"), None),
        "ReplicaSet/web-5d4f"
    );
    assert_eq!(owned("StatefulSet", "db", None, None), "StatefulSet/db");
    assert_eq!(owned("DaemonSet", "agent", None, None), "DaemonSet/agent");
    assert_eq!(
        owned("Job", "nightly-29301", None, None),
        "Job/nightly-29301"
    );
    assert_eq!(
        owned("Job", "nightly-29301", None, Some("CronJob/nightly")),
        "CronJob/nightly"
    );
    assert_eq!(
        owned("Job", "other-29301", None, Some("CronJob/nightly")),
        "Job/other-29301",
        "a copied mark"
    );
    assert_eq!(owned("Rollout", "r", None, None), "Rollout/r");
    let bare = pod();
    assert_eq!(
        env(&sidecar(&bare, &run(&bare)), "FLOWCAR_OWNER_KIND"),
        None
    );
    let told = Context {
        workload: Some(Owner::new("Deployment", "web")),
        ..context()
    };
    let container = sidecar(&bare, &inject(&bare, &told, &Settings::default()));
    assert_eq!(
        env_value(&container, "FLOWCAR_OWNER_NAME").as_deref(),
        Some("web")
    );
}

fn resources_of(pod: &Value) -> Value {
    sidecar(pod, &run(pod))["resources"].clone()
}

#[test]
fn requests_are_always_set_and_a_guaranteed_pod_stays_guaranteed() {
    let burstable =
        json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}});
    assert_eq!(resources_of(&pod()), burstable);
    let app = |resources: Value| {
        with(
            "/spec/containers",
            json!([{"name": "app", "resources": resources}]),
        )
    };
    let full = json!({"cpu": "100m", "memory": "128Mi"});
    let guaranteed = json!({"requests": full, "limits": full});
    assert_eq!(
        resources_of(&app(json!({"limits": {"cpu": "1", "memory": "1Gi"}}))),
        guaranteed
    );
    let equal = json!({"limits": {"cpu": 1, "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}});
    assert_eq!(resources_of(&app(equal)), guaranteed);
    for other in [
        json!({"limits": {"cpu": "1"}}),
        json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}),
        json!({"limits": {"cpu": "0", "memory": "1Gi"}}),
    ] {
        assert_eq!(resources_of(&app(other)), burstable);
    }
    let mut with_init = app(json!({"limits": {"cpu": "1", "memory": "1Gi"}}));
    with_init["spec"]["initContainers"] = json!([{"name": "init"}]);
    assert_eq!(
        resources_of(&with_init),
        burstable,
        "an init container without limits makes the pod Burstable"
    );
}

#[test]
fn a_guaranteed_pod_takes_the_limits_that_it_asks_for() {
    let mut pod = annotated("flowcar.io/cpu-limit", "300m");
    pod["metadata"]["annotations"]["flowcar.io/memory-limit"] = json!("64Mi");
    pod["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
    let both = json!({"cpu": "300m", "memory": "64Mi"});
    assert_eq!(
        resources_of(&pod),
        json!({"requests": both, "limits": both})
    );
}

#[test]
fn a_request_above_its_limit_is_a_mistake_and_not_a_refused_pod() {
    let pod = annotated("flowcar.io/memory-request", "256Mi");
    let outcome = run(&pod);
    assert_eq!(outcome.problems[0].reason(), "request_above_limit");
    assert_eq!(
        sidecar(&pod, &outcome)["resources"]["requests"]["memory"],
        "32Mi"
    );
}

#[test]
fn the_sidecar_fits_into_a_pod_level_budget() {
    let mut pod = with(
        "/spec/resources",
        json!({"requests": {"cpu": "105m", "memory": "1Gi"}, "limits": {"memory": "100Mi"}}),
    );
    pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "100m"}});
    let outcome = run(&pod);
    let resources = sidecar(&pod, &outcome)["resources"].clone();
    assert_eq!(
        resources["requests"],
        json!({"cpu": "5m", "memory": "32Mi"})
    );
    assert_eq!(resources["limits"], json!({"memory": "104857600"}));
    assert!(
        outcome.warnings()[0].contains("cpu request is 5m"),
        "{:?}",
        outcome.warnings()
    );
}

#[test]
fn an_older_injection_is_left_and_told() {
    let once = patched(&pod(), &run(&pod()));
    assert_eq!(
        run(&once).decision,
        Decision::AlreadyInjected { current: true }
    );
    let newer = Config::parse("defaults: {peer: none}").expect("valid");
    let outcome = inject(&once, &context(), &newer);
    assert_eq!(
        outcome.decision,
        Decision::AlreadyInjected { current: false }
    );
    assert!(outcome.patch.0.is_empty());
}

#[test]
fn a_forged_status_does_not_make_uninject_remove_what_is_not_ours() {
    let status = r#"{"version":"1","config":"x","form":"ebpf","volumes":["data"],"absent":["/spec"],"null":["/spec/hostname"]}"#;
    let mut pod = annotated("flowcar.io/status", status);
    pod["spec"]["volumes"] = json!([{"name": "data"}]);
    let clean = uninject(&pod);
    assert_eq!(clean["spec"], pod["spec"]);
}

#[test]
fn a_status_without_a_sidecar_does_not_stop_injection() {
    let once = patched(&pod(), &run(&pod()));
    let mut copied = pod();
    copied["metadata"]["annotations"]["flowcar.io/status"] =
        once["metadata"]["annotations"]["flowcar.io/status"].clone();
    assert!(matches!(run(&copied).decision, Decision::Injected(_)));
}

// === properties ===

/// Any JSON, with the characters in names that JSON pointers must escape.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z~/$\" \\\\é]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z~/ é]{1,8}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

fn any_object() -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::btree_map("[a-z~/.é]{1,12}", any_json(), 0..4)
        .prop_map(|map| map.into_iter().collect())
}

/// A list field that is absent, null, empty or has named things with unknown fields.
fn any_list() -> impl Strategy<Value = Option<Value>> {
    let item = (any_object(), "[a-z]{1,6}").prop_map(|(mut item, name)| {
        item.insert("name".to_owned(), json!(format!("x-{name}")));
        Value::Object(item)
    });
    prop_oneof![
        Just(None),
        Just(Some(Value::Null)),
        prop::collection::vec(item, 0..3).prop_map(|items| Some(Value::Array(items))),
    ]
}

fn any_pod() -> impl Strategy<Value = Value> {
    let annotations = prop_oneof![
        Just(None),
        Just(Some(Value::Null)),
        any_object().prop_map(|map| Some(Value::Object(map))),
        Just(Some(
            json!({"flowcar.io/inject": "enabled", "flowcar.io/peer": "none", "flowcar.io/nope": "1"})
        )),
        Just(Some(json!({"flowcar.io/inject": "oui"}))),
    ];
    let metadata = prop_oneof![
        1 => Just(None),
        1 => Just(Some(Value::Null)),
        6 => (any_object(), annotations).prop_map(|(mut metadata, annotations)| {
            metadata.extend(annotations.map(|value| ("annotations".to_owned(), value)));
            Some(Value::Object(metadata))
        }),
    ];
    (
        any_object(),
        metadata,
        any_object(),
        any_list(),
        any_list(),
        any_list(),
    )
        .prop_map(|(mut pod, metadata, mut spec, containers, init, volumes)| {
            spec.extend(containers.map(|value| ("containers".to_owned(), value)));
            spec.extend(init.map(|value| ("initContainers".to_owned(), value)));
            spec.extend(volumes.map(|value| ("volumes".to_owned(), value)));
            pod.extend(metadata.map(|value| ("metadata".to_owned(), value)));
            pod.insert("spec".to_owned(), Value::Object(spec));
            Value::Object(pod)
        })
}

proptest! {
    #[test]
    fn injection_adds_once_and_undoes_exactly(pod in any_pod(), native: bool, restricted: bool) {
        let labels = if restricted { labelled("pod-security.kubernetes.io/enforce", "restricted") } else { context() };
        let context = Context { native_sidecar: native, opted_in: true, ..labels };
        let settings = Settings::default();
        let outcome = inject(&pod, &context, &settings);
        prop_assert!(outcome.patch.0.iter().all(|operation| matches!(operation, PatchOperation::Add(_))));
        let once = patched(&pod, &outcome);
        prop_assert_eq!(uninject(&once), pod.clone());
        let again = inject(&once, &context, &settings);
        prop_assert!(again.patch.0.is_empty(), "a second patch: {:?}", again.patch);
        if matches!(outcome.decision, Decision::Injected(_)) {
            prop_assert_eq!(again.decision, Decision::AlreadyInjected { current: true });
            prop_assert_eq!(without_ours(&once), without_ours(&pod));
        }
        for warning in outcome.warnings() {
            prop_assert!(warning.chars().count() <= WARNING_CHARS, "{}", warning);
        }
    }

    /// Whatever JSON comes, there is an answer.
    #[test]
    fn injection_is_total(pod in any_json(), opted_in: bool) {
        let context = Context { opted_in, ..context() };
        let outcome = inject(&pod, &context, &Settings::default());
        let once = patched(&pod, &outcome);
        prop_assert_eq!(uninject(&once), pod);
    }
}

/// The pod with everything that flowcar may add taken out by another way than [`uninject`].
fn without_ours(pod: &Value) -> Value {
    let mut pod = pod.clone();
    for list in ["containers", "initContainers", "volumes"] {
        let items = pod["spec"][list].as_array().cloned().unwrap_or_default();
        let ours = |item: &Value| {
            item["name"]
                .as_str()
                .is_some_and(|name| name.starts_with("flowcar"))
        };
        pod["spec"][list] = items.into_iter().filter(|item| !ours(item)).collect();
    }
    let mut annotations = pod["metadata"]["annotations"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    annotations.remove("flowcar.io/status");
    pod["metadata"]["annotations"] = Value::Object(annotations);
    pod
}

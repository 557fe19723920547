//! What an injection does not change, and how uninject undoes it.

use super::*;

#[test]
fn injection_by_an_older_version_stays_with_a_warning() {
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
fn forged_status_makes_uninject_remove_nothing_else() {
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
        "[a-z,]{0,6}".prop_map(|own| Some(
            json!({"cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes": own})
        )),
        Just(Some(
            json!({"cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes": "flowcar-host-cgroup"})
        )),
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

    /// Any JSON gets an outcome.
    #[test]
    fn injection_never_panics(pod in any_json(), opted_in: bool) {
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
    let evictable = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";
    annotations.remove(evictable);
    pod["metadata"]["annotations"] = Value::Object(annotations);
    pod
}

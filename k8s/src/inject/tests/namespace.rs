//! What the namespace and the operator add: defaults, and Secrets for the image.

use super::*;

fn in_namespace(contains_text: Value) -> Context {
    Context {
        namespace_labels: contains_text.as_object().cloned().expect("an object"),
        ..context()
    }
}

#[test]
fn namespace_defaults_rank_between_pod_and_operator() {
    let settings =
        Config::parse("defaults: {peer: none, sampling: 1, log-level: warn}").expect("valid");
    let context =
        in_namespace(json!({"flowcar.io/sampling": "2", "flowcar.io/log-level": "debug"}));
    let pod = annotated("flowcar.io/log-level", "trace");
    let outcome = inject(&pod, &context, &settings);
    let container = sidecar(&pod, &outcome);
    let of = |name| env_value(&container, name).expect("it is set");
    assert_eq!(of("FLOWCAR_PEER"), "none");
    assert_eq!(of("FLOWCAR_SPANS_PER_SECOND"), "2");
    assert_eq!(of("FLOWCAR_LOG"), "trace");
    assert!(outcome.warnings().is_empty(), "{:?}", outcome.warnings());
}

#[test]
fn invalid_namespace_default_warns_and_denies_nothing() {
    let settings =
        Config::parse("{strict: true, allowedEndpoints: ['http://c:4317']}").expect("valid");
    for (name, value) in [
        ("flowcar.io/sampling", "many"),
        ("flowcar.io/smapling", "1"),
        ("flowcar.io/endpoint", "http://elsewhere:4317"),
        ("flowcar.io/image", "mine:1"),
    ] {
        let context = in_namespace(json!({name: value}));
        let outcome = inject(&pod(), &context, &settings);
        assert!(matches!(outcome.decision, Decision::Injected(_)), "{name}");
        let warnings = outcome.warnings();
        assert!(
            warnings[0].starts_with("flowcar: on the namespace: "),
            "{warnings:?}"
        );
        assert_eq!(
            env_value(&sidecar(&pod(), &outcome), "OTEL_EXPORTER_OTLP_ENDPOINT"),
            None
        );
    }
}

fn with_secrets() -> Settings {
    Config::parse("imagePullSecrets: [registry, mirror]").expect("valid")
}

#[test]
fn pull_secrets_are_appended_and_removed_again() {
    for (before, after) in [
        (
            json!([{"name": "own"}]),
            json!([{"name": "own"}, {"name": "registry"}, {"name": "mirror"}]),
        ),
        (
            json!([{"name": "mirror"}, {"name": "own"}]),
            json!([{"name": "mirror"}, {"name": "own"}, {"name": "registry"}]),
        ),
        (
            json!([{"name": "registry"}, {"name": "mirror"}]),
            json!([{"name": "registry"}, {"name": "mirror"}]),
        ),
        (json!([]), json!([{"name": "registry"}, {"name": "mirror"}])),
        (
            Value::Null,
            json!([{"name": "registry"}, {"name": "mirror"}]),
        ),
        // The API server refuses the pod for it, not for us.
        (json!("own"), json!("own")),
    ] {
        let pod = with("/spec/imagePullSecrets", before);
        let once = patched(&pod, &inject(&pod, &context(), &with_secrets()));
        assert_eq!(once["spec"]["imagePullSecrets"], after);
        assert_eq!(uninject(&once), pod);
    }
    let absent = patched(&pod(), &inject(&pod(), &context(), &with_secrets()));
    assert_eq!(absent["spec"]["imagePullSecrets"][1]["name"], "mirror");
    assert_eq!(uninject(&absent), pod());
    let none = patched(&pod(), &run(&pod()));
    assert_eq!(
        none["spec"].get("imagePullSecrets"),
        None,
        "none is configured"
    );
}

/// A list in a template keeps the ServiceAccount plugin from adding the account's own.
#[test]
fn file_without_pull_secrets_gets_none() {
    let file = Context {
        opted_in: true,
        ..context()
    };
    let outcome = inject(&pod(), &file, &with_secrets());
    assert_eq!(
        patched(&pod(), &outcome)["spec"].get("imagePullSecrets"),
        None
    );
    assert!(
        outcome.warnings()[0].contains("service account"),
        "{:?}",
        outcome.warnings()
    );
    let pod = with("/spec/imagePullSecrets", json!([{"name": "own"}]));
    let once = patched(&pod, &inject(&pod, &file, &with_secrets()));
    assert_eq!(once["spec"]["imagePullSecrets"][2]["name"], "mirror");
}

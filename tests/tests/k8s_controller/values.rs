//! Every value of the chart, as the API server takes what it makes.

use std::{collections::BTreeSet, process::Command};

use flowcar_tests::{
    cluster::{
        Cluster,
        tools::{k8s, pipe, run},
    },
    peers::binary,
};
use serde_json::{Value, json};

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Values, and what follows from them: an object by kind and name, a JSON pointer into it, and what is there.
struct Case {
    values: Value,
    follows: Vec<(&'static str, &'static str, Value)>,
}

fn case(values: Value, follows: Vec<(&'static str, &'static str, Value)>) -> Case {
    Case { values, follows }
}

const DEPLOYMENT: &str = "Deployment/flowcar-controller";
const WEBHOOK: &str = "MutatingWebhookConfiguration/flowcar";
const POD: &str = "/spec/template/spec";

fn cases() -> Vec<Case> {
    let container = "/spec/template/spec/containers/0";
    let at = |path: &str| -> &'static str { format!("{container}{path}").leak() };
    let pod = |path: &str| -> &'static str { format!("{POD}{path}").leak() };
    let image = |rest: &str| json!(format!("registry.test/c{rest}"));
    let spread = json!([{"maxSkew": 2, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}]);
    let toleration = json!({"key": "a", "operator": "Exists", "effect": "NoSchedule"});
    let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"a": "b"}}});
    let affinity = json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 1, "podAffinityTerm": term},
    ]}});
    let peers = json!([{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]);
    let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let expression = json!([{"key": "team", "operator": "In", "values": ["a"]}]);
    let not_own = json!({"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["flowcar-system"]});
    vec![
        case(
            json!({}),
            vec![
                (
                    DEPLOYMENT,
                    pod("/nodeSelector"),
                    json!({"kubernetes.io/os": "linux"}),
                ),
                (
                    DEPLOYMENT,
                    pod("/topologySpreadConstraints/0/topologyKey"),
                    json!("kubernetes.io/hostname"),
                ),
                (
                    "ValidatingAdmissionPolicy/flowcar-webhook",
                    "/spec/failurePolicy",
                    json!("Fail"),
                ),
                (WEBHOOK, "/webhooks/0/failurePolicy", json!("Ignore")),
                ("NetworkPolicy/flowcar-controller", "", Value::Null),
                ("ServiceMonitor/flowcar-controller", "", Value::Null),
            ],
        ),
        case(
            json!({"replicas": 3, "podDisruptionBudget": false}),
            vec![
                (DEPLOYMENT, "/spec/replicas", json!(3)),
                ("PodDisruptionBudget/flowcar-controller", "", Value::Null),
            ],
        ),
        case(
            json!({"image": {"repository": "registry.test/c", "tag": "v7", "pullPolicy": "Always"}, "imagePullSecrets": [{"name": "own"}]}),
            vec![
                (DEPLOYMENT, at("/image"), image(":v7")),
                (DEPLOYMENT, at("/imagePullPolicy"), json!("Always")),
                (
                    DEPLOYMENT,
                    pod("/imagePullSecrets"),
                    json!([{"name": "own"}]),
                ),
            ],
        ),
        case(
            json!({"image": {"repository": "registry.test/c", "tag": "v7", "digest": DIGEST}}),
            vec![(DEPLOYMENT, at("/image"), image(&format!(":v7@{DIGEST}")))],
        ),
        case(
            json!({"resources": {"limits": {"memory": "256Mi"}}}),
            vec![
                (DEPLOYMENT, at("/resources/limits/memory"), json!("256Mi")),
                (DEPLOYMENT, at("/resources/requests/cpu"), json!("20m")),
            ],
        ),
        case(
            json!({"nodeSelector": {"pool": "infra"}, "tolerations": [toleration], "affinity": affinity, "priorityClassName": "system-cluster-critical"}),
            vec![
                (
                    DEPLOYMENT,
                    pod("/nodeSelector"),
                    json!({"kubernetes.io/os": "linux", "pool": "infra"}),
                ),
                (DEPLOYMENT, pod("/tolerations/0"), toleration.clone()),
                (DEPLOYMENT, pod("/affinity"), affinity.clone()),
                (
                    DEPLOYMENT,
                    pod("/priorityClassName"),
                    json!("system-cluster-critical"),
                ),
            ],
        ),
        case(
            json!({"topologySpreadConstraints": spread}),
            vec![
                (
                    DEPLOYMENT,
                    pod("/topologySpreadConstraints/0/topologyKey"),
                    json!("topology.kubernetes.io/zone"),
                ),
                (
                    DEPLOYMENT,
                    pod(
                        "/topologySpreadConstraints/0/labelSelector/matchLabels/app.kubernetes.io~1name",
                    ),
                    json!("flowcar"),
                ),
            ],
        ),
        case(
            json!({"podLabels": {"team": "a"}, "podAnnotations": {"note": "b"}, "serviceAccountAnnotations": {"role": "c"}}),
            vec![
                (
                    DEPLOYMENT,
                    "/spec/template/metadata/labels/team",
                    json!("a"),
                ),
                (
                    DEPLOYMENT,
                    "/spec/template/metadata/annotations/note",
                    json!("b"),
                ),
                (DEPLOYMENT, "/spec/selector/matchLabels/team", Value::Null),
                (
                    "ServiceAccount/flowcar-controller",
                    "/metadata/annotations/role",
                    json!("c"),
                ),
            ],
        ),
        case(
            json!({"podSecurityContext": {"runAsUser": null, "runAsGroup": null, "runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}}),
            vec![
                (DEPLOYMENT, pod("/securityContext/runAsUser"), Value::Null),
                (
                    DEPLOYMENT,
                    pod("/securityContext/runAsNonRoot"),
                    json!(true),
                ),
                (
                    DEPLOYMENT,
                    pod("/securityContext/seccompProfile/type"),
                    json!("RuntimeDefault"),
                ),
            ],
        ),
        case(
            json!({"hostNetwork": true, "webhook": {"port": 10250}, "admin": {"port": 18080}}),
            vec![
                (DEPLOYMENT, pod("/hostNetwork"), json!(true)),
                (
                    DEPLOYMENT,
                    pod("/dnsPolicy"),
                    json!("ClusterFirstWithHostNet"),
                ),
                (DEPLOYMENT, at("/ports/0/containerPort"), json!(10250)),
                (DEPLOYMENT, at("/ports/1/containerPort"), json!(18080)),
                (DEPLOYMENT, at("/args/6"), json!("--listen=[::]:10250")),
                (
                    DEPLOYMENT,
                    at("/args/7"),
                    json!("--admin-listen=[::]:18080"),
                ),
                (
                    DEPLOYMENT,
                    "/spec/strategy/rollingUpdate/maxSurge",
                    json!(0),
                ),
                (
                    "Service/flowcar-webhook",
                    "/spec/ports/0/targetPort",
                    json!("webhook"),
                ),
            ],
        ),
        case(
            json!({"tenants": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "team"}]}),
            vec![(
                "RoleBinding/flowcar-tenant",
                "/subjects/0/name",
                json!("team"),
            )],
        ),
        case(
            json!({"tenants": []}),
            vec![("RoleBinding/flowcar-tenant", "", Value::Null)],
        ),
        case(
            json!({"logLevel": "debug"}),
            vec![(DEPLOYMENT, at("/env/2/value"), json!("debug"))],
        ),
        case(
            json!({"config": {"defaults": {"sampling": 100}}}),
            vec![(
                "ConfigMap/flowcar-config",
                "/data/config.yaml",
                json!("defaults:\n  sampling: 100\n"),
            )],
        ),
        case(
            json!({"certificates": {"caLifetime": "100h", "leafLifetime": "10h"}}),
            vec![
                (DEPLOYMENT, at("/args/3"), json!("--ca-lifetime=100h")),
                (DEPLOYMENT, at("/args/4"), json!("--leaf-lifetime=10h")),
            ],
        ),
        case(
            json!({"certificates": {"source": "external", "issuer": {"kind": "Issuer", "name": "ca"}}}),
            vec![
                (
                    "Certificate/flowcar-webhook",
                    "/spec/issuerRef/kind",
                    json!("Issuer"),
                ),
                (
                    "Certificate/flowcar-webhook",
                    "/spec/issuerRef/name",
                    json!("ca"),
                ),
                ("ValidatingAdmissionPolicy/flowcar-webhook", "", Value::Null),
            ],
        ),
        case(
            json!({"webhook": {"timeoutSeconds": 9, "url": "https://w.test/admit", "admissionPolicy": false}}),
            vec![
                (WEBHOOK, "/webhooks/2/timeoutSeconds", json!(9)),
                (
                    WEBHOOK,
                    "/webhooks/2/clientConfig/url",
                    json!("https://w.test/admit"),
                ),
                (DEPLOYMENT, at("/args/5"), json!("--timeout=9s")),
                (
                    DEPLOYMENT,
                    at("/args/1"),
                    json!("--names=flowcar-webhook.flowcar-system.svc,w.test"),
                ),
                ("ValidatingAdmissionPolicy/flowcar-webhook", "", Value::Null),
            ],
        ),
        case(
            json!({"webhook": {"configurationName": "zz-flowcar"}}),
            vec![
                (WEBHOOK, "", Value::Null),
                (
                    "MutatingWebhookConfiguration/zz-flowcar",
                    "/webhooks/0/name",
                    json!("pods.flowcar.io"),
                ),
                (
                    DEPLOYMENT,
                    at("/args/8"),
                    json!("--webhook-configuration=zz-flowcar"),
                ),
            ],
        ),
        case(
            json!({"webhook": {"failurePolicy": "Fail", "namespaceSelector": {"matchLabels": {"env": "prod"}, "matchExpressions": expression}}}),
            vec![
                (WEBHOOK, "/webhooks/0/failurePolicy", json!("Fail")),
                (
                    WEBHOOK,
                    "/webhooks/0/namespaceSelector/matchLabels",
                    json!({"env": "prod"}),
                ),
                (
                    WEBHOOK,
                    "/webhooks/0/namespaceSelector/matchExpressions",
                    json!([expression[0], not_own]),
                ),
                (
                    WEBHOOK,
                    "/webhooks/1/namespaceSelector/matchLabels",
                    json!({"env": "prod", "flowcar.io/inject": "enabled"}),
                ),
                (
                    WEBHOOK,
                    "/webhooks/2/namespaceSelector/matchExpressions/1",
                    not_own.clone(),
                ),
                // Whoever reads pods has to know it, too.
                (
                    "ConfigMap/flowcar-config",
                    "/data/config.yaml",
                    json!(
                        "namespaceSelector:\n  matchExpressions:\n  - key: team\n    operator: In\n    values:\n    - a\n  matchLabels:\n    env: prod\n"
                    ),
                ),
            ],
        ),
        case(
            json!({"webhook": {"clientCA": certificate, "clientNames": ["kube-apiserver", "b"]}}),
            vec![
                (
                    "ConfigMap/flowcar-config",
                    "/data/client-ca.crt",
                    json!(certificate),
                ),
                (
                    DEPLOYMENT,
                    at("/args/8"),
                    json!("--client-ca=/etc/flowcar/client-ca.crt"),
                ),
                (
                    DEPLOYMENT,
                    at("/args/9"),
                    json!("--client-names=kube-apiserver,b"),
                ),
            ],
        ),
        case(
            json!({"networkPolicy": {"enabled": true, "apiServers": ["192.0.2.0/28", "2001:db8::/64"], "metricsFrom": peers}}),
            vec![
                (
                    "NetworkPolicy/flowcar-controller",
                    "/spec/ingress/0/from/1/ipBlock/cidr",
                    json!("2001:db8::/64"),
                ),
                (
                    "NetworkPolicy/flowcar-controller",
                    "/spec/ingress/0/ports/0/port",
                    json!("webhook"),
                ),
                (
                    "NetworkPolicy/flowcar-controller",
                    "/spec/ingress/1/from",
                    peers.clone(),
                ),
            ],
        ),
        case(
            json!({"detectMissed": false, "volumesPolicy": false}),
            vec![
                (DEPLOYMENT, at("/args/9"), json!("--detect-missed=false")),
                (
                    "ClusterRole/flowcar-controller",
                    "/rules/2/resources/0",
                    json!("deployments"),
                ),
                ("ValidatingAdmissionPolicy/flowcar-volumes", "", Value::Null),
            ],
        ),
        case(
            json!({"networkPolicy": {"enabled": true}}),
            vec![
                (
                    "NetworkPolicy/flowcar-controller",
                    "/spec/ingress/0/from",
                    Value::Null,
                ),
                (
                    "NetworkPolicy/flowcar-controller",
                    "/spec/ingress/1",
                    Value::Null,
                ),
                (
                    "NetworkPolicy/flowcar-controller",
                    "/spec/policyTypes",
                    json!(["Ingress"]),
                ),
            ],
        ),
        case(
            json!({"serviceMonitor": {"enabled": true, "interval": "15s", "labels": {"release": "prometheus"}}}),
            vec![
                (
                    "ServiceMonitor/flowcar-controller",
                    "/metadata/labels/release",
                    json!("prometheus"),
                ),
                (
                    "ServiceMonitor/flowcar-controller",
                    "/spec/endpoints/0/interval",
                    json!("15s"),
                ),
                (
                    "Service/flowcar-metrics",
                    "/spec/ports/0/targetPort",
                    json!("admin"),
                ),
            ],
        ),
    ]
}

pub(super) fn template(values: &Value) -> (bool, String, String) {
    let mut helm = Command::new(binary("helm"));
    helm.args(["template", "flowcar"]).arg(k8s("chart"));
    helm.args([
        "--namespace=flowcar-system",
        "--kube-version=1.34.0",
        "--values=-",
    ]);
    pipe(helm, &values.to_string())
}

/// Definitions of the kinds of others, which take anything.
fn definition(group: &str, kind: &str, plural: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced", "names": {"kind": kind, "plural": plural},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "x-kubernetes-preserve-unknown-fields": true,
            }}}],
        },
    })
}

/// What the API server makes of manifests, without keeping it.
fn dry_run(cluster: &Cluster, manifests: &str) -> Vec<Value> {
    let mut kubectl = cluster.api.kubectl();
    kubectl.args([
        "apply",
        "--server-side",
        "--dry-run=server",
        "-o",
        "json",
        "-f",
        "-",
    ]);
    let answer = run(kubectl, manifests);
    let list: Value = serde_json::from_str(&answer).expect("a List");
    list["items"].as_array().expect("objects").clone()
}

#[test]
fn every_chart_value_takes_effect() {
    let cluster = Cluster::bare();
    cluster.api.create_namespace("flowcar-system", &json!({}));
    for (group, kind, plural) in [
        ("cert-manager.io", "Certificate", "certificates"),
        ("monitoring.coreos.com", "ServiceMonitor", "servicemonitors"),
    ] {
        cluster.apply(&definition(group, kind, plural).to_string());
        let mut kubectl = cluster.api.kubectl();
        let name = format!("crd/{plural}.{group}");
        kubectl.args([
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            &name,
        ]);
        run(kubectl, "");
    }
    for Case { values, follows } in cases() {
        let (ok, manifests, error) = template(&values);
        assert!(ok, "{values}: {error}");
        let objects = dry_run(&cluster, &manifests);
        for (object, pointer, expected) in follows {
            let (kind, name) = object.split_once('/').expect("KIND/NAME");
            let found = objects
                .iter()
                .find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
            let found = found.and_then(|object| object.pointer(pointer));
            let found = found.unwrap_or(&Value::Null);
            assert_eq!(*found, expected, "{values}: {object} {pointer}");
        }
    }
}

/// The paths of a value's leaves; an empty map or list is one.
fn leaves(value: &Value, path: &str, all: &mut BTreeSet<String>) {
    match value.as_object().filter(|members| !members.is_empty()) {
        Some(members) => members.iter().for_each(|(name, member)| {
            leaves(member, &format!("{path}/{name}"), all);
        }),
        None => drop(all.insert(path.to_owned())),
    }
}

#[test]
fn every_chart_value_is_tested() {
    let text = std::fs::read_to_string(k8s("chart/values.yaml")).expect("the values");
    let values: Value = serde_yaml_ng::from_str(&text).expect("YAML");
    let (mut known, mut tried) = (BTreeSet::new(), BTreeSet::new());
    leaves(&values, "", &mut known);
    for case in cases() {
        leaves(&case.values, "", &mut tried);
    }
    let is_tried = |path: &String| {
        tried.iter().any(|tried| {
            let below = tried.strip_prefix(path.as_str());
            below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    };
    // By the label that a pod's default is, which a value only adds to; and one default inside another value.
    let by_default = [
        "/nodeSelector/kubernetes.io/os",
        "/resources/requests/cpu",
        "/resources/requests/memory",
    ];
    let left: Vec<_> = known
        .iter()
        .filter(|path| !is_tried(path) && !by_default.contains(&path.as_str()))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn second_release_is_refused() {
    let cluster = Cluster::bare();
    let install = |release: &str, namespace: &str| {
        let mut helm = cluster.api.helm();
        helm.args(["install", release]).arg(k8s("chart"));
        helm.args(["--create-namespace", "--namespace", namespace]);
        pipe(helm, "")
    };
    let (ok, notes, error) = install("flowcar", "flowcar-system");
    assert!(
        ok && notes.contains("kubectl flowcar check"),
        "{notes}{error}"
    );
    for (release, namespace) in [("flowcar", "other"), ("second", "flowcar-system")] {
        let (ok, _, error) = install(release, namespace);
        assert!(!ok && error.contains("there can be one only"), "{error}");
    }
    let mut upgrade = cluster.api.helm();
    upgrade.args(["upgrade", "flowcar"]).arg(k8s("chart"));
    upgrade.args(["--namespace=flowcar-system", "--set", "replicas=1"]);
    run(upgrade, "");
    let mut uninstall = cluster.api.helm();
    uninstall.args(["uninstall", "flowcar", "--namespace=flowcar-system"]);
    run(uninstall, "");
}

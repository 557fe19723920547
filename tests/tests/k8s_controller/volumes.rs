//! A tenant who wants what the sidecar has: its volumes, by their names.

use flowcar_tests::{
    cluster::{
        Cluster, LIMIT,
        tools::{containers, pod},
    },
    peers::{Api, ApiServerOptions, PatchKind, Reply, eventually},
};
use serde_json::{Value, json};

use crate::cli;

pub(crate) const PODS: &str = "/api/v1/namespaces/shop/pods";
const VOLUMES: [&str; 5] = [
    "flowcar-host-cgroup",
    "flowcar-no-token",
    "flowcar-tls",
    "flowcar-endpoint",
    "flowcar-state",
];
const ONLY: &str = "only flowcar's own container may mount flowcar's volumes";

/// A user with all rights on pods of this namespace.
pub(crate) fn tenant(cluster: &Cluster) -> Api {
    cluster.api.create_service_account("shop", "tenant");
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/shop";
    let role = json!({
        "metadata": {"name": "tenant"},
        "rules": [{"apiGroups": [""], "resources": ["pods", "pods/ephemeralcontainers"], "verbs": ["*"]}],
    });
    let admin = cluster.admin();
    admin.create(&format!("{rbac}/roles"), &role).success();
    let binding = json!({
        "metadata": {"name": "tenant"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "tenant"},
        "subjects": [{"kind": "ServiceAccount", "name": "tenant", "namespace": "shop"}],
    });
    admin
        .create(&format!("{rbac}/rolebindings"), &binding)
        .success();
    let token = cluster.api.service_account_token("shop", "tenant");
    let tenant = cluster.api.with_token(&token);
    // The authorizer learns of the binding a moment later.
    eventually("the tenant's right", LIMIT, || {
        tenant.get(PODS).is_ok().then_some(())
    });
    tenant
}

pub(crate) fn on() -> Value {
    json!({"flowcar.io/inject": "enabled"})
}

fn mounts(volume: &str) -> Value {
    json!([{"name": volume, "mountPath": "/node"}])
}

/// A policy takes effect a moment after it is written.
fn wait_for_policy(tenant: &Api) {
    let mut probe = pod("probe", json!({}));
    probe["spec"]["volumes"] = json!([{"name": VOLUMES[0], "emptyDir": {}}]);
    probe["spec"]["containers"][0]["volumeMounts"] = mounts(VOLUMES[0]);
    eventually("the policy", LIMIT, || {
        let answer = tenant.create(&format!("{PODS}?dryRun=All"), &probe);
        (answer.status == 422).then_some(())
    });
}

/// A pod of which one container of that list mounts the volume, which it defines or not.
fn mounting(list: &str, volume: &str, defines: bool, annotations: &Value) -> Value {
    let mut pod = pod("p", annotations.clone());
    let container = json!({"name": "app2", "image": "app:1", "volumeMounts": mounts(volume)});
    match list {
        "containers" => pod["spec"]["containers"][0]["volumeMounts"] = mounts(volume),
        list => pod["spec"][list] = json!([container]),
    }
    if defines {
        pod["spec"]["volumes"] = json!([{"name": volume, "emptyDir": {}}]);
    }
    pod
}

#[test]
fn tenant_container_cannot_mount_flowcars_volumes() {
    let cluster = Cluster::start();
    let _controller = cluster.controller(&[]);
    let tenant = tenant(&cluster);
    wait_for_policy(&tenant);
    let dry = format!("{PODS}?dryRun=All");
    for volume in VOLUMES {
        for list in ["containers", "initContainers"] {
            for defines in [false, true] {
                for annotations in [on(), json!({})] {
                    let what = format!("{list} {volume} defined={defines} {annotations}");
                    let answer =
                        tenant.create(&dry, &mounting(list, volume, defines, &annotations));
                    assert_eq!(answer.status, 422, "{what}: {}", answer.text());
                    // What it does not define, it does not gain: without the webhook's part the pod would be admitted.
                    let printed = if defines { ONLY } else { "Not found" };
                    let text = answer.text();
                    assert!(
                        text.contains(ONLY) || text.contains(printed),
                        "{what}: {text}"
                    );
                }
            }
        }
    }
    let mut device = mounting("containers", VOLUMES[0], true, &on());
    device["spec"]["containers"][0]["volumeMounts"] = Value::Null;
    device["spec"]["containers"][0]["volumeDevices"] =
        json!([{"name": VOLUMES[0], "devicePath": "/dev/x"}]);
    let answer = tenant.create(&dry, &device);
    assert!(!answer.is_ok(), "{}", answer.text());
    // A container of flowcar's name that is writable.
    let mut named = mounting("containers", VOLUMES[0], true, &json!({}));
    named["spec"]["containers"][0]["name"] = json!("flowcar");
    let answer = tenant.create(&dry, &named);
    assert!(answer.text().contains("read-only"), "{}", answer.text());

    // Into a pod that runs, whatever the container is called, and over whichever way to write it.
    let stored = tenant.create(PODS, &pod("runs", on())).success();
    assert_eq!(containers(&stored).0, ["flowcar"]);
    let path = format!("{PODS}/runs/ephemeralcontainers");
    let debug = |name: &str, volume: &str| json!({"name": name, "image": "debug:1", "volumeMounts": mounts(volume)});
    for volume in ["flowcar-host-cgroup", "flowcar-no-token"] {
        let one = debug("debug", volume);
        let strategic = json!({"spec": {"ephemeralContainers": [one]}});
        let add = json!([{"op": "add", "path": "/spec/ephemeralContainers", "value": [one]}]);
        let mut whole = tenant.get(&format!("{PODS}/runs")).success();
        whole["spec"]["ephemeralContainers"] = json!([one]);
        let answers: [Reply; 3] = [
            tenant.patch(&path, PatchKind::Strategic, &strategic),
            tenant.patch(&path, PatchKind::Json, &add),
            tenant.replace(&path, &whole),
        ];
        for answer in answers {
            assert!(answer.text().contains(ONLY), "{volume}: {}", answer.text());
        }
    }
    let harmless =
        json!({"spec": {"ephemeralContainers": [{"name": "debug", "image": "debug:1"}]}});
    tenant
        .patch(&path, PatchKind::Strategic, &harmless)
        .success();
}

/// The webhook alone, where the policy is left out.
#[test]
fn pod_that_mounts_a_reserved_volume_is_not_injected() {
    let cluster = Cluster::bare();
    cluster.install_chart(&["volumesPolicy=false"]);
    let controller = cluster.controller(&[]);
    let tenant = tenant(&cluster);
    for volume in VOLUMES {
        for list in ["containers", "initContainers"] {
            let answer = tenant.create(PODS, &mounting(list, volume, false, &on()));
            assert_eq!(answer.status, 422, "{list} {volume}: {}", answer.text());
            assert!(answer.text().contains("Not found"), "{}", answer.text());
        }
    }
    let reason = "flowcar_admission_reasons_total{reason=\"reserved_mount\"}";
    assert_eq!(controller.metric(reason), Some(10.0));
    let stored = tenant
        .create(PODS, &mounting("containers", VOLUMES[0], true, &on()))
        .success();
    assert_eq!(containers(&stored).0, Vec::<&str>::new());
    let (ok, out, error) = cli::run(&cluster, &["-n", "shop", "explain", "pod/p"]);
    assert!(
        ok && out
            .contains("container app mounts flowcar-host-cgroup, which only flowcar may mount"),
        "{out}{error}"
    );
    eventually("an Event", LIMIT, || {
        cluster.events("shop", "FlowcarNotInjected", "p").pop()
    });
}

/// `recursiveReadOnly` is in the API since 1.30, by default since 1.31.
#[test]
fn host_path_mount_is_recursively_read_only() {
    let mount = |pod: &Value| {
        let mounts = pod["spec"]["initContainers"][0]["volumeMounts"].clone();
        let mounts = mounts.as_array().expect("mounts").clone();
        let mut all = mounts.into_iter();
        all.find(|mount| mount["name"] == "flowcar-host-cgroup")
            .expect("a mount")
    };
    let can = Cluster::start();
    let _controller = can.controller(&[]);
    let stored = mount(&can.create_pod("shop", &pod("can", on())));
    assert_eq!(stored["recursiveReadOnly"], "IfPossible");
    // As an API server that does not know the field: it drops it, and takes the pod.
    let old = Cluster::start_on(ApiServerOptions {
        args: vec![
            "--emulated-version=1.31".to_owned(),
            "--feature-gates=RecursiveReadOnlyMounts=false".to_owned(),
        ],
        ..ApiServerOptions::default()
    });
    let _controller = old.controller(&[]);
    let stored = mount(&old.create_pod("shop", &pod("cannot", on())));
    assert_eq!(stored.get("recursiveReadOnly"), None);
    assert_eq!(stored["readOnly"], true);
}

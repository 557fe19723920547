//! A tenant who wants what the sidecar has: its volumes, by their names; and to count as injected without a sidecar.

use flowcar_tests::cluster::tools::{containers, pod};
use flowcar_tests::cluster::{Cluster, LIMIT};
use flowcar_tests::peers::{Api, ApiServerOptions, PatchKind, Reply, eventually};
use serde_json::{Value, json};

use crate::cli;
use crate::strict::configured;

const PODS: &str = "/api/v1/namespaces/shop/pods";
const VOLUMES: [&str; 5] = [
    "flowcar-host-cgroup",
    "flowcar-no-token",
    "flowcar-tls",
    "flowcar-endpoint",
    "flowcar-state",
];
const ONLY: &str = "only flowcar's own container may mount flowcar's volumes";

/// Somebody who may do with pods of this namespace whatever the API server lets them.
fn tenant(cluster: &Cluster) -> Api {
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
    cluster.api.with_token(&token)
}

fn on() -> Value {
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
        (!tenant.create(&format!("{PODS}?dryRun=All"), &probe).is_ok()).then_some(())
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
fn no_container_of_a_tenant_mounts_a_volume_of_flowcars() {
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
                    let said = if defines { ONLY } else { "Not found" };
                    let text = answer.text();
                    assert!(text.contains(ONLY) || text.contains(said), "{what}: {text}");
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
fn a_pod_that_mounts_a_reserved_volume_gains_none() {
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

/// How the pod of a tenant claims to be injected: what differs, and the change to a pod that flowcar injected.
type Fake = (&'static str, fn(&mut Value));

fn sidecar(pod: &mut Value) -> &mut Value {
    &mut pod["spec"]["initContainers"][0]
}

fn set_env(pod: &mut Value, name: &str, entry: Value) {
    let env = sidecar(pod)["env"].as_array_mut().expect("a list");
    env.retain(|entry| entry["name"] != name);
    env.push(entry);
}

const FAKES: &[Fake] = &[
    ("image", |pod| {
        sidecar(pod)["image"] = json!("evil.example/flowcar:0.1.0");
    }),
    ("image", |pod| {
        sidecar(pod)["image"] = json!("ghcr.io/flowcar/flowcar-evil:0.1.0");
    }),
    ("image", |pod| {
        // Another configuration is no excuse for another image.
        let status = pod["metadata"]["annotations"]["flowcar.io/status"].clone();
        let mut status: Value =
            serde_json::from_str(status.as_str().expect("a status")).expect("JSON");
        status["config"] = json!("0000000000000000");
        pod["metadata"]["annotations"]["flowcar.io/status"] = json!(status.to_string());
        sidecar(pod)["image"] = json!("evil.example/flowcar:0.1.0");
    }),
    ("command", |pod| {
        sidecar(pod)["command"] = json!(["/bin/sleep", "inf"]);
    }),
    ("command", |pod| {
        sidecar(pod)["command"] = Value::Null;
    }),
    ("args", |pod| {
        sidecar(pod)["args"] = json!(["--cgroup=/run/host-cgroup"]);
    }),
    ("envFrom", |pod| {
        sidecar(pod)["envFrom"] = json!([{"configMapRef": {"name": "mine"}}]);
    }),
    ("lifecycle", |pod| {
        sidecar(pod)["lifecycle"] = json!({"postStart": {"exec": {"command": ["/x"]}}});
    }),
    ("probes", |pod| {
        sidecar(pod)["livenessProbe"]["exec"]["command"] = json!(["/x"]);
    }),
    ("restartPolicy", |pod| {
        let sidecar = sidecar(pod).as_object_mut().expect("a container");
        sidecar.remove("restartPolicy");
        // Only a container that goes on may have them.
        sidecar.remove("startupProbe");
        sidecar.remove("livenessProbe");
    }),
    ("securityContext", |pod| {
        sidecar(pod)["securityContext"]["capabilities"]["add"] =
            json!(["BPF", "NET_ADMIN", "SYS_ADMIN"]);
    }),
    ("securityContext", |pod| {
        sidecar(pod)["securityContext"]["capabilities"]["drop"] = json!([]);
    }),
    ("securityContext", |pod| {
        let context = &mut sidecar(pod)["securityContext"];
        context["privileged"] = json!(true);
        context["allowPrivilegeEscalation"] = json!(true);
    }),
    ("securityContext", |pod| {
        sidecar(pod)["securityContext"]["readOnlyRootFilesystem"] = json!(false);
    }),
    ("securityContext", |pod| {
        sidecar(pod)["securityContext"]["seccompProfile"]["type"] = json!("Unconfined");
    }),
    ("env", |pod| {
        set_env(
            pod,
            "FLOWCAR_POD_NAMESPACE",
            json!({"name": "FLOWCAR_POD_NAMESPACE", "value": "payments"}),
        );
    }),
    ("env", |pod| {
        // The last of two holds.
        let env = sidecar(pod)["env"].as_array_mut().expect("a list");
        env.push(json!({"name": "FLOWCAR_POD_UID", "value": "another"}));
    }),
    ("env", |pod| {
        let field = json!({"fieldRef": {"fieldPath": "metadata.labels['app']"}});
        set_env(
            pod,
            "FLOWCAR_POD_NAME",
            json!({"name": "FLOWCAR_POD_NAME", "valueFrom": field}),
        );
    }),
    ("env", |pod| {
        let attributes =
            json!({"name": "OTEL_RESOURCE_ATTRIBUTES", "value": "k8s.namespace.name=payments"});
        set_env(pod, "OTEL_RESOURCE_ATTRIBUTES", attributes);
    }),
    ("env", |pod| {
        set_env(
            pod,
            "FLOWCAR_HOST_CGROUP",
            json!({"name": "FLOWCAR_HOST_CGROUP", "value": "/mine"}),
        );
    }),
    ("env", |pod| {
        // The operator allows no such endpoint.
        let endpoint =
            json!({"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://evil.example:4317"});
        set_env(pod, "OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
    }),
    ("env", |pod| {
        let secret = json!({"secretKeyRef": {"name": "payments", "key": "headers"}});
        set_env(
            pod,
            "OTEL_EXPORTER_OTLP_HEADERS",
            json!({"name": "OTEL_EXPORTER_OTLP_HEADERS", "valueFrom": secret}),
        );
    }),
    ("volumeMounts", |pod| {
        sidecar(pod)["volumeMounts"][0]["mountPath"] = json!("/elsewhere");
    }),
    ("volumeMounts", |pod| {
        sidecar(pod)["volumeMounts"][0]["subPath"] = json!("kubepods.slice");
    }),
    ("volumeMounts", |pod| {
        let mounts = sidecar(pod)["volumeMounts"].as_array_mut().expect("a list");
        mounts.retain(|mount| mount["name"] != "flowcar-no-token");
    }),
    ("volumeMounts", |pod| {
        pod["spec"]["volumes"]
            .as_array_mut()
            .expect("a list")
            .push(json!({"name": "mine", "emptyDir": {}}));
        let mounts = sidecar(pod)["volumeMounts"].as_array_mut().expect("a list");
        mounts.push(json!({"name": "mine", "mountPath": "/run/flowcar-tls"}));
    }),
    ("volumes", |pod| {
        let volumes = pod["spec"]["volumes"].as_array_mut().expect("a list");
        let cgroup = volumes
            .iter_mut()
            .find(|volume| volume["name"] == "flowcar-host-cgroup");
        *cgroup.expect("the volume") = json!({"name": "flowcar-host-cgroup", "emptyDir": {}});
    }),
    ("volumes", |pod| {
        let volumes = pod["spec"]["volumes"].as_array_mut().expect("a list");
        let cgroup = volumes
            .iter_mut()
            .find(|volume| volume["name"] == "flowcar-host-cgroup");
        cgroup.expect("the volume")["hostPath"]["path"] = json!("/etc");
    }),
];

/// As the tenant would write it: what flowcar and the API server made, without what only the API server may say.
fn preset(stored: &Value, name: &str) -> Value {
    let mut spec = stored["spec"].clone();
    let volumes = spec["volumes"].as_array_mut().expect("a list");
    volumes.retain(|volume| {
        let name = volume["name"].as_str();
        !name.is_some_and(|name| name.starts_with("kube-api-access"))
    });
    for list in ["containers", "initContainers"] {
        for container in spec[list].as_array_mut().expect("a list") {
            if let Some(mounts) = container["volumeMounts"].as_array_mut() {
                mounts.retain(|mount| {
                    let name = mount["name"].as_str();
                    !name.is_some_and(|name| name.starts_with("kube-api-access"))
                });
            }
        }
    }
    json!({"metadata": {"name": name, "annotations": stored["metadata"]["annotations"]}, "spec": spec})
}

#[test]
fn no_pod_counts_as_injected_by_what_its_author_claims() {
    let config = "allowedEndpoints: ['https://*.observability']\nlocked: [headers-secret]\nimageMirrors: [mirror.test/ghcr/flowcar]\n";
    let (cluster, controller, _dir) = configured(config);
    let tenant = tenant(&cluster);
    let real = tenant.create(PODS, &pod("real", on())).success();
    let skips = |reason: &str| {
        let line = format!("flowcar_admission_reasons_total{{reason=\"{reason}\"}}");
        controller.metric(&line).unwrap_or_default()
    };
    for (row, (field, fake)) in FAKES.iter().enumerate() {
        let name = format!("fake-{row}");
        let mut object = preset(&real, &name);
        fake(&mut object);
        let before = skips("preset");
        let answer = tenant.create(PODS, &object);
        assert!(answer.is_ok(), "{row} {field}: {}", answer.text());
        assert_eq!(skips("preset"), before + 1.0, "{row} {field}");
        let status = &answer.json()["metadata"]["annotations"]["flowcar.io/status"];
        let status = status.as_str().expect("a status");
        assert!(
            status.contains("\"skipped\":\"preset\""),
            "{row} {field}: {status}"
        );
        let target = format!("pod/{name}");
        let (ok, out, error) = cli::run(&cluster, &["-n", "shop", "explain", &target]);
        let said = format!("its container flowcar is not as flowcar writes it ({field})");
        assert!(ok && out.contains(&said), "{row}: {out}{error}");
    }
    // What flowcar wrote counts, also when it comes again, as from a file.
    let again = tenant.create(PODS, &preset(&real, "again")).success();
    assert_eq!(
        again["metadata"]["annotations"]["flowcar.io/status"],
        real["metadata"]["annotations"]["flowcar.io/status"]
    );
    // So does it with what other webhooks add to every container, and from their mirror.
    let mut beside = preset(&real, "beside");
    let env = sidecar(&mut beside)["env"].as_array_mut().expect("a list");
    env.push(json!({"name": "AWS_REGION", "value": "eu-central-1"}));
    let volumes = beside["spec"]["volumes"].as_array_mut().expect("a list");
    volumes.push(json!({"name": "aws-token", "emptyDir": {}}));
    let mounts = sidecar(&mut beside)["volumeMounts"].as_array_mut();
    let path = "/var/run/secrets/eks.amazonaws.com/serviceaccount";
    mounts
        .expect("a list")
        .push(json!({"name": "aws-token", "mountPath": path}));
    sidecar(&mut beside)["image"] = json!("mirror.test/ghcr/flowcar:0.1.0");
    let before = skips("preset");
    tenant.create(PODS, &beside).success();
    assert_eq!(skips("preset"), before);
    // A status alone changes nothing: the pod is injected.
    let mut claimed = pod("claimed", on());
    claimed["metadata"]["annotations"]["flowcar.io/status"] =
        real["metadata"]["annotations"]["flowcar.io/status"].clone();
    let claimed = tenant.create(PODS, &claimed).success();
    assert_eq!(containers(&claimed).0, ["flowcar"]);
    let lied = r#"{"skipped":"host_network","message":"all is well"}"#;
    let mut host = pod("lied", on());
    host["metadata"]["annotations"]["flowcar.io/status"] = json!(lied);
    host["spec"]["hostNetwork"] = json!(true);
    let host = tenant.create(PODS, &host).success();
    let status = host["metadata"]["annotations"]["flowcar.io/status"].as_str();
    assert!(!status.expect("a status").contains("all is well"));

    // Where no webhook answers, the author's word stays, and those who read the pod are not taken in.
    controller.process.kill();
    let mut alone = pod("alone", on());
    alone["metadata"]["annotations"]["flowcar.io/status"] =
        real["metadata"]["annotations"]["flowcar.io/status"].clone();
    tenant.create(PODS, &alone).success();
    let (ok, out, _) = cli::run(&cluster, &["status"]);
    let line = out.lines().find(|line| line.starts_with("shop "));
    let figures: Vec<_> = line.expect("a line").split_whitespace().collect();
    let skipped = (FAKES.len() + 1).to_string();
    assert_eq!(figures, ["shop", "4", &skipped, "1"], "{out}");
    assert!(!ok);
    let (_, out, error) = cli::run(&cluster, &["-n", "shop", "explain", "pod/alone"]);
    assert!(out.contains("the webhook did not see it"), "{out}{error}");
}

/// `recursiveReadOnly` is in the API since 1.30, by default since 1.31.
#[test]
fn what_is_below_the_host_path_is_read_only_where_the_cluster_can() {
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

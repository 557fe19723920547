//! A tenant whose pod claims to be injected, with a container and a status of its own.

use flowcar_tests::cluster::tools::{containers, pod};
use serde_json::{Value, json};

use crate::{
    cli,
    strict::configured,
    volumes::{PODS, on, tenant},
};

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
        // Only a container that keeps running may have them.
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
    ("volumeMounts", |pod| {
        // Over the program.
        pod["spec"]["volumes"]
            .as_array_mut()
            .expect("a list")
            .push(json!({"name": "mine", "emptyDir": {}}));
        let mounts = sidecar(pod)["volumeMounts"].as_array_mut().expect("a list");
        mounts.push(json!({"name": "mine", "mountPath": "/usr/bin"}));
    }),
    ("env", |pod| {
        set_env(pod, "PATH", json!({"name": "PATH", "value": "/mine"}));
    }),
    ("env", |pod| {
        let kind = json!({"name": "FLOWCAR_OWNER_KIND", "value": "Deployment"});
        set_env(pod, "FLOWCAR_OWNER_KIND", kind);
        let name = json!({"name": "FLOWCAR_OWNER_NAME", "value": "payments"});
        set_env(pod, "FLOWCAR_OWNER_NAME", name);
    }),
    ("env", |pod| {
        let name = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        set_env(
            pod,
            name,
            json!({"name": name, "value": "http://evil:4317"}),
        );
    }),
    ("env", |pod| {
        let proxy = json!({"name": "HTTPS_PROXY", "value": "http://evil:3128"});
        set_env(pod, "HTTPS_PROXY", proxy);
    }),
    ("env", |pod| {
        let off = json!({"name": "OTEL_SDK_DISABLED", "value": "true"});
        set_env(pod, "OTEL_SDK_DISABLED", off);
    }),
    ("ports", |pod| {
        sidecar(pod)["ports"] = json!([{"containerPort": 9, "hostPort": 9}]);
    }),
    ("securityContext", |pod| {
        let context = &mut sidecar(pod)["securityContext"];
        context["seLinuxOptions"] = json!({"type": "spc_t"});
    }),
    ("resources", |pod| {
        sidecar(pod)["resources"]["limits"]["memory"] = json!("64Gi");
    }),
    ("hostNetwork", |pod| {
        pod["spec"]["hostNetwork"] = json!(true);
    }),
];

/// As the tenant would write it: what flowcar and the API server made, without what only the API server may set.
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
fn forged_sidecar_does_not_count_as_injected() {
    let config = "allowedEndpoints: ['https://*.observability']\nlocked: [headers-secret]\nimageMirrors: [mirror.test/ghcr/flowcar]\nmaximum: {memory-limit: 256Mi}\n";
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
        // What would leave the pod out in any case is explained first.
        let printed = match *field {
            "hostNetwork" => "the pod is on the host's network".to_owned(),
            _ => format!("its container flowcar is not as flowcar writes it ({field})"),
        };
        assert!(ok && out.contains(&printed), "{row}: {out}{error}");
    }
    // Whoever claims an earlier configuration is held to the limits of this one.
    let mut earlier = preset(&real, "earlier");
    let status = &mut earlier["metadata"]["annotations"]["flowcar.io/status"];
    let mut claimed: Value = serde_json::from_str(status.as_str().expect("a status")).unwrap();
    claimed["config"] = json!("0123456789abcdef");
    *status = json!(claimed.to_string());
    let env = sidecar(&mut earlier)["env"].as_array_mut().expect("a list");
    env.retain(|entry| entry["name"] != "OTEL_EXPORTER_OTLP_ENDPOINT");
    env.push(json!({"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "https://evil:4317"}));
    let answer = tenant.create(PODS, &earlier).success();
    let status = answer["metadata"]["annotations"]["flowcar.io/status"].to_string();
    assert!(
        status.contains("of an earlier configuration, and the operator does not allow its env now"),
        "{status}"
    );
    // What flowcar wrote counts, also when it is submitted again, as from a file.
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

    // Where no webhook answers, the forged status stays, and readers of the pod do not trust it.
    controller.process.kill();
    let mut alone = pod("alone", on());
    alone["metadata"]["annotations"]["flowcar.io/status"] =
        real["metadata"]["annotations"]["flowcar.io/status"].clone();
    tenant.create(PODS, &alone).success();
    let (ok, out, _) = cli::run(&cluster, &["status"]);
    let line = out.lines().find(|line| line.starts_with("shop "));
    let figures: Vec<_> = line.expect("a line").split_whitespace().collect();
    // And the one of an earlier configuration, and the one on the host's network.
    let skipped = (FAKES.len() + 2).to_string();
    assert_eq!(figures, ["shop", "4", &skipped, "1"], "{out}");
    assert!(!ok);
    let (_, out, error) = cli::run(&cluster, &["-n", "shop", "explain", "pod/alone"]);
    assert!(out.contains("the webhook did not see it"), "{out}{error}");
}

//! The container, in each of its forms.

use super::*;

#[test]
fn native_sidecar_precedes_every_other_container() {
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
fn ebpf_form_has_exactly_two_capabilities() {
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
    for mount in mounts {
        assert_eq!(mount["readOnly"], true, "{mount}");
    }
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
    remembers(&container, &patched(&pod, &outcome));
}

/// Only below the cgroup tree: nothing else of the node is to be in every pod.
#[test]
fn operator_narrows_the_cgroup_mount() {
    let path = "/sys/fs/cgroup/kubepods.slice";
    let settings = Config::parse(&format!("hostCgroupPath: {path}")).expect("valid");
    let pod = pod();
    let outcome = inject(&pod, &context(), &settings);
    let once = patched(&pod, &outcome);
    assert_eq!(once["spec"]["volumes"][0]["hostPath"]["path"], path);
    let again = inject(&once, &context(), &settings).decision;
    assert_eq!(again, Decision::AlreadyInjected { current: true });
    for wrong in [
        "/",
        "/sys/fs",
        "/sys/fs/cgroupx",
        "/sys/fs/cgroup/",
        "/sys/fs/cgroup/../..",
        "/sys/fs/cgroup/a/./b",
        "/sys/fs/cgroup//a",
        "sys/fs/cgroup",
        "/sys/fs/cgroup/$(X)",
        "",
    ] {
        let error = Config::parse(&format!("hostCgroupPath: {wrong:?}")).expect_err(wrong);
        assert!(error.to_string().contains("hostCgroupPath"), "{error}");
    }
}

/// The checkpoint is in the pod's own shared memory, which is no volume.
fn remembers(container: &Value, pod: &Value) {
    let directory = env_value(container, "FLOWCAR_STATE_DIR");
    assert_eq!(directory.as_deref(), Some("/dev/shm"));
    assert!(!pod["spec"].to_string().contains("emptyDir"), "{pod}");
}

#[test]
fn checkpoint_is_off_on_request_and_with_host_ipc() {
    for pod in [
        annotated("flowcar.io/checkpoint", "off"),
        with("/spec/hostIPC", json!(true)),
    ] {
        assert_eq!(env(&sidecar(&pod, &run(&pod)), "FLOWCAR_STATE_DIR"), None);
    }
}

/// The cluster autoscaler's rule (`isLocalVolume`), written down from its source.
fn keeps_a_node(pod: &Value) -> bool {
    let named = pod.pointer(
        "/metadata/annotations/cluster-autoscaler.kubernetes.io~1safe-to-evict-local-volumes",
    );
    let named: Vec<_> = named
        .and_then(Value::as_str)
        .unwrap_or("")
        .split(',')
        .collect();
    let volumes = pod["spec"]["volumes"].as_array().expect("volumes");
    volumes.iter().any(|volume| {
        let is_memory = volume["emptyDir"]["medium"] == "Memory";
        let is_local =
            volume.get("hostPath").is_some() || (volume.get("emptyDir").is_some() && !is_memory);
        is_local && !named.contains(&volume["name"].as_str().expect("a name"))
    })
}

#[test]
fn injected_pod_does_not_block_the_autoscaler() {
    let key = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";
    let socket = annotated("flowcar.io/endpoint", "unix:///run/otel/otlp.sock");
    let mut own = annotated(key, "cache,scratch");
    own["spec"]["volumes"] = json!([{"name": "cache", "emptyDir": {}}]);
    for pod in [pod(), socket, own, annotated(key, "")] {
        let once = patched(&pod, &run(&pod));
        assert!(!keeps_a_node(&once), "{once}");
        assert_eq!(uninject(&once), pod);
    }
    let mut data = pod();
    data["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
    assert!(
        keeps_a_node(&patched(&data, &run(&data))),
        "the application's own counts"
    );
}

#[test]
fn form_without_capabilities_leaves_the_uid_open() {
    let context_of = |pod: &Value| sidecar(pod, &run(pod))["securityContext"].clone();
    let mut diag = annotated("flowcar.io/source", "inet_diag");
    let free = context_of(&diag);
    assert_eq!(
        (free.get("runAsUser"), free.get("runAsGroup")),
        (None, None)
    );
    assert_eq!(free["runAsNonRoot"], true);
    diag["spec"]["securityContext"] = json!({"runAsUser": 0});
    let beside_root = context_of(&diag);
    assert_eq!(beside_root["runAsUser"], 65_532, "or it would never start");
    diag["metadata"]["annotations"]["flowcar.io/run-as-user"] = json!("1000650000");
    diag["metadata"]["annotations"]["flowcar.io/run-as-group"] = json!("7");
    let message = context_of(&diag);
    assert_eq!(
        (&message["runAsUser"], &message["runAsGroup"]),
        (&json!(1_000_650_000), &json!(7))
    );
    let ebpf = annotated("flowcar.io/run-as-user", "7");
    assert_eq!(context_of(&ebpf)["runAsUser"], 0);
    assert!(run(&ebpf).warnings()[0].contains("run-as-user"));
}

#[test]
fn certificate_secrets_are_optional() {
    let mut pod = annotated("flowcar.io/ca-secret", "collector-ca");
    pod["metadata"]["annotations"]["flowcar.io/client-certificate-secret"] = json!("shop-tls");
    let outcome = run(&pod);
    let container = sidecar(&pod, &outcome);
    let volumes = patched(&pod, &outcome)["spec"]["volumes"].clone();
    let sources = volumes
        .as_array()
        .expect("volumes")
        .iter()
        .find_map(|volume| volume["projected"]["sources"].as_array());
    let expected = json!([
        {"secret": {"name": "collector-ca", "optional": true, "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"secret": {"name": "shop-tls", "optional": true, "items": [
            {"key": "tls.crt", "path": "tls.crt"}, {"key": "tls.key", "path": "tls.key"}]}},
    ]);
    assert_eq!(&json!(sources.expect("a projected volume")), &expected);
    for (name, file) in [
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "ca.crt"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "tls.crt"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "tls.key"),
    ] {
        let path = env_value(&container, name).expect(name);
        assert_eq!(path, format!("/run/flowcar-tls/{file}"));
    }
    let map = annotated("flowcar.io/ca-configmap", "roots/bundle.pem");
    let volumes = patched(&map, &run(&map))["spec"]["volumes"].to_string();
    assert!(
        volumes.contains(
            r#""configMap":{"name":"roots","optional":true,"items":[{"key":"bundle.pem""#
        ),
        "{volumes}"
    );
}

/// The volumes that a container mounts, by path, and the endpoint that it has.
fn socket_of(pod: &Value, context: &Context) -> (Vec<(String, String)>, Option<String>, String) {
    let outcome = inject(pod, context, &Settings::default());
    let container = sidecar(pod, &outcome);
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let mounts = container["volumeMounts"].as_array().expect("mounts").iter();
    let mounts = mounts
        .map(|mount| (text(&mount["mountPath"]), text(&mount["name"])))
        .collect();
    let endpoint = env_value(&container, "OTEL_EXPORTER_OTLP_ENDPOINT");
    (mounts, endpoint, outcome.warnings().join("; "))
}

#[test]
fn socket_directory_is_mounted_where_allowed() {
    let restricted = labelled("pod-security.kubernetes.io/enforce", "restricted");
    let mounted = |pod: &Value, context: &Context| {
        let (mounts, endpoint, reported) = socket_of(pod, context);
        let mut ours = mounts
            .into_iter()
            .filter(|(path, _)| path.starts_with("/run/flowcar-endpoint"));
        (ours.next(), endpoint, reported)
    };
    let mut pod = annotated("flowcar.io/endpoint", "unix:///run/otel/otlp.sock");
    let at = |path: &str, name: &str| Some((path.to_owned(), name.to_owned()));
    let (mount, endpoint, _) = mounted(&pod, &context());
    assert_eq!(mount, at("/run/flowcar-endpoint", "flowcar-endpoint"));
    assert_eq!(
        endpoint.as_deref(),
        Some("unix:///run/flowcar-endpoint/otlp.sock")
    );
    let (mount, endpoint, reported) = mounted(&pod, &restricted);
    assert_eq!((mount, endpoint), (None, None));
    assert!(reported.contains("forbids hostPath"), "{reported}");
    pod["metadata"]["annotations"]["flowcar.io/endpoint-volume"] = json!("otel");
    pod["spec"]["volumes"] = json!([{"name": "otel", "csi": {"driver": "x"}}]);
    let (mount, endpoint, _) = mounted(&pod, &restricted);
    assert_eq!(mount, at("/run/flowcar-endpoint/run/otel", "otel"));
    assert_eq!(
        endpoint.as_deref(),
        Some("unix:///run/flowcar-endpoint/run/otel/otlp.sock")
    );
    let outcome = inject(&pod, &restricted, &Settings::default());
    assert_eq!(uninject(&patched(&pod, &outcome)), pod);
    let long = format!("unix:///run/{}/o.sock", "d".repeat(90));
    pod["metadata"]["annotations"]["flowcar.io/endpoint"] = json!(long);
    let (mount, endpoint, reported) = mounted(&pod, &restricted);
    assert_eq!((mount, endpoint), (None, None));
    assert!(reported.contains("16 bytes too long"), "{reported}");
    pod["metadata"]["annotations"]
        .as_object_mut()
        .expect("annotations")
        .remove("flowcar.io/endpoint-volume");
    let (_, endpoint, _) = mounted(&pod, &context());
    assert_eq!(
        endpoint.as_deref(),
        Some("unix:///run/flowcar-endpoint/o.sock")
    );
    pod["metadata"]["annotations"]["flowcar.io/endpoint-volume"] = json!("otel");
    pod["spec"]["volumes"] = json!([]);
    assert!(mounted(&pod, &restricted).2.contains("no volume otel"));
}

#[test]
fn socket_of_a_pod_that_comes_injected_is_on_the_allow_list() {
    let limited = Config::parse("allowedEndpoints: ['unix:///run/otel/otlp.sock']").expect("valid");
    for volume in [None, Some("own")] {
        let mut pod = annotated("flowcar.io/endpoint", "unix:///run/otel/otlp.sock");
        pod["spec"]["volumes"] = json!([{"name": "own", "emptyDir": {}}]);
        if let Some(volume) = volume {
            pod["metadata"]["annotations"]["flowcar.io/endpoint-volume"] = json!(volume);
        }
        let once = patched(&pod, &inject(&pod, &context(), &limited));
        let again = inject(&once, &context(), &limited).decision;
        assert_eq!(again, Decision::AlreadyInjected { current: true });
        let mut forged = once.to_string();
        let path = if volume.is_some() {
            "/run/otel/"
        } else {
            "/run/otel\""
        };
        assert!(forged.contains(path), "{forged}");
        forged = forged.replace("/run/otel", "/run/evil");
        let forged: Value = serde_json::from_str(&forged).expect("JSON");
        let decision = inject(&forged, &context(), &limited).decision;
        assert!(
            matches!(decision, Decision::Skipped(Skip::Preset { .. })),
            "{decision:?}"
        );
    }
}

/// No directory of a socket may hide what else the sidecar has: its binary, its other volumes, what the kubelet mounts.
#[test]
fn socket_directory_hides_nothing() {
    for directory in [
        "/run",
        "/var/run",
        "/var",
        "/usr/bin",
        "/usr",
        "/etc",
        "/run/host-cgroup",
        "/run/host-cgroup/sub",
        "/run/flowcar-tls",
        "/run/flowcar-endpoint",
        "/run/flowcar-endpoint/a",
        "/var/run/secrets/kubernetes.io/serviceaccount/a",
    ] {
        for volume in [None, Some("own")] {
            let mut pod = annotated("flowcar.io/endpoint", &format!("unix://{directory}/o.sock"));
            pod["metadata"]["annotations"]["flowcar.io/ca-secret"] = json!("ca");
            pod["spec"]["volumes"] = json!([{"name": "own", "emptyDir": {}}]);
            if let Some(volume) = volume {
                pod["metadata"]["annotations"]["flowcar.io/endpoint-volume"] = json!(volume);
            }
            let (mounts, endpoint, warnings) = socket_of(&pod, &context());
            assert_eq!(warnings, "", "{directory}");
            let endpoint = endpoint.expect("an endpoint");
            let socket = endpoint.strip_prefix("unix://").expect("a socket");
            let holder = socket.strip_suffix("/o.sock").expect("its name");
            assert!(mounts.iter().any(|(path, _)| path == holder), "{mounts:?}");
            assert!(holder.starts_with("/run/flowcar-endpoint"), "{holder}");
            for (index, (path, _)) in mounts.iter().enumerate() {
                for (other, _) in &mounts[index + 1..] {
                    let below = |a: &str, b: &str| format!("{a}/").starts_with(&format!("{b}/"));
                    assert!(
                        !below(path, other) && !below(other, path),
                        "{path} and {other}"
                    );
                }
            }
        }
    }
}

#[test]
fn pod_security_drops_the_ebpf_form_with_a_warning() {
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
        remembers(&container, &patched(&pod, &outcome));
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
fn inet_diag_source_needs_no_capabilities() {
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
fn without_native_sidecars_a_completing_pod_is_skipped() {
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

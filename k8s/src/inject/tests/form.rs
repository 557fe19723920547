//! The container, in each of its forms.

use super::*;

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
    for mount in mounts {
        let writable = mount["name"] == "flowcar-state";
        assert_eq!(mount["readOnly"] == true, !writable, "{mount}");
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

/// What it needs to know when it starts again lies in memory, and goes with the pod.
fn remembers(container: &Value, pod: &Value) {
    let named = |list: &Value| {
        let items = list.as_array().expect("a list").iter();
        let mut found = items.filter(|item| item["name"] == "flowcar-state");
        found.next().expect("one of this name").clone()
    };
    let place = env_value(container, "FLOWCAR_STATE").expect("a place");
    assert_eq!(named(&container["volumeMounts"])["mountPath"], place);
    let volume = named(&pod["spec"]["volumes"]);
    assert_eq!(
        volume["emptyDir"],
        json!({"medium": "Memory", "sizeLimit": "16Mi"})
    );
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

//! A pod that comes with the sidecar: what flowcar wrote counts as injected, and what differs does not.

use super::*;
use crate::{
    budget::Budgets,
    inject::{has_sidecar, inject_within},
};

/// How a pod that flowcar injected is changed.
type Change = fn(&mut Value);

fn own(pod: &mut Value) -> &mut Value {
    let list = if pod["spec"]["initContainers"].is_array() {
        "initContainers"
    } else {
        "containers"
    };
    let containers = pod["spec"][list].as_array_mut().expect("a list");
    let mut all = containers.iter_mut();
    all.find(|container| container["name"] == "flowcar")
        .expect("the sidecar")
}

fn add_env(pod: &mut Value, name: &str, value: &str) {
    let env = own(pod)["env"].as_array_mut().expect("a list");
    env.retain(|entry| entry["name"] != name);
    env.push(json!({"name": name, "value": value}));
}

fn remove_env(pod: &mut Value, name: &str) {
    let env = own(pod)["env"].as_array_mut().expect("a list");
    env.retain(|entry| entry["name"] != name);
}

fn add_mount(pod: &mut Value, path: &str) {
    let volumes = pod["spec"]["volumes"].as_array_mut().expect("a list");
    volumes.push(json!({"name": "mine", "emptyDir": {}}));
    let mounts = own(pod)["volumeMounts"].as_array_mut().expect("a list");
    mounts.push(json!({"name": "mine", "mountPath": path}));
}

fn set_own(pod: &mut Value, field: &str, value: Value) {
    own(pod)[field] = value;
}

fn set_security(pod: &mut Value, field: &str, value: Value) {
    own(pod)["securityContext"][field] = value;
}

/// The Secret that a volume of the sidecar's certificates takes.
fn certificates(pod: &mut Value) -> &mut Value {
    let volumes = pod["spec"]["volumes"].as_array_mut().expect("a list");
    let mut all = volumes.iter_mut();
    let volume = all.find(|volume| volume["name"] == "flowcar-tls");
    &mut volume.expect("the volume")["projected"]["sources"]
}

/// A pod of the ReplicaSet `web-5d4f`, which asks for certificates.
fn owned() -> Value {
    let mut pod = annotated("flowcar.io/ca-secret", "ca");
    pod["metadata"]["annotations"]["flowcar.io/client-certificate-secret"] = json!("client");
    pod["metadata"]["labels"] = json!({"pod-template-hash": "5d4f"});
    pod["metadata"]["ownerReferences"] =
        json!([{"kind": "ReplicaSet", "name": "web-5d4f", "controller": true}]);
    pod
}

/// The same pod as an earlier configuration wrote it.
fn older(pod: &Value, settings: &Settings) -> Value {
    let text = pod.to_string();
    let text = text.replace(&settings.hash, "0123456789abcdef");
    serde_json::from_str(&text).expect("JSON")
}

fn decision(pod: &Value, settings: &Settings) -> Decision {
    inject_within(pod, &context(), settings, &Budgets::default()).decision
}

fn injected(pod: &Value, settings: &Settings) -> Value {
    let once = patched(pod, &inject(pod, &context(), settings));
    assert_eq!(
        decision(&once, settings),
        Decision::AlreadyInjected { current: true }
    );
    once
}

fn field_of(decision: &Decision) -> Option<&str> {
    match decision {
        Decision::Skipped(Skip::Preset { field, .. }) => Some(field),
        _ => None,
    }
}

#[test]
fn each_difference_is_named() {
    let rows: &[(&str, Change)] = &[
        // Another program.
        ("volumeMounts", |pod| add_mount(pod, "/usr/bin")),
        ("volumeMounts", |pod| add_mount(pod, "/usr")),
        ("volumeMounts", |pod| add_mount(pod, "/usr/bin/flowcar")),
        ("volumeMounts", |pod| add_mount(pod, "/")),
        ("volumeMounts", |pod| add_mount(pod, "usr/bin")),
        ("volumeMounts", |pod| add_mount(pod, "/run/x/../../usr/bin")),
        ("volumeMounts", |pod| add_mount(pod, "//usr//bin/")),
        ("volumeMounts", |pod| add_mount(pod, "/etc/ssl/certs")),
        ("volumeMounts", |pod| add_mount(pod, "/proc/net")),
        ("volumeMounts", |pod| add_mount(pod, "/dev/shm")),
        ("volumeMounts", |pod| add_mount(pod, "/sys")),
        ("volumeMounts", |pod| add_mount(pod, "/run/flowcar-tls/sub")),
        ("volumeMounts", |pod| add_mount(pod, "/run")),
        ("env", |pod| add_env(pod, "PATH", "/mine")),
        ("env", |pod| add_env(pod, "LD_PRELOAD", "/mine.so")),
        // Another workload.
        ("env", |pod| add_env(pod, "FLOWCAR_OWNER_NAME", "payments")),
        ("env", |pod| add_env(pod, "FLOWCAR_OWNER_NAME", "we")),
        ("env", |pod| add_env(pod, "FLOWCAR_OWNER_NAME", "")),
        ("env", |pod| add_env(pod, "FLOWCAR_OWNER_KIND", "DaemonSet")),
        ("env", |pod| {
            let env = own(pod)["env"].as_array_mut().expect("a list");
            env.insert(0, json!({"name": "X", "value": "a,k8s.pod.name=b"}));
            add_env(pod, "OTEL_RESOURCE_ATTRIBUTES", "a=$(X)");
        }),
        // Other settings.
        ("env", |pod| {
            add_env(
                pod,
                "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
                "http://evil:4317",
            );
        }),
        ("env", |pod| {
            add_env(
                pod,
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                "http://evil:4317",
            );
        }),
        ("env", |pod| {
            add_env(pod, "OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a=b");
        }),
        ("env", |pod| {
            add_env(pod, "OTEL_EXPORTER_OTLP_METRICS_HEADERS", "a=b");
        }),
        ("env", |pod| {
            add_env(pod, "OTEL_EXPORTER_OTLP_HEADERS", "a=b")
        }),
        ("env", |pod| {
            add_env(pod, "FLOWCAR_OTLP_HEADERS_FILE", "/mine");
        }),
        ("env", |pod| {
            add_env(pod, "OTEL_EXPORTER_OTLP_CERTIFICATE", "/mnt/ca.crt");
        }),
        ("env", |pod| add_env(pod, "OTEL_SDK_DISABLED", "true")),
        ("env", |pod| add_env(pod, "OTEL_METRICS_EXPORTER", "none")),
        ("env", |pod| add_env(pod, "OTEL_TRACES_EXPORTER", "none")),
        ("env", |pod| add_env(pod, "FLOWCAR_STATE_DIR", "/mine")),
        ("env", |pod| add_env(pod, "FLOWCAR_STATE", "/mine")),
        ("env", |pod| add_env(pod, "FLOWCAR_PEER", "$(X)")),
        ("env", |pod| add_env(pod, "FLOWCAR_HOST_IP", "192.0.2.7")),
        ("env", |pod| pod["spec"]["hostIPC"] = json!(true)),
        // Other fields.
        ("ports", |pod| {
            set_own(pod, "ports", json!([{"containerPort": 80, "hostPort": 80}]));
        }),
        ("stdin", |pod| set_own(pod, "stdin", json!(true))),
        ("workingDir", |pod| {
            set_own(pod, "workingDir", json!("/mine"))
        }),
        ("restartPolicyRules", |pod| {
            set_own(pod, "restartPolicyRules", json!([{"action": "Restart"}]));
        }),
        ("newField", |pod| set_own(pod, "newField", json!("x"))),
        ("terminationMessagePath", |pod| {
            set_own(pod, "terminationMessagePath", json!("/usr/bin/flowcar"));
        }),
        ("securityContext", |pod| {
            set_security(pod, "appArmorProfile", json!({"type": "Unconfined"}));
        }),
        ("securityContext", |pod| {
            set_security(pod, "seLinuxOptions", json!({"type": "spc_t"}));
        }),
        ("securityContext", |pod| {
            set_security(pod, "windowsOptions", json!({"hostProcess": true}));
        }),
        ("securityContext", |pod| {
            set_security(pod, "procMount", json!("Unmasked"));
        }),
        // Other volumes.
        ("volumes", |pod| {
            certificates(pod)[0]["secret"]["items"][0]["path"] = json!("other");
        }),
        ("volumes", |pod| {
            *certificates(pod) = json!([{"serviceAccountToken": {"path": "token"}}]);
        }),
        ("volumes", |pod| *certificates(pod) = json!([])),
        // Another place.
        ("hostNetwork", |pod| {
            pod["spec"]["hostNetwork"] = json!(true)
        }),
        ("hostUsers", |pod| pod["spec"]["hostUsers"] = json!(false)),
        ("runtimeClassName", |pod| {
            pod["spec"]["runtimeClassName"] = json!("gvisor");
        }),
    ];
    let settings = Settings::default();
    let real = injected(&owned(), &settings);
    for (row, (field, change)) in rows.iter().enumerate() {
        let mut fake = real.clone();
        change(&mut fake);
        let found = decision(&fake, &settings);
        assert_eq!(field_of(&found), Some(*field), "row {row}: {found:?}");
    }
}

const SOCKET: &str = "unix:///run/otel/otlp.sock";

fn mount_socket(pod: &mut Value, path: &str) {
    let volumes = pod["spec"]["volumes"].as_array_mut().expect("a list");
    volumes.retain(|volume| volume["name"] != "flowcar-endpoint");
    let mounts = own(pod)["volumeMounts"].as_array_mut().expect("a list");
    mounts.retain(|mount| mount["name"] != "flowcar-endpoint");
    add_mount(pod, path);
}

/// What only the operator's limits refuse, whether the container claims this configuration or an earlier one.
#[test]
fn operators_limits_hold_for_a_sidecar_that_comes_along() {
    let rows: &[(&str, &str, Change)] = &[
        ("locked: [endpoint]", "env", |pod| {
            add_env(pod, "OTEL_EXPORTER_OTLP_ENDPOINT", "http://evil:4317");
        }),
        ("allowedEndpoints: ['http://c:4317']", "env", |pod| {
            add_env(pod, "OTEL_EXPORTER_OTLP_ENDPOINT", "http://evil:4317");
        }),
        (
            "{requireTls: true, defaults: {endpoint: 'https://c'}}",
            "env",
            |pod| add_env(pod, "OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317"),
        ),
        ("maximum: {sampling: 1000}", "env", |pod| {
            add_env(pod, "FLOWCAR_SPANS_PER_SECOND", "1001");
        }),
        ("maximum: {sampling: 1000}", "env", |pod| {
            add_env(pod, "FLOWCAR_SPANS_PER_SECOND", " 1001");
        }),
        ("minimum: {sampling: 100}", "env", |pod| {
            add_env(pod, "FLOWCAR_SPANS_PER_SECOND", "99");
        }),
        ("allowed: {log-level: [info, warn]}", "env", |pod| {
            add_env(pod, "FLOWCAR_LOG", "trace");
        }),
        ("allowed: {headers-secret: [auth]}", "env", |pod| {
            let env = own(pod)["env"].as_array_mut().expect("a list");
            let key = json!({"name": "payments", "key": "headers"});
            let from = json!({"secretKeyRef": key});
            env.push(json!({"name": "OTEL_EXPORTER_OTLP_HEADERS", "valueFrom": from}));
        }),
        (
            "{locked: [checkpoint], defaults: {checkpoint: off}}",
            "env",
            |pod| add_env(pod, "FLOWCAR_STATE_DIR", "/dev/shm"),
        ),
        // Without the variable the sidecar's own default holds.
        (
            "{locked: [endpoint], defaults: {endpoint: 'http://c:4317'}}",
            "env",
            |pod| remove_env(pod, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ),
        (
            "{requireTls: true, defaults: {endpoint: 'unix:///run/otel/otlp.sock'}}",
            "env",
            |pod| {
                mount_socket(pod, "/mnt/x");
                remove_env(pod, "OTEL_EXPORTER_OTLP_ENDPOINT");
            },
        ),
        (
            "{maximum: {sampling: 10}, defaults: {sampling: 5}}",
            "env",
            |pod| remove_env(pod, "FLOWCAR_SPANS_PER_SECOND"),
        ),
        // The socket of the allowed name, in a volume of the pod's own.
        (
            "{locked: [endpoint], defaults: {endpoint: 'unix:///run/otel/otlp.sock'}}",
            "env",
            |pod| {
                let path = "/run/flowcar-endpoint/run/otel";
                mount_socket(pod, path);
                let endpoint = format!("unix://{path}/otlp.sock");
                add_env(pod, "OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint);
            },
        ),
        (
            "{allowed: {endpoint-volume: [otel]}, allowedEndpoints: ['unix:///run/otel/otlp.sock']}",
            "env",
            |pod| {
                mount_socket(pod, "/run/otel");
                add_env(pod, "OTEL_EXPORTER_OTLP_ENDPOINT", SOCKET);
            },
        ),
        (
            "{locked: [endpoint], defaults: {endpoint: 'unix:///run/otel/otlp.sock'}}",
            "env",
            |pod| add_mount(pod, "/run//flowcar-endpoint"),
        ),
        (
            "{locked: [endpoint], defaults: {endpoint: 'unix:///run/otel/otlp.sock'}}",
            "env",
            |pod| add_mount(pod, "/run/flowcar-endpoint/otlp.sock"),
        ),
        (
            "{locked: [endpoint], defaults: {endpoint: 'unix:///run/otel/otlp.sock'}}",
            "env",
            |pod| {
                let text = pod.to_string().replace("\"/run/otel\"", "\"/run/evil\"");
                *pod = serde_json::from_str(&text).expect("JSON");
            },
        ),
        (
            "hostCgroupPath: /sys/fs/cgroup/kubepods.slice",
            "volumes",
            |pod| {
                let text = pod.to_string().replace("/kubepods.slice", "");
                *pod = serde_json::from_str(&text).expect("JSON");
            },
        ),
        (
            "{allowImageAndCommand: true, allowed: {image: [a, b]}}",
            "image",
            |pod| set_own(pod, "image", json!("evil")),
        ),
        (
            "{allowImageAndCommand: true, locked: [command]}",
            "command",
            |pod| set_own(pod, "command", json!(["/x"])),
        ),
        ("minimum: {memory-limit: 64Mi}", "resources", |pod| {
            own(pod)["resources"] =
                json!({"limits": {"memory": "8Mi"}, "requests": {"memory": "8Mi", "cpu": "1m"}});
        }),
        ("allowedEndpoints: ['http://c:4317']", "env", |pod| {
            add_env(pod, "HTTP_PROXY", "http://evil:3128");
        }),
        ("locked: [endpoint]", "env", |pod| {
            add_env(pod, "https_proxy", "http://evil:3128");
        }),
        (
            "{requireTls: true, defaults: {endpoint: 'https://c'}}",
            "env",
            |pod| add_env(pod, "All_Proxy", "http://evil:3128"),
        ),
        ("allowedEndpoints: ['https://c']", "env", |pod| {
            add_env(pod, "SSL_CERT_FILE", "/mnt/x/ca.crt");
        }),
        ("locked: [endpoint]", "env", |pod| {
            add_env(pod, "SSL_CERT_DIR", "/mnt/x");
        }),
        ("locked: [service-name]", "env", |pod| {
            add_env(pod, "OTEL_SERVICE_NAME", "payments");
        }),
        ("locked: [service-name]", "env", |pod| {
            add_env(pod, "OTEL_RESOURCE_ATTRIBUTES", "service.name=payments");
        }),
        ("locked: [resource-attributes]", "env", |pod| {
            add_env(pod, "OTEL_RESOURCE_ATTRIBUTES", "team=a");
        }),
        ("maximum: {memory-limit: 256Mi}", "resources", |pod| {
            own(pod)["resources"]["limits"]["memory"] = json!("64Gi");
        }),
        ("maximum: {memory-limit: 256Mi}", "resources", |pod| {
            own(pod)["resources"]["limits"] = json!({});
            own(pod)["resources"]["requests"] = json!({"memory": "32Mi"});
        }),
        ("locked: [cpu-request]", "resources", |pod| {
            own(pod)["resources"]["requests"]["cpu"] = json!("64");
        }),
        ("allowed: {ca-secret: [ca]}", "volumes", |pod| {
            certificates(pod)[0]["secret"]["name"] = json!("payments");
        }),
        (
            "allowed: {client-certificate-secret: [client]}",
            "volumes",
            |pod| certificates(pod)[1]["secret"]["name"] = json!("payments"),
        ),
        ("locked: [command]", "command", |pod| {
            set_own(pod, "command", json!(["/x"]));
        }),
        ("defaults: {command: '[\"/flowcar\"]'}", "command", |pod| {
            set_own(pod, "command", json!(["/x"]));
        }),
    ];
    for (row, (config, field, change)) in rows.iter().enumerate() {
        let settings = Config::parse(config).expect("valid");
        let mut fake = injected(&owned(), &settings);
        change(&mut fake);
        for fake in [&fake, &older(&fake, &settings)] {
            let found = decision(fake, &settings);
            assert_eq!(
                field_of(&found),
                Some(*field),
                "row {row}, {config}: {found:?}"
            );
        }
    }
    // Where annotations are locked, flowcar's own values still fit.
    for config in [
        "locked: [compression, source, checkpoint, peer]",
        "minimum: {memory-limit: 1Gi}",
        "{allowImageAndCommand: true, locked: [image, command]}",
        "{locked: [endpoint], defaults: {endpoint: 'unix:///run/otel/otlp.sock'}}",
        "{locked: [checkpoint], defaults: {checkpoint: off}}",
    ] {
        injected(&owned(), &Config::parse(config).expect("valid"));
    }
}

/// A change of the configuration: what it allows still counts, what it no longer allows does not, and a pod that runs with that has the
/// sidecar all the same.
#[test]
fn file_of_an_earlier_configuration_is_held_to_the_present_one() {
    let before = |config: &str| {
        let settings = Config::parse(config).expect("valid");
        injected(&owned(), &settings)
    };
    let collector = "defaults: {endpoint: 'http://old:4317', sampling: 5000}";
    let socket = "defaults: {endpoint: 'unix:///run/otel/otlp.sock'}";
    for (earlier, present, field) in [
        (collector, "defaults: {endpoint: 'http://new:4317'}", None),
        (collector, "maximum: {sampling: 10000}", None),
        ("{}", "defaults: {sampling: 5}", None),
        (
            "{}",
            "{maximum: {sampling: 10}, defaults: {sampling: 5}}",
            Some("env"),
        ),
        (collector, "maximum: {sampling: 1000}", Some("env")),
        (collector, "locked: [endpoint]", Some("env")),
        (
            socket,
            "{requireTls: true, defaults: {endpoint: 'https://c'}}",
            None,
        ),
        (
            "hostCgroupPath: /sys/fs/cgroup/kubepods",
            "strict: true",
            None,
        ),
    ] {
        let pod = before(earlier);
        let settings = Config::parse(present).expect("valid");
        let found = decision(&pod, &settings);
        assert_eq!(field_of(&found), field, "{earlier}, {present}: {found:?}");
        let counts = found == Decision::AlreadyInjected { current: false };
        assert_eq!(counts, field.is_none(), "{found:?}");
        assert!(has_sidecar(&pod, &settings), "{earlier}, {present}");
        if let Decision::Skipped(skip) = found {
            let why = skip.to_string();
            assert!(why.contains("of an earlier configuration"), "{why}");
        }
    }
}

/// What the API server and other webhooks add, and what a file has.
#[test]
fn own_sidecar_counts_behind_other_webhooks() {
    let rows: &[Change] = &[
        |_| {},
        |pod| add_env(pod, "AWS_REGION", "eu-central-1"),
        |pod| add_env(pod, "HTTPS_PROXY", "http://proxy:3128"),
        |pod| {
            add_mount(pod, "/var/run/secrets/eks.amazonaws.com/serviceaccount");
        },
        |pod| add_mount(pod, "/vault/secrets"),
        |pod| add_mount(pod, "/var/run/datadog"),
        |pod| set_own(pod, "terminationMessagePath", json!("/dev/termination-log")),
        |pod| {
            let policy = json!([{"resourceName": "cpu", "restartPolicy": "NotRequired"}]);
            set_own(pod, "resizePolicy", policy);
        },
        |pod| set_own(pod, "ports", json!([])),
        |pod| set_security(pod, "seLinuxOptions", json!({"level": "s0:c1,c2"})),
        |pod| set_security(pod, "appArmorProfile", json!({"type": "RuntimeDefault"})),
        // Made by what a file names.
        |pod| {
            add_env(pod, "FLOWCAR_OWNER_KIND", "Canary");
            add_env(pod, "FLOWCAR_OWNER_NAME", "web");
        },
    ];
    let settings = Settings::default();
    let real = injected(&owned(), &settings);
    for (row, change) in rows.iter().enumerate() {
        let mut pod = real.clone();
        change(&mut pod);
        let there = Decision::AlreadyInjected { current: true };
        assert_eq!(decision(&pod, &settings), there, "row {row}");
    }
    // A Job that somebody made from a CronJob whose file was injected.
    let mut by_hand = real.clone();
    by_hand["metadata"]["ownerReferences"] =
        json!([{"kind": "Job", "name": "manual", "controller": true}]);
    for (name, value) in [
        ("FLOWCAR_OWNER_KIND", "CronJob"),
        ("FLOWCAR_OWNER_NAME", "backup"),
    ] {
        add_env(&mut by_hand, name, value);
    }
    let there = Decision::AlreadyInjected { current: true };
    assert_eq!(decision(&by_hand, &settings), there);
    // The kubelet's escape is undone.
    let mut odd = owned();
    odd["metadata"]["ownerReferences"][0]["name"] = json!("a$(b)");
    injected(&odd, &settings);
    // As an earlier version and configuration wrote it.
    let mut old = older(&real, &settings);
    add_env(&mut old, "FLOWCAR_STATE", "/run/flowcar");
    let there = Decision::AlreadyInjected { current: false };
    assert_eq!(decision(&old, &settings), there);
}

/// What the namespace's own bounds make of the sidecar is above the operator's, and still flowcar's.
#[test]
fn resources_that_a_limit_range_raised_count() {
    let mut budgets = Budgets::default();
    budgets.add(&json!({"kind": "LimitRange", "metadata": {"name": "range"},
        "spec": {"limits": [{"type": "Container", "min": {"memory": "1Gi"}}]}}));
    let settings = Config::parse("maximum: {memory-limit: 256Mi}").expect("valid");
    let pod = with(
        "/spec/containers",
        json!([{"name": "app", "resources": {"limits": {"memory": "1Gi"}}}]),
    );
    let outcome = inject_within(&pod, &context(), &settings, &budgets);
    let once = patched(&pod, &outcome);
    assert_eq!(
        own(&mut once.clone())["resources"]["limits"]["memory"],
        "1073741824"
    );
    let again = inject_within(&once, &context(), &settings, &budgets).decision;
    assert_eq!(again, Decision::AlreadyInjected { current: true });
}

//! The controller against a real API server: needs `tests/peers/build k8s`.

mod attack;
mod budgets;
mod chain;
mod cli;
mod defaults;
mod drain;
mod files;
mod identity;
mod judged;
mod manifests;
mod older;
mod presets;
mod readme;
mod rights;
mod schema;
mod service;
mod serving;
mod skips;
mod strict;
mod top;
mod values;
mod volumes;

use std::time::{Duration, Instant};

use flowcar_tests::{
    cluster::{
        Cluster, LIMIT, SECRET, WEBHOOK,
        tools::{base64, containers, pipe, pod, run},
    },
    peers::{PatchKind, eventually},
};
use serde_json::{Value, json};

/// Paths of the workload kinds, and a minimal object of each.
fn workloads() -> Vec<(&'static str, Value)> {
    let template = json!({
        "metadata": {"labels": {"app": "w"}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "app", "image": "app:1"}]},
    });
    let mut always = template.clone();
    always["spec"]["restartPolicy"] = json!("Always");
    let selector = json!({"matchLabels": {"app": "w"}});
    let metadata = json!({"name": "w", "annotations": {"flowcar.io/inject": "enabled", "flowcar.io/peer": "none"}});
    let object = |api: &str, kind: &str, spec: Value| json!({"apiVersion": api, "kind": kind, "metadata": metadata, "spec": spec});
    vec![
        (
            "/apis/apps/v1/namespaces/shop/deployments",
            object(
                "apps/v1",
                "Deployment",
                json!({"selector": selector, "template": always}),
            ),
        ),
        (
            "/apis/apps/v1/namespaces/shop/statefulsets",
            object(
                "apps/v1",
                "StatefulSet",
                json!({"selector": selector, "serviceName": "w", "template": always}),
            ),
        ),
        (
            "/apis/apps/v1/namespaces/shop/daemonsets",
            object(
                "apps/v1",
                "DaemonSet",
                json!({"selector": selector, "template": always}),
            ),
        ),
        (
            "/apis/batch/v1/namespaces/shop/jobs",
            object("batch/v1", "Job", json!({"template": template})),
        ),
        (
            "/apis/batch/v1/namespaces/shop/cronjobs",
            object(
                "batch/v1",
                "CronJob",
                json!({"schedule": "0 0 * * *", "jobTemplate": {"spec": {"template": template}}}),
            ),
        ),
    ]
}

fn template_of(workload: &Value) -> Value {
    match workload["kind"].as_str() {
        Some("CronJob") => workload["spec"]["jobTemplate"]["spec"]["template"].clone(),
        _ => workload["spec"]["template"].clone(),
    }
}

/// The pod that the kind's own controller would make: kubelet and controller manager are not here.
fn pod_of(workload: &Value) -> Value {
    let (kind, name) = (workload["kind"].as_str().expect("a kind"), "w");
    let mut pod = template_of(workload);
    let (owner_kind, owner_name) = match kind {
        "Deployment" => ("ReplicaSet", format!("{name}-5d4f")),
        "CronJob" => ("Job", format!("{name}-29301")),
        kind => (kind, name.to_owned()),
    };
    if kind == "Deployment" {
        pod["metadata"]["labels"]["pod-template-hash"] = json!("5d4f");
    }
    pod["metadata"]["generateName"] = json!(format!("{owner_name}-"));
    let api = if matches!(owner_kind, "Job") {
        "batch/v1"
    } else {
        "apps/v1"
    };
    pod["metadata"]["ownerReferences"] = json!([{"apiVersion": api, "kind": owner_kind, "name": owner_name, "uid": "u-1", "controller": true}]);
    pod
}

fn env(pod: &Value, name: &str) -> Option<String> {
    let env = pod["spec"]["initContainers"][0]["env"].as_array()?;
    env.iter().find(|entry| entry["name"] == name)?["value"]
        .as_str()
        .map(str::to_owned)
}

/// A Job that `kubectl create job --from` makes is the CronJob's, as one that the CronJob's controller makes.
#[test]
fn job_made_by_hand_reports_its_cron_job() {
    let cluster = Cluster::start();
    let _controller = cluster.controller(&[]);
    let all = workloads();
    let (path, cron_job) = all.last().expect("the CronJob");
    cluster.admin().create(path, cron_job).success();
    for manual in ["manual", "again"] {
        let mut kubectl = cluster.api.kubectl();
        kubectl.args(["-n", "shop", "create", "job", manual, "--from=cronjob/w"]);
        run(kubectl, "");
        let path = format!("/apis/batch/v1/namespaces/shop/jobs/{manual}");
        let mut pod = template_of(&cluster.admin().get(&path).success());
        pod["metadata"]["generateName"] = json!(format!("{manual}-"));
        pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "batch/v1", "kind": "Job", "name": manual, "uid": "u-1", "controller": true}]);
        let pod = cluster.create_pod("shop", &pod);
        let owner = ["FLOWCAR_OWNER_KIND", "FLOWCAR_OWNER_NAME"].map(|name| env(&pod, name));
        assert_eq!(owner, [Some("CronJob".to_owned()), Some("w".to_owned())]);
        let target = format!("job/{manual}");
        let (ok, out, error) = cli::run(&cluster, &["-n", "shop", "explain", &target]);
        assert!(ok && out.contains("gets the sidecar"), "{out}{error}");
    }
}

#[test]
fn workloads_of_every_kind_opt_in_and_out() {
    let cluster = Cluster::start();
    let controller = cluster.controller(&[]);
    for (path, workload) in workloads() {
        let kind = workload["kind"].as_str().expect("a kind").to_owned();
        let mut stored = cluster.admin().create(path, &workload).success();
        // Answers to a create leave the kind out of nothing, but the template's copy is what counts.
        stored["kind"] = json!(kind);
        let annotations = template_of(&stored)["metadata"]["annotations"].clone();
        assert_eq!(annotations["flowcar.io/inject"], "enabled", "{kind}");
        assert_eq!(annotations["flowcar.io/workload"], format!("{kind}/w"));
        let pod = cluster.create_pod("shop", &pod_of(&stored));
        assert_eq!(containers(&pod), (vec!["flowcar"], vec!["app"]), "{kind}");
        assert_eq!(pod["spec"]["initContainers"][0]["restartPolicy"], "Always");
        assert_eq!(
            env(&pod, "FLOWCAR_OWNER_KIND").as_deref(),
            Some(kind.as_str())
        );
        assert_eq!(env(&pod, "FLOWCAR_OWNER_NAME").as_deref(), Some("w"));
        assert_eq!(env(&pod, "FLOWCAR_PEER").as_deref(), Some("none"));
        if kind != "Job" {
            let off = json!({"metadata": {"annotations": {"flowcar.io/inject": null, "flowcar.io/peer": null}}});
            let stored = cluster
                .admin()
                .patch(&format!("{path}/w"), PatchKind::Merge, &off)
                .success();
            assert_eq!(
                template_of(&stored)["metadata"].get("annotations"),
                None,
                "{kind} is as it was"
            );
        }
    }
    let plain = cluster.create_pod("shop", &pod("plain", json!({})));
    assert_eq!(containers(&plain), (vec![], vec!["app"]));
    let disabled = cluster.create_pod(
        "shop",
        &pod("disabled", json!({"flowcar.io/inject": "disabled"})),
    );
    assert_eq!(containers(&disabled), (vec![], vec!["app"]));
    assert_eq!(
        controller.metric(r#"flowcar_admission_reviews_total{decision="injected"}"#),
        Some(5.0)
    );
    assert_eq!(
        controller.metric(r#"flowcar_admission_reviews_total{decision="not_opted_in"}"#),
        None,
        "nobody else calls us"
    );
    assert_eq!(cluster.failed_open("pods.flowcar.io"), 0.0);
}

/// A GitOps tool applies its own fields again and again by server-side apply.
#[test]
fn opt_in_changes_no_field_that_gitops_owns() {
    let cluster = Cluster::start();
    let _controller = cluster.controller(&[]);
    let (path, mut deployment) = workloads().remove(0);
    let path = format!("{path}/w");
    deployment["metadata"]["annotations"] = json!({});
    deployment["spec"]["template"]["metadata"]["annotations"] = json!({"team": "a"});
    let tool = PatchKind::Apply {
        manager: "gitops",
        force: false,
    };
    cluster.admin().patch(&path, tool, &deployment).success();
    let annotate = cluster
        .api
        .kubectl()
        .args([
            "-n",
            "shop",
            "annotate",
            "deployment/w",
            "flowcar.io/inject=enabled",
        ])
        .output();
    assert!(annotate.expect("kubectl runs").status.success());
    let opted_in = cluster.admin().get(&path).success();
    assert_eq!(
        template_of(&opted_in)["metadata"]["annotations"]["flowcar.io/inject"],
        "enabled"
    );
    let again = cluster.admin().patch(&path, tool, &deployment).success();
    assert_eq!(again["spec"], opted_in["spec"], "no conflict and no drift");
    assert_eq!(
        again["metadata"]["generation"],
        opted_in["metadata"]["generation"]
    );
    let managers = again["metadata"]["managedFields"]
        .as_array()
        .expect("managers");
    let gitops = managers
        .iter()
        .find(|manager| manager["manager"] == "gitops")
        .expect("the tool");
    assert!(
        !gitops["fieldsV1"].to_string().contains("flowcar.io"),
        "{gitops}"
    );
}

#[test]
fn skips_and_errors_are_reported_except_on_dry_run() {
    let cluster = Cluster::start();
    let controller = cluster.controller(&[]);
    let create = |name: &str, extra: Value, args: &[&str]| {
        let mut pod = pod(
            name,
            json!({"flowcar.io/inject": "enabled", "flowcar.io/log-levle": "debug"}),
        );
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["spec"]
            .as_object_mut()
            .expect("a spec")
            .extend(extra.as_object().expect("fields").clone());
        let mut kubectl = cluster.api.kubectl();
        kubectl
            .args(["-n", "shop", "create", "-o", "json", "-f", "-"])
            .args(args);
        let (ok, stdout, stderr) = pipe(kubectl, &pod.to_string());
        assert!(ok, "{stderr}");
        (
            serde_json::from_str::<Value>(&stdout).expect("a pod"),
            stderr,
        )
    };
    let (dry, warnings) = create("dry", json!({"hostNetwork": true}), &["--dry-run=server"]);
    assert!(
        warnings.contains("Warning: flowcar: not injected: the pod is on the host's network"),
        "{warnings}"
    );
    assert_eq!(containers(&dry), (vec![], vec!["app"]));
    let (skipped, _) = create("host", json!({"hostNetwork": true}), &[]);
    assert!(
        skipped["metadata"]["annotations"]["flowcar.io/status"]
            .as_str()
            .expect("a status")
            .contains("host_network")
    );
    let (injected, warnings) = create("typo", json!({}), &[]);
    assert!(
        warnings.contains("did you mean flowcar.io/log-level?"),
        "{warnings}"
    );
    assert_eq!(containers(&injected).0, ["flowcar"]);

    let host = eventually("an Event", LIMIT, || {
        cluster.events("shop", "FlowcarNotInjected", "host").pop()
    });
    assert!(
        host["note"]
            .as_str()
            .expect("a note")
            .contains("host's network")
    );
    eventually("an Event", LIMIT, || {
        cluster.events("shop", "FlowcarAnnotation", "typo").pop()
    });
    // Events are created in order: the dry run's would have come first.
    assert_eq!(
        cluster.events("shop", "FlowcarNotInjected", "dry"),
        Vec::<Value>::new()
    );
    let reasons = |reason: &str| {
        controller.metric(&format!(
            "flowcar_admission_reasons_total{{reason=\"{reason}\"}}"
        ))
    };
    assert_eq!(reasons("host_network"), Some(2.0));
    assert_eq!(reasons("unknown_annotation"), Some(3.0));
}

#[test]
fn pod_security_levels_and_namespace_labels_are_honoured() {
    let cluster = Cluster::start();
    let _controller = cluster.controller(&[]);
    for level in ["baseline", "restricted"] {
        let labels =
            json!({"pod-security.kubernetes.io/enforce": level, "flowcar.io/inject": "enabled"});
        cluster.api.create_namespace(level, &labels);
        let security = json!({
            "runAsNonRoot": true, "allowPrivilegeEscalation": false, "runAsUser": 1000,
            "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
        });
        let mut pod = pod("app", json!({}));
        pod["spec"]["containers"][0]["securityContext"] = security;
        // The Pod Security plugin itself admits it.
        let pod = cluster.create_pod(level, &pod);
        assert_eq!(containers(&pod).0, ["flowcar"], "{level}");
        assert_eq!(env(&pod, "FLOWCAR_SOURCE").as_deref(), Some("inet_diag"));
    }
    cluster.api.create_namespace("open", &json!({"pod-security.kubernetes.io/enforce": "privileged", "flowcar.io/inject": "enabled"}));
    let open = cluster.create_pod("open", &pod("app", json!({})));
    assert_eq!(
        open["spec"]["initContainers"][0]["securityContext"]["capabilities"]["add"],
        json!(["BPF", "NET_ADMIN"])
    );
    // The ServiceAccount plugin has mounted no token into flowcar's container, and only there.
    let mounts = |container: &Value| {
        container["volumeMounts"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    };
    let token = |container: &Value| {
        let path = "/var/run/secrets/kubernetes.io/serviceaccount";
        mounts(container)
            .into_iter()
            .find(|mount| mount["mountPath"] == path)
            .expect("a mount")["name"]
            .clone()
    };
    assert_eq!(
        token(&open["spec"]["initContainers"][0]),
        "flowcar-no-token"
    );
    assert!(
        token(&open["spec"]["containers"][0])
            .as_str()
            .expect("a name")
            .starts_with("kube-api-access")
    );
    let quality = |pod: &Value| pod["status"]["qosClass"].clone();
    assert_eq!(quality(&open), "Burstable");
    let mut guaranteed = pod("guaranteed", json!({}));
    guaranteed["spec"]["containers"][0]["resources"] =
        json!({"limits": {"cpu": "1", "memory": "1Gi"}});
    let guaranteed = cluster.create_pod("open", &guaranteed);
    assert_eq!(containers(&guaranteed).0, ["flowcar"]);
    assert_eq!(
        quality(&guaranteed),
        "Guaranteed",
        "by the API server's own reckoning"
    );
}

#[test]
fn two_replicas_make_one_authority_and_repair_it() {
    let cluster = Cluster::start();
    let second_port = cluster.net.claim_port();
    let second_address = cluster.net.socket(&second_port);
    let (one, two) = std::thread::scope(|scope| {
        let two = scope.spawn(|| cluster.replica("two", second_address, &[]));
        let one = cluster.controller(&[]);
        (one, two.join().expect("the second replica"))
    });
    let leaders = || {
        one.metric("flowcar_leader").unwrap_or(0.0) + two.metric("flowcar_leader").unwrap_or(0.0)
    };
    eventually("one leader", LIMIT, || (leaders() == 1.0).then_some(()));
    let written = |log: &str| log.matches("certificates written").count();
    assert_eq!(written(&one.process.log()) + written(&two.process.log()), 1);
    let injected = |name: &str| {
        let pod = cluster.create_pod("shop", &pod(name, json!({"flowcar.io/inject": "enabled"})));
        assert_eq!(containers(&pod).0, ["flowcar"], "{name}");
    };
    injected("before");

    let bundle = cluster.admin().get(SECRET).success()["data"]["ca.crt"].clone();
    let restored = |what: &str| {
        let again = eventually(what, LIMIT, || {
            let secret = cluster.admin().get(SECRET);
            (secret.is_ok() && secret.json()["data"].is_object()).then(|| secret.json())
        });
        assert_eq!(again["data"]["ca.crt"], bundle, "the very same authority");
    };
    let emptied = json!({"data": null});
    cluster
        .admin()
        .patch(SECRET, PatchKind::Merge, &emptied)
        .success();
    injected("secret-emptied");
    restored("the Secret's content again");
    // What is deleted, the manifests bring back: the controller may not.
    cluster.admin().delete(SECRET).success();
    injected("secret-deleted");
    eventually("a log line about it", LIMIT, || {
        let log = one.process.log() + &two.process.log();
        log.contains("install its manifests again").then_some(())
    });
    let empty = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "flowcar-webhook-tls", "namespace": "flowcar-system"},
    });
    cluster.apply(&empty.to_string());
    restored("the Secret again");
    injected("secret-restored");

    // A text that is no certificate would be refused: overwrite it with another authority.
    let other = flowcar_tests::peers::Authority::new("somebody else");
    let clobbered = json!([{"op": "replace", "path": "/webhooks/0/clientConfig/caBundle", "value": base64(other.certificate())}]);
    cluster
        .admin()
        .patch(WEBHOOK, PatchKind::Json, &clobbered)
        .success();
    eventually("the caBundle again", LIMIT, || {
        cluster.is_published().then_some(())
    });
    // The API server takes it over a moment later.
    eventually("the webhook again", LIMIT, || {
        let path = "/api/v1/namespaces/shop/pods?dryRun=All";
        let probe = pod("probe", json!({"flowcar.io/inject": "enabled"}));
        let answer = cluster.admin().create(path, &probe).success();
        (containers(&answer).0 == ["flowcar"]).then_some(())
    });
    injected("bundle-restored");

    // The leader stops; the other takes over at once, because the Lease was released.
    let (leader, other) = if one.metric("flowcar_leader") == Some(1.0) {
        (&one, &two)
    } else {
        (&two, &one)
    };
    assert!(leader.process.stop(LIMIT).success());
    eventually("another leader", LIMIT, || {
        (other.metric("flowcar_leader") == Some(1.0)).then_some(())
    });
}

#[test]
fn certificates_rotate_under_load_without_a_failed_call() {
    let cluster = Cluster::start();
    let _controller =
        cluster.controller(&["--ca-lifetime=30s", "--leaf-lifetime=12s", "--settle=4s"]);
    let part = |name: &str| cluster.admin().get(SECRET).json()["data"][name].clone();
    let (mut authorities, mut leaves) = (vec![part("signing-ca.crt")], vec![part("tls.crt")]);
    let deadline = Instant::now() + Duration::from_secs(300);
    let mut calls = 0;
    while authorities.len() < 3 || calls <= 100 {
        assert!(
            Instant::now() < deadline,
            "{} authorities, {} leaves",
            authorities.len(),
            leaves.len()
        );
        let pod = pod(
            &format!("p-{calls}"),
            json!({"flowcar.io/inject": "enabled"}),
        );
        let answer = cluster
            .admin()
            .create("/api/v1/namespaces/shop/pods?dryRun=All", &pod)
            .success();
        assert_eq!(containers(&answer).0, ["flowcar"], "call {calls}");
        calls += 1;
        for (seen, now) in [
            (&mut authorities, part("signing-ca.crt")),
            (&mut leaves, part("tls.crt")),
        ] {
            if now.is_string() && seen.last() != Some(&now) {
                seen.push(now);
            }
        }
    }
    assert!(
        leaves.len() > authorities.len(),
        "leaves change more often than authorities"
    );
    assert_eq!(cluster.failed_open("pods.flowcar.io"), 0.0);
}

#[test]
fn pods_missed_without_the_webhook_are_reported() {
    let cluster = Cluster::start();
    let controller = cluster.controller(&[]);
    let on = || json!({"flowcar.io/inject": "enabled"});
    // It hangs: others do not wait for it, and who asked for it waits for the webhook's five seconds.
    controller.process.pause();
    let started = Instant::now();
    cluster.create_pod("shop", &pod("beside", json!({})));
    let beside = started.elapsed();
    cluster.create_pod("shop", &pod("patient", on()));
    let patient = started.elapsed() - beside;
    assert!(beside < Duration::from_secs(4), "{beside:?}");
    assert!(
        patient > Duration::from_secs(4) && patient < Duration::from_secs(30),
        "{patient:?}"
    );
    controller.process.resume();
    let path = "/api/v1/namespaces/shop/pods/patient?gracePeriodSeconds=0";
    cluster.admin().delete(path).success();
    let failed = cluster.failed_open("pods.flowcar.io");
    assert_eq!(failed, 1.0);

    controller.process.kill();
    let plain = cluster.create_pod("shop", &pod("plain", json!({})));
    assert_eq!(containers(&plain), (vec![], vec!["app"]));
    assert_eq!(
        cluster.failed_open("pods.flowcar.io"),
        failed,
        "the API server did not even try"
    );
    let missed = cluster.create_pod("shop", &pod("missed", on()));
    assert_eq!(containers(&missed), (vec![], vec!["app"]));
    assert_eq!(cluster.failed_open("pods.flowcar.io"), failed + 1.0);

    controller.process.restart();
    eventually("the missed pod in the metrics", LIMIT, || {
        (controller.metric("flowcar_pods_missed") == Some(1.0)).then_some(())
    });
    let event = eventually("an Event", LIMIT, || {
        cluster.events("shop", "FlowcarMissed", "missed").pop()
    });
    assert_eq!(event["regarding"]["kind"], "Pod");
    cluster
        .admin()
        .delete("/api/v1/namespaces/shop/pods/missed?gracePeriodSeconds=0")
        .success();
    eventually("no missed pod any more", LIMIT, || {
        (controller.metric("flowcar_pods_missed") == Some(0.0)).then_some(())
    });
}

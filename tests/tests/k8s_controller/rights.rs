//! Every right of the controller's account, by the API server's own audit log: each is used, and none is missing.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use flowcar_tests::{
    cluster::{
        Cluster, KEYS, LIMIT, SECRET, WEBHOOK,
        tools::{containers, pod},
    },
    peers::{ApiServerOptions, PatchKind, eventually},
};
use serde_json::{Value, json};

const USER: &str = "system:serviceaccount:flowcar-system:flowcar-controller";

/// A verb, a group, a resource and a name, which is empty where the right is not bound to one.
type Right = (String, String, String, String);

/// Options of an API server that writes down who asks for what.
fn audited(dir: &Path) -> ApiServerOptions {
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata"}],
    });
    let file = dir.join("policy.json");
    std::fs::write(&file, policy.to_string()).expect("a file");
    ApiServerOptions {
        args: vec![
            format!("--audit-policy-file={}", file.display()),
            format!("--audit-log-path={}", dir.join("audit.log").display()),
        ],
        ..ApiServerOptions::default()
    }
}

/// What the controller's account asked for, and what of it was refused.
fn asked(dir: &Path) -> (BTreeSet<Right>, Vec<Value>) {
    let log = std::fs::read_to_string(dir.join("audit.log")).expect("the audit log");
    let (mut used, mut refused) = (BTreeSet::new(), Vec::new());
    // The last line may still be written.
    for event in log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
    {
        if event["user"]["username"] != USER {
            continue;
        }
        let object = &event["objectRef"];
        if event["responseStatus"]["code"] == 403 {
            refused.push(event.clone());
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        if object["resource"].is_string() {
            used.insert((
                text(&event["verb"]),
                text(&object["apiGroup"]),
                text(&object["resource"]),
                text(&object["name"]),
            ));
        }
    }
    (used, refused)
}

/// What the installed roles grant.
fn granted(cluster: &Cluster) -> BTreeSet<Right> {
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let mut all = BTreeSet::new();
    for path in [
        "clusterroles/flowcar-controller",
        "namespaces/flowcar-system/roles/flowcar-controller",
    ] {
        let role = cluster.admin().get(&format!("{rbac}/{path}")).success();
        for rule in role["rules"].as_array().expect("rules") {
            let list = |field: &str| {
                let items = rule[field].as_array().cloned().unwrap_or_default();
                items
                    .into_iter()
                    .map(|item| item.as_str().expect("a text").to_owned())
                    .collect::<Vec<_>>()
            };
            let names = match list("resourceNames") {
                names if names.is_empty() => vec![String::new()],
                names => names,
            };
            for verb in list("verbs") {
                for group in list("apiGroups") {
                    for resource in list("resources") {
                        for name in &names {
                            all.insert((
                                verb.clone(),
                                group.clone(),
                                resource.clone(),
                                name.clone(),
                            ));
                        }
                    }
                }
            }
        }
    }
    all
}

/// The rows of the table in docs/security/injector.md.
fn documented() -> BTreeSet<Right> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/security/injector.md");
    let text = std::fs::read_to_string(path).expect("the document");
    let (_, table) = text.split_once("<!-- rights -->").expect("the table");
    let (table, _) = table.split_once("<!-- /rights -->").expect("its end");
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<_> = row
            .split('|')
            .map(|cell| cell.trim().trim_matches('`').to_owned())
            .collect();
        assert!(!cells[5].is_empty(), "why: {row}");
        let group = if cells[2] == "core" { "" } else { &cells[2] };
        (
            cells[1].clone(),
            group.to_owned(),
            cells[3].clone(),
            cells[4].clone(),
        )
    })
    .collect()
}

fn is_used(right: &Right, used: &BTreeSet<Right>) -> bool {
    let (verb, group, resource, name) = right;
    used.iter().any(|(v, g, r, n)| {
        v == verb && g == group && r == resource && (name.is_empty() || n == name)
    })
}

/// Creates one invalid object of each kind that an Event may be about.
fn create_invalid_objects(cluster: &Cluster) {
    let annotations = json!({"flowcar.io/inject": "enabled", "flowcar.io/pear": "x"});
    let template = json!({"metadata": {"labels": {"app": "w"}}, "spec": {"containers": [{"name": "app", "image": "app:1"}]}});
    let selector = json!({"matchLabels": {"app": "w"}});
    let mut once = template.clone();
    once["spec"]["restartPolicy"] = json!("Never");
    let rows: BTreeMap<&str, (&str, Value)> = [
        (
            "apis/apps/v1",
            "deployments",
            json!({"selector": selector, "template": template}),
        ),
        (
            "apis/apps/v1",
            "statefulsets",
            json!({"selector": selector, "serviceName": "w", "template": template}),
        ),
        (
            "apis/apps/v1",
            "daemonsets",
            json!({"selector": selector, "template": template}),
        ),
        ("apis/batch/v1", "jobs", json!({"template": once})),
        (
            "apis/batch/v1",
            "cronjobs",
            json!({"schedule": "0 0 * * *", "jobTemplate": {"spec": {"template": once}}}),
        ),
    ]
    .into_iter()
    .map(|(group, resource, spec)| (resource, (group, spec)))
    .collect();
    for (resource, (group, spec)) in rows {
        let object =
            json!({"metadata": {"name": resource, "annotations": annotations}, "spec": spec});
        let path = format!("/{group}/namespaces/shop/{resource}");
        cluster.admin().create(&path, &object).success();
        eventually(&format!("an Event about one of {resource}"), LIMIT, || {
            cluster.events("shop", "FlowcarAnnotation", resource).pop()
        });
    }
    // These two are known by the pods that they own.
    for (api, group, resource, kind, selector) in [
        (
            "apps/v1",
            "apis/apps/v1",
            "replicasets",
            "ReplicaSet",
            selector,
        ),
        (
            "v1",
            "api/v1",
            "replicationcontrollers",
            "ReplicationController",
            json!({"app": "w"}),
        ),
    ] {
        let object = json!({"metadata": {"name": resource}, "spec": {"replicas": 0, "selector": selector, "template": template}});
        let path = format!("/{group}/namespaces/shop/{resource}");
        let stored = cluster.admin().create(&path, &object).success();
        let mut owned = pod(&format!("of-{resource}"), annotations.clone());
        owned["metadata"]["ownerReferences"] = json!([{
            "apiVersion": api, "kind": kind, "name": resource, "uid": stored["metadata"]["uid"], "controller": true,
        }]);
        for name in [format!("of-{resource}"), format!("of-{resource}-again")] {
            // The same Event again is counted in the first one, by a patch.
            owned["metadata"]["name"] = json!(name);
            cluster.create_pod("shop", &owned);
        }
        eventually(&format!("an Event about one of {resource}"), LIMIT, || {
            cluster.events("shop", "FlowcarAnnotation", resource).pop()
        });
    }
}

#[test]
fn every_controller_right_is_used_and_documented() {
    let dir = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::start_on(audited(dir.path()));
    let controller =
        cluster.controller(&["--ca-lifetime=60s", "--leaf-lifetime=20s", "--settle=2s"]);
    create_invalid_objects(&cluster);
    // A pod of no workload, and one that no webhook saw.
    cluster.create_pod(
        "shop",
        &pod(
            "alone",
            json!({"flowcar.io/inject": "enabled", "flowcar.io/pear": "x"}),
        ),
    );
    eventually("an Event", LIMIT, || {
        cluster.events("shop", "FlowcarAnnotation", "alone").pop()
    });
    // A review of an unknown namespace.
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {"uid": "u", "kind": {"kind": "Pod"}, "namespace": "nowhere", "operation": "CREATE",
            "object": pod("p", json!({"flowcar.io/inject": "enabled"}))},
    });
    let answer = cluster.webhook().send(
        "POST",
        "/admit",
        "application/json",
        review.to_string().into_bytes(),
    );
    answer.expect("an answer").success();
    let granted = granted(&cluster);
    let unused = || -> Vec<Right> {
        let (used, _) = asked(dir.path());
        granted
            .iter()
            .filter(|right| !is_used(right, &used))
            .cloned()
            .collect()
    };
    let started = std::time::Instant::now();
    while !unused().is_empty() && started.elapsed() < LIMIT {
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(unused(), Vec::<Right>::new(), "granted and never asked for");
    let (_, refused) = asked(dir.path());
    assert_eq!(refused, Vec::<Value>::new(), "asked for and not granted");
    assert_eq!(documented(), granted, "docs/security/injector.md");
    assert!(
        granted
            .iter()
            .all(|(verb, _, resource, _)| verb != "create" || resource == "events")
    );
    drop(controller);
}

#[test]
fn without_the_detector_no_pods_are_listed() {
    let dir = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::bare_on(audited(dir.path()));
    cluster.install_chart(&["detectMissed=false"]);
    let _controller = cluster.controller(&["--detect-missed=false"]);
    let pods = |(_, _, resource, _): &Right| resource == "pods";
    assert!(!granted(&cluster).iter().any(pods));
    let stored = cluster.create_pod("shop", &pod("p", json!({"flowcar.io/inject": "enabled"})));
    assert_eq!(containers(&stored).0, ["flowcar"]);
    let (used, refused) = asked(dir.path());
    assert!(!used.iter().any(pods), "{used:?}");
    assert_eq!(refused, Vec::<Value>::new());
}

/// The Lease, held by another client that keeps renewing it.
struct Held {
    stop: Arc<AtomicBool>,
    renewing: Option<JoinHandle<()>>,
}

// === impl Held ===

impl Held {
    fn start(cluster: &Cluster) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (admin, stopped) = (cluster.admin().clone(), stop.clone());
        let path =
            "/apis/coordination.k8s.io/v1/namespaces/flowcar-system/leases/flowcar-controller";
        let renew = move |turn: u32| {
            let spec = json!({
                "holderIdentity": "somebody", "renewTime": format!("2026-01-02T10:00:{:02}.000000Z", turn % 60),
            });
            let patch = json!({"spec": spec});
            admin.patch(path, PatchKind::Merge, &patch).success();
        };
        renew(0);
        let renewing = std::thread::spawn(move || {
            for turn in 1.. {
                std::thread::sleep(Duration::from_secs(1));
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                renew(turn);
            }
        });
        Self {
            stop,
            renewing: Some(renewing),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A panic of it has been printed.
        drop(self.renewing.take().map(JoinHandle::join));
    }
}

/// The keys are in a Secret of their own, which the replicas that do not lead never ask for.
#[test]
fn only_the_leader_reads_the_authorities_keys() {
    let dir = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::start_on(audited(dir.path()));
    // Empty as shipped; only the leader fills it.
    for secret in [SECRET, KEYS] {
        assert_eq!(cluster.admin().get(secret).success().get("data"), None);
    }
    let leader = cluster.controller(&[]);
    let data = |path: &str| cluster.admin().get(path).success()["data"].clone();
    let names = |data: &Value| {
        data.as_object()
            .expect("data")
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(&data(SECRET)),
        ["ca.crt", "signing-ca.crt", "tls.crt", "tls.key"]
    );
    assert_eq!(names(&data(KEYS)), ["signing-ca.crt", "signing-ca.key"]);
    let reads = || {
        let log = std::fs::read_to_string(dir.path().join("audit.log")).expect("the audit log");
        let events = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events
            .filter(|event| {
                event["user"]["username"] == USER
                    && event["objectRef"]["name"] == "flowcar-webhook-ca"
            })
            .count()
    };
    assert!(reads() > 0 && leader.process.stop(LIMIT).success());
    drop(leader);
    // A line is written after the answer has left: wait until no more come.
    let mut before = reads();
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let now = reads();
        if now == before {
            break;
        }
        before = now;
    }
    {
        let _held = Held::start(&cluster);
        let port = cluster.net.claim_port();
        let follower = cluster.replica("two", cluster.net.socket(&port), &[]);
        assert!(follower.is_ready());
        assert_eq!(follower.metric("flowcar_leader"), Some(0.0));
        // It reads the Lease periodically, and takes new certificates.
        let label = json!({"metadata": {"labels": {"a": "b"}}});
        let secret = cluster.admin().patch(SECRET, PatchKind::Merge, &label);
        secret.success();
        std::thread::sleep(Duration::from_secs(5));
        assert_eq!(reads(), before);
    }

    // An upgrade from all in one: the same authority, and its key out of the Secret that is served from.
    let (serving, keys) = (data(SECRET), data(KEYS));
    let together = json!({"data": {"signing-ca.key": keys["signing-ca.key"]}});
    let set = |path: &str, patch: &Value| {
        cluster
            .admin()
            .patch(path, PatchKind::Merge, patch)
            .success();
    };
    set(KEYS, &json!({"data": null}));
    set(SECRET, &together);
    let _leader = cluster.controller(&[]);
    eventually("the key in its own Secret", LIMIT, || {
        (data(KEYS) == keys && data(SECRET) == serving).then_some(())
    });
    let webhooks = cluster.admin().get(WEBHOOK).success()["webhooks"].clone();
    assert_eq!(webhooks[0]["clientConfig"]["caBundle"], serving["ca.crt"]);
}

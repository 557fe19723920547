//! Bodies, answers, external certificates, and the replacement of a replica.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use flowcar_k8s::serve::MAX_BODY;
use flowcar_tests::{
    cluster::{
        Cluster, LIMIT, SECRET, WEBHOOK,
        tools::{base64, containers, pod},
    },
    peers::{Authority, Client, PatchKind, Reply, eventually},
};
use serde_json::{Value, json};

use crate::service::Service;

fn review(uid: &str, object: &Value) -> Vec<u8> {
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {"uid": uid, "kind": {"group": "", "version": "v1", "kind": "Pod"}, "namespace": "shop", "operation": "CREATE", "object": object},
    });
    review.to_string().into_bytes()
}

fn post(client: &Client, body: Vec<u8>) -> Reply {
    client
        .send("POST", "/admit?timeout=5s", "application/json", body)
        .expect("an answer")
}

fn asked(name: &str) -> Value {
    pod(name, json!({"flowcar.io/inject": "enabled"}))
}

#[test]
fn bodies_above_ten_mebibytes_are_refused() {
    let cluster = Cluster::start();
    let controller = cluster.controller(&[]);
    let client = cluster.webhook();
    // Environment, as large pods have it, and white space for the last bytes.
    let mut large = asked("large");
    let entry =
        json!({"name": "SOME_SETTING_OF_THE_APP", "value": "some value of the app's setting"});
    let count = (MAX_BODY - 1024) / (entry.to_string().len() + 1);
    large["spec"]["containers"][0]["env"] = vec![entry; count].into();
    let mut body = review("u-large", &large);
    assert!(
        body.len() <= MAX_BODY && body.len() > MAX_BODY - 2048,
        "{}",
        body.len()
    );
    body.resize(MAX_BODY, b' ');
    let response = post(&client, body.clone()).success()["response"].clone();
    assert_eq!(response["uid"], "u-large");
    assert_eq!(response["patchType"], "JSONPatch");
    for beyond in [MAX_BODY + 1, MAX_BODY * 3] {
        body.resize(beyond, b' ');
        let refused = post(&client, body.clone());
        assert_eq!(refused.status, 413, "{beyond}: {}", refused.text());
        assert!(refused.text().contains("10 MiB"));
    }
    let small = post(&client, review("u-small", &asked("small"))).success();
    assert_eq!(small["response"]["patchType"], "JSONPatch");
    // The container's limit in the chart is 128 MiB.
    let pid = controller.process.pid().expect("it runs");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let peak = peak.expect("a peak") / 1024;
    assert!(peak < 128, "{peak} MiB");
}

#[test]
fn every_posted_body_gets_an_answer() {
    let cluster = Cluster::start();
    let controller = cluster.controller(&[]);
    let client = cluster.webhook();
    let text = |body: &str| body.as_bytes().to_vec();
    let uid_only = r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u-9"}}"#;
    let old = String::from_utf8(review("u-8", &asked("a"))).expect("UTF-8");
    let old = old.replace("admission.k8s.io/v1", "admission.k8s.io/v1beta1");
    let cases = [
        (text(""), ""),
        (text("{"), ""),
        (text("[1]"), ""),
        (vec![0xff, 0xfe], ""),
        (text(uid_only), "u-9"),
        (text(&old), "u-8"),
        (review("u-7", &json!("no pod")), "u-7"),
        (review("u-6", &json!({"spec": 1, "metadata": []})), "u-6"),
    ];
    for (body, uid) in cases {
        let shown = String::from_utf8_lossy(&body).into_owned();
        let answer = post(&client, body).success();
        assert_eq!(answer["apiVersion"], "admission.k8s.io/v1", "{shown}");
        assert_eq!(answer["kind"], "AdmissionReview");
        assert_eq!(answer["response"]["uid"], uid, "{shown}");
        assert_eq!(answer["response"]["allowed"], true);
        assert_eq!(answer["response"].get("patch"), None);
    }
    let malformed = "flowcar_admission_reviews_total{decision=\"malformed\"}";
    assert_eq!(controller.metric(malformed), Some(7.0));
    assert_eq!(client.get("/admit").expect("an answer").status, 405);
    let elsewhere = client.send("POST", "/", "application/json", text("{}"));
    assert_eq!(elsewhere.expect("an answer").status, 404);
}

/// Calls through the API server without a pause, until `stop`; every one of them has to be answered.
fn load(cluster: &Cluster, name: &str, stop: &AtomicBool, calls: &AtomicU32) {
    while !stop.load(Ordering::Relaxed) {
        let path = "/api/v1/namespaces/shop/pods?dryRun=All";
        let answer = cluster.admin().create(path, &asked(name)).success();
        assert_eq!(containers(&answer).0, ["flowcar"], "{name}");
        calls.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn replicas_are_replaced_under_load_without_a_failed_call() {
    let cluster = Cluster::start();
    let ports = [cluster.net.claim_port(), cluster.net.claim_port()];
    let at = |replica: usize| cluster.net.socket(&ports[replica]);
    let start = |replica: usize| {
        let name = ["one", "two"][replica];
        cluster.replica(name, at(replica), &["--drain-delay=5s"])
    };
    let mut replicas = [start(0), start(1)];
    let service = Service::start(cluster.address(), at(0));
    eventually("a published caBundle", LIMIT, || {
        cluster.is_published().then_some(())
    });
    cluster.wait_until_called();
    let (stop, calls) = (AtomicBool::new(false), AtomicU32::new(0));
    let more = |count: u32| {
        let wanted = calls.load(Ordering::Relaxed) + count;
        eventually("more calls", LIMIT, || {
            (calls.load(Ordering::Relaxed) >= wanted).then_some(())
        });
    };
    std::thread::scope(|scope| {
        for name in ["a", "b", "c", "d"] {
            let (cluster, stop, calls) = (&cluster, &stop, &calls);
            scope.spawn(move || load(cluster, name, stop, calls));
        }
        // A failed assertion must end the load too.
        let _stop = StopOnDrop(&stop);
        more(50);
        for (ending, staying) in [(0, 1), (1, 0)] {
            let process = &replicas[ending].process;
            let ended = std::thread::scope(|scope| {
                let ended = scope.spawn(|| process.stop(LIMIT));
                // As a cluster takes a replica out of its Service: by its readiness.
                eventually("a replica that is not ready", LIMIT, || {
                    (!replicas[ending].is_ready()).then_some(())
                });
                service.switch(at(staying));
                ended.join().expect("it is waited for")
            });
            assert!(ended.success(), "{ended}");
            more(50);
            replicas[ending] = start(ending);
        }
    });
    assert_eq!(cluster.failed_open("pods.flowcar.io"), 0.0);
    for replica in &replicas {
        assert!(replica.is_ready());
    }
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Puts a certificate into the Secret and authorities into caBundle, as cert-manager does.
fn issue(cluster: &Cluster, by: &Authority, trusted: &[&Authority]) {
    let pair = by.server(&["127.0.0.1"]);
    let bundle: String = trusted.iter().map(|ca| ca.certificate()).collect();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "flowcar-webhook-tls", "namespace": "flowcar-system"},
        "stringData": {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": bundle},
    });
    trust(cluster, &bundle);
    cluster.apply(&secret.to_string());
}

fn trust(cluster: &Cluster, bundle: &str) {
    let bundle = base64(bundle);
    let set = |index| json!({"op": "add", "path": format!("/webhooks/{index}/clientConfig/caBundle"), "value": bundle});
    let all: Vec<_> = (0..3).map(set).collect();
    cluster
        .admin()
        .patch(WEBHOOK, PatchKind::Json, &json!(all))
        .success();
}

#[test]
fn external_certificates_are_reloaded_without_a_restart() {
    let cluster = Cluster::bare();
    cluster.install_chart(&[
        "certificates.source=external",
        "certificates.issuer.name=somebody",
    ]);
    let [first, second] = ["first", "second"].map(Authority::new);
    issue(&cluster, &first, &[&first]);
    let controller = cluster.controller(&["--certificates=external"]);
    let injected = |name: &str| {
        let pod = cluster.create_pod("shop", &asked(name));
        assert_eq!(containers(&pod).0, ["flowcar"], "{name}");
    };
    injected("first");
    let pid = controller.process.pid();

    issue(&cluster, &second, &[&first, &second]);
    let client = cluster.webhook_trusting(second.certificate());
    eventually("the other certificate", LIMIT, || {
        client.get("/admit").is_ok().then_some(())
    });
    trust(&cluster, second.certificate());
    injected("second");
    let stale = cluster.webhook_trusting(first.certificate());
    assert!(stale.get("/admit").is_err(), "it serves the second");

    // An invalid certificate is refused, and the controller keeps serving the one in use.
    let broken = json!({"stringData": {"tls.key": "no key"}});
    cluster
        .admin()
        .patch(SECRET, PatchKind::Merge, &broken)
        .success();
    eventually("a log line about it", LIMIT, || {
        let log = controller.process.log();
        log.contains("is not taken into use").then_some(())
    });
    injected("third");
    assert_eq!(controller.process.pid(), pid);
    assert_eq!(cluster.failed_open("pods.flowcar.io"), 0.0);

    // Its service account cannot do what only the own certificates need.
    let own = cluster.api.with_token(&cluster.token());
    let secret = own.get(SECRET).success();
    assert_eq!(own.replace(SECRET, &secret).status, 403);
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(own.patch(WEBHOOK, PatchKind::Merge, &label).status, 403);
}

//! What an admission call costs, and the controller's memory: `cargo bench -p flowcar-tests --bench admission`; needs
//! `tests/peers/build k8s`. Nothing is judged: what the machine does besides is not known.

#[path = "../tests/k8s_controller/cluster.rs"]
#[expect(dead_code, reason = "the tests use more of the cluster than the bench")]
mod cluster;

use std::process::Command;
use std::time::Instant;

use cluster::{Cluster, Controller, SECRET, pod};
use flowcar_tests::peers::Client;
use hdrhistogram::Histogram;
use serde_json::json;

const CALLS: u32 = 5_000;

fn main() {
    let cluster = Cluster::start();
    let controller = cluster.controller(&[]);
    let latency = call(&client(&cluster));
    let (p50, p99) = (
        latency.value_at_quantile(0.5),
        latency.value_at_quantile(0.99),
    );
    println!("admission over TLS, {CALLS} calls: p50 {p50} us, p99 {p99} us");
    print_own_account(&controller);
}

/// A client that trusts the controller's certificate.
fn client(cluster: &Cluster) -> Client {
    let secret = cluster.admin().get(SECRET).success();
    let mut decode = Command::new("base64");
    decode.arg("-d");
    let bundle = secret["data"]["ca.crt"].as_str().expect("a bundle");
    let (_, ca, _) = cluster::pipe(decode, bundle);
    let base = format!("https://{}", cluster.address());
    Client::new(cluster.net.clone(), base, Some(&ca))
}

/// Times of calls one after another, microseconds.
fn call(client: &Client) -> Histogram<u64> {
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "namespace": "shop", "operation": "CREATE",
            "object": pod("p", json!({"flowcar.io/inject": "enabled"})),
        },
    });
    let body = review.to_string().into_bytes();
    let mut latency = Histogram::new_with_bounds(1, 60_000_000, 3).expect("constant bounds");
    for _ in 0..CALLS {
        let started = Instant::now();
        let reply = client.send("POST", "/admit", "application/json", body.clone());
        let took = u64::try_from(started.elapsed().as_micros()).expect("microseconds");
        latency.saturating_record(took);
        let patch = &reply.expect("an answer").json()["response"]["patchType"];
        assert_eq!(patch, "JSONPatch");
    }
    latency
}

/// The controller's own figures, without client, network and TLS, and the kernel's of its memory.
fn print_own_account(controller: &Controller) {
    let sum = controller.metric("flowcar_admission_duration_seconds_sum");
    let within = |bound: &str| {
        let line = format!("flowcar_admission_duration_seconds_bucket{{le=\"{bound}\"}}");
        controller.metric(&line).expect("a bucket")
    };
    let (five, all) = (within("0.005"), within("+Inf"));
    let average = sum.expect("a sum") / all * 1e6;
    println!("inside the controller: {five} of {all} within 5 ms, {average:.0} us on average");
    let pid = controller.process.pid().expect("it runs");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let peak = status.lines().find(|line| line.starts_with("VmHWM"));
    println!("controller's peak memory: {}", peak.expect("a peak"));
}

//! What an admission call costs, and the controller's memory: `cargo bench -p flowcar-tests --bench admission`; needs
//! `tests/peers/build k8s`. A latency or size over its bound is printed and fails nothing: the machine may be busy.

use std::time::{Duration, Instant};

use flowcar_tests::cluster::{Cluster, Controller, tools::pod};
use hdrhistogram::Histogram;
use serde_json::json;

/// Calls of the webhook itself.
const CALLS: u32 = 5_000;

/// Pods created, on a dry run, through the API server.
const PODS: u32 = 1_000;

/// What an admission call may take at p99.
const LATENCY: Duration = Duration::from_millis(5);

/// Memory that the controller may use.
const MEMORY_KB: u64 = 30 << 10;

fn main() {
    let cluster = Cluster::start();
    let controller = cluster.controller(&[]);
    println!("at rest: {}", memory(&controller, "VmRSS:"));
    let webhook = call_webhook(&cluster);
    print("the webhook, a TLS connection for each call", &webhook);
    let plain = create_pods(&cluster, json!({}));
    let asked = create_pods(&cluster, json!({"flowcar.io/inject": "enabled"}));
    print("the API server, pods that ask for nothing", &plain);
    print("the API server, pods that are injected", &asked);
    print_own_account(&controller);
    println!("after all of it: {}", memory(&controller, "VmRSS:"));
    println!("at most: {}", memory(&controller, "VmHWM:"));
    let within = webhook.value_at_quantile(0.99) < micros(LATENCY);
    println!(
        "p99 under {LATENCY:?}: {}",
        if within { "yes" } else { "NO" }
    );
    let within = kilobytes(&controller, "VmHWM:") < MEMORY_KB;
    println!(
        "under {} MiB: {}",
        MEMORY_KB >> 10,
        if within { "yes" } else { "NO" }
    );
}

/// Times of calls one after another, microseconds.
fn call_webhook(cluster: &Cluster) -> Histogram<u64> {
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "namespace": "shop", "operation": "CREATE",
            "object": pod("p", json!({"flowcar.io/inject": "enabled"})),
        },
    });
    let body = review.to_string().into_bytes();
    let client = cluster.webhook();
    timed(CALLS, || {
        let reply = client.send("POST", "/admit", "application/json", body.clone());
        let patch = &reply.expect("an answer").json()["response"]["patchType"];
        assert_eq!(patch, "JSONPatch");
    })
}

/// The same for pods that the API server is asked to create; it keeps its connection to the webhook.
fn create_pods(cluster: &Cluster, annotations: serde_json::Value) -> Histogram<u64> {
    let pod = pod("p", annotations);
    let path = "/api/v1/namespaces/shop/pods?dryRun=All";
    timed(PODS, || drop(cluster.admin().create(path, &pod).success()))
}

fn timed(times: u32, mut call: impl FnMut()) -> Histogram<u64> {
    let mut latency = Histogram::new_with_bounds(1, 60_000_000, 3).expect("constant bounds");
    for _ in 0..times {
        let started = Instant::now();
        call();
        latency.saturating_record(micros(started.elapsed()));
    }
    latency
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).expect("microseconds")
}

fn print(what: &str, latency: &Histogram<u64>) {
    let at = |quantile| latency.value_at_quantile(quantile);
    println!(
        "{what}, {} calls: p50 {} us, p90 {} us, p99 {} us, p99.9 {} us, max {} us",
        latency.len(),
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        latency.max()
    );
}

/// The controller's own figures, without client, network and TLS.
fn print_own_account(controller: &Controller) {
    let sum = controller.metric("flowcar_admission_duration_seconds_sum");
    let within = |bound: &str| {
        let line = format!("flowcar_admission_duration_seconds_bucket{{le=\"{bound}\"}}");
        controller.metric(&line).expect("a bucket")
    };
    let (one, five, all) = (within("0.001"), within("0.005"), within("+Inf"));
    let average = sum.expect("a sum") / all * 1e6;
    println!(
        "inside the controller: {one} of {all} within 1 ms, {five} within 5 ms, {average:.0} us on average"
    );
}

/// The kernel's figure of the controller's memory.
fn memory(controller: &Controller, field: &str) -> String {
    format!("{:.1} MiB", kilobytes(controller, field) as f64 / 1024.0)
}

fn kilobytes(controller: &Controller, field: &str) -> u64 {
    let pid = controller.process.pid().expect("it runs");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    number.expect("a size").parse().expect("a number")
}

//! Calls of `connect()`: what was asked for, where something between the application and the server chooses another address, and
//! attempts of which no SYN is sent.

mod asked;
mod unsent;

use std::net::SocketAddr;

use flowcar_tests::{
    place::{Cgroup, TestPod, require_cgroup2, require_program, require_root},
    traffic::{Connected, Connecting, ServePlan, Serving},
    watch::{Mode, Watch},
};

/// The pod's own addresses: no other network namespace has them.
const OWN4: &str = "10.99.18.1";
const OWN6: &str = "fd99:18::1";

fn can_run() -> bool {
    require_root() && require_cgroup2() && require_program("nft") && require_program("ip")
}

/// A pod whose cgroup lies in another one, with addresses of its own and routes to services on its loopback device.
fn pod(name: &str) -> (Cgroup, TestPod) {
    let above = Cgroup::new(name).unwrap();
    let pod = TestPod::inside(&above, "pod").unwrap();
    let (own4, own6) = (format!("{OWN4}/32"), format!("{OWN6}/128"));
    for arguments in [
        ["address", "add", &own4, "dev", "lo"].as_slice(),
        &["-6", "address", "add", &own6, "dev", "lo"],
        &["route", "add", "10.96.0.0/16", "dev", "lo", "src", OWN4],
        &["-6", "route", "add", "fd96::/64", "dev", "lo"],
    ] {
        let mut ip = pod.netns().command("ip").unwrap();
        assert!(
            ip.args(arguments).status().unwrap().success(),
            "{arguments:?}"
        );
    }
    // Fast Open without cookies, by client and server.
    pod.netns().sysctl("net.ipv4.tcp_fastopen", "1543").unwrap();
    (above, pod)
}

fn serve(pod: &TestPod) -> Serving {
    Serving::start(pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap()
}

/// In the default mode, and with exchanges.
fn watches(pod: &TestPod) -> [Watch; 2] {
    ["off", "on"].map(|exchange| {
        let settings = [
            ("FLOWCAR_EXCHANGE", exchange),
            ("OTEL_METRIC_EXPORT_INTERVAL", "500"),
            // Thousands of sockets are closed at once.
            ("FLOWCAR_RING_BYTES", "16777216"),
        ];
        Watch::start(pod, Mode::Both, &settings)
    })
}

/// Calls in the pod, all of which are over.
fn connect(pod: &TestPod, target: SocketAddr, arguments: &[&str]) -> Vec<Connected> {
    let connecting = Connecting::start(pod, target, arguments).unwrap();
    connecting.finish().unwrap()
}

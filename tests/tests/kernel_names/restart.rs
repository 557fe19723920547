//! The name of a client's connection over a restart of flowcar.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt as _};

use flowcar_tests::{
    traffic::{CallPlan, Holding},
    watch::{Seen, Watch},
};

use super::{Pod, can_run, resolver::address};

const HELD: u64 = 2;

/// Client ends in the series of a server's address, by how they came to be followed.
fn adopted(seen: &Seen, server: &str) -> f64 {
    let by_restart = [
        ("flowcar.tcp.adopted.by", "restart"),
        ("server.address", server),
    ];
    seen.sum("flowcar.tcp.connection.adopted", &by_restart)
}

/// With and without names now, and by each way in which the previous flowcar ended.
#[test]
fn client_keeps_its_name_over_a_restart() {
    if !can_run() {
        return;
    }
    let at = address(1);
    let by_address = at.to_string();
    /// Whether flowcar gives names now, what the server is called, and how the previous flowcar ended.
    type Row<'a> = (&'a str, &'a str, fn(Watch) -> Seen);
    let rows: [Row<'_>; 3] = [
        ("on", "one.example", Watch::stop),
        ("on", "one.example", Watch::kill),
        ("off", &by_address, Watch::stop),
    ];
    for (names, server, end) in rows {
        let mut pod = Pod::new("kept");
        let state = tempfile::tempdir().unwrap();
        fs::set_permissions(state.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let state = ("FLOWCAR_STATE_DIR", state.path().to_str().unwrap());
        let mut watch = pod.watch(&[state]);
        pod.ask("one.example");
        let plan = CallPlan::to(SocketAddr::new(at, pod.port()));
        let mut held = Holding::start(&pod.pod, &plan.connections(HELD, 1)).unwrap();
        watch.until("both ends", |seen| {
            seen.sum("flowcar.tcp.connection.live", &[]) == 2.0 * HELD as f64
        });
        // As another report follows, it is acknowledged.
        watch.reports(3);
        let first = end(watch);
        let opened = [("server.address", "one.example")];
        let opened = first.sum("flowcar.tcp.connection.opened", &opened);
        assert_eq!(opened, HELD as f64, "{names} {server}");

        let mut watch = pod.watch(&[state, ("FLOWCAR_DNS", names)]);
        watch.reported("restored the checkpoint of the previous flowcar");
        held.exchange().unwrap();
        let reports = held.close().unwrap();
        watch.until("the closes", |seen| {
            seen.sum("flowcar.tcp.connection.closed", &[]) == 2.0 * HELD as f64
        });
        let second = watch.stop();
        assert_eq!(adopted(&second, server), HELD as f64, "{names} {server}");
        for report in &reports {
            let flow = second.flow(report);
            assert_eq!(flow.get("server.address"), server, "{names}");
            assert_eq!(flow.get("network.peer.address"), by_address, "{names}");
        }
    }
}

//! Connections that are closed while their application still holds the socket.

use flowcar_tests::{
    place::{TestPod, require_cgroup2, require_root},
    traffic::{Teardown, Way},
    watch::{Mode, Watch},
};

/// The peer has reset it, and a pool keeps the descriptor: it is closed all the same.
#[test]
fn closed_connection_is_not_live_while_its_descriptor_is_open() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    // (mode, open before flowcar)
    for (mode, is_adopted) in [
        (Mode::Alone, false),
        (Mode::Alone, true),
        (Mode::Both, true),
    ] {
        let pod = TestPod::new("held").unwrap();
        let start = || Teardown::start(&pod, Way::HeldAfterReset, false).unwrap();
        let early = is_adopted.then(start);
        let mut watch = Watch::start(&pod, mode, &[]);
        let mut ending = early.unwrap_or_else(start);
        let live = "flowcar.tcp.connection.live";
        watch.until("both ends", |seen| seen.sum(live, &[]) == 2.0);
        ending.go_on().unwrap();
        // Spans go out once a second, the client's perhaps behind the server's.
        watch.until("both are closed", |seen| {
            let is_reported = seen.flows.iter().any(|flow| flow.role() == "client");
            seen.sum(live, &[]) == 0.0 && is_reported
        });
        let seen = watch.reports(2);
        let clients = seen.flows.iter().filter(|flow| flow.role() == "client");
        let ends: Vec<_> = clients.map(|flow| flow.end().to_owned()).collect();
        assert_eq!(ends, ["unknown"], "{mode:?}: there are no last counts");
        ending.go_on().unwrap();
        let ended = ending.ended().unwrap();
        // The client's counts are whole, and it is no connection more.
        watch.reports(3);
        let seen = watch.stop();
        let sum = |name: &str| seen.sum(name, &[]);
        assert_eq!(seen.began(), 2.0, "{mode:?}");
        let closed_or_lost =
            sum("flowcar.tcp.connection.closed") + sum("flowcar.tcp.connection.lost");
        assert_eq!((closed_or_lost, sum(live)), (2.0, 0.0), "{mode:?}");
        let client = seen.flows.iter().find(|flow| flow.role() == "client");
        assert_eq!(client.unwrap().local, ended.client);
    }
}

/// Dumps do not show the socket any more, and what came after the last of them is counted when its application closes it.
#[test]
fn payload_of_a_held_socket_is_counted_when_its_application_closes_it() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    // (mode, open before flowcar)
    for (mode, is_adopted) in [
        (Mode::Alone, false),
        (Mode::Alone, true),
        (Mode::Both, true),
    ] {
        let pod = TestPod::new("answered").unwrap();
        let start = || Teardown::start(&pod, Way::HeldAfterAnswer, false).unwrap();
        let early = is_adopted.then(start);
        let mut watch = Watch::start(&pod, mode, &[]);
        let mut ending = early.unwrap_or_else(start);
        let live = "flowcar.tcp.connection.live";
        watch.until("both ends", |seen| seen.sum(live, &[]) == 2.0);
        ending.go_on().unwrap();
        watch.until("both are closed", |seen| seen.sum(live, &[]) == 0.0);
        // The reports that follow see no adopted connection.
        watch.reports(2);
        ending.go_on().unwrap();
        let ended = ending.ended().unwrap();
        let payload = (ended.from_client + ended.from_server) as f64;
        watch.until(&format!("all payload in {mode:?}"), |seen| {
            seen.sum("flowcar.tcp.io", &[("network.io.direction", "receive")]) == payload
        });
        assert_eq!(watch.stop().began(), 2.0, "{mode:?}");
    }
}

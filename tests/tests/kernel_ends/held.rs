//! Connections that are closed while their application still holds the socket.

use flowcar_tests::{
    place::{TestPod, require_cgroup2, require_root},
    traffic::{Teardown, Way},
    watch::{Mode, Watch},
};

const LIVE: &str = "flowcar.tcp.connection.live";

/// Modes, and whether the connection is open before flowcar. Records show the close of any other connection.
const MODES: [(Mode, bool); 3] = [
    (Mode::Alone, false),
    (Mode::Alone, true),
    (Mode::Both, true),
];

/// A flowcar that has both ends of a connection, which is about to close.
fn followed(pod: &TestPod, way: Way, (mode, is_adopted): (Mode, bool)) -> (Watch, Teardown) {
    let start = || Teardown::start(pod, way, false).unwrap();
    let early = is_adopted.then(start);
    let mut watch = Watch::start(pod, mode, &[]);
    let ending = early.unwrap_or_else(start);
    watch.until("both ends", |seen| seen.sum(LIVE, &[]) == 2.0);
    (watch, ending)
}

/// The peer has reset it, and a pool keeps the descriptor: it is closed all the same.
#[test]
fn closed_connection_is_not_live_while_its_descriptor_is_open() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    for mode in MODES {
        let pod = TestPod::new("held").unwrap();
        let (mut watch, mut ending) = followed(&pod, Way::HeldAfterReset, mode);
        ending.go_on().unwrap();
        // Spans go out once a second, the client's perhaps behind the server's.
        watch.until("both are closed", |seen| {
            let is_reported = seen.flows.iter().any(|flow| flow.role() == "client");
            seen.sum(LIVE, &[]) == 0.0 && is_reported
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
        assert_eq!((closed_or_lost, sum(LIVE)), (2.0, 0.0), "{mode:?}");
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
    for mode in MODES {
        let pod = TestPod::new("answered").unwrap();
        let (mut watch, mut ending) = followed(&pod, Way::HeldAfterAnswer, mode);
        ending.go_on().unwrap();
        watch.until("both are closed", |seen| seen.sum(LIVE, &[]) == 0.0);
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

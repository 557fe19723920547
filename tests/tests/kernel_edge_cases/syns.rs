//! SYNs that cross, where both ends called `connect()` and nobody listened, and SYNs that were sent before flowcar started.

use std::{
    io::Read,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    thread,
    time::Duration,
};

use flowcar_tests::{
    flowcar::{FlowLine, Pair, Report, Run},
    link::{
        Direction::{AtoB, BtoA},
        Plan,
    },
    peers::eventually,
    place::TestPod,
    traffic::{self, CallPlan, Met, ServePlan, Serving, call_in},
    watch::{Mode, Watch, bytes_hold},
};

use crate::{can_link, can_run};

const PORT: u16 = 4_000;

/// Half of it is long enough for both to have called `connect()`, and all of it less than the first retransmission time-out of 1 s.
const ROUND_TRIP: Duration = Duration::from_millis(800);

/// A socket that connects to its own address, as a client of a port of the ephemeral range may.
#[test]
fn socket_connects_to_itself() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("itself").unwrap();
    let at = (Ipv4Addr::LOCALHOST, PORT).into();
    let (met, report) = Meeting::start(&pod, at, at, 100).finish();
    let both_ways = Met {
        sent: 100,
        received: 100,
    };
    assert_eq!(met, both_ways);
    let flow = only(&report);
    agrees(flow, met, (at, at));
    assert!(flow.connect_s.unwrap() > 0.0);
    assert_eq!(flow.retransmits, 0);
}

#[test]
fn simultaneous_open_on_a_link() {
    if !can_link() {
        return;
    }
    let pair = Pair::new(Plan::rtt(ROUND_TRIP)).unwrap();
    let ends = [pair.link().a4(), pair.link().b4()].map(|address: IpAddr| (address, PORT).into());
    let folder = tempfile::tempdir().unwrap();
    let gates = ["one", "other"].map(|name| folder.path().join(name));
    let meetings = [
        Meeting::start_behind(&gates[0], pair.client(), ends[0], ends[1], 100),
        Meeting::start_behind(&gates[1], pair.server(), ends[1], ends[0], 300),
    ];
    for gate in &gates {
        eventually("a flowcar that follows", Duration::from_secs(60), || {
            gate.exists().then_some(())
        });
    }
    for gate in &gates {
        std::fs::remove_file(gate).unwrap();
    }
    let [(one, at_one), (other, at_other)] = meetings.map(Meeting::finish);
    let trace = pair.link().trace();
    let [there, back] = [AtoB, BtoA].map(|direction| {
        let mut syns = trace
            .sent(direction)
            .filter(|record| record.is(|tcp| tcp.syn));
        *syns.next().expect("a SYN")
    });
    assert!(
        there.entered < back.left.unwrap() && back.entered < there.left.unwrap(),
        "they crossed: {there:?} {back:?}"
    );
    assert_eq!((one.sent, one.received), (100, 300));
    assert_eq!((other.sent, other.received), (300, 100));
    agrees(only(&at_one), one, (ends[0], ends[1]));
    agrees(only(&at_other), other, (ends[1], ends[0]));
    for report in [&at_one, &at_other] {
        let connect = only(report).connect_s.unwrap();
        // Of two that started apart, the later one waits less than a round trip.
        assert!(
            connect >= ROUND_TRIP.as_secs_f64() / 2.0,
            "a SYN took half a round trip: {connect} s"
        );
    }
}

/// The time to connect is unknown, and is not reported.
#[test]
fn syn_sent_before_flowcar_started() {
    if !can_link() {
        return;
    }
    let pair = Pair::new(Plan::rtt(Duration::from_secs(4))).unwrap();
    let serving =
        Serving::start(pair.server(), &ServePlan::at("0.0.0.0:0".parse().unwrap())).unwrap();
    let target = SocketAddr::new(pair.link().b4(), serving.address().port());
    let (called, seen) = thread::scope(|scope| {
        let calling = scope.spawn(|| call_in(pair.client(), &CallPlan::to(target)).unwrap());
        while pair.link().trace().sent(AtoB).next().is_none() {
            assert!(!calling.is_finished(), "it ended without a SYN");
            thread::sleep(Duration::from_millis(10));
        }
        let mut watch = Watch::start(pair.client(), Mode::Both, &[]);
        pair.link().set_both(Plan::rtt(Duration::ZERO));
        let called = calling.join().unwrap();
        watch.until("its end", |seen| !seen.flows.is_empty());
        (called, watch.stop())
    });
    let flow = seen.flow(&called[0]);
    bytes_hold(flow, &called[0]);
    assert_eq!((flow.role(), flow.end()), ("client", "local_fin"));
    assert_eq!(
        flow.get("flowcar.tcp.adopted.by"),
        "",
        "it was not open yet"
    );
    assert_eq!(flow.get("flowcar.tcp.connect.duration"), "");
    assert_eq!(seen.began(), 1.0);
    assert_eq!(seen.sum("flowcar.tcp.connection.closed", &[]), 1.0);
}

/// One end, followed by flowcar.
struct Meeting(Run);

impl Meeting {
    fn start(pod: &TestPod, local: SocketAddr, target: SocketAddr, bytes: u64) -> Self {
        let [local, target, bytes] = [local.to_string(), target.to_string(), bytes.to_string()];
        let arguments = ["meet", &target, "--local", &local, "--bytes", &bytes];
        Self(Run::start(pod, &traffic::program().unwrap(), &arguments).unwrap())
    }

    /// The same once the file, which it makes when flowcar follows, is removed.
    fn start_behind(
        gate: &Path,
        pod: &TestPod,
        local: SocketAddr,
        target: SocketAddr,
        bytes: u64,
    ) -> Self {
        let program = traffic::program().unwrap();
        let (gate, program) = (gate.display(), program.display());
        let script = format!(
            "touch {gate}; while [ -e {gate} ]; do sleep 0.01; done
             exec {program} meet {target} --local {local} --bytes {bytes}"
        );
        Self(Run::start(pod, Path::new("sh"), &["-c", &script]).unwrap())
    }

    fn finish(mut self) -> (Met, Report) {
        let mut printed = String::new();
        self.0
            .stdout()
            .unwrap()
            .read_to_string(&mut printed)
            .unwrap();
        let (status, report) = self.0.finish().unwrap();
        assert!(status.success(), "{report:#?}");
        (serde_json::from_str(&printed).unwrap(), report)
    }
}

/// The one connection of the books.
fn only(report: &Report) -> &FlowLine {
    let books = &report.summary;
    assert_eq!(
        (books.opened, books.closed, books.live),
        (1, 1, 0),
        "{report:#?}"
    );
    assert_eq!((books.failed, books.lost), (0, 0), "{report:#?}");
    let [flow] = &report.flows[..] else {
        panic!("not one flow: {report:#?}");
    };
    flow
}

fn agrees(flow: &FlowLine, met: Met, (local, peer): (SocketAddr, SocketAddr)) {
    assert_eq!(flow.role, "client", "it called connect()");
    assert_eq!((flow.local(), flow.peer()), (local, peer));
    assert_eq!(
        (flow.bytes_sent, flow.bytes_received),
        (met.sent, met.received)
    );
    assert_eq!(flow.end, "local_fin");
}

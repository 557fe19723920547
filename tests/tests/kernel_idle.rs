//! Very many connections that do nothing.

use std::{
    fs,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use flowcar_tests::{
    place::{TestPod, require_cgroup2, require_root},
    traffic::{CallPlan, Holding, ServePlan, Serving, call_in},
    watch::{Flow, Mode, Seen, Watch},
};

const LIVE: &str = "flowcar.tcp.connection.live";

#[test]
fn ten_thousand_idle_connections() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    const OPEN: u64 = 10_000;
    const FLOWS: f64 = 2.0 * OPEN as f64;
    let pod = TestPod::new("idle").unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target: SocketAddr = ([127, 0, 0, 1], serving.address().port()).into();
    // Their books are of interest here, and a sample of their spans.
    // A full ring has tests of its own: this one has room for all records, also where flowcar has no turn for seconds.
    let settings = [
        ("FLOWCAR_SPANS_PER_SECOND", "100"),
        ("FLOWCAR_RING_BYTES", "16777216"),
    ];
    let mut watch = Watch::start(&pod, Mode::Both, &settings);
    let plan = CallPlan::to(target).connections(OPEN, 200);
    let holding = Holding::start(&pod, &plan).unwrap();
    assert_eq!(holding.open() as u64, OPEN);
    watch.until("all live", |seen| seen.sum(LIVE, &[]) == FLOWS);
    for _ in 0..5 {
        let seen = watch.reports(1);
        assert_eq!(seen.sum(LIVE, &[]), FLOWS);
        assert!(seen.flows.is_empty());
    }
    let clients = holding.close().unwrap();
    let servers = serving
        .reports(OPEN as usize, Duration::from_secs(60))
        .unwrap();
    watch.until("their close", |seen| seen.sum(LIVE, &[]) == 0.0);
    let seen = watch.stop();
    let (opened, closed) = (seen.began(), seen.sum("flowcar.tcp.connection.closed", &[]));
    assert_eq!((opened, closed), (FLOWS, FLOWS));
    assert_eq!(seen.sum("flowcar.tcp.connection.lost", &[]), 0.0);
    let bytes: u64 = clients.iter().chain(&servers).map(|end| end.sent).sum();
    let reported = seen.sum("flowcar.tcp.io", &[("network.io.direction", "transmit")]);
    assert_eq!(reported, bytes as f64);
}

/// The series of a peer without connections is dropped, and begins anew from zero: the sum of the increases is complete.
#[test]
fn series_without_connections_is_dropped_and_begins_anew() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    const SERIES: &str = "flowcar.self.series.count";
    let pod = TestPod::new("series").unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target: SocketAddr = ([127, 0, 0, 1], serving.address().port()).into();
    // Each report is a chance to see it dropped.
    let idle = [("FLOWCAR_SERIES_IDLE", "1")];
    let mut watch = Watch::start(&pod, Mode::Both, &idle);
    for round in 1..=3_usize {
        let clients = call_in(&pod, &CallPlan::to(target).connections(5, 5)).unwrap();
        assert!(clients.iter().all(|client| client.failure.is_none()));
        // Only of this round.
        watch.until("its connections", |seen| seen.flows.len() == round * 10);
        watch.until("no series", |seen| {
            seen.sum(SERIES, &[]) == 0.0 && seen.began() == 0.0
        });
    }
    // A connection that is open keeps its series, however still it is.
    let holding = Holding::start(&pod, &CallPlan::to(target).connections(2, 2)).unwrap();
    watch.until("both series", |seen| seen.sum(LIVE, &[]) == 4.0);
    watch.reports(5);
    assert_eq!(watch.seen().began(), 4.0, "two connections, of both ends");
    holding.close().unwrap();
    watch.until("no series", |seen| seen.sum(SERIES, &[]) == 0.0);
    watch.stop();
}

/// A connection that stays open sends marked spans for the intervals in which payload went, none for the others, and its own span
/// when flowcar ends.
#[test]
fn open_connection_sends_interim_spans_and_its_own_at_exit() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("interim").unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target: SocketAddr = ([127, 0, 0, 1], serving.address().port()).into();
    let often = [("FLOWCAR_SPAN_INTERVAL", "300")];
    let mut watch = Watch::start(&pod, Mode::Both, &often);
    let holding = Holding::start(&pod, &CallPlan::to(target).connections(1, 1)).unwrap();
    let interim = |seen: &Seen| -> Vec<Flow> {
        let all = seen.flows.iter();
        let interim = all.filter(|flow| flow.get("flowcar.tcp.is_interim") == "true");
        interim.cloned().collect()
    };
    let sent = |flows: &[Flow]| flows.iter().map(|flow| flow.sent).sum::<u64>();
    // A request of 132 bytes and its response of 1,000.
    watch.until("the exchange", |seen| sent(&interim(seen)) == 1_132);
    let spans = interim(watch.seen()).len();
    // Much longer than an interval, and nothing goes.
    let quiet = watch.reports(10);
    assert_eq!(interim(quiet).len(), spans, "{:#?}", quiet.flows);
    let seen = watch.stop();
    let open = seen.flows.iter();
    let open = open.filter(|flow| flow.get("flowcar.tcp.open") == "true");
    let open: Vec<_> = open.cloned().collect();
    assert_eq!(open.len(), 2, "{:#?}", seen.flows);
    assert_eq!(
        sent(&open),
        1_132,
        "the interim spans add up to the connection"
    );
    assert!(open.iter().all(|flow| flow.end().is_empty()));
    assert_eq!(seen.flows.len(), spans + 2);
    holding.close().unwrap();
}

/// Times that threads of a process went to sleep so far, and so were woken (Documentation/filesystems/proc.rst,
/// `voluntary_ctxt_switches`).
fn sleeps(process: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let of = |task: fs::DirEntry| -> u64 {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        let mut lines = status.lines();
        let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        count.unwrap().trim().parse().unwrap()
    };
    tasks.map(|task| of(task.unwrap())).sum()
}

/// Without connections, and with open ones, as pools have them. The first record after that is taken in.
#[test]
fn flowcar_sleeps_while_nothing_happens() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let sources = [
        (Mode::Both, "off"),
        (Mode::Both, "on"),
        (Mode::Alone, "off"),
    ];
    thread::scope(|scope| {
        for (mode, exchange) in sources {
            for open in [0, 4] {
                scope.spawn(move || sleeps_with(mode, exchange, open));
            }
        }
    });
}

fn sleeps_with(mode: Mode, exchange: &str, open: u64) {
    const AT_LEAST: Duration = Duration::from_secs(10);
    // For the namespace's counts, which stay as they are. What wakes flowcar beside that comes seldom.
    const EVERY_S: u64 = 2;
    const BESIDE: u64 = 3;
    const TRIES: u32 = 4;
    let what = format!("{mode:?}, exchanges {exchange}, {open} open");
    let pod = TestPod::new("sleeps").unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target: SocketAddr = ([127, 0, 0, 1], serving.address().port()).into();
    let settings = [
        ("FLOWCAR_EXCHANGE", exchange),
        ("OTEL_METRIC_EXPORT_INTERVAL", "60000"),
    ];
    let mut watch = Watch::start(&pod, mode, &settings);
    let holding = (open > 0)
        .then(|| Holding::start(&pod, &CallPlan::to(target).connections(open, open)).unwrap());
    watch.until("the first report", |seen| seen.reports > 0);
    let is_still = (0..TRIES).any(|_| {
        let (before, began) = (sleeps(watch.id()), Instant::now());
        thread::sleep(AT_LEAST);
        let (more, took) = (sleeps(watch.id()) - before, began.elapsed());
        println!("{what}: {more} in {took:?}");
        more <= took.as_secs() / EVERY_S + BESIDE
    });
    assert!(
        is_still,
        "{what}: it wakes up more than once in {EVERY_S} seconds"
    );
    let called = call_in(&pod, &CallPlan::to(target).connections(1, 1)).unwrap();
    let local = called[0].local;
    watch.until("its span", |seen| {
        seen.flows.iter().any(|flow| Some(flow.local) == local)
    });
    if let Some(holding) = holding {
        holding.close().unwrap();
    }
    watch.stop();
}

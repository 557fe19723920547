//! The followed cgroup is removed and recreated, as `systemctl restart` does with a unit's: both are followed, the old one until
//! its last socket is closed, and nothing is counted twice.

use std::{
    fs,
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};

use flowcar_tests::{
    exporting::Exporting,
    flowcar,
    place::{Cgroup, TestPod, require_cgroup2, require_root},
    traffic::{CallPlan, ConnectionReport, Holding, ServePlan, Serving},
    watch::{Mode, Seen, Watch, bytes_hold},
};
use nix::sys::signal::Signal;

const CLOSED: &str = "flowcar.tcp.connection.closed";
const LIVE: &str = "flowcar.tcp.connection.live";
const LOST: &str = "flowcar.tcp.connection.lost";
const EMPTY_WITHIN: Duration = Duration::from_secs(20);

/// A unit whose cgroup is removed although connections of it live on: its processes are moved away.
struct Unit {
    pod: TestPod,
    elsewhere: Cgroup,
}

/// Connections within the unit, whose both ends are followed.
struct Open {
    serving: Serving,
    holding: Holding,
}

impl Unit {
    fn new() -> Self {
        Self {
            pod: TestPod::new("unit").unwrap(),
            elsewhere: Cgroup::new("elsewhere").unwrap(),
        }
    }

    fn connect(&self, connections: u64) -> Open {
        let any = "[::]:0".parse().unwrap();
        let serving = Serving::start(&self.pod, &ServePlan::at(any)).unwrap();
        let target = SocketAddr::from(([127, 0, 0, 1], serving.address().port()));
        let plan = CallPlan::to(target).connections(connections, 1);
        let holding = Holding::start(&self.pod, &plan.sizes(1..=5000, 1..=5000)).unwrap();
        Open { serving, holding }
    }

    fn remove(&self, open: &[&Open]) {
        for open in open {
            self.elsewhere.adopt(open.serving.id()).unwrap();
            self.elsewhere.adopt(open.holding.id()).unwrap();
        }
        let cgroup = self.pod.cgroup();
        assert!(cgroup.wait_empty(EMPTY_WITHIN).unwrap());
        fs::remove_dir(cgroup.path()).unwrap();
    }

    fn make(&self) {
        fs::create_dir(self.pod.cgroup().path()).unwrap();
    }
}

impl Open {
    /// Closes all, and returns both applications' reports of them.
    fn close(self) -> Vec<ConnectionReport> {
        let mut reports = self.holding.close().unwrap();
        let count = reports.len();
        reports.extend(
            self.serving
                .reports(count, Duration::from_secs(60))
                .unwrap(),
        );
        assert!(reports.iter().all(|report| report.failure.is_none()));
        reports
    }
}

fn can_run() -> bool {
    require_root() && require_cgroup2()
}

const MODES: [(Mode, &[(&str, &str)]); 4] = [
    (Mode::Both, &[]),
    (Mode::Both, &[("FLOWCAR_EXCHANGE", "on")]),
    (Mode::AloneInCgroup, &[]),
    (Mode::Auto, &[]),
];

/// All that the applications report, and no more.
fn holds(seen: &Seen, reports: &[ConnectionReport], what: &str) {
    let opened = reports.len() as f64;
    let sum = |name| seen.sum(name, &[]);
    assert_eq!((seen.began(), sum(CLOSED)), (opened, opened), "{what}");
    assert_eq!((sum(LIVE), sum(LOST)), (0.0, 0.0), "{what}");
    assert_eq!(seen.flows.len(), reports.len(), "{what}: {:#?}", seen.flows);
    for report in reports {
        bytes_hold(seen.flow(report), report);
    }
}

#[test]
fn a_removed_cgroup_is_waited_for_and_followed_again() {
    if !can_run() {
        return;
    }
    for (mode, settings) in MODES {
        let what = format!("{mode:?} {settings:?}");
        let unit = Unit::new();
        let mut watch = Watch::start(&unit.pod, mode, settings);
        let mut old = unit.connect(3);
        watch.until("the old ones", |seen| seen.sum(LIVE, &[]) == 6.0);

        unit.remove(&[&old]);
        watch.reported("the followed cgroup was removed");
        // The old cgroup's connections go on, are counted, and close, while there is no cgroup.
        old.holding.exchange().unwrap();
        let mut reports = old.close();
        watch.until("their ends", |seen| seen.sum(CLOSED, &[]) == 6.0);
        unit.make();
        watch.reported("the cgroup was recreated");

        let new = unit.connect(2);
        watch.until("the new ones", |seen| seen.sum(LIVE, &[]) == 4.0);
        reports.extend(new.close());
        watch.until("their ends", |seen| seen.sum(CLOSED, &[]) == 10.0);
        let seen = watch.stop();
        holds(&seen, &reports, &what);
        let removed = seen.log.iter().filter(|line| line.contains("was removed"));
        assert_eq!(removed.count(), 1, "logged once: {:#?}", seen.log);
    }
}

/// flowcar sees only that the directory is another one: connections that the new cgroup has by then are adopted, and
/// the open connections of the old one are not.
#[test]
fn cgroup_recreated_between_polls_is_followed() {
    if !can_run() {
        return;
    }
    for (mode, settings) in MODES {
        let what = format!("{mode:?} {settings:?}");
        let unit = Unit::new();
        let mut watch = Watch::start(&unit.pod, mode, settings);
        let old = unit.connect(3);
        watch.until("the old ones", |seen| seen.sum(LIVE, &[]) == 6.0);
        watch.signal(Signal::SIGSTOP);
        unit.remove(&[&old]);
        unit.make();
        let mut new = unit.connect(2);
        watch.signal(Signal::SIGCONT);
        watch.reported("the cgroup was recreated");
        watch.until("all", |seen| seen.sum(LIVE, &[]) == 10.0);
        new.holding.exchange().unwrap();
        let mut reports = old.close();
        reports.extend(new.close());
        watch.until("their ends", |seen| seen.sum(CLOSED, &[]) == 10.0);
        holds(&watch.stop(), &reports, &what);
    }
}

/// A unit may be restarted without end: programs and descriptors of removed cgroups are released.
#[test]
fn many_restarts_leave_nothing_behind() {
    if !can_run() {
        return;
    }
    let unit = Unit::new();
    let mut watch = Watch::start(&unit.pod, Mode::Both, &[]);
    let mut reports = Vec::new();
    for restarts in 1..=8 {
        let open = unit.connect(1);
        let opened = 2.0 * f64::from(restarts);
        watch.until("it", |seen| seen.began() == opened);
        reports.extend(open.close());
        unit.remove(&[]);
        unit.make();
        watch.reported("the cgroup was recreated");
    }
    // Four programs on each cgroup but the first, which has those for names, too: on the newest, and perhaps on those whose sockets the kernel has only just freed.
    let links = |watch: &Watch| {
        let descriptors = fs::read_dir(format!("/proc/{}/fdinfo", watch.id())).unwrap();
        let texts = descriptors.map(|entry| fs::read_to_string(entry.unwrap().path()));
        texts
            .filter(|text| {
                text.as_ref()
                    .is_ok_and(|text| text.contains("link_type:\tcgroup"))
            })
            .count()
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while links(&watch) > 2 * 4 {
        assert!(Instant::now() < deadline, "{} links", links(&watch));
        unit.remove(&[]);
        unit.make();
        watch.reported("the cgroup was recreated");
    }
    watch.until("all ends", |seen| seen.sum(CLOSED, &[]) == 16.0);
    holds(&watch.stop(), &reports, "restarts");
}

/// Attaching packet programs needs CAP_NET_ADMIN; attaching the others needs no capability.
#[test]
fn a_capability_is_kept_only_for_packet_programs() {
    if !can_run() {
        return;
    }
    const NET_ADMIN: u64 = 1 << 12;
    for (exchange, kept) in [("off", 0), ("on", NET_ADMIN)] {
        let pod = TestPod::new("kept").unwrap();
        let mut command = flowcar::command(&pod).unwrap();
        let command = command.arg("export").arg("--cgroup");
        let command = command.arg(pod.cgroup().path());
        let command = command.env("FLOWCAR_EXCHANGE", exchange);
        let mut export = Exporting::start(command.stdout(Stdio::null()));
        export.reported("following");
        let status = fs::read_to_string(format!("/proc/{}/status", export.id())).unwrap();
        for set in ["CapPrm:", "CapEff:"] {
            let value = status
                .lines()
                .find_map(|line| line.strip_prefix(set))
                .unwrap();
            let held = u64::from_str_radix(value.trim(), 16).unwrap();
            // CAP_BPF is left on kernels that ask for it whenever a map is read.
            assert_eq!(held & !(1 << 39), kept, "{exchange}: {set}{value}");
        }
    }
}

//! A flowcar that has hardly any CPU time, under more connections than it can take in: reports, probes and signals are served, and
//! what is lost is counted and reported.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use flowcar_tests::{
    place::{TestPod, lacks, require_cgroup2, require_root},
    traffic::{CallPlan, LoadPlan, ServePlan, Serving, load_in},
    watch::{Mode, Watch},
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use super::rate::the_machine;

/// A weight of 110, where another thread has 1,024 (kernel/sched/core.c, sched_prio_to_weight): some 5 % of a processor.
const NICE: libc::c_int = 10;

/// A limit of 10m in a pod: the kubelet's period, and the least quota that it sets (pkg/kubelet/cm/helpers_linux.go).
const PERIOD: Duration = Duration::from_millis(100);
const QUOTA: Duration = Duration::from_millis(1);

/// So many in a row have to fail before the kubelet ends the container (k8s/src/inject/container.rs).
const PROBES: usize = 3;

/// How long a pod has for its end before the kubelet kills it (`terminationGracePeriodSeconds`).
const GRACE: Duration = Duration::from_secs(30);

/// More connections than flowcar takes in, with a ring of so many bytes; `starve` leaves flowcar little CPU time.
fn overloaded(
    name: &str,
    ring: &str,
    starve: impl FnOnce(&mut Watch) -> bool,
    then: impl FnOnce(&TestPod, Watch),
) {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let _alone = the_machine();
    let pod = TestPod::new(name).unwrap();
    let range = ("net.ipv4.ip_local_port_range", "1024 65535");
    pod.netns().sysctl(range.0, range.1).unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target: SocketAddr = ([127, 0, 0, 1], serving.address().port()).into();
    let settings = [
        ("FLOWCAR_RING_BYTES", ring),
        ("FLOWCAR_SPANS_PER_SECOND", "10"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1000"),
    ];
    let mut watch = Watch::start(&pod, Mode::Both, &settings);
    watch.reports(1);
    let plan = LoadPlan {
        call: CallPlan::to(target).connections(0, 1),
        duration: Duration::from_secs(2),
        rate: None,
    };
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        // The ring must not be empty while one of them starts again.
        for _ in 0..3 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    load_in(&pod, &plan).unwrap();
                }
            });
        }
        scope.spawn(|| keep_busy(&over));
        let _over = Over(&over);
        if starve(&mut watch) {
            then(&pod, watch);
        }
    });
}

fn lost(watch: &mut Watch) {
    watch.until("losses", |seen| {
        seen.sum("flowcar.tcp.connection.lost", &[]) > 0.0
    });
}

#[test]
fn reports_and_signals_are_served_while_the_ring_is_never_empty() {
    overloaded("starved", "65536", lower_priority, |_, mut watch| {
        lost(&mut watch);
        watch.reports(2);
        let seen = watch.stop();
        let message = |line: &String| line.contains("connections were lost since the last report");
        assert!(seen.log.iter().any(message), "{:?}", seen.log);
    });
}

/// Reports come, and probes and the end in the times that the kubelet has for them.
#[test]
fn one_percent_of_a_processor_is_enough_for_reports_probes_and_signals() {
    // The ring of the default size is more than one turn takes in.
    let ring = "1048576";
    overloaded("one-percent", ring, limit, |pod, mut watch| {
        watch.reports(1);
        let mut probes = (0..PROBES).map(|_| watch.probe(pod));
        assert!(probes.any(|probe| probe.status.success()));
        lost(&mut watch);
        let began = Instant::now();
        watch.stop();
        let took = began.elapsed();
        assert!(took < GRACE, "{took:?}");
    });
}

fn limit(watch: &mut Watch) -> bool {
    let is_limited = watch.limit_cpu(QUOTA, PERIOD);
    if !is_limited {
        lacks("the CPU controller of cgroups");
    }
    is_limited
}

/// Lets the load end, however the test does.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Leaves a process a small share of the first processor, on which another thread is busy.
fn lower_priority(watch: &mut Watch) -> bool {
    let pid = Pid::from_raw(watch.id().cast_signed());
    sched_setaffinity(pid, &first()).unwrap();
    // SAFETY: a system call without memory.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, watch.id(), NICE) };
    assert_eq!(result, 0);
    true
}

fn keep_busy(over: &AtomicBool) {
    sched_setaffinity(Pid::from_raw(0), &first()).unwrap();
    while !over.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
}

fn first() -> CpuSet {
    let mut set = CpuSet::new();
    set.set(0).unwrap();
    set
}

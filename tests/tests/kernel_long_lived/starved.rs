//! A flowcar that has hardly any CPU time, under more connections than it can take in: reports and signals are served, and
//! what is lost is counted and reported.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use flowcar_tests::{
    place::{TestPod, require_cgroup2, require_root},
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

#[test]
fn reports_and_signals_are_served_while_the_ring_is_never_empty() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let _alone = the_machine();
    let pod = TestPod::new("starved").unwrap();
    let range = ("net.ipv4.ip_local_port_range", "1024 65535");
    pod.netns().sysctl(range.0, range.1).unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target: SocketAddr = ([127, 0, 0, 1], serving.address().port()).into();
    let settings = [
        ("FLOWCAR_RING_BYTES", "65536"),
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
        starve(watch.id());
        let _over = Over(&over);
        watch.until("losses", |seen| {
            seen.sum("flowcar.tcp.connection.lost", &[]) > 0.0
        });
        watch.reports(2);
        let seen = watch.stop();
        let message = |line: &String| line.contains("connections were lost since the last report");
        assert!(seen.log.iter().any(message), "{:?}", seen.log);
    });
}

/// Lets the load end, however the test does.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Leaves a process a small share of the first processor, on which another thread is busy.
fn starve(process: u32) {
    let pid = Pid::from_raw(process.cast_signed());
    sched_setaffinity(pid, &first()).unwrap();
    // SAFETY: a system call without memory.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, process, NICE) };
    assert_eq!(result, 0);
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

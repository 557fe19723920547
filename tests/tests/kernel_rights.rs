//! Two capabilities are enough, and none is left once flows are followed; by /proc, on whichever kernel
//! this is.

use std::{
    fs,
    io::{self, BufRead, BufReader},
    os::unix::process::CommandExt,
    process::Stdio,
    time::Duration,
};

use flowcar_tests::{
    exporting::{Exporting, has_books},
    flowcar::{self, CAPABILITIES},
    place::{
        Capability, OnlyCaps, TestPod, lacks, maps_ask_for_a_right, maps_count_against,
        require_cgroup2, require_root,
    },
    traffic::{CallPlan, ServePlan, Serving, call_in},
};
use nix::sys::resource::{Resource, setrlimit};

/// CAP_NET_ADMIN (12) and CAP_BPF (39), as /proc/PID/status has them.
const TWO: &str = "0000008000001000";
const NONE: &str = "0000000000000000";
/// CAP_BPF alone.
const BPF: &str = "0000008000000000";

/// What the kernel gave a process by default before 5.16 (include/uapi/linux/resource.h, MLOCK_LIMIT), bytes.
const SMALL: u64 = 64 << 10;

/// `flowcar export` of a pod; its shell prints its own capabilities first.
struct Export {
    running: Exporting,
    before: String,
}

impl Export {
    /// Has these capabilities; `limit` is its RLIMIT_MEMLOCK, bytes.
    fn start(pod: &TestPod, capabilities: &[Capability], limit: Option<u64>) -> Self {
        let script = "cat /proc/$$/status; exec \"$0\" export --cgroup \"$1\"";
        let mut command = flowcar::started_by(&["sh", "-c", script]).unwrap();
        pod.netns().enter(&mut command).unwrap();
        if let Some(limit) = limit {
            // SAFETY: between fork and exec the closure makes one system call.
            unsafe {
                command.pre_exec(move || Ok(setrlimit(Resource::RLIMIT_MEMLOCK, limit, limit)?));
            }
        }
        command.with_only_caps(capabilities);
        command.arg(pod.cgroup().path()).stdout(Stdio::piped());
        let mut running = Exporting::start(&mut command);
        let mut before = String::new();
        for line in BufReader::new(running.stdout().unwrap()).lines() {
            let line = line.unwrap();
            before += &format!("{line}\n");
            if line.starts_with("nonvoluntary_ctxt_switches") {
                break;
            }
        }
        Self { running, before }
    }

    /// Every thread's status.
    fn threads(&self) -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.running.id())).unwrap();
        let status = |task: io::Result<fs::DirEntry>| {
            fs::read_to_string(task.unwrap().path().join("status")).unwrap()
        };
        tasks.map(status).collect()
    }
}

fn field(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let value = line.unwrap_or_else(|| panic!("no {name} in {status}"));
    value.trim_start_matches(':').trim().to_owned()
}

fn can_run() -> bool {
    require_root() && require_cgroup2()
}

/// Ten connections within the pod, both ends of which are followed.
fn ten_calls(pod: &TestPod) {
    let serving = Serving::start(pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let target = ([127, 0, 0, 1], serving.address().port()).into();
    let calls = call_in(pod, &CallPlan::to(target).connections(10, 2)).unwrap();
    assert!(calls.iter().all(|call| call.failure.is_none()));
    serving.reports(10, Duration::from_secs(60)).unwrap();
}

#[test]
fn two_capabilities_before_and_none_after() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("rights").unwrap();
    let mut export = Export::start(&pod, &CAPABILITIES, None);
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(field(&export.before, set), TWO, "{set}");
    }
    assert_eq!(field(&export.before, "CapInh"), NONE);

    let following = export.running.reported("following");
    assert!(following.contains("source=\"ebpf\""), "{following}");
    let kept = if maps_ask_for_a_right().unwrap() {
        lacks("maps that can be read without CAP_BPF, so that it is kept");
        BPF
    } else {
        NONE
    };
    let threads = export.threads();
    for status in &threads {
        for (set, left) in [
            ("CapPrm", kept),
            ("CapEff", kept),
            ("CapInh", NONE),
            ("CapAmb", NONE),
        ] {
            assert_eq!(field(status, set), left, "{set}");
        }
        assert_eq!(field(status, "NoNewPrivs"), "1");
    }
    assert!(!threads.is_empty());
    ten_calls(&pod);
    has_books(&export.running.stop(), 20);
}

/// A process that may narrow its bounding set does.
#[test]
fn bounding_set_is_emptied_with_cap_setpcap() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("bounding").unwrap();
    let three = [CAPABILITIES[0], CAPABILITIES[1], Capability::CAP_SETPCAP];
    let mut export = Export::start(&pod, &three, None);
    assert_ne!(field(&export.before, "CapBnd"), NONE);
    export.running.reported("following");
    for status in export.threads() {
        assert_eq!(field(&status, "CapBnd"), NONE);
    }
}

/// Before 5.11 maps count against RLIMIT_MEMLOCK, so two capabilities are not enough under the usual limit. Whether they
/// count here is asked of the kernel by a map of the test's own.
#[test]
fn small_memlock_limit_is_harmless_or_named() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("memlock").unwrap();
    let counts = maps_count_against(SMALL).unwrap();
    let mut export = Export::start(&pod, &CAPABILITIES, Some(SMALL));
    if counts {
        let refused = export.running.reported("is refused");
        assert!(refused.contains("RLIMIT_MEMLOCK"), "{refused}");
    }
    let following = export.running.reported("following");
    let source = if counts { "inet_diag" } else { "ebpf" };
    assert!(
        following.contains(&format!("source=\"{source}\"")),
        "{following}"
    );
    if counts {
        // Without programs a connection that lived between two polls is not distinguished from the neighbours'.
        lacks("eBPF with two capabilities where RLIMIT_MEMLOCK is small");
        return;
    }
    ten_calls(&pod);
    has_books(&export.running.stop(), 20);
}

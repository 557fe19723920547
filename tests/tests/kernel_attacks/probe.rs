//! Another process of the network namespace answers probes instead of flowcar, or uses up what answering needs.

use std::{
    fs,
    io::{self, Write as _},
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use flowcar_tests::{
    exporting::Exporting,
    flowcar,
    node::{Node, contained},
    peers::eventually,
    place::{Cgroup, Netns, TestPod, as_nobody, attached_programs, require_cgroup2, require_root},
    watch::{Mode, Watch},
};

/// A probe times out after 4 s; the rest is for a busy machine.
const BOUNDED: Duration = Duration::from_secs(30);

type Bind<'a> = &'a (dyn Fn() -> io::Result<UnixListener> + Sync);

struct Pod {
    node: Node,
    netns: Netns,
}

impl Pod {
    fn new() -> Option<Self> {
        (require_root() && require_cgroup2()).then(|| Self {
            node: Node::new(),
            netns: Netns::new("pod").unwrap(),
        })
    }

    fn name(&self) -> SocketAddr {
        let id = self.node.sidecar.id().unwrap();
        SocketAddr::from_abstract_name(format!("flowcar.{id}")).unwrap()
    }

    /// The test takes the name, as the application may: as another user, without any right.
    fn squat(&self) -> UnixListener {
        self.squat_as(|bind| as_nobody(&[], bind).unwrap())
    }

    /// The same, as whom `user` runs it.
    fn squat_as(&self, user: fn(Bind) -> io::Result<UnixListener>) -> UnixListener {
        let name = self.name();
        let bind = || UnixListener::bind_addr(&name);
        self.netns.run(|| user(&bind)).unwrap().unwrap()
    }

    fn export(&self) -> Exporting {
        let mut command = contained(&self.node.sidecar, &self.netns, "export");
        Exporting::start(command.env("OTEL_METRIC_EXPORT_INTERVAL", "200"))
    }

    /// As the kubelet runs it in the sidecar's container.
    fn probe(&self, before: &[&str]) -> Output {
        let mut command = flowcar::started_by(before).unwrap();
        self.enter(&self.node.sidecar, &mut command);
        let began = Instant::now();
        let output = command.args(["probe", "live"]).output().unwrap();
        assert!(began.elapsed() < BOUNDED, "{output:?}");
        output
    }

    fn enter(&self, cgroup: &Cgroup, command: &mut Command) {
        self.netns.enter(command).unwrap();
        cgroup.enter(command).unwrap();
    }
}

/// Answers every probe with success, without end.
fn answer_without_end(listener: UnixListener) {
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || while stream.write_all(b"live started ready\n").is_ok() {});
        }
    });
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn probe_ignores_answers_of_other_processes() {
    // As a user of its own, and as flowcar's user in another container.
    for (is_root, who) in [(false, "of user 65534"), (true, "of another cgroup")] {
        let Some(pod) = Pod::new() else { return };
        answer_without_end(if is_root {
            pod.squat_as(|bind| bind())
        } else {
            pod.squat()
        });
        // With the application's processes in sight (shareProcessNamespace), and without.
        for (before, who) in [
            (&[][..], who),
            (
                &["unshare", "--pid", "--fork", "--mount-proc"],
                "a process of another container",
            ),
        ] {
            let output = pod.probe(before);
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            let words = text(&output);
            assert!(
                words.contains("its name is taken by") && words.contains(who),
                "{output:?}"
            );
        }
    }
}

#[test]
fn probe_times_out_if_nobody_serves_its_name() {
    let Some(pod) = Pod::new() else { return };
    let _never_accepts = pod.squat();
    let output = pod.probe(&[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn probes_are_answered_although_the_name_is_taken() {
    let Some(pod) = Pod::new() else { return };
    answer_without_end(pod.squat());
    let mut export = pod.export();
    let message = export.reported("another process has taken the name");
    assert!(message.contains("ERROR"), "{message}");
    let output = pod.probe(&[]);
    assert!(output.status.success(), "{output:?}");
    export.stop();
}

/// A detached program is reported by the probe, too, where flowcar attaches it again.
#[test]
fn probe_reports_detached_programs() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("probe-detached").unwrap();
    let interval = ("OTEL_METRIC_EXPORT_INTERVAL", "200");
    let mut watch = Watch::start(&pod, Mode::Both, &[interval]);
    watch.reports(1);
    assert_eq!(pod.cgroup().detach_programs().unwrap(), attached_programs());
    watch.reported("attached again");
    let output = watch.probe(&pod);
    assert!(output.status.success(), "{output:?}");
    let message = String::from_utf8_lossy(&output.stdout);
    assert!(
        message.contains("another process detached flowcar's programs"),
        "{message}"
    );
    watch.stop();
}

#[test]
fn probes_are_answered_without_a_free_descriptor() {
    let Some(pod) = Pod::new() else { return };
    let mut export = pod.export();
    export.reported("following its TCP flows");
    let answered = |what: &str| {
        let output = pod.probe(&[]);
        assert!(output.status.success(), "{what}: {output:?}");
    };
    // It opens its socket for questions behind that line.
    eventually("an answer", Duration::from_secs(60), || {
        pod.probe(&[]).status.success().then_some(())
    });
    let process = export.id();
    let descriptors = fs::read_dir(format!("/proc/{process}/fd")).unwrap().count();
    limit_descriptors(process, descriptors as u64);
    for _ in 0..3 {
        answered("with none left");
    }
    // Not even one in reserve.
    limit_descriptors(process, 3);
    let before = cpu_time(process);
    let unanswered = pod.probe(&[]);
    assert_eq!(unanswered.status.code(), Some(1), "{unanswered:?}");
    let spent = cpu_time(process) - before;
    assert!(spent < Duration::from_secs(1), "{spent:?} of 4 s");
}

/// prlimit(2), soft limit.
fn limit_descriptors(process: u32, most: u64) {
    let limit = libc::rlimit64 {
        rlim_cur: most,
        rlim_max: 1024,
    };
    // SAFETY: the new limit lives through the call, and the old one is not asked for.
    let result = unsafe {
        libc::prlimit64(
            process.cast_signed(),
            libc::RLIMIT_NOFILE,
            &raw const limit,
            std::ptr::null_mut(),
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// `utime` and `stime` of /proc/PID/stat, in hundredths of a second (proc_pid_stat(5), USER_HZ).
fn cpu_time(process: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, behind_name) = stat.rsplit_once(')').unwrap();
    let fields = behind_name.split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

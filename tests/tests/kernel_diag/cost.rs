//! A neighbour in the same network namespace whose sockets make each socket dump expensive.

use std::{
    io,
    mem::forget,
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    process::{Child, Command},
    time::{Duration, Instant},
};

use flowcar_tests::{
    place::{Cgroup, TestPod, require_cgroup2, require_root},
    usage,
    watch::{Mode, Seen, Watch},
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Processes that listen, and at which ports: fewer than the descriptors that each may have where their limit is low.
const PROCESSES: u8 = 2;
const PORTS: Range<u16> = 10_000..25_000;

/// Dumps take at most one part in twenty of a CPU where reports come each second or more often, and the next one is due a tenth earlier
/// (`sidecar/src/source/diag/pace.rs`).
const BUDGET: f64 = 1.0 / 20.0 / 0.9;

/// Dumps over which time is taken. There may be an interval less between them: a report shows the first dump late.
const DUMPS: f64 = 4.0;

/// What flowcar took for so many dumps.
#[derive(Clone, Copy, Debug)]
struct Spent {
    cpu: Duration,
    elapsed: Duration,
}

// === impl Spent ===

impl Spent {
    /// Waits for dumps, from one to another.
    fn on_dumps(watch: &mut Watch) -> Self {
        let dumps = |seen: &Seen| seen.sum("flowcar.self.socket_dump.duration", &[]);
        watch.catch_up();
        let before = dumps(watch.reports(1));
        let first = dumps(watch.until("a dump", |seen| dumps(seen) > before));
        let (cpu, began) = (usage::cpu(watch.id()).unwrap(), Instant::now());
        watch.until("dumps", |seen| dumps(seen) >= first + DUMPS);
        Self {
            cpu: usage::cpu(watch.id()).unwrap() - cpu,
            elapsed: began.elapsed(),
        }
    }

    /// The part of a CPU that it had.
    fn share(self) -> f64 {
        self.cpu.as_secs_f64() / self.elapsed.as_secs_f64()
    }
}

/// However many sockets the kernel goes through: dumps are as far apart as their CPU time asks for.
#[test]
fn dumps_pace_themselves_by_their_cost() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    for mode in [Mode::Both, Mode::AloneInCgroup] {
        let pod = TestPod::new("cost").unwrap();
        let mut watch = Watch::start(&pod, mode, &[]);
        let cheap = Spent::on_dumps(&mut watch);
        let neighbour = Cgroup::new("neighbour").unwrap();
        let _listening: Vec<_> = (1..=PROCESSES)
            .map(|number| listen(&pod, &neighbour, number))
            .collect();
        let expensive = Spent::on_dumps(&mut watch);
        let figures = format!("{mode:?}: {cheap:?} {expensive:?}");
        println!("{figures}");
        // What is no dump, such as reports, costs as before.
        let rest = cheap.share();
        let bound = rest + BUDGET * DUMPS / (DUMPS - 1.0);
        let dumps = expensive.cpu.as_secs_f64() - rest * expensive.elapsed.as_secs_f64();
        let unpaced = dumps / cheap.elapsed.as_secs_f64();
        assert!(
            rest + unpaced > bound,
            "these dumps may be as frequent as before, so this shows nothing: {figures}"
        );
        assert!(expensive.share() <= bound, "{figures}");
        let seen = watch.stop();
        assert_eq!(seen.began(), 0.0, "{mode:?}: the neighbour's");
    }
}

/// A process in that cgroup and the pod's network namespace, with listening sockets at an address of its own. The cgroup kills it.
fn listen(pod: &TestPod, cgroup: &Cgroup, number: u8) -> Child {
    let mut command = Command::new("sleep");
    cgroup.enter(&mut command).unwrap();
    pod.netns().enter(&mut command).unwrap();
    let address = Ipv4Addr::new(127, 0, 1, number);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let most = hard.min(PORTS.len() as u64 + 100);
    // SAFETY: between fork and exec the closures make system calls only.
    unsafe { command.pre_exec(move || Ok(setrlimit(Resource::RLIMIT_NOFILE, most, hard)?)) };
    // SAFETY: the same.
    unsafe {
        command.pre_exec(move || {
            PORTS
                .into_iter()
                .try_for_each(|port| keep_listening((address, port)))
        })
    };
    // It starts once all of them listen.
    command.arg("infinity").spawn().unwrap()
}

/// Listens there, also in the program that this process executes.
fn keep_listening(at: (Ipv4Addr, u16)) -> io::Result<()> {
    let listener = TcpListener::bind(at)?;
    // SAFETY: a system call on an open descriptor and a number.
    let result = unsafe { libc::fcntl(listener.as_raw_fd(), libc::F_SETFD, 0) };
    forget(listener);
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

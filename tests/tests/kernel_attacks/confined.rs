//! An attacker who controls flowcar's process: what the process can still do.

use std::{
    fs::{self, File},
    io,
    net::ToSocketAddrs as _,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use flowcar::hardening::{Needs, confine};
use flowcar_tests::{
    exporting::Exporting,
    node::{Node, UID, contained, in_container},
    place::{Netns, lacks, require_cgroup2, require_root},
};

/// The outcome of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    Refused(i32),
    /// By SIGSYS.
    Killed,
}
use Outcome::{Done, Killed, Refused};

/// Does it in a process that has confined itself as `flowcar export` does in a pod, with this directory.
fn attempt(state: &Path, attack: fn(&Path) -> io::Result<()>) -> Outcome {
    let state: PathBuf = state.to_owned();
    let mut command = Command::new("/proc/self/exe");
    command.arg("--help");
    let before_exec = move || {
        // As a process of its own it would have been reported by its first call.
        // SAFETY: the call takes numbers.
        unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        confine(&Needs {
            writes: Some(&state),
            child: false,
            attaches: false,
        });
        match attack(&state) {
            // This error keeps the child from executing the program.
            Ok(()) => Err(io::Error::from_raw_os_error(0)),
            Err(error) => Err(error),
        }
    };
    // SAFETY: it allocates between fork and exec, which the C libraries here allow.
    unsafe { command.pre_exec(before_exec) };
    match command.spawn() {
        Ok(mut child) => {
            let status = child.wait().unwrap();
            assert_eq!(status.signal(), Some(libc::SIGSYS), "{status}");
            Killed
        }
        Err(error) => match error.raw_os_error() {
            Some(0) => Done,
            code => Refused(code.unwrap_or(-1)),
        },
    }
}

/// A system call with three numbers.
fn call(number: libc::c_long, arguments: [libc::c_long; 3]) -> io::Result<()> {
    let [first, second, third] = arguments;
    // SAFETY: the calls here are refused, or take numbers, or NULL for a pointer.
    match unsafe { libc::syscall(number, first, second, third, 0, 0) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

const EPERM: Outcome = Refused(libc::EPERM);

#[test]
fn confined_process_can_only_follow_and_export() {
    let state = tempfile::tempdir().unwrap();
    type Attack = fn(&Path) -> io::Result<()>;
    let rows: &[(&str, Attack, Outcome)] = &[
        ("a program", |_| Err(Command::new("true").exec()), Killed),
        (
            "another process's memory",
            |_| call(libc::SYS_ptrace, [libc::PTRACE_ATTACH.into(), 1, 0]),
            Killed,
        ),
        (
            "another process's descriptors",
            |_| call(libc::SYS_pidfd_getfd, [0, 0, 0]),
            Killed,
        ),
        ("a mount", |_| call(libc::SYS_mount, [0, 0, 0]), Killed),
        (
            "a user namespace",
            |_| call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0]),
            Killed,
        ),
        (
            "another user",
            |_| call(libc::SYS_setuid, [0, 0, 0]),
            Killed,
        ),
        (
            "io_uring, which goes past filters",
            |_| call(libc::SYS_io_uring_setup, [1, 0, 0]),
            Killed,
        ),
        (
            "a process",
            |_| call(libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0]),
            EPERM,
        ),
        (
            "a process by clone3",
            |_| call(libc::SYS_clone3, [0, 0, 0]),
            Refused(libc::ENOSYS),
        ),
        (
            "a program of the kernel's",
            |_| call(libc::SYS_bpf, [5, 0, 0]),
            EPERM,
        ),
        ("a map", |_| call(libc::SYS_bpf, [0, 0, 0]), EPERM),
        (
            "its own programs at another cgroup",
            |_| call(libc::SYS_bpf, [8, 0, 0]),
            EPERM,
        ),
        (
            "the same, by a link",
            |_| call(libc::SYS_bpf, [28, 0, 0]),
            EPERM,
        ),
        (
            "somebody else's link",
            |_| call(libc::SYS_bpf, [30, 0, 0]),
            EPERM,
        ),
        (
            "packets of the network",
            |_| {
                call(
                    libc::SYS_socket,
                    [libc::AF_PACKET.into(), libc::SOCK_RAW.into(), 0],
                )
            },
            EPERM,
        ),
        (
            "packet filters",
            |_| {
                call(
                    libc::SYS_socket,
                    [libc::AF_NETLINK.into(), libc::SOCK_RAW.into(), 12],
                )
            },
            EPERM,
        ),
        (
            "the host of a virtual machine",
            |_| call(libc::SYS_socket, [40, libc::SOCK_STREAM.into(), 0]),
            EPERM,
        ),
        (
            "a signal to others",
            |_| call(libc::SYS_kill, [1, 0, 0]),
            EPERM,
        ),
        (
            "another limit",
            |_| call(libc::SYS_setpriority, [0, 0, 0]),
            EPERM,
        ),
        (
            "another filter",
            |_| call(libc::SYS_seccomp, [1, 0, 0]),
            EPERM,
        ),
        (
            "a terminal's input",
            |_| call(libc::SYS_ioctl, [0, 0x5412, 0]),
            EPERM,
        ),
        // What is needed.
        (
            "a thread",
            |_| {
                thread::Builder::new()
                    .spawn(|| ())
                    .map(|of| drop(of.join()))
            },
            Done,
        ),
        (
            "a name",
            |_| ("localhost", 80).to_socket_addrs().map(drop),
            Done,
        ),
        (
            "sockets of the namespace",
            |_| {
                call(
                    libc::SYS_socket,
                    [libc::AF_NETLINK.into(), libc::SOCK_RAW.into(), 4],
                )
            },
            Done,
        ),
        (
            "a certificate",
            |_| fs::read("/proc/self/cgroup").map(drop),
            Done,
        ),
        (
            "the state file",
            |state| {
                fs::write(state.join("new"), "1")?;
                fs::rename(state.join("new"), state.join("old"))
            },
            Done,
        ),
    ];
    for (what, attack, outcome) in rows {
        assert_eq!(attempt(state.path(), *attack), *outcome, "{what}");
    }
}

/// Where the kernel has Landlock, which emulated kernels from 6.1 on have.
#[test]
fn only_the_state_file_can_be_written() {
    // SAFETY: asked for its version, landlock_create_ruleset(2) takes no pointer.
    if unsafe { libc::syscall(444, 0, 0, 1) } < 1 {
        return lacks("Landlock");
    }
    let state = tempfile::tempdir().unwrap();
    for attack in [
        |_: &Path| File::create("/tmp/flowcar-attack").map(drop),
        |state: &Path| fs::create_dir(state.parent().unwrap().join("flowcar-attack")),
        |state: &Path| std::os::unix::fs::symlink("/", state.join("link")),
        |_: &Path| {
            fs::OpenOptions::new()
                .write(true)
                .open("/proc/self/oom_score_adj")
                .map(drop)
        },
        |state: &Path| fs::remove_dir(state),
    ] {
        let refused = attempt(state.path(), attack);
        // Landlock's answer, or that of the filter of calls.
        assert!(
            [Refused(libc::EACCES), EPERM].contains(&refused),
            "{refused:?}"
        );
    }
}

/// Where the directory is absent, the ones above it are not writable in its place.
#[test]
fn no_file_can_be_written_without_a_state_directory() {
    // SAFETY: asked for its version, landlock_create_ruleset(2) takes no pointer.
    if unsafe { libc::syscall(444, 0, 0, 1) } < 1 {
        return lacks("Landlock");
    }
    let there = tempfile::tempdir().unwrap();
    let (file, link) = (there.path().join("file"), there.path().join("link"));
    fs::write(&file, "1").unwrap();
    std::os::unix::fs::symlink("/absent", &link).unwrap();
    for state in [
        there.path().join("absent"),
        there.path().join("absent/state"),
        there.path().join("../absent"),
        file,
        link,
        "/absent/state".into(),
        "absent".into(),
        "absent/state".into(),
    ] {
        for attack in [
            |_: &Path| File::create("/tmp/flowcar-attack").map(drop),
            |state: &Path| {
                let above = state.ancestors().find(|path| path.is_dir());
                let above = above.unwrap_or(Path::new("."));
                File::create(above.join("flowcar-attack")).map(drop)
            },
        ] {
            let refused = attempt(&state, attack);
            assert_eq!(refused, Refused(libc::EACCES), "{}", state.display());
        }
    }
}

/// By /proc, for each thread of each command that follows.
#[test]
fn every_command_that_follows_is_confined() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let (node, netns) = (Node::new(), Netns::new("pod").unwrap());
    let mut export = Exporting::start(&mut contained(&node.sidecar, &netns, "export"));
    export.reported("following its TCP flows");
    is_filtered(export.id());
    let mut run = flowcar_tests::flowcar::bare().unwrap();
    netns.enter(&mut run).unwrap();
    let mut run = run
        .args(["run", "--", "sh", "-c", "sleep 30"])
        .spawn()
        .unwrap();
    is_filtered(run.id());
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(run.id().cast_signed()),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    // 128 and the number of the signal, which was passed on.
    assert_eq!(run.wait().unwrap().code(), Some(143));
}

fn is_filtered(process: u32) {
    for _ in 0..3_000 {
        let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
        let mut threads = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")));
        let filtered = |status: io::Result<String>| {
            status.is_ok_and(|text| text.contains("Seccomp:\t2") && text.contains("NoNewPrivs:\t1"))
        };
        if threads.all(filtered) {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("process {process} is not filtered");
}

/// `readOnly` of a mount does not hold for the mounts below it, as /sys/fs/cgroup/unified below the tmpfs of a node with both versions.
const BELOW: &str = "mkdir /run/both; mount -t tmpfs none /run/both; mkdir /run/both/unified; \
                     mount --rbind \"$HOST\" /run/both/unified; mount -o remount,bind,ro /run/both; ";

#[test]
fn writable_cgroup_tree_is_refused_for_ebpf() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let (node, netns) = (Node::new(), Netns::new("pod").unwrap());
    let writable = "mkdir /run/rw; mount --rbind \"$HOST\" /run/rw";
    let pods = in_container(node.all_pods()).replace("/run/host-cgroup", "/run/rw");
    for (what, extra, host, cgroup) in [
        ("a mount below it", BELOW.to_owned(), "/run/both", ""),
        (
            "a cgroup that is named",
            BELOW.to_owned(),
            "/run/both",
            " --cgroup /run/own-cgroup",
        ),
        ("a mount above it", writable.to_owned(), &*pods, ""),
        (
            "a link",
            format!("{BELOW} ln -s /run/both /run/link"),
            "/run/link",
            "",
        ),
        ("..", BELOW.to_owned(), "/run/host-cgroup/../both", ""),
    ] {
        let start = |command: &str, source: &str| {
            let mut command = contained(&node.sidecar, &netns, &format!("{command}{cgroup}"));
            command
                .env("EXTRA", &extra)
                .env("FLOWCAR_HOST_CGROUP", host)
                .env("FLOWCAR_POD_UID", UID.replace('_', "-"))
                .env("FLOWCAR_SOURCE", source);
            command
        };
        let mut export = Exporting::start(&mut start("export", "auto"));
        export.reported("reason=\"writable_cgroup_tree\"");
        let message = export.reported("following");
        assert!(message.contains("inet_diag"), "{what}: {message}");
        let mut export = Exporting::start(&mut start("export", "ebpf"));
        export.reported("recursiveReadOnly");
        assert_eq!(export.wait().code(), Some(64), "{what}");
        let check = start("check", "auto").output().unwrap();
        let report = String::from_utf8_lossy(&check.stdout);
        let verdict = "ebpf is refused: writable_cgroup_tree";
        assert!(report.contains(verdict), "{what}: {report}");
    }
}

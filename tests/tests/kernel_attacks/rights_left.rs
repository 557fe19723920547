//! A process of flowcar's user in its PID namespace, without capabilities; and the capabilities of a running flowcar.

use std::{
    fs, io,
    net::TcpListener,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use flowcar_tests::{
    exporting::Exporting,
    flowcar,
    place::{TestPod, maps_ask_for_a_right, require_cgroup2, require_root, with_only_caps},
    watch::{Mode, Watch},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const WITHIN: Duration = Duration::from_secs(60);
const NONE: &str = "0000000000000000";

#[test]
fn unprivileged_process_cannot_take_descriptors_or_read_memory() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("taken").unwrap();
    let watch = Watch::start(&pod, Mode::Both, &[]);
    let process = watch.id();
    let (taken, memory, descriptor) = with_only_caps(&[], || {
        let taken = (3..64).filter(|fd| take(process, *fd).is_ok()).count();
        let memory = fs::File::open(format!("/proc/{process}/mem"));
        let descriptor = fs::read_link(format!("/proc/{process}/fd/3"));
        (taken, memory.is_ok(), descriptor.is_ok())
    })
    .unwrap();
    assert_eq!((taken, memory, descriptor), (0, false, false));
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let soft = core.unwrap().split_whitespace().nth(4);
    assert_eq!(soft, Some("0"), "{limits}");
}

/// pidfd_getfd(2), since Linux 5.6.
fn take(process: u32, fd: i32) -> io::Result<OwnedFd> {
    let owned = |result: libc::c_long| match i32::try_from(result) {
        // SAFETY: a descriptor that the kernel just made, and that nobody else has.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: both calls take numbers only.
    let pidfd = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) })?;
    // SAFETY: a system call without memory.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) })
}

/// The command has the capabilities that it would have without flowcar; flowcar, which goes on exporting, has none.
#[test]
fn run_drops_its_rights_and_its_command_keeps_them() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("run").unwrap();
    let mut command = flowcar::bare().unwrap();
    pod.enter(&mut command).unwrap();
    let mut run = command
        .args([
            "run",
            "--",
            "sh",
            "-c",
            "cat /proc/self/status /proc/self/limits; read wait",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let expected = if maps_ask_for_a_right().unwrap() {
        "0000008000000000"
    } else {
        NONE
    };
    let deadline = Instant::now() + WITHIN;
    loop {
        let status = fs::read_to_string(format!("/proc/{}/status", run.id())).unwrap();
        let sets = ["CapPrm", "CapEff"].map(|name| field(&status, name));
        let nothing_else = field(&status, "CapInh") == NONE && field(&status, "NoNewPrivs") == "1";
        if sets == [expected, expected] && nothing_else {
            assert_eq!(field(&status, "CapBnd"), NONE);
            break;
        }
        assert!(Instant::now() < deadline, "it keeps rights: {status}");
        thread::sleep(Duration::from_millis(20));
    }
    drop(run.stdin.take());
    let output = run.wait_with_output().unwrap();
    let message = String::from_utf8(output.stdout).unwrap();
    for name in ["CapEff", "CapPrm", "CapBnd", "CapInh", "NoNewPrivs"] {
        assert_eq!(
            field(&message, name),
            field(&own, name),
            "{name} of the command"
        );
    }
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let core = |text: &str| {
        let line = text.lines().find(|line| line.starts_with("Max core"));
        line.unwrap().to_owned()
    };
    assert_eq!(core(&message), core(&limits));
}

/// They read what other processes send, too.
#[test]
fn commands_that_follow_nothing_read_answers_without_rights() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new("asks").unwrap();
    let mut command = flowcar::command(&pod).unwrap();
    command
        .args(["export", "--cgroup"])
        .arg(pod.cgroup().path());
    let export = Exporting::start(&mut command);
    let ask = |words: &str| {
        let mut command = flowcar::bare().unwrap();
        pod.enter(&mut command).unwrap();
        command.args(words.split(' '));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let deadline = Instant::now() + WITHIN;
    while !ask("probe live").status().unwrap().success() {
        assert!(Instant::now() < deadline, "it answers no probe");
    }
    // Nobody answers from here on, so each of them waits.
    let process = Pid::from_raw(export.id().cast_signed());
    kill(process, Signal::SIGSTOP).unwrap();
    let receiver = pod.netns().run(|| TcpListener::bind("127.0.0.1:0"));
    let receiver = receiver.unwrap().unwrap();
    let endpoint = format!("http://{}", receiver.local_addr().unwrap());
    for words in [
        "probe live",
        "flows",
        "sink --grpc 127.0.0.1:0 --http 127.0.0.1:0",
        "check --send",
    ] {
        let mut asks = ask(words)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
            .spawn()
            .unwrap();
        let deadline = Instant::now() + WITHIN;
        loop {
            assert_eq!(asks.try_wait().unwrap(), None, "{words} did not wait");
            let status = fs::read_to_string(format!("/proc/{}/status", asks.id())).unwrap();
            let sets = ["CapPrm", "CapEff", "CapInh", "CapBnd"].map(|name| field(&status, name));
            if sets == [NONE; 4] && field(&status, "NoNewPrivs") == "1" {
                break;
            }
            assert!(Instant::now() < deadline, "{words} keeps rights: {status}");
            thread::sleep(Duration::from_millis(10));
        }
        asks.kill().unwrap();
        asks.wait().unwrap();
    }
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim_start_matches(':').trim()
}

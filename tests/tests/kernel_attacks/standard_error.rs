//! Standard error that takes nothing: reports, probes and signals do not wait for it.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Read as _},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use flowcar_tests::{
    flowcar::{self, CAPABILITIES, by_descriptor},
    place::{OnlyCaps as _, TestPod, require_cgroup2, require_root},
    receiver::Receiver,
    traffic::{self, CallPlan, ServePlan, Serving, call_in},
};
use nix::{
    fcntl::{FcntlArg, fcntl},
    sys::signal::{Signal, kill},
    unistd::{Pid, pipe},
};

const WITHIN: Duration = Duration::from_secs(60);

/// Bytes of a pipe that a few lines fill: two pages.
const SMALL_PIPE: i32 = 8_192;

/// A flowcar that logs all it can, and a receiver for it.
struct Export {
    child: Child,
    receiver: Receiver,
}

#[test]
fn reports_go_on_while_nobody_reads_standard_error() {
    let (reader, writer) = pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(SMALL_PIPE)).unwrap();
    let mut log = File::from(reader);
    let mut start = vec![0; SMALL_PIPE as usize];
    // A late reader makes room for the line with the number of missing lines.
    let mut read_all = || {
        let length = log.read(&mut start).unwrap();
        assert!(length > 4_096, "the pipe was never full: {length} bytes");
    };
    goes_on("unread", writer, &mut read_all);
    let mut rest = String::new();
    log.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("standard error took nothing"), "{rest}");
}

#[test]
fn reports_go_on_when_the_reader_of_standard_error_has_closed() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    goes_on("closed", writer, || ());
}

#[test]
fn reports_go_on_when_standard_error_is_a_file_on_a_full_disk() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    goes_on("full", full.into(), || ());
}

#[test]
fn reports_go_on_when_standard_error_is_closed() {
    let (_open, mut command) = by_descriptor().unwrap();
    // SAFETY: between fork and exec the closure makes one system call.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut command, || {
            libc::close(2);
            Ok(())
        });
    }
    export_goes_on("closed", command, Stdio::null(), || ());
}

/// Nor do signals to the command, and its connections are all reported once somebody reads.
#[test]
fn run_passes_signals_on_while_nobody_reads_its_report() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    const CALLS: usize = 300;
    let pod = TestPod::new("report").unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("127.0.0.1:0".parse().unwrap())).unwrap();
    let (reader, writer) = pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(SMALL_PIPE)).unwrap();
    let traffic = traffic::program().unwrap();
    let script = format!(
        "{} call {} --connections {CALLS}; trap 'echo ended; exit 7' TERM; echo called; while :; do sleep 0.1; done",
        traffic.display(),
        serving.address()
    );
    let mut command = flowcar::command(&pod).unwrap();
    command
        .args(["run", "--format", "json", "--", "sh", "-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(writer);
    let mut run = command.spawn().unwrap();
    // It holds this end of the pipe.
    drop(command);
    let stdout = BufReader::new(run.stdout.take().unwrap());
    let mut lines = stdout.lines().map(Result::unwrap);
    assert!(lines.any(|line| line == "called"));
    // The rows of all of them, which the pipe has no room for.
    std::thread::sleep(Duration::from_secs(1));
    let pid = Pid::from_raw(run.id().cast_signed());
    kill(pid, Signal::SIGTERM).unwrap();
    // The command has ended, and flowcar waits a moment for a reader.
    assert_eq!(lines.next().as_deref(), Some("ended"));
    let mut report = String::new();
    File::from(reader).read_to_string(&mut report).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(7));
    let rows = report.lines().filter(|line| line.contains("\"duration"));
    assert!(rows.count() >= CALLS, "{report}");
}

fn goes_on(name: &str, stderr: OwnedFd, before_stop: impl FnOnce()) {
    let (_open, command) = by_descriptor().unwrap();
    export_goes_on(name, command, stderr.into(), before_stop);
}

fn export_goes_on(name: &str, mut command: Command, stderr: Stdio, before_stop: impl FnOnce()) {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let pod = TestPod::new(name).unwrap();
    let receiver = Receiver::start().unwrap();
    command
        .args(["export", "--cgroup"])
        .arg(pod.cgroup().path())
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint())
        .env("OTEL_METRIC_EXPORT_INTERVAL", "100")
        .env("FLOWCAR_LOG", "trace")
        .stdin(Stdio::null())
        .stderr(stderr)
        .with_only_caps(&CAPABILITIES);
    let child = command.spawn().unwrap();
    // It holds this end of a pipe.
    drop(command);
    let mut export = Export { child, receiver };
    let serving = Serving::start(&pod, &ServePlan::at("127.0.0.1:0".parse().unwrap())).unwrap();
    export.wait_for_reports(1);
    call_in(&pod, &CallPlan::to(serving.address()).connections(3, 1)).unwrap();
    export.wait_for_reports(50);
    before_stop();
    let pid = Pid::from_raw(export.child.id().cast_signed());
    kill(pid, Signal::SIGTERM).unwrap();
    let deadline = Instant::now() + WITHIN;
    let status = loop {
        match export.child.try_wait().unwrap() {
            Some(status) => break status,
            None => assert!(Instant::now() < deadline, "SIGTERM has no effect"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{status}");
}

// === impl Export ===

impl Export {
    /// Waits for so many exports of flowcar's metrics.
    #[track_caller]
    fn wait_for_reports(&self, count: usize) {
        let deadline = Instant::now() + WITHIN;
        for number in 0..count {
            let left = deadline.saturating_duration_since(Instant::now());
            let export = self.receiver.next(left).unwrap();
            assert!(export.is_some(), "{number} exports of {count} came");
        }
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        // It has exited if the test has passed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

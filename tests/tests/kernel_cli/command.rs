//! The command runs as it does without flowcar: its status, its streams, its signals.

use std::{
    fs,
    io::{BufRead, Write},
    os::unix::process::CommandExt as _,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use flowcar_tests::{
    flowcar::{self, Report},
    terminal::Terminal,
    traffic,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{can_run, left_behind, pod, run, status, text};

/// Time for a killed process to leave its cgroup; the machine may be busy.
const EXIT_WITHIN: Duration = Duration::from_secs(10);

#[test]
fn exit_status_is_the_commands() {
    if !can_run() {
        return;
    }
    let pod = pod();
    let plain = tempfile::NamedTempFile::new().unwrap();
    let plain = plain.path().to_str().unwrap();
    for (command, expected) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "kill -KILL $$"], 128 + 9),
        (&["sh", "-c", "kill -TERM $$"], 128 + 15),
        (&["/nowhere/at-all"], 127),
        (&["flowcar-no-such-command"], 127),
        (&[plain], 126),
        (&["/"], 126),
    ] {
        let output = run(&pod, &["--format", "json"], command);
        assert_eq!(status(&output), expected, "{command:?}: {output:?}");
        assert_eq!(output.stdout, b"", "{command:?}");
        let reported = text(&output.stderr);
        assert_eq!(reported.lines().count(), 1, "{command:?}: {reported}");
        if matches!(expected, 126 | 127) {
            assert!(
                reported.starts_with("flowcar: ") && reported.contains(command[0]),
                "{reported}"
            );
        } else {
            let report = Report::parse(reported).unwrap();
            assert_eq!(report.summary.exit_status, expected);
            assert_eq!(report.flows.len(), 0);
        }
        assert_eq!(left_behind(&pod), [""; 0], "{command:?}");
    }
}

/// Nothing listens in the pod.
#[test]
fn run_does_not_wait_for_an_unreachable_endpoint() {
    if !can_run() {
        return;
    }
    let pod = pod();
    let patience = Duration::from_secs(3600);
    for endpoint in ["http://127.0.0.1:4317", "http://nowhere.invalid:4317"] {
        let began = Instant::now();
        let mut run = flowcar::command(&pod).unwrap();
        run.args(["run", "--", "true"])
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
            .env("FLOWCAR_SHUTDOWN_TIMEOUT", patience.as_millis().to_string());
        let output = run.stdin(Stdio::null()).output().unwrap();
        assert_eq!(status(&output), 0, "{output:?}");
        assert!(began.elapsed() < patience / 2, "{endpoint}");
        let reported = text(&output.stderr);
        assert!(reported.contains("cannot export metrics"), "{reported}");
    }
}

#[test]
fn standard_streams_are_the_commands() {
    if !can_run() {
        return;
    }
    let pod = pod();
    let mut run = flowcar::command(&pod).unwrap();
    run.args(["run", "--", "sh", "-c", "cat; printf err >&2"]);
    run.stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = run.spawn().unwrap();
    let bytes: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.stdout, bytes);
    assert!(
        text(&output.stderr).starts_with("err"),
        "the report follows what the command wrote"
    );
    assert!(text(&output.stderr).len() > 3);
}

/// A process that the command leaves behind goes on, and leaves flowcar's cgroup.
#[test]
fn signals_are_passed_on() {
    if !can_run() {
        return;
    }
    let pod = pod();
    let script = "trap 'exit 3' TERM; trap 'echo user' USR1; sleep 1000 >/dev/null 2>&1 & \
                  echo $!; wait; wait; wait";
    let mut run = flowcar::Run::start(&pod, Path::new("sh"), &["-c", script]).unwrap();
    let flowcar = Pid::from_raw(run.id().cast_signed());
    let mut stdout = run.stdout().unwrap();
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let sleep: i32 = line.trim().parse().unwrap();
    assert_eq!(left_behind(&pod), [format!("flowcar-run-{flowcar}")]);

    kill(flowcar, Signal::SIGUSR1).unwrap();
    line.clear();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "user\n");
    kill(flowcar, Signal::SIGTERM).unwrap();
    let (status, report) = run.finish().unwrap();
    assert_eq!((status.code(), report.summary.exit_status), (Some(3), 3));
    assert_eq!(left_behind(&pod), [""; 0]);
    kill(Pid::from_raw(sleep), None).expect("it goes on");
    let cgroup = fs::read_to_string(format!("/proc/{sleep}/cgroup")).unwrap();
    let own = pod.cgroup().path().file_name().unwrap().to_str().unwrap();
    assert!(
        cgroup
            .lines()
            .any(|line| line.starts_with("0::") && line.ends_with(own)),
        "{cgroup}"
    );
}

/// As under nohup, or in the background of a shell's script.
#[test]
fn ignored_signals_stay_ignored() {
    if !can_run() {
        return;
    }
    let pod = pod();
    let ignored = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT];
    let script = "grep SigIgn: /proc/self/status; grep SigBlk: /proc/self/status; \
                  kill -HUP $PPID; kill -INT $PPID; kill -QUIT $PPID; sleep 0.3; exit 4";
    let mut run = flowcar::command(&pod).unwrap();
    run.args(["run", "-o", "/dev/null", "--", "sh", "-c", script]);
    // SAFETY: between fork and exec the closure makes system calls only.
    unsafe {
        run.pre_exec(move || {
            for signal in ignored {
                libc::signal(signal, libc::SIG_IGN);
            }
            Ok(())
        });
    }
    let output = run.stdin(Stdio::null()).output().unwrap();
    assert_eq!(status(&output), 4, "{output:?}");
    let masks = text(&output.stdout).lines().map(|line| {
        let mask = line.split_whitespace().last().unwrap();
        u64::from_str_radix(mask, 16).unwrap()
    });
    let masks: Vec<_> = masks.collect();
    let wanted = ignored
        .iter()
        .fold(0, |mask, signal| mask | 1_u64 << (signal - 1));
    // Whoever started the tests may ignore others.
    assert_eq!([masks[0] & wanted, masks[1]], [wanted, 0], "{output:?}");
}

/// Ctrl-C reaches flowcar and the command, whatever standard input is.
#[test]
fn signal_of_the_terminal_reaches_the_command_once() {
    if !can_run() {
        return;
    }
    let pod = pod();
    let script = r#"
        trap : INT
        sleep 1000 | "$0" run -o /dev/null -- "$1" interrupts
        echo status $?
    "#;
    let words = ["setsid", "--ctty", "--wait", "sh", "-c", script];
    let mut command = flowcar::started_by(&words).unwrap();
    pod.enter(&mut command).unwrap();
    command.arg(traffic::program().unwrap());
    let mut terminal = Terminal::start(&mut command, 80, 24).unwrap();
    terminal.until("the command", |screen| screen.contains("ready"));
    terminal.press("\x03");
    let screen = terminal.until("its end", |screen| screen.contains("status "));
    assert!(screen.contains("status 6"), "{screen}");
    assert_eq!(screen.matches("caught").count(), 1, "{screen}");
}

/// timeout signals flowcar, and then the group that both are in; in the foreground flowcar alone.
#[test]
fn signal_of_timeout_reaches_the_command_once() {
    if !can_run() {
        return;
    }
    let pod = pod();
    // setsid has it lead its group, as a shell on a terminal has.
    for words in [
        &["timeout"][..],
        &["timeout", "--foreground"],
        &["setsid", "timeout"],
        &["setsid", "timeout", "--foreground"],
    ] {
        let mut command = flowcar::started_by(&[words, &["1000"]].concat()).unwrap();
        pod.enter(&mut command).unwrap();
        command
            .args(["run", "-o", "/dev/null", "--"])
            .arg(traffic::program().unwrap())
            .arg("interrupts");
        let mut terminal = Terminal::start(&mut command, 80, 24).unwrap();
        terminal.until("the command", |screen| screen.contains("ready"));
        let timeout = Pid::from_raw(terminal.id().cast_signed());
        kill(timeout, Signal::SIGINT).unwrap();
        terminal.until("the signal", |screen| screen.contains("caught"));
        assert_eq!(terminal.finish().code(), Some(6), "{words:?}");
        let screen = terminal.text();
        assert_eq!(screen.matches("caught").count(), 1, "{words:?}: {screen}");
    }
}

#[test]
fn signal_of_a_process_is_passed_on_where_standard_input_is_a_terminal() {
    if !can_run() {
        return;
    }
    let pod = pod();
    let mut command = flowcar::command(&pod).unwrap();
    let script = "trap 'exit 5' INT; echo ready; while :; do sleep 0.05; done";
    command.args(["run", "-o", "/dev/null", "--", "sh", "-c", script]);
    let mut terminal = Terminal::start(&mut command, 80, 24).unwrap();
    terminal.until("the command", |screen| screen.contains("ready"));
    let flowcar = Pid::from_raw(terminal.id().cast_signed());
    kill(flowcar, Signal::SIGINT).unwrap();
    assert_eq!(terminal.finish().code(), Some(5));
}

#[test]
fn next_run_removes_the_cgroup_of_a_killed_flowcar() {
    if !can_run() {
        return;
    }
    let pod = pod();
    let script = "echo $$; exec sleep 1000";
    let mut run = flowcar::Run::start(&pod, Path::new("sh"), &["-c", script]).unwrap();
    let mut line = String::new();
    run.stdout().unwrap().read_line(&mut line).unwrap();
    let name = format!("flowcar-run-{}", run.id());
    // Dropping it kills and reaps flowcar, not the command.
    drop(run);
    assert_eq!(left_behind(&pod), std::slice::from_ref(&name));

    let again = || assert_eq!(status(&super::run(&pod, &[], &["true"])), 0);
    again();
    assert_eq!(left_behind(&pod), [name], "a process is still in it");
    kill(Pid::from_raw(line.trim().parse().unwrap()), Signal::SIGKILL).unwrap();
    assert!(pod.cgroup().wait_empty(EXIT_WITHIN).unwrap());
    again();
    assert_eq!(left_behind(&pod), [""; 0]);
}

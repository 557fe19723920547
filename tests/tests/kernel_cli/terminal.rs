//! On a terminal: what the command writes there stays, and what flowcar draws there is in nobody's way.

use std::{
    fs::File,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use flowcar_tests::{
    flowcar,
    place::TestPod,
    terminal::{Streams, Terminal},
    traffic,
};

use super::{can_run, pod};

/// The status line of a command that has no connection.
const STATUS: &str = "0 live (0B sent";

/// The last line of its report, without its end.
const BOOKS: &str = "0 opened = 0 closed";

/// Far longer than the status line waits for its first time.
const WHILE: Duration = Duration::from_secs(3);

/// `flowcar run OPTIONS -- sh -c SCRIPT`
fn run(pod: &TestPod, options: &[&str], script: &str) -> Command {
    let mut run = flowcar::command(pod).unwrap();
    run.arg("run").args(options);
    run.args(["--", "sh", "-c", script]);
    run
}

/// `curl URL` of a JSON body, a prompt, a password's: none ends with a line break.
#[test]
fn command_without_a_line_break_keeps_its_last_line() {
    if !can_run() {
        return;
    }
    let pod = pod();
    for options in [&[][..], &["--all"], &["--status"]] {
        let mut run = run(&pod, options, "printf 'one\\n{\"two\":2}'; sleep 3");
        let mut terminal = Terminal::start_on(&mut run, Streams::All, 80, 24).unwrap();
        assert!(terminal.finish().success());
        let rows = terminal.rows();
        assert_eq!(rows[..2], ["one", "{\"two\":2}"], "{rows:?}");
        assert!(rows[2].starts_with(BOOKS), "{options:?}: {rows:?}");
        assert!(!terminal.text().contains(STATUS), "it is removed: {rows:?}");
    }
    // One that has ended its line has no empty one below.
    let mut run = run(&pod, &[], "echo one");
    let mut terminal = Terminal::start_on(&mut run, Streams::All, 80, 24).unwrap();
    assert!(terminal.finish().success());
    let rows = terminal.rows();
    assert_eq!(rows[0], "one");
    assert!(rows[1].starts_with(BOOKS), "{rows:?}");
}

#[test]
fn prompt_and_what_is_typed_stay_as_they_are() {
    if !can_run() {
        return;
    }
    let pod = pod();
    let script = "seq 8; printf 'name? '; read -r name; echo \"hello $name\"";
    // In eight rows the prompt is on the last one.
    for (options, rows) in [(&[][..], 24), (&["--status"], 24), (&["--status"], 8)] {
        let mut run = run(&pod, options, script);
        let mut terminal = Terminal::start_on(&mut run, Streams::All, 80, rows).unwrap();
        terminal.until("the prompt", |text| text.contains("name? "));
        terminal.press("al");
        thread::sleep(WHILE);
        let shown = terminal.rows();
        let prompt = shown.iter().position(|row| row == "name? al");
        let prompt = prompt.unwrap_or_else(|| panic!("{shown:?}"));
        assert_eq!(shown[prompt - 1], "8");
        let has_status = shown[prompt + 1].starts_with(STATUS);
        assert_eq!(has_status, !options.is_empty(), "{shown:?}");
        terminal.press("ice\n");
        assert!(terminal.finish().success());
        let shown = terminal.rows();
        let prompt = shown.iter().position(|row| row == "name? alice");
        let prompt = prompt.unwrap_or_else(|| panic!("{shown:?}"));
        assert!(shown[prompt + 1].starts_with("hello alice"), "{shown:?}");
    }
}

#[test]
fn status_line_is_narrow_and_no_log_line_is_behind_it() {
    if !can_run() {
        return;
    }
    const COLUMNS: u16 = 30;
    let pod = pod();
    let output = tempfile::NamedTempFile::new().unwrap();
    // The span of the attempt cannot be exported, which is logged while the status line is there.
    let script = format!(
        "echo out; printf 'half a line' >&2; sleep 3; {} call 127.0.0.1:9; sleep 4; true",
        traffic::program().unwrap().display()
    );
    let mut run = run(&pod, &[], &script);
    run.stdin(Stdio::null())
        .stdout(File::create(output.path()).unwrap())
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
        .env("OTEL_METRICS_EXPORTER", "none")
        .env("FLOWCAR_LOG_FORMAT", "json");
    let mut terminal = Terminal::start_on(&mut run, Streams::Error, COLUMNS, 60).unwrap();
    terminal.until("the status line", |text| text.contains(STATUS));
    let rows = terminal.rows();
    assert_eq!(rows[0], "half a line");
    assert!(rows[1].starts_with(STATUS), "{rows:?}");
    assert!(rows[1].len() < COLUMNS.into(), "{rows:?}");
    assert_eq!(rows[2], "");
    terminal.until("a log line", |text| text.contains("cannot export"));
    terminal.until("the next status line", |text| text.contains(STATUS));
    let of_log = |rows: &[String]| rows.concat().replacen("half a line", "", 1);
    let log = of_log(&terminal.rows());
    assert!(log.starts_with("{\"timestamp\""), "{log}");
    assert_eq!(log.matches(STATUS).count(), 1, "{log}");
    assert!(terminal.finish().success());
    let rows = terminal.rows();
    assert!(!rows.concat().contains(STATUS), "no rest of it: {rows:?}");
    let output = std::fs::read_to_string(output.path()).unwrap();
    assert!(output.starts_with("out\n"), "{output}");
}

/// `NO_COLOR` and a dumb terminal, of the report and of the log.
#[test]
fn colours_and_escapes_are_for_terminals_that_have_them() {
    if !can_run() {
        return;
    }
    let pod = pod();
    for (name, value, has_colours, has_escapes) in [
        ("NO_COLOR", "", true, true),
        ("NO_COLOR", "1", false, true),
        ("TERM", "dumb", false, false),
    ] {
        let mut run = run(&pod, &["--status"], "sleep 2");
        run.env(name, value)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
        let mut terminal = Terminal::start_on(&mut run, Streams::All, 80, 24).unwrap();
        assert!(terminal.finish().success());
        let bytes = terminal.bytes();
        let written = String::from_utf8_lossy(&bytes);
        // SGR with a colour or DIM; the status line resets them.
        let coloured = written.contains("\x1b[2m") || written.contains("\x1b[33m");
        assert_eq!(coloured, has_colours, "{name}={value}: {written:?}");
        assert_eq!(written.contains('\x1b'), has_escapes, "{written:?}");
        assert!(written.contains("WARN") && written.contains(BOOKS));
    }
}

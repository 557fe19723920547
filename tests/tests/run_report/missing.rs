//! What was not measured, and what cannot be written.

use std::process::Stdio;

use flowcar_tests::{flowcar, place::TestPod};
use serde_json::Value;

use super::{can_run, run, serve, text};

/// Without eBPF, without exchanges, and without a connection; and a file that cannot be written.
#[test]
fn page_names_what_was_not_measured() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("page").unwrap();
    let server = serve(&pod);
    let script = format!(
        "call 127.0.0.1:{} --connections 2 --exchanges 12 --delay 120 --concurrency 2",
        server.port()
    );
    for (settings, expected, footer) in [
        (
            &[("FLOWCAR_SOURCE", "inet_diag")][..],
            "2 rows",
            "source inet_diag; exchanges were not measured; round trip times are the kernel's smoothed values; no handshake is seen",
        ),
        (
            &[("FLOWCAR_EXCHANGE", "off")],
            "2 rows",
            "source ebpf; exchanges were not measured",
        ),
    ] {
        let ran = run(&pod, settings, &script);
        let browser = ran.open();
        assert_eq!(text(&browser, "#shown"), expected, "{:?}", ran.output);
        assert!(
            text(&browser, "#footer").contains(footer),
            "{}",
            text(&browser, "#footer")
        );
        let notes = text(&browser, "#alarms");
        assert!(
            notes.contains("Exchanges were not measured: a slow server does not show."),
            "{notes}"
        );
        let smoothed = settings[0].0 == "FLOWCAR_SOURCE";
        assert_eq!(
            text(&browser, "#peer-table thead").contains("smoothed"),
            smoothed
        );
    }
    let nothing = run(&pod, &[], "true").open();
    assert!(text(&nothing, "#alarms").contains("No TCP connection: flowcar follows neither UDP"));
    assert_eq!(
        nothing.script("return document.getElementById('connections').hidden"),
        Value::Bool(true)
    );
    assert!(text(&nothing, "#equation").starts_with("0 opened = 0 closed"));

    for (arguments, status, expected) in [
        (
            &["--report", "/nowhere/page.html"][..],
            73,
            "cannot write the page to /nowhere/page.html: No such file",
        ),
        (
            &["--report", "/tmp/same", "-o", "/tmp/same"],
            64,
            "--report and --output name the same file",
        ),
    ] {
        let mut command = flowcar::command(&pod).unwrap();
        command
            .arg("run")
            .args(arguments)
            .args(["--", "echo", "ran"]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        assert_eq!(output.stdout, b"", "the command was not run");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            error.contains(expected) && error.lines().count() == 1,
            "{error}"
        );
    }
}

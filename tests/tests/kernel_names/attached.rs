//! Whether the programs for names are attached, and what is said where they are not.

use std::{fs, process::Stdio};

use flowcar_tests::{flowcar, place::PacketHook, watch::Watch};

use super::{Pod, assert_names, can_run, resolver::address};

/// Programs that see packets (BPF_CGROUP_INET_INGRESS and BPF_CGROUP_INET_EGRESS of include/uapi/linux/bpf.h), by the process's links.
fn packet_programs(watch: &Watch) -> usize {
    let directory = format!("/proc/{}/fdinfo", watch.id());
    let files = fs::read_dir(directory)
        .unwrap()
        .map(|file| file.unwrap().path());
    let texts = files.map(|path| fs::read_to_string(path).unwrap_or_default());
    let of_packets = |text: &String| {
        let mut lines = text.lines();
        lines.any(|line| line == "attach_type:\t0" || line == "attach_type:\t1")
    };
    texts.filter(of_packets).count()
}

#[test]
fn nothing_is_attached_where_names_are_off() {
    if !can_run() {
        return;
    }
    let mut pod = Pod::new("off");
    let mut watches = [("off", "off"), ("on", "off"), ("off", "on")].map(|(names, exchange)| {
        pod.watch(&[("FLOWCAR_DNS", names), ("FLOWCAR_EXCHANGE", exchange)])
    });
    assert_eq!(watches.each_ref().map(packet_programs), [0, 2, 2]);
    pod.ask("one.example");
    let ends = pod.connect(address(1), &[]);
    let names = ["127.18.0.1", "one.example", "127.18.0.1"];
    for (watch, name) in watches.iter_mut().zip(names) {
        assert_names(watch, &[(ends, name.to_owned(), name.to_owned())]);
    }
    let [off, ..] = watches;
    let seen = off.stop();
    assert_eq!(
        seen.sum("flowcar.self.flow.unnamed", &[]),
        0.0,
        "nobody wants names"
    );
    assert_eq!(
        seen.sum(
            "flowcar.self.record.received",
            &[("flowcar.self.record.kind", "dns")]
        ),
        0.0
    );
}

/// Another program allows none beside it.
#[test]
fn refusal_is_reported_once_and_addresses_stay() {
    if !can_run() {
        return;
    }
    let mut pod = Pod::new("refused");
    let _hook = PacketHook::attach_alone(pod.pod.cgroup()).unwrap();
    let mut watch = pod.watch(&[]);
    assert_eq!(packet_programs(&watch), 0);
    pod.ask("one.example");
    let ends = pod.connect(address(1), &[]);
    assert_names(
        &mut watch,
        &[(ends, "127.18.0.1".to_owned(), "refused".to_owned())],
    );
    let seen = watch.stop();
    let warnings = seen
        .log
        .iter()
        .filter(|line| line.contains("DNS messages are not observed"));
    assert_eq!(warnings.count(), 1, "{:#?}", seen.log);
    assert_eq!(seen.sum("flowcar.self.flow.unnamed", &[]), 0.0);

    let mut check = flowcar::command(&pod.pod).unwrap();
    let output = check
        .arg("check")
        .arg("--cgroup")
        .arg(pod.pod.cgroup().path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("DNS messages are not observed"), "{text}");
}

/// `flowcar run` names the server, for programs and for people.
#[test]
fn report_of_run_has_the_name() {
    if !can_run() {
        return;
    }
    let pod = Pod::new("run");
    let program = flowcar_tests::traffic::program().unwrap();
    let message = super::query(9, "one.example", super::A).bytes();
    let message: String = message.iter().map(|byte| format!("{byte:02x}")).collect();
    let (traffic, port) = (program.display(), pod.port());
    let script = format!(
        "{traffic} ask {} {message} && {traffic} connect 127.18.0.1:{port}",
        super::RESOLVER4
    );
    let run = |format: &str| {
        let mut run = flowcar::command(&pod.pod).unwrap();
        let run = run.args(["run", "--format", format, "--", "sh", "-c", &script]);
        let output = run.stdin(Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout)
    };
    let text = run("table");
    assert!(
        text.lines()
            .any(|line| line.trim() == "asked for one.example"),
        "{text}"
    );
    let text = run("json");
    assert!(text.contains(r#""server_name":"one.example""#), "{text}");
}

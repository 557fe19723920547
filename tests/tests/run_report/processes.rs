//! Which process has a connection. The truth is the number that the shell has of a process that it started.

use std::{collections::BTreeMap, os::unix::fs::symlink};

use flowcar_tests::{browser::key, place::TestPod, traffic};

use super::{can_run, focus, run, serve, text, texts};

/// Two programs, one of which runs twice.
#[test]
fn each_connection_has_its_process_and_keys_choose_the_connections_of_one() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("page").unwrap();
    let server = serve(&pod);
    let programs = tempfile::tempdir().unwrap();
    for name in ["alpha", "beta"] {
        symlink(traffic::program().unwrap(), programs.path().join(name)).unwrap();
    }
    let folder = programs.path().display();
    // The name of a process can be read while it runs.
    let start = |name: &str, connections: u32, delay: u32| {
        format!(
            "{folder}/{name} call 127.0.0.1:{} --connections {connections} --exchanges 6 --delay {delay} --pause 100 >/dev/null & echo {name} $! {connections};",
            server.port()
        )
    };
    let (one, two, slow) = (
        start("alpha", 2, 1),
        start("alpha", 3, 1),
        start("beta", 4, 100),
    );
    let ran = run(&pod, &[], &format!("{one} {two} {slow} wait"));
    let stdout = String::from_utf8(ran.output.stdout.clone()).unwrap();
    let mut truth = BTreeMap::new();
    for line in stdout.lines() {
        let [name, pid, connections] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{stdout}");
        };
        truth.insert(
            format!("{name} ({pid})"),
            connections.parse::<usize>().unwrap(),
        );
    }
    assert_eq!(truth.len(), 3, "{stdout}");
    let browser = ran.open();

    // In the list, and in the details of each.
    let mut listed = BTreeMap::new();
    for name in texts(&browser, "#rows .process") {
        *listed.entry(name).or_default() += 1;
    }
    assert_eq!(listed, truth);
    focus(&browser, "#rows");
    let mut detailed = BTreeMap::new();
    for _ in 0..truth.values().sum() {
        let name = browser.text("return [...document.querySelectorAll('#details dt')].find((of) => of.textContent === 'process').nextSibling.textContent");
        *detailed.entry(name).or_default() += 1;
        browser.press(&[key::DOWN]);
    }
    assert_eq!(detailed, truth);

    // The choices are all, the program that ran twice, and each process, the busiest first.
    let choices = texts(&browser, "#process option");
    assert_eq!(
        choices[..2],
        ["all processes", "alpha: all 2"],
        "{choices:?}"
    );
    let each: Vec<_> = choices[2..].iter().map(|name| truth[name]).collect();
    assert_eq!(each, [4, 3, 2], "{choices:?}");
    focus(&browser, "#process");
    for rows in [5, 4, 3, 2] {
        browser.press(&[key::DOWN]);
        assert_eq!(text(&browser, "#shown"), format!("{rows} rows"));
    }

    // The one whose answers take long is a finding.
    let (beta, _) = truth
        .iter()
        .find(|(name, _)| name.starts_with("beta"))
        .unwrap();
    let alarms = texts(&browser, "#alarms li.alarm");
    let expected = format!(
        "Of 3 processes that ask 127.0.0.1:{}, {beta} alone is slow",
        server.port()
    );
    assert!(
        alarms.iter().any(|alarm| alarm.contains(&expected)),
        "{expected}: {alarms:?}"
    );
}

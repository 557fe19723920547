//! The page of real peers has each of them, and its connections.

use std::{collections::BTreeSet, net::SocketAddr, thread, time::Duration};

use flowcar_tests::{
    browser::{Browser, key},
    peers::eventually,
    place::TestPod,
    traffic::{self, ConnectionReport, FailureKind},
};

use super::{can_run, focus, run, serve, text, texts};

/// A server whose answers take 150 ms, among others; and what fails.
#[test]
fn page_points_at_the_slow_peer_and_has_every_socket() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("page").unwrap();
    let (fast, slow, sixth, resets) = (serve(&pod), serve(&pod), serve(&pod), serve(&pod));
    let script = format!(
        "call 127.0.0.1:{} --connections 12 --exchanges 4 --concurrency 3; \
         call 127.0.0.1:{} --connections 5 --exchanges 3 --delay 150 --concurrency 5; \
         call '[::1]:{}' --connections 4 --exchanges 3; \
         call 127.0.0.1:{} --connections 3 --close reset-by-server; \
         call 127.0.0.1:9 --connections 2; exit 3",
        fast.port(),
        slow.port(),
        sixth.port(),
        resets.port()
    );
    let ran = run(&pod, &[], &script);
    assert_eq!(
        ran.output.status.code(),
        Some(3),
        "the command's: {:?}",
        ran.output
    );
    let refused = ran.connections.iter().filter(|of| {
        of.failure
            .as_ref()
            .is_some_and(|failure| failure.kind == FailureKind::Refused)
    });
    let (refused, all) = (refused.count(), ran.connections.len());
    assert_eq!((refused, all), (2, 26));
    let browser = ran.open();
    let slow = format!("127.0.0.1:{}", slow.port());

    // In words, first of all, and first in the table.
    let alarms = texts(&browser, "#alarms li.alarm");
    assert!(
        alarms[0].contains(&slow) && alarms[0].contains("It is the server"),
        "{alarms:?}"
    );
    assert!(
        alarms.iter().any(|alarm| alarm
            .contains("2 of 26 attempts failed. Most of them to 127.0.0.1:9: 2 refused")),
        "{alarms:?}"
    );
    assert!(
        alarms.iter().any(|alarm| alarm.contains(&format!(
            "127.0.0.1:{}: 3 reset_received, of 3",
            resets.port()
        ))),
        "{alarms:?}"
    );
    assert_eq!(texts(&browser, "#peer-table tbody th")[0], slow);
    assert!(text(&browser, "#failure-table tbody").contains("attempt: refused127.0.0.1:92"));
    assert!(
        text(&browser, "#equation")
            .starts_with("24 opened = 24 closed + 0 live + 0 lost; 2 failed")
    );

    // By keys alone: each socket of the application is a row, with its address.
    focus(&browser, "#rows");
    let mut local = BTreeSet::new();
    for _ in 0..all {
        let position = browser.script("const row = document.getElementById(document.activeElement.getAttribute('aria-activedescendant')); return [row.getAttribute('aria-setsize'), row.getAttribute('aria-selected')]");
        assert_eq!(position, serde_json::json!([all.to_string(), "true"]));
        let from = browser.text("return document.querySelector('#details dd').textContent");
        local.insert(from.parse::<SocketAddr>().unwrap());
        browser.press(&[key::DOWN]);
    }
    let applications: BTreeSet<_> = ran.established().map(|of| of.local.unwrap()).collect();
    assert_eq!(applications.len(), 24);
    assert!(applications.is_subset(&local), "{applications:?} {local:?}");
    browser.press(&[key::END]);
    let last = browser.text("return document.querySelector('#details .note').textContent");
    assert_eq!(last, format!("Connection {all} of {all}"));

    // A head of the table sorts, and a peer's name leaves its connections alone.
    focus(&browser, "#peer-table thead button");
    browser.press(&[key::ENTER]);
    let sorted = browser
        .script("return document.querySelector('#peer-table thead th').getAttribute('aria-sort')");
    assert_eq!(sorted, "ascending");
    let names = texts(&browser, "#peer-table tbody th");
    assert!(names.is_sorted(), "{names:?}");
    browser.press(&[key::ENTER]);
    focus(&browser, &format!("#peer-table button[title='{slow}']"));
    browser.press(&[key::ENTER]);
    assert_eq!(text(&browser, "#shown"), "5 rows");
    let pressed = browser
        .script("return document.querySelectorAll('#peer-table [aria-pressed=true]').length");
    assert_eq!(pressed, 1);

    // Of that peer the heat map has the 15 exchanges, and no cell of less than 128 ms.
    focus(&browser, "#map-exchange");
    let found = walk(&browser);
    assert_eq!(found.0, 15, "{found:?}");
    assert!(
        found
            .1
            .iter()
            .all(|range| !range.contains("us to") && !range.contains("1.00ms")),
        "{found:?}"
    );
}

/// Walks over the heat map that has the focus by keys: all that is in it, and the ranges of cells that have something.
fn walk(browser: &Browser) -> (u64, Vec<String>) {
    // One call for each key would take minutes: the events are the page's own, as a keyboard makes them.
    let found = browser.script(
        "const canvas = document.activeElement; const out = canvas.parentElement.querySelector('.readout');
         const press = (key) => canvas.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
         for (let at = 0; at < 200; at += 1) { press('ArrowLeft'); press('ArrowDown'); }
         const found = []; let before = '';
         for (let row = 0; row < 60; row += 1) {
           const first = out.textContent;
           if (first === before) break;
           before = first;
           for (let column = 0; column < 120; column += 1) {
             const text = out.textContent; press('ArrowRight');
             const match = text.match(/: (\\d+) exchanges? of (.*)/);
             if (match && match[1] !== '0') found.push([Number(match[1]), match[2]]);
             if (out.textContent === text) break;
           }
           for (let column = 0; column < 120; column += 1) press('ArrowLeft');
           press('ArrowUp');
         }
         return found;",
    );
    let cells: Vec<_> = found.as_array().unwrap().iter().collect();
    let total = cells.iter().map(|cell| cell[0].as_u64().unwrap()).sum();
    let ranges = cells
        .iter()
        .map(|cell| cell[1].as_str().unwrap().to_owned());
    (total, ranges.collect())
}

/// A connection that is open when the command ends is a row.
#[test]
fn connection_that_stays_open_is_on_the_page() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("page").unwrap();
    let server = serve(&pod);
    // `hold` writes a line when both are open, and keeps them until its input ends, which is after the shell has.
    let script = format!(
        "lines=$(mktemp); {{ sleep 30 | $traffic hold 127.0.0.1:{} --connections 2; }} >$lines 2>/dev/null & \
         until [ -s $lines ]; do sleep 0.05; done; rm $lines",
        server.port()
    );
    let ran = run(&pod, &[], &script);
    let browser = ran.open();
    assert_eq!(text(&browser, "#shown"), "2 rows", "{:?}", ran.output);
    browser.script("const state = document.getElementById('state'); state.value = 'open'; state.dispatchEvent(new Event('change'))");
    assert_eq!(text(&browser, "#shown"), "2 rows");
    assert!(
        text(&browser, "#alarms")
            .contains("Open when the command ended: 2 connections, 2 of them to 127.0.0.1")
    );
    assert!(text(&browser, "#equation").starts_with("2 opened = 0 closed + 2 live"));
}

/// Its rows are its clients, and what is slow is itself.
#[test]
fn page_of_a_server_has_its_clients() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("page").unwrap();
    let script = "$traffic serve --listen '[::]:7000' --until 9 >/dev/null";
    let run = thread::scope(|scope| {
        let server = scope.spawn(|| run(&pod, &[], script));
        let call = |target: &str, more: &[&str]| {
            let mut call = pod
                .netns()
                .command(traffic::program().unwrap().to_str().unwrap())
                .unwrap();
            call.args(["call", target, "--exchanges", "3"]).args(more);
            let output = call.output().unwrap();
            let lines = String::from_utf8(output.stdout).unwrap();
            let reports = lines
                .lines()
                .map(|line| serde_json::from_str(line).unwrap());
            reports.collect::<Vec<ConnectionReport>>()
        };
        eventually("server", Duration::from_secs(30), || {
            call("127.0.0.1:7000", &[])[0]
                .failure
                .is_none()
                .then_some(())
        });
        let mut called = call("[::1]:7000", &["--connections", "8", "--delay", "120"]);
        let ran = server.join().unwrap();
        called.retain(|of| of.failure.is_none());
        assert_eq!(called.len(), 8);
        (ran, called)
    });
    let (ran, called) = run;
    let browser = ran.open();
    assert_eq!(text(&browser, "#shown"), "9 rows");
    let alarms = texts(&browser, "#alarms li.alarm");
    assert!(
        alarms[0]
            .contains("This command is the server: half of its own answers to clients of :7000"),
        "{alarms:?}"
    );
    let rows = texts(&browser, "#rows .label");
    for client in called {
        let address = client.local.unwrap().to_string();
        assert!(
            rows.iter().any(|row| row.starts_with(&address)),
            "{address}: {rows:?}"
        );
    }
}

/// An answer about one process shows the connections of that process alone.
#[test]
fn connections_of_one_process_are_shown() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("page").unwrap();
    let server = serve(&pod);
    let script = format!(
        "call() {{ $traffic call 127.0.0.1:{} \"$@\" >/dev/null; }}
         call --connections 4; call --connections 5 --close reset-by-server",
        server.port()
    );
    let browser = run(&pod, &[], &script).open();
    assert_eq!(text(&browser, "#shown"), "9 rows");
    browser.script(
        "const about = [...document.querySelectorAll('#alarms li')].find((of) => of.textContent.includes('alone fails'));
         about.querySelector('button').click()",
    );
    assert_eq!(text(&browser, "#shown"), "5 rows");
    let chosen =
        browser.text("return document.querySelector('#process').selectedOptions[0].textContent");
    // On a busy machine the process may have ended before flowcar could read the process's name.
    let named = ["traffic (", "process ("];
    assert!(
        named.iter().any(|name| chosen.starts_with(name)),
        "{chosen}"
    );
}

//! `flowcar run --report`: the page in a real Chromium, against what applications and the link wrote down.

use std::{
    collections::BTreeSet,
    net::{Ipv6Addr, SocketAddr},
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use flowcar_tests::{
    browser::{Browser, key, require_browser},
    flowcar,
    link::{Only, Plan, When},
    place::{TestPod, require_cgroup2, require_root, require_tun},
    traffic::{self, ConnectionReport, FailureKind, Phase, Pods, ServePlan, Server},
};
use serde_json::Value;
use tempfile::TempPath;

/// A command that was run, its page, and what its applications reported.
struct Ran {
    page: TempPath,
    output: Output,
    connections: Vec<ConnectionReport>,
}

fn can_run() -> bool {
    require_root() && require_cgroup2() && require_browser()
}

/// A server in the pod's network, not in its cgroup.
fn serve(pod: &TestPod) -> Server {
    let plan = ServePlan::at((Ipv6Addr::UNSPECIFIED, 0).into());
    let started = pod.netns().run(|| Server::start(&plan, |_| {}));
    started.unwrap().unwrap()
}

/// Runs the script, in which `call` is `traffic call`, with a page.
fn run(pod: &TestPod, settings: flowcar::Settings, script: &str) -> Ran {
    let page = tempfile::Builder::new().suffix(".html").tempfile().unwrap();
    let page = page.into_temp_path();
    let traffic = traffic::program().unwrap();
    let script = format!(
        "call() {{ {0} call \"$@\"; }}; traffic={0}; {script}",
        traffic.display()
    );
    let mut command = flowcar::command(pod).unwrap();
    command.envs(settings.iter().copied());
    command.args(["run", "--report"]).arg(&page);
    command.args(["--", "sh", "-c", &script]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let connections = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    Ran {
        page,
        connections: connections.collect(),
        output,
    }
}

impl Ran {
    /// The page in a browser. It has drawn itself without an error, and requested nothing but itself.
    fn open(&self) -> Browser {
        let browser = Browser::open(&self.page);
        assert_eq!(browser.console(), [""; 0], "{:?}", self.output);
        let itself = format!("file://{}", self.page.display());
        assert_eq!(browser.requests(), [itself]);
        browser
    }

    fn established(&self) -> impl Iterator<Item = &ConnectionReport> {
        let is_established = |of: &&ConnectionReport| {
            !of.failure
                .as_ref()
                .is_some_and(|failure| failure.phase == Phase::Connect)
        };
        self.connections.iter().filter(is_established)
    }
}

/// The text of each element.
fn texts(browser: &Browser, selector: &str) -> Vec<String> {
    let found = browser.script(&format!(
        "return [...document.querySelectorAll({selector:?})].map((each) => each.textContent)"
    ));
    let found = found.as_array().unwrap().iter();
    found
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

fn text(browser: &Browser, selector: &str) -> String {
    texts(browser, selector).join("\n")
}

fn focus(browser: &Browser, selector: &str) {
    browser.script(&format!("document.querySelector({selector:?}).focus()"));
}

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

/// Keys reach what a mouse reaches, and every text is readable by day and by night (WCAG AA).
#[test]
fn page_is_readable_in_light_and_dark_and_each_control_has_the_focus_by_tab() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("page").unwrap();
    let server = serve(&pod);
    let script = format!(
        "call 127.0.0.1:{0} --connections 30 --delay 120; call 127.0.0.1:9; call 127.0.0.1:{0} --connections 2 --close reset-by-client",
        server.port()
    );
    let browser = run(&pod, &[], &script).open();
    let mut seen = BTreeSet::new();
    focus(&browser, "a.skip");
    for _ in 0..60 {
        let at = browser
            .text("const of = document.activeElement; return of.id || of.className || of.tagName");
        seen.insert(at);
        browser.press(&[key::TAB]);
    }
    for control in [
        "peer",
        "state",
        "order",
        "axis-of",
        "rows",
        "map-exchange",
        "map-rtt",
        "show",
        "SUMMARY",
    ] {
        assert!(seen.contains(control), "{control}: {seen:?}");
    }
    let mut backs = BTreeSet::new();
    for dark in [false, true] {
        browser.prefer_dark(dark);
        backs.insert(browser.text("return getComputedStyle(document.body).backgroundColor"));
        let faint = browser.script(CONTRAST);
        assert_eq!(faint, serde_json::json!([]), "dark: {dark}");
        let colours = browser.script(
            "const map = document.getElementById('map-exchange');
             const pixels = map.getContext('2d').getImageData(0, 0, map.width, map.height).data;
             const colours = new Set(); for (let at = 0; at < pixels.length; at += 4) if (pixels[at + 3]) colours.add(pixels.slice(at, at + 3).join());
             return colours.size",
        );
        assert!(
            colours.as_u64().unwrap() > 10,
            "the map is drawn: {colours}"
        );
    }
    assert_eq!(backs.len(), 2, "{backs:?}");
    // Wide tables scroll by themselves.
    let wider = browser.script(
        "return document.documentElement.scrollWidth - document.documentElement.clientWidth",
    );
    assert_eq!(wider, 0);
}

/// Texts whose contrast is below 4.5 to 1.
const CONTRAST: &str = "
    const parse = (text) => text.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((of) => of / 255).map((of) => of <= 0.04045 ? of / 12.92 : ((of + 0.055) / 1.055) ** 2.4)
      .reduce((sum, of, at) => sum + of * [0.2126, 0.7152, 0.0722][at], 0);
    const back = (of) => { for (; of; of = of.parentElement) { const all = parse(getComputedStyle(of).backgroundColor); if (all.length === 3 || all[3] > 0) return all; } };
    const faint = [];
    for (const of of document.querySelectorAll('body *')) {
      const own = [...of.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
      if (!own || !of.getClientRects().length || ['SCRIPT', 'OPTION'].includes(of.tagName)) continue;
      const [one, other] = [light(parse(getComputedStyle(of).color)), light(back(of))].sort((a, b) => b - a);
      const ratio = (one + 0.05) / (other + 0.05);
      if (ratio < 4.5) faint.push([of.tagName, of.className, of.textContent.slice(0, 30), ratio]);
    }
    return faint;";

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

/// A connection that is open when the command ends is a row.
#[test]
fn connection_that_stays_open_is_on_the_page() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("page").unwrap();
    let server = serve(&pod);
    // `hold` keeps them until its input ends, which is after the shell has.
    let script = format!(
        "{{ sleep 8 | $traffic hold 127.0.0.1:{} --connections 2; }} >/dev/null 2>&1 & sleep 1",
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

/// The page of each fault that one command can meet points at it.
#[test]
fn each_made_fault_is_a_problem_on_the_page() {
    if !can_run() || !require_tun() {
        return;
    }
    let here = TestPod::new("page").unwrap();
    let (server, other) = (serve(&here), serve(&here));
    let [near, resets] = [server.port(), other.port()].map(|port| format!("127.0.0.1:{port}"));
    let pods = Pods::new(Plan::rtt(Duration::from_millis(130))).unwrap();
    let far = pods.v4();
    let lossy = Pods::new(
        Plan::rtt(Duration::from_millis(5))
            .drop(Only::Data, When::Chance(0.08))
            .seed(3),
    )
    .unwrap();
    let lost = lossy.v4();
    let full = "$traffic serve --listen 127.0.0.1:7000 --backlog 1 >/dev/null & server=$!; sleep 0.5; kill -STOP $server; \
                call 127.0.0.1:7000 --connections 6 --concurrency 6 --timeout 1600; kill -KILL $server; true";
    let cases: [(_, _, &[(&str, &str)]); 7] = [
        (
            pods.client(),
            format!("call {far} --exchanges 20"),
            &[
                (
                    "Which peer is slow?",
                    &format!("{far}: half of its answers take"),
                ),
                ("Which peer is slow?", "It is the network"),
            ],
        ),
        (
            lossy.client(),
            format!("call {lost} --request 400000 --response 400000 --exchanges 3"),
            &[("Does the path lose packets?", &format!("To {lost} "))],
        ),
        (
            &here,
            format!("call {near} --connections 40"),
            &[(
                "Is the pool reused?",
                &format!("{near}: 40 exchanges on 40 connections. The pool is not reused"),
            )],
        ),
        (
            &here,
            format!("call {resets} --connections 5 --close reset-by-server"),
            &[("Who resets us?", &format!("{resets}: 5 reset_received"))],
        ),
        (
            &here,
            format!("call 127.0.0.1:9 --connections 3; call {near}"),
            &[(
                "What fails to connect, and why?",
                "3 of 4 attempts failed. Most of them to 127.0.0.1:9: 3 refused",
            )],
        ),
        (
            &here,
            full.to_owned(),
            &[
                (
                    "Is the accept queue full?",
                    ":7000: 2 of 1 connections waited at most",
                ),
                ("How long does connecting take?", "127.0.0.1:7000"),
            ],
        ),
        (
            &here,
            format!("call {near} --request 9000000 --stall 1500"),
            &[("What holds it back?", &format!("{near}: "))],
        ),
    ];
    for (pod, script, expected) in cases {
        let browser = run(pod, &[], &script).open();
        let alarms = texts(&browser, "#alarms li.alarm");
        for (question, text) in expected {
            let found = alarms.iter().find(|alarm| alarm.contains(question));
            let found = found.unwrap_or_else(|| panic!("{question}: {alarms:?}"));
            assert!(found.contains(text), "{text}: {found}");
        }
    }
}

/// Its rows are its clients, and what is slow is itself.
#[test]
fn page_of_a_server_has_its_clients() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("page").unwrap();
    let script = "$traffic serve --listen '[::]:7000' --until 9 >/dev/null";
    let run = std::thread::scope(|scope| {
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
        flowcar_tests::peers::eventually("server", Duration::from_secs(30), || {
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

/// As many as have a row each.
#[test]
fn page_of_5000_connections_is_small_and_keys_reach_the_last_one() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("page").unwrap();
    let (fast, slow) = (serve(&pod), serve(&pod));
    let script = format!(
        "call 127.0.0.1:{} --connections 4900 --concurrency 20 & \
         call 127.0.0.1:{} --connections 100 --delay 150 --concurrency 20; wait",
        fast.port(),
        slow.port()
    );
    let ran = run(&pod, &[], &script);
    assert_eq!(ran.established().count(), 5_000);
    let size = std::fs::metadata(&ran.page).unwrap().len();
    assert!(size < 1_000_000, "{size} bytes");
    let browser = ran.open();
    assert_eq!(text(&browser, "#shown"), "5000 rows");
    let slow = format!("127.0.0.1:{}", slow.port());
    assert!(texts(&browser, "#alarms li.alarm")[0].contains(&slow));
    focus(&browser, "#rows");
    browser.press(&[key::END]);
    assert_eq!(text(&browser, "#details .note"), "Connection 5000 of 5000");
    // The document has those in view alone.
    let drawn = texts(&browser, "#rows [role=option]").len();
    assert!((18..100).contains(&drawn), "{drawn}");
}

/// A name is what somebody else's server is called: it is text on the page, whatever is in it.
#[test]
fn page_of_a_hostile_command_is_text() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("page").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let hostile = "<img src=x onerror=document.title=1><script>document.title=1</script>{{data}}";
    let program = folder.path().join(hostile.replace('/', "\\"));
    std::os::unix::fs::symlink("/bin/true", &program).unwrap();
    let page = folder.path().join("page.html");
    let mut command = flowcar::command(&pod).unwrap();
    command
        .args(["run", "--report"])
        .arg(&page)
        .arg("--")
        .arg(&program);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let browser = Browser::open(Path::new(&page));
    assert_eq!(browser.console(), [""; 0]);
    assert_eq!(text(&browser, "#program"), hostile.replace('/', "\\"));
    assert_eq!(
        browser.script("return document.images.length + document.scripts.length"),
        2
    );
    // What is not in the page cannot be run in it either: its policy allows no other script.
    browser.script("const of = document.createElement('script'); of.textContent = 'document.title = 1'; document.body.append(of)");
    assert_ne!(browser.text("return document.title"), "1");
    assert!(
        browser
            .console()
            .join(" ")
            .contains("Content Security Policy")
    );
}

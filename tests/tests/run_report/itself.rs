//! flowcar itself: whether a receiver takes what it exports, and what it costs.

use flowcar_tests::{browser::Browser, place::TestPod};

use super::{can_run, run, serve, texts};

/// The answer to a question.
fn answer(browser: &Browser, question: &str) -> String {
    let all = texts(browser, "#answers > div");
    let found = all.iter().find(|text| text.contains(question));
    found
        .unwrap_or_else(|| panic!("{question}: {all:?}"))
        .clone()
}

/// Nothing listens at the receiver's address: the page has that, and what the command and flowcar cost. The truth is the shell's `times`.
#[test]
fn page_has_what_a_receiver_did_not_take_and_what_flowcar_cost() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("page").unwrap();
    let server = serve(&pod);
    let script = format!(
        "call 127.0.0.1:{} --connections 20; at=0; while [ $at -lt 200000 ]; do at=$((at + 1)); done; times",
        server.port()
    );
    let nowhere = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")];
    let ran = run(&pod, &nowhere, &script);
    let browser = ran.open();
    let alarms = texts(&browser, "#alarms li.alarm");
    let expected = "Does flowcar deliver?The receiver did not take all that was exported";
    assert!(
        alarms.iter().any(|alarm| alarm.contains(expected)),
        "{alarms:?}"
    );

    let stdout = String::from_utf8(ran.output.stdout.clone()).unwrap();
    let times = stdout.lines().filter(|line| line.starts_with("0m"));
    let seconds = times.flat_map(str::split_whitespace).map(|time| {
        let (_, seconds) = time.trim_end_matches('s').split_once('m').unwrap();
        seconds.parse::<f64>().unwrap()
    });
    let truth: f64 = seconds.sum();
    assert!(truth > 0.05, "{stdout}");
    let cost = answer(&browser, "What does flowcar cost?");
    let of_command = cost.split("The command took ").nth(1).unwrap();
    let of_command = in_seconds(of_command.split(' ').next().unwrap());
    // dash counts in hundredths, and its own start and end are not in it.
    assert!(
        (truth - 0.05..truth + 0.1).contains(&of_command),
        "{truth}: {cost}"
    );
    let own = cost.split("flowcar took ").nth(1).unwrap();
    assert!(in_seconds(own.split(' ').next().unwrap()) > 0.0, "{cost}");

    let alone = run(&pod, &[], "true").open();
    assert!(answer(&alone, "Does flowcar deliver?").contains("No receiver is set"));
}

fn in_seconds(text: &str) -> f64 {
    let units = [("ms", 1e-3), ("us", 1e-6), ("s", 1.0)];
    let (digits, unit) = units
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))
        .unwrap();
    digits.parse::<f64>().unwrap() * unit
}

//! The twelve questions of docs/prometheus.md, asked of a stock Prometheus and of one that ingests start times, after traffic
//! that is known: of a process that has just begun, of one that is hours old, and over a restart.

use std::{collections::BTreeMap, path::Path};

use flowcar::{
    clock::Anchor,
    flow::{Books, CloseReason, Failure, Retransmits, Role, RttKind, Volume},
    snapshot::{Listener, Peer, SelfMetrics, Series, SeriesKey, Snapshot},
};
use flowcar_tests::peers::{Prometheus, PrometheusOptions};

use crate::sample::{LIMIT, export, millis};

const SECOND: u64 = 1_000_000_000;

/// Time from one report to the next.
const INTERVAL: u64 = 10 * SECOND;

/// The queries cover five minutes, and all reports.
const REPORTS: u64 = 29;

/// The report in which everything happens. Before it nothing did.
const EVENT: u64 = 5;

/// How far an answer may be off, as a share: one of the reports that the queries cover.
const OFF: f64 = 10.0 / 300.0 * 1.1;

/// What happens: 15 connections opened and 5 refused to a server, and what a listener of this pod goes through.
fn traffic(since_unix_ns: u64, times: u64) -> BTreeMap<SeriesKey, Series> {
    let client = SeriesKey::Flows {
        container: None,
        role: Role::Client,
        peer: Peer::Asked([10, 1, 2, 3].into()),
        server_port: Some(8080),
    };
    let server = SeriesKey::Flows {
        container: None,
        role: Role::Server,
        peer: Peer::Unnamed,
        server_port: Some(80),
    };
    let rtt = millis(&[(5, 150 * times), (80, 50 * times)]);
    let of_client = Series {
        since_unix_ns,
        opened: 15 * times,
        closed: BTreeMap::from([
            (CloseReason::LocalFin.into(), 10 * times),
            (CloseReason::ResetReceived.into(), 2 * times),
        ]),
        failed: BTreeMap::from([(Failure::Refused, 5 * times)]),
        live: 3,
        volume: Volume {
            bytes_sent: 30_000 * times,
            bytes_received: 270_000 * times,
            segments_sent: 2_000 * times,
            segments_received: 2_000 * times,
            retransmits: Retransmits {
                syn: 4 * times,
                fast: 6 * times,
                ..Default::default()
            },
        },
        rtt: BTreeMap::from([(RttKind::Measured, rtt)]),
        exchange: millis(&[(30, 100 * times)]),
        ..Default::default()
    };
    let of_server = Series {
        since_unix_ns,
        receive_window_limited_us: 60_000_000 * times,
        exchange: millis(&[(2, 40 * times)]),
        ..Default::default()
    };
    BTreeMap::from([(client, of_client), (server, of_server)])
}

fn report(start: u64, at: u64, happened: bool) -> Snapshot {
    let listener = Listener {
        drops: 7,
        waiting: 0,
        limit: 128,
    };
    Snapshot {
        start_unix_ns: start,
        at_unix_ns: at,
        series: if happened {
            traffic(at, 1)
        } else {
            BTreeMap::new()
        },
        dropped: Default::default(),
        unattributed: Default::default(),
        lost: BTreeMap::new(),
        containers: BTreeMap::new(),
        listeners: match happened {
            true => BTreeMap::from([(Some(80), listener)]),
            false => BTreeMap::new(),
        },
        books: Books::default(),
        self_metrics: SelfMetrics::default(),
    }
}

/// The reports of one process: when it began, and of which numbers they are.
struct Process {
    start: u64,
    reports: std::ops::RangeInclusive<u64>,
    event: u64,
}

/// The processes of one case, whose last report is made now, and how often everything happens.
fn processes(case: &str, first: u64) -> (Vec<Process>, u64) {
    let process = |start, reports, event| Process {
        start,
        reports,
        event,
    };
    match case {
        "fresh" => (vec![process(first, 1..=REPORTS, EVENT)], 1),
        "hours old" => (vec![process(first - 7_200 * SECOND, 1..=REPORTS, EVENT)], 1),
        "restarted" => {
            let again = first + 14 * INTERVAL + 2 * SECOND;
            let processes = vec![
                process(first, 1..=14, EVENT),
                process(again, 15..=REPORTS, 15),
            ];
            (processes, 2)
        }
        other => panic!("{other}"),
    }
}

/// The time of the last report, and how often everything happened.
fn send(endpoint: &str, case: &str) -> (u64, u64) {
    let now = Anchor::now();
    let now = now.unix_ns(now.monotonic());
    let first = now - REPORTS * INTERVAL;
    let (processes, times) = processes(case, first);
    for process in processes {
        let http = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
        export("web", &[http], async |start| {
            let exporter = start(endpoint);
            for number in process.reports {
                let at = first + number * INTERVAL;
                exporter.metrics(report(process.start, at, number >= process.event));
                assert!(
                    exporter.flush(LIMIT).await,
                    "{:?}",
                    exporter.self_metrics().exports
                );
            }
            let refused = exporter
                .self_metrics()
                .exports
                .keys()
                .any(|key| key.1 != "success");
            assert!(!refused, "{case}: {:?}", exporter.self_metrics().exports);
        });
    }
    (now, times)
}

/// Titles and queries of a page of docs.
pub(super) fn questions(page: &str) -> BTreeMap<String, String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(page);
    let page = std::fs::read_to_string(page).expect("the page");
    let sections = page.split("\n### ").skip(1);
    let questions = sections.map(|section| {
        let (title, rest) = section.split_once('\n').expect("a title");
        let (_, query) = rest.split_once("```promql\n").expect("a query");
        let (query, _) = query.split_once("```").expect("its end");
        (title.to_owned(), query.to_owned())
    });
    questions.collect()
}

/// A question's title, its answers by label if everything happens once, and whether they grow with the number of times.
type Answer = (&'static str, &'static [(&'static str, f64)], bool);

#[rustfmt::skip]
const ANSWERS: [Answer; 12] = [
    ("Connections a second", &[("8080", 15.0 / 300.0)], true),
    ("Attempts that failed", &[("refused", 5.0)], true),
    ("Share of attempts that failed", &[("", 0.25)], false),
    ("Connections that were cut off", &[("reset_received", 2.0)], true),
    ("Round trip time, 99th percentile", &[("", 0.08)], false),
    ("The server's think time, median", &[("", 0.002)], false),
    ("Share of segments that were sent again", &[("", 0.005)], false),
    ("What was sent again, and why", &[("syn", 4.0), ("fast", 6.0)], true),
    ("Top talkers", &[("10.1.2.3", 300_000.0 / 300.0)], true),
    ("Connections open now", &[("8080", 3.0)], false),
    ("Connections dropped because the accept queue was full", &[("80", 7.0)], true),
    ("Share of time held back by the peer's window", &[("", 60.0 / 300.0)], true),
];

/// Buckets are 9 % wide.
const BUCKET: f64 = 0.0905;

fn check(prometheus: &Prometheus, what: &str, (now, times): (u64, u64)) {
    let questions = questions("prometheus.md");
    assert_eq!(questions.len(), ANSWERS.len(), "{:?}", questions.keys());
    for (title, expected, grows) in ANSWERS {
        let query = &questions[title];
        // As if it were asked at once: it may have taken long until here.
        let answer = prometheus.query_at(query, now + 1_000_000_000);
        let answers = answer.as_array().expect("answers");
        assert_eq!(answers.len(), expected.len(), "{what}: {title}: {answer}");
        for (label, truth) in expected {
            let truth = if grows { truth * times as f64 } else { *truth };
            let labelled = answers.iter().find(|one| {
                let labels = one["metric"].as_object().expect("labels");
                label.is_empty() || labels.values().any(|value| value == label)
            });
            let labelled = labelled.unwrap_or_else(|| panic!("{what}: {title} {label}: {answer}"));
            let value: f64 = labelled["value"][1]
                .as_str()
                .expect("a number")
                .parse()
                .unwrap();
            let quantile = query.contains("quantile");
            let off = if quantile { BUCKET } else { OFF };
            assert!(
                (value - truth).abs() <= truth * off,
                "{what}: {title} {label} is {value} and not {truth}"
            );
        }
    }
}

#[test]
fn every_question_has_its_answer() {
    for feature in [
        None,
        Some("--enable-feature=created-timestamp-zero-ingestion"),
    ] {
        for case in ["fresh", "hours old", "restarted"] {
            let prometheus = Prometheus::start_with(PrometheusOptions {
                promote_resource_attributes: vec!["service.name".to_owned()],
                args: feature.into_iter().map(str::to_owned).collect(),
                ..Default::default()
            });
            let sent = send(&prometheus.otlp_endpoint(), case);
            check(&prometheus, &format!("{case} {feature:?}"), sent);
        }
    }
}

use proptest::prelude::*;

use super::*;
use crate::answer::{Books, ConnectionCounts, Connections, PeerCounts, Role};

const SECOND: u64 = 1_000_000_000;

fn answer(at: u64, peers: Vec<PeerCounts>) -> Answer {
    Answer {
        books: Books {
            at_unix_ns: at,
            source: "ebpf".to_owned(),
            live: peers.iter().map(|of| of.live).fold(0, u64::saturating_add),
            ..Books::default()
        },
        peers,
        ..Answer::default()
    }
}

fn peer(series: u64, name: &str) -> PeerCounts {
    PeerCounts {
        series,
        role: Role::Client,
        name: name.to_owned(),
        ..PeerCounts::default()
    }
}

fn key(name: &str) -> Key {
    peer(0, name).key()
}

fn row<'a>(merged: &'a Merged, name: &str) -> &'a Row {
    let found = merged.rows().values().find(|row| row.key.name == name);
    found.unwrap_or_else(|| panic!("no {name}"))
}

fn histogram(durations_ns: &[u64]) -> Histogram {
    let mut histogram = Histogram::default();
    durations_ns.iter().for_each(|ns| histogram.record(*ns));
    histogram
}

#[test]
fn rates_are_each_pods_own_added_up() {
    let mut merged = Merged::default();
    let counts = |series, opened, live, bytes_sent, failed, cut_off| PeerCounts {
        opened,
        live,
        bytes_sent,
        failed,
        cut_off,
        ..peer(series, "db:5432")
    };
    // The clocks of the pods, their series and their intervals differ.
    merged.take(
        "a",
        answer(1_000 * SECOND, vec![counts(1, 100, 1, 9_000, 0, 0)]),
    );
    merged.take("b", answer(77 * SECOND, vec![counts(9, 0, 2, 0, 0, 0)]));
    merged.refresh();
    assert_eq!(row(&merged, "db:5432").rates, Rates::default());
    merged.take(
        "a",
        answer(1_002 * SECOND, vec![counts(1, 106, 1, 13_000, 2, 2)]),
    );
    merged.take("b", answer(78 * SECOND, vec![counts(9, 5, 2, 100, 0, 1)]));
    merged.refresh();
    let found = row(&merged, "db:5432");
    // 6 in 2 s and 5 in 1 s; 4,000 bytes in 2 s and 100 in 1 s; (2 + 2) in 2 s and 1 in 1 s.
    assert_eq!(found.rates.opened, 8.0);
    assert_eq!(found.rates.bytes_sent, 2_100.0);
    assert_eq!(found.rates.failures, 3.0);
    assert_eq!(found.live, 3);
    let pods = [("a".to_owned(), 1), ("b".to_owned(), 2)];
    assert_eq!(found.sources, pods);
    assert_eq!((merged.rows().len(), merged.head().live), (1, 3));
    assert_eq!(merged.head().rates.opened, 8.0);
}

#[test]
fn peers_are_one_by_name_and_role() {
    let mut merged = Merged::default();
    let served = PeerCounts {
        role: Role::Server,
        ..peer(3, "db:5432")
    };
    // Two series of one pod may have one name: what was asked for, and the peer's own address.
    let peers = vec![peer(1, "db:5432"), peer(2, "db:5432"), served];
    merged.take("a", answer(SECOND, peers));
    merged.take("b", answer(SECOND, vec![peer(1, "cache:6379")]));
    merged.refresh();
    let rows = merged.rows().values();
    let found: Vec<_> = rows
        .map(|row| (row.key.to_string(), row.sources.len()))
        .collect();
    let expected = [
        ("client cache:6379", 1),
        ("client db:5432", 1),
        ("server db:5432", 1),
    ];
    for (name, pods) in expected {
        assert!(found.contains(&(name.to_owned(), pods)), "{found:?}");
    }
    assert_eq!(found.len(), 3);
}

#[test]
fn worst_that_holds_a_pod_back_is_shown() {
    let mut merged = Merged::default();
    let with = |data_retransmits, segments_sent| PeerCounts {
        data_retransmits,
        segments_sent,
        ..peer(1, "db:5432")
    };
    for pod in ["a", "b"] {
        merged.take(pod, answer(SECOND, vec![with(0, 0)]));
    }
    // Of all segments only 1 of 1,001 is sent again, and of pod b's one of two.
    merged.take("a", answer(2 * SECOND, vec![with(0, 1_000)]));
    merged.take("b", answer(2 * SECOND, vec![with(1, 2)]));
    merged.refresh();
    assert_eq!(row(&merged, "db:5432").held_back, HeldBack::Loss);
    merged.remove("b");
    merged.refresh();
    assert_eq!(row(&merged, "db:5432").held_back, HeldBack::Nothing);
}

#[test]
fn pod_that_ends_takes_its_figures_along() {
    let mut merged = Merged::default();
    merged.take("a", answer(SECOND, vec![peer(1, "db:5432")]));
    merged.take(
        "b",
        answer(SECOND, vec![peer(1, "db:5432"), peer(2, "cache:6379")]),
    );
    merged.refresh();
    let number = |merged: &Merged| merged.numbers[&key("db:5432")];
    let before = number(&merged);
    merged.remove("b");
    merged.refresh();
    assert_eq!((merged.count(), merged.rows().len()), (1, 1));
    assert_eq!(number(&merged), before);
    // One that appears later is new: its counts were not made in this second.
    let old = PeerCounts {
        opened: 500,
        ..peer(1, "db:5432")
    };
    merged.take("c", answer(9 * SECOND, vec![old]));
    merged.refresh();
    assert_eq!(row(&merged, "db:5432").rates.opened, 0.0);
}

#[test]
fn sparkline_has_a_bar_for_each_refresh() {
    let mut merged = Merged::default();
    let with = |durations: &[u64]| PeerCounts {
        rtt: histogram(durations),
        ..peer(1, "db:5432")
    };
    merged.take("a", answer(SECOND, vec![with(&[])]));
    merged.take("b", answer(SECOND, vec![with(&[])]));
    merged.refresh();
    merged.take("a", answer(2 * SECOND, vec![with(&[1_000_000])]));
    merged.take("b", answer(2 * SECOND, vec![with(&[8_000_000, 8_000_000])]));
    merged.refresh();
    // Nothing new: what was there counts once.
    merged.refresh();
    let bars = &row(&merged, "db:5432").rtt_p50_s;
    assert_eq!(bars.len(), 2);
    let median = bars[0].expect("round trips");
    assert!((0.007..=0.0088).contains(&median), "{median}");
    assert_eq!(bars[1], None);
}

#[test]
fn connections_are_those_of_the_opened_peer_with_their_pods() {
    let mut merged = Merged::default();
    let connection = |port: u16, bytes_sent| ConnectionCounts {
        bytes_sent,
        ..ConnectionCounts::unmeasured(
            port.into(),
            ([10, 0, 0, 1], port).into(),
            ([10, 0, 0, 2], 5432).into(),
        )
    };
    let with = |at, of: &str, all| {
        let mut answer = answer(at, vec![peer(1, "db:5432")]);
        answer.connections = Some(Connections {
            of: key(of).to_string(),
            all,
            left_out: 7,
            closed: Vec::new(),
        });
        answer
    };
    merged.take("a", with(SECOND, "db:5432", vec![connection(1, 10)]));
    merged.take("a", with(3 * SECOND, "db:5432", vec![connection(1, 1_010)]));
    // Its answer to an earlier question.
    merged.take("b", with(SECOND, "cache:6379", vec![connection(2, 0)]));
    merged.refresh();
    let (found, left_out) = merged.connections(&key("db:5432"));
    assert_eq!(left_out, 7);
    assert_eq!(found.len(), 1);
    let (pod, only) = found[0];
    assert_eq!((pod, only.counts.local.port(), only.sent), ("a", 1, 500.0));
}

#[test]
fn excessive_counts_stop_at_the_greatest_number() {
    let mut merged = Merged::default();
    let most = || PeerCounts {
        live: u64::MAX,
        bytes_sent: u64::MAX,
        bytes_received: u64::MAX,
        receive_window_limited_us: u64::MAX,
        rtt: Histogram::of_buckets(u64::MAX, [(-256, u64::MAX), (255, u64::MAX)]),
        ..peer(1, "db:5432")
    };
    for pod in ["a", "b"] {
        for at in [1, u64::MAX] {
            let mut answer = answer(at, vec![peer(1, "x:1"), most(), most()]);
            answer.peers[2].series = 2;
            answer.peers[0].series = at;
            merged.take(pod, answer);
        }
    }
    merged.refresh();
    assert_eq!(row(&merged, "db:5432").live, u64::MAX);
}

#[test]
fn sources_of_events_are_counted_where_they_differ() {
    let mut merged = Merged::default();
    for (pod, source) in [("a", "inet_diag"), ("b", "ebpf"), ("c", "ebpf")] {
        let mut answer = answer(SECOND, Vec::new());
        answer.books.source = source.to_owned();
        merged.take(pod, answer);
        merged.refresh();
        if pod == "a" {
            assert_eq!(merged.head().source(), "inet_diag");
        }
    }
    assert_eq!(merged.head().source(), "ebpf 2, inet_diag 1");
}

proptest! {
    /// As if one flowcar had seen the round trips of all pods.
    #[test]
    fn quantiles_are_those_of_all_pods_together(
        pods in proptest::collection::vec(
            // From 10 microseconds to a minute and a half.
            proptest::collection::vec(10_000_u64..90_000_000_000, 0..200),
            1..6,
        ),
    ) {
        let mut merged = Merged::default();
        for (number, durations) in pods.iter().enumerate() {
            let with = |rtt| PeerCounts { rtt, ..peer(number as u64, "db:5432") };
            let pod = number.to_string();
            merged.take(&pod, answer(SECOND, vec![with(Histogram::default())]));
            merged.take(&pod, answer(2 * SECOND, vec![with(histogram(durations))]));
        }
        merged.refresh();
        let found = row(&merged, "db:5432");
        let mut all = pods.concat();
        all.sort_unstable();
        prop_assert_eq!(found.recent.rtt.count(), all.len() as u64);
        let together = histogram(&all);
        let counted = |of: &Histogram| -> Vec<_> { of.buckets().filter(|(_, count)| *count > 0).collect() };
        prop_assert_eq!(counted(&found.recent.rtt), counted(&together));
        prop_assert_eq!(counted(&found.total.rtt), counted(&together));
        for (q, percent) in [(0.5, 50), (0.99, 99)] {
            let Some(value) = found.recent.rtt.quantile_s(q) else {
                prop_assert!(all.is_empty());
                continue;
            };
            let rank = (all.len() * percent).div_ceil(100);
            let expected = all[rank - 1] as f64 / 1e9;
            // A bucket is 9.05 % wide.
            prop_assert!((value / expected).ln().abs() <= 0.0867, "{} {} {}", q, value, expected);
        }
    }
}

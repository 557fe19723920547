//! Memory is bounded: series of a million peers, and spans of ten minutes without a receiver.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use flowcar::{
    clock::Anchor,
    config::Config,
    flow::{
        Change, CloseReason, Flow, Monotonic, Outcome, Retransmits, Role, RttKind, TraceIdentity,
        Volume,
    },
    histogram::Histogram,
    otlp::exporter::Exporter,
    series::{PeerLabel, SeriesLabels, SeriesSet, take_off_live},
    snapshot::{Peer, Series, SeriesKey},
};

/// Memory is the process's: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Anonymous resident memory of this process, bytes (proc_pid_status(5)).
fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a /proc");
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    1024 * kib.and_then(|kib| kib.parse::<u64>().ok()).expect("a size")
}

fn flow(number: u32, peer: SocketAddr) -> Flow {
    let mut rtt = Histogram::default();
    rtt.record(5_000_000);
    Flow {
        cookie: number.into(),
        role: Role::Server,
        local: "10.0.0.1:8080".parse().expect("an address"),
        peer,
        trace: TraceIdentity::of_handshake(number, 7, Role::Server),
        started: Monotonic(1_000),
        established: Some(Monotonic(1_000)),
        seen: Monotonic(2_000_000),
        volume: Volume {
            bytes_sent: 100 + u64::from(number % 7),
            bytes_received: 10,
            segments_sent: 4,
            segments_received: 4,
            retransmits: Retransmits::default(),
        },
        rtt,
        rtt_kind: RttKind::Measured,
        exchanges: Histogram::default(),
        asked: None,
        name: None,
        origin: Default::default(),
        start_seen: true,
        polled: false,
        adopted: None,
        socket: None,
        outcome: Some(Outcome::Closed(CloseReason::PeerFin)),
        reset_after_fin: false,
        series: None,
    }
}

#[test]
fn million_peers_fit_2000_series_without_losing_bytes() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut series = SeriesSet::new(SeriesLabels {
        peer: PeerLabel::Address,
        ports: true,
        limit: 2_000,
    });
    let (mut sent, mut received) = (0, 0);
    let mut after_the_bound = 0;
    for number in 0..1_000_000u32 {
        let peer = (Ipv4Addr::from_bits(0x0b00_0000 + number), 40_000).into();
        let now = flow(number, peer);
        sent += now.volume.bytes_sent;
        received += now.volume.bytes_received;
        series.apply(&Change::new(now, false));
        if number == 10_000 {
            after_the_bound = anonymous();
        }
    }
    let grown = anonymous().saturating_sub(after_the_bound);
    assert!(
        grown < 1 << 20,
        "{grown} bytes more after 990,000 more peers"
    );
    // The bound, and the overflow series.
    assert_eq!(series.all().len(), 2_001);
    let sum = |pick: fn(&Series) -> u64| series.all().map(|(_, one)| pick(one)).sum::<u64>();
    assert_eq!(sum(|series| series.volume.bytes_sent), sent);
    assert_eq!(sum(|series| series.volume.bytes_received), received);
    assert_eq!(sum(|series| series.closed.values().sum()), 1_000_000);
    assert_eq!(
        sum(|series| series.rtt.values().map(Histogram::count).sum()),
        1_000_000
    );
}

/// Peers come and go for days: a new series replaces an idle one, and the sum of the increases of all reports has every
/// byte.
#[test]
fn idle_series_are_replaced_without_losing_bytes() {
    const HOUR: u64 = 3_600_000_000_000;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut series = SeriesSet::new(SeriesLabels {
        peer: PeerLabel::Address,
        ports: true,
        limit: 2_000,
    });
    let (mut sent, mut increases, mut last) = (0, 0, BTreeMap::new());
    let mut resident = Vec::new();
    for round in 1..=20_u32 {
        for number in 0..900 {
            let peer = (
                Ipv4Addr::from_bits(0x0b00_0000 + round * 10_000 + number),
                40_000,
            )
                .into();
            let now = flow(number, peer);
            sent += now.volume.bytes_sent;
            series.apply(&Change::new(now, false));
        }
        let at = u64::from(round) * HOUR;
        series.drop_idle(at - HOUR);
        let report = series.report(at);
        assert!(report.len() <= 2_000, "{} series", report.len());
        assert!(!report.contains_key(&SeriesKey::Overflow), "there is room");
        increases += report
            .iter()
            .map(|(key, now)| {
                let before = last
                    .get(key)
                    .filter(|(since, _)| *since == now.since_unix_ns);
                now.volume.bytes_sent - before.map_or(0, |(_, before)| *before)
            })
            .sum::<u64>();
        let kept = report.into_iter();
        last = kept
            .map(|(key, now)| (key, (now.since_unix_ns, now.volume.bytes_sent)))
            .collect();
        resident.push(anonymous());
    }
    assert_eq!(increases, sent);
    let grown = resident[19].saturating_sub(resident[4]);
    assert!(grown < 1 << 20, "{grown} bytes more after 15 more hours");
    let dropped = series.dropped();
    assert_eq!((dropped.began, dropped.closed), (19 * 900, 19 * 900));
}

/// A series with an open connection is never idle; nor is one that the receiver does not have.
#[test]
fn series_stays_while_open_or_unacknowledged() {
    let peer = "10.1.2.3:40000".parse().expect("an address");
    let open = Flow {
        outcome: None,
        ..flow(1, peer)
    };
    let mut series = SeriesSet::new(SeriesLabels {
        peer: PeerLabel::Address,
        ports: true,
        limit: 10,
    });
    let change = |before: Option<&Flow>, now: &Flow, listed| Change {
        before: before.cloned(),
        ..Change::new(now.clone(), listed)
    };
    series.apply(&change(None, &open, true));
    series.report(100);
    series.drop_idle(1_000);
    assert_eq!(series.len(), 1, "a connection is open");
    series.apply(&change(Some(&open), &flow(1, peer), false));
    series.drop_idle(1_000);
    assert_eq!(series.len(), 1, "it was never reported as closed");
    series.report(2_000);
    series.drop_idle(1_999);
    assert_eq!(
        series.len(),
        1,
        "the receiver does not have the last report"
    );
    series.drop_idle(2_000);
    assert!(series.is_empty());
}

/// A flow that opened in the overflow series closes there, even if a series has become free.
#[test]
fn flow_closes_in_the_series_it_opened_in() {
    let peer = |octet: u8| SocketAddr::from(([10, 0, 0, octet], 40_000));
    let open = |octet: u8| Flow {
        outcome: None,
        ..flow(octet.into(), peer(octet))
    };
    let mut series = SeriesSet::new(SeriesLabels {
        peer: PeerLabel::Address,
        ports: true,
        limit: 1,
    });
    series.apply(&Change::new(flow(1, peer(1)), false));
    let overflow = series.apply(&Change::new(open(2), true));
    series.report(100);
    series.drop_idle(100);
    assert_eq!(series.len(), 1, "the overflow has a connection");
    let closed = Flow {
        series: overflow,
        ..flow(2, peer(2))
    };
    assert_eq!(series.apply(&Change::close(open(2), closed)), overflow);
    let all = series.report(200);
    let overflow = &all[&SeriesKey::Overflow];
    assert_eq!((overflow.opened, overflow.live), (1, 0));
    assert_eq!(all.len(), 1);
    series.drop_idle(200);
    series.apply(&Change::new(open(2), true));
    let named = series.all().filter(|(key, _)| **key != SeriesKey::Overflow);
    assert_eq!(named.count(), 1, "the next one has a series");
}

/// Unidentified lost connections are subtracted from the live counts in proportion, and never below 0.
#[test]
fn unattributed_losses_reduce_live_counts_by_share() {
    let series = |lives: &[u64]| -> BTreeMap<SeriesKey, Series> {
        let ports = (1_u16..).zip(lives);
        let all = ports.map(|(port, live)| {
            let key = SeriesKey::Flows {
                container: None,
                role: Role::Server,
                peer: Peer::Unnamed,
                server_port: Some(port),
            };
            let series = Series {
                live: *live,
                ..Series::default()
            };
            (key, series)
        });
        all.collect()
    };
    let rows: [(&[u64], u64, &[u64]); 6] = [
        (&[], 3, &[]),
        (&[5, 3], 0, &[5, 3]),
        (&[60, 30, 10], 10, &[54, 27, 9]),
        (&[1, 1, 1], 2, &[0, 0, 1]),
        (&[4, 0, 2], 9, &[0, 0, 0]),
        (&[u64::MAX / 2, 1], u64::MAX / 2, &[0, 1]),
    ];
    for (lives, count, expected) in rows {
        let mut all = series(lives);
        take_off_live(&mut all, count);
        let now: Vec<_> = all.values().map(|series| series.live).collect();
        assert_eq!(now, expected, "{lives:?} {count}");
    }
}

/// In virtual time, over a closed port: 600,000 connections, with a back-off after each failed export.
#[test]
fn ten_minutes_without_receiver_use_bounded_memory() {
    const BOUND: u64 = 2 << 20;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // No other test listens on this address.
    let listener = std::net::TcpListener::bind("127.0.0.79:0").expect("a free port");
    let address = listener.local_addr().expect("its address");
    drop(listener);
    let vars = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}")),
        ("OTEL_METRICS_EXPORTER", "none".to_owned()),
        ("FLOWCAR_SPAN_QUEUE", "100000".to_owned()),
        ("FLOWCAR_SPAN_QUEUE_BYTES", BOUND.to_string()),
    ];
    let vars = vars.map(|(name, value)| (name.to_owned(), value));
    let config = Config::from_vars(vars).expect("good settings");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut exporter = Exporter::start(&config, "ebpf", None).expect("an endpoint");
        let anchor = Anchor::new(Monotonic(0), 1_700_000_000_000_000_000);
        let mut warm = 0;
        let mut number = 0;
        for tick in 0..6_000 {
            for _ in 0..100 {
                number += 1;
                let peer = ([10, 0, 0, 2], 40_000).into();
                exporter.flow(&flow(number, peer), &anchor);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            let self_metrics = exporter.self_metrics();
            assert!(
                self_metrics.span_queue.bytes <= BOUND,
                "{}",
                self_metrics.span_queue.bytes
            );
            if tick == 600 {
                warm = anonymous();
            }
        }
        let self_metrics = exporter.self_metrics();
        assert!(
            self_metrics.exports[&("traces", "failure")] > 10,
            "{:?}",
            self_metrics.exports
        );
        let dropped: u64 = self_metrics.spans_dropped.values().sum();
        assert_eq!(
            dropped + self_metrics.span_queue.items,
            u64::from(number),
            "{:?}",
            self_metrics.spans_dropped
        );
        let grown = anonymous().saturating_sub(warm);
        assert!(grown < 4 << 20, "{grown} bytes more in nine minutes more");
    });
}

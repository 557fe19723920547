use super::*;

fn times(ns: u64, count: usize) -> Histogram {
    let mut histogram = Histogram::default();
    (0..count).for_each(|_| histogram.record(ns));
    histogram
}

/// 5 connections of ten fast exchanges each.
fn healthy() -> PeerSum {
    PeerSum {
        connections: 5,
        segments_sent: 1_000,
        connect: times(60_000, 5),
        rtt: times(50_000, 60),
        least_rtt: times(40_000, 5),
        exchanges: times(1_000_000, 50),
        polled: 5,
        lifetime_us: 10_000_000,
        ..PeerSum::default()
    }
}

fn ask(peers: &[PeerSum], sums: &Sums, queue: Option<Queue>) -> Vec<Finding> {
    let peers = peers.iter().enumerate();
    let peers: Vec<_> = peers
        .map(|(at, peer)| (format!("peer{at}"), peer.clone()))
        .collect();
    let queues = queue.map(|queue| (Some(80), queue)).into_iter().collect();
    findings(&Facts {
        peers: &peers,
        queues: &queues,
        sums,
        exchanges: true,
        handshakes: true,
    })
}

#[test]
fn each_fault_is_an_alarm_that_names_its_peer_and_its_cause() {
    let reset = BTreeMap::from([("reset_received", 3)]);
    let refused = BTreeMap::from([("refused", 4)]);
    let cases: [(&str, &str, PeerSum); 9] = [
        (
            "Which peer is slow?",
            "It is the server",
            PeerSum {
                exchanges: times(200_000_000, 50),
                ..healthy()
            },
        ),
        (
            "Which peer is slow?",
            "It is the network",
            PeerSum {
                exchanges: times(90_000_000, 50),
                rtt: times(80_000_000, 50),
                least_rtt: times(80_000_000, 5),
                ..healthy()
            },
        ),
        (
            "What fails to connect, and why?",
            "4 of 14 attempts failed. Most of them to peer1: 4 refused.",
            PeerSum {
                failed: refused,
                ..healthy()
            },
        ),
        (
            "How long does connecting take?",
            "2 SYNs or SYN-ACKs were sent again",
            PeerSum {
                connect: times(1_030_000_000, 5),
                handshake_retransmits: 2,
                ..healthy()
            },
        ),
        (
            "Who resets us?",
            "3 reset_received, of 5 connections",
            PeerSum {
                cut_off: reset,
                ..healthy()
            },
        ),
        (
            "Does the path lose packets?",
            "50 of 1000 segments",
            PeerSum {
                data_retransmits: 50,
                ..healthy()
            },
        ),
        (
            "Is the pool reused?",
            "50 exchanges on 40 connections. The pool is not reused",
            PeerSum {
                connections: 40,
                ..healthy()
            },
        ),
        (
            "What holds it back?",
            "40 % of its time by the peer's window",
            PeerSum {
                window_limited_us: 4_000_000,
                ..healthy()
            },
        ),
        (
            "Are there local ports left?",
            "20000 of 28232",
            PeerSum {
                time_wait: 20_000,
                connections: 20_000,
                exchanges: times(1_000_000, 90_000),
                ..healthy()
            },
        ),
    ];
    for (question, expected, faulty) in cases {
        let found = ask(&[healthy(), faulty], &Sums::default(), None);
        let alarms: Vec<_> = found
            .iter()
            .filter(|of| of.weight == Weight::Alarm)
            .collect();
        let [alarm] = alarms[..] else {
            panic!("{question}: {alarms:?}");
        };
        assert_eq!((alarm.question, alarm.peer), (question, Some(1)));
        assert!(
            alarm.text.contains(expected) && alarm.text.contains("peer1"),
            "{alarm:?}"
        );
    }
}

#[test]
fn full_queue_and_lost_connections_are_alarms() {
    let queue = Queue {
        longest: 2,
        capacity: 1,
        drops: 7,
    };
    let sums = Sums {
        opened: 3,
        closed: 1,
        lost: BTreeMap::from([("ring_full".to_owned(), 2)]),
        ..Sums::default()
    };
    let found = ask(&[healthy()], &sums, Some(queue));
    let alarms = found.iter().filter(|of| of.weight == Weight::Alarm);
    let texts: Vec<_> = alarms.map(|alarm| alarm.text.as_str()).collect();
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(
        texts[0].starts_with(":80: 2 of 1 connections waited at most, 7 SYNs"),
        "{texts:?}"
    );
    assert!(texts[1].ends_with("2 ring_full."), "{texts:?}");
}

#[test]
fn nothing_stands_out_of_healthy_peers_and_of_none() {
    for peers in [&[][..], &[healthy()], &[healthy(), healthy()]] {
        let queue = Queue {
            longest: 1,
            capacity: 128,
            drops: 0,
        };
        let found = ask(peers, &Sums::default(), Some(queue));
        assert_eq!(found.len(), 13);
        assert!(
            found.iter().all(|of| of.weight >= Weight::Fine),
            "{found:?}"
        );
        assert!(found.iter().all(|of| of.text.len() > 5));
    }
}

#[test]
fn slow_tail_is_an_alarm_although_the_median_is_fast() {
    let mut tail = healthy();
    tail.exchanges.merge(&times(900_000_000, 2));
    let found = ask(&[healthy(), tail], &Sums::default(), None);
    assert_eq!((found[0].weight, found[0].peer), (Weight::Alarm, Some(1)));
    assert!(found[0].text.contains("slow at times"), "{found:?}");
}

use super::{
    super::peers::{AddressSum, ProcessSum, Span},
    *,
};

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
        halves: &[],
        queues: &queues,
        sums,
        exchanges: true,
        handshakes: true,
        is_delivered: None,
        cost: Cost::default(),
        took_ns: 2_000_000_000,
    })
}

/// The weight and the text of a question's answer.
fn answer(question: &str, facts: &Facts<'_>) -> (Weight, String) {
    let found = findings(facts);
    let found = found.iter().find(|of| of.question == question);
    let found = found.expect("the question");
    (found.weight, found.text.clone())
}

fn address(connections: u64, used: Option<Span>) -> AddressSum {
    AddressSum { connections, used }
}

/// Processes by their numbers, each with so many answers of this time.
fn processes(all: &[(u32, usize, u64)]) -> BTreeMap<u32, ProcessSum> {
    let each = all.iter().map(|(pid, count, ns)| {
        let sum = ProcessSum {
            name: Some("worker".to_owned()),
            connections: 5,
            used: None,
            failures: 0,
            rtt: times(50_000, *count),
            exchanges: times(*ns, *count),
        };
        (*pid, sum)
    });
    each.collect()
}

#[test]
fn each_fault_is_an_alarm_that_names_its_peer_and_its_cause() {
    let reset = BTreeMap::from([("reset_received", 3)]);
    let refused = BTreeMap::from([("refused", 4)]);
    let cases: [(&str, &str, PeerSum); 11] = [
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
            "Is it one process or all of them?",
            "Of 3 processes that ask peer1, worker (8) alone is slow: half of its answers take 120ms",
            PeerSum {
                processes: processes(&[
                    (7, 10, 1_000_000),
                    (8, 10, 120_000_000),
                    (9, 10, 2_000_000),
                ]),
                ..healthy()
            },
        ),
        (
            "Is the load even?",
            "peer1: 100 connections over 2 addresses. The most, 90, are to 10.0.0.2, the fewest, 10, to 10.0.0.1",
            PeerSum {
                addresses: [
                    ([10, 0, 0, 1].into(), address(10, None)),
                    ([10, 0, 0, 2].into(), address(90, None)),
                ]
                .into(),
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
        assert_eq!(found.len(), 18);
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

#[test]
fn what_all_processes_and_addresses_have_in_common_is_no_fault() {
    let slow = |all| PeerSum {
        processes: processes(all),
        ..healthy()
    };
    let spread = |all: &[([u8; 16], u64)]| PeerSum {
        addresses: all
            .iter()
            .map(|(ip, count)| {
                let ip = std::net::IpAddr::from(*ip).to_canonical();
                (ip, address(*count, None))
            })
            .collect(),
        ..healthy()
    };
    let v6 = |last| {
        let mut ip = [0; 16];
        (ip[0], ip[15]) = (0xfd, last);
        ip
    };
    let mut v4 = [0; 16];
    (v4[10], v4[11], v4[15]) = (0xff, 0xff, 9);
    for (question, peer, expected) in [
        (
            "Is it one process or all of them?",
            healthy(),
            "No connection's process is known.",
        ),
        (
            "Is it one process or all of them?",
            slow(&[(7, 10, 9_000_000_000)]),
            "worker (7) is the only process that is known.",
        ),
        // Both of them, one that has hardly asked, and one that is fast all the same.
        (
            "Is it one process or all of them?",
            slow(&[(7, 10, 90_000_000), (8, 10, 120_000_000)]),
            "worker (8) is the slowest",
        ),
        (
            "Is it one process or all of them?",
            slow(&[(7, 10, 1_000_000), (8, 4, 120_000_000)]),
            "No two processes",
        ),
        (
            "Is it one process or all of them?",
            slow(&[(7, 10, 1_000_000), (8, 10, 9_000_000)]),
            "worker (8) is the slowest",
        ),
        (
            "Is the load even?",
            healthy(),
            "No name stood for two addresses",
        ),
        (
            "Is the load even?",
            spread(&[(v6(1), 48), (v6(2), 52)]),
            "100 connections over 2 addresses",
        ),
        // By chance.
        (
            "Is the load even?",
            spread(&[(v6(1), 3), (v6(2), 9)]),
            "12 connections over 2 addresses",
        ),
        // A client prefers one family.
        (
            "Is the load even?",
            spread(&[(v6(1), 100), (v4, 2)]),
            "No name stood for two addresses",
        ),
    ] {
        let found = ask(&[peer], &Sums::default(), None);
        let found = found.iter().find(|of| of.question == question);
        let found = found.expect("the question");
        assert!(found.weight >= Weight::Fine, "{expected}: {found:?}");
        assert!(found.text.contains(expected), "{expected}: {found:?}");
    }
}

/// A name whose address changes, and a server that is started again, leave no choice.
#[test]
fn load_is_compared_between_what_was_in_use_at_the_same_time() {
    for (spans, is_alarm) in [
        ([(0, 100), (0, 100)], true),
        ([(0, 100), (40, 60)], true),
        ([(0, 100), (95, 200)], false),
        ([(0, 100), (101, 200)], false),
        ([(150, 200), (0, 100)], false),
        ([(7, 7), (7, 7)], true),
    ] {
        let [first, second] = spans.map(|(first_ns, last_ns)| Span { first_ns, last_ns });
        let addresses = [
            ([10, 0, 0, 1].into(), address(10, Some(first))),
            ([10, 0, 0, 2].into(), address(90, Some(second))),
        ];
        let peer = PeerSum {
            addresses: addresses.into(),
            ..healthy()
        };
        let found = ask(&[peer], &Sums::default(), None);
        let found = found.iter().find(|of| of.question == "Is the load even?");
        let found = found.expect("the question");
        assert_eq!(found.weight == Weight::Alarm, is_alarm, "{found:?}");
        let end = if is_alarm {
            "The load is not even."
        } else {
            "They were not in use at the same time."
        };
        assert!(found.text.ends_with(end), "{found:?}");
    }
}

#[test]
fn port_that_processes_serve_unevenly_is_an_alarm() {
    let mut server = healthy();
    (server.is_server, server.processes) =
        (true, processes(&[(7, 10, 1_000_000), (8, 10, 1_000_000)]));
    server.processes.entry(7).or_default().connections = 95;
    let found = ask(&[server], &Sums::default(), None);
    let alarms: Vec<_> = found
        .iter()
        .filter(|of| of.weight == Weight::Alarm)
        .collect();
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    let expected = "peer0: 100 connections over 2 processes. The most, 95, are to worker (7), the fewest, 5, to worker (8). The load is not even.";
    assert_eq!(alarms[0].text, expected);
}

#[test]
fn peer_that_became_slower_is_an_alarm_and_flowcars_own_faults_are_shown() {
    let peers = [
        ("fast".to_owned(), healthy()),
        ("slow".to_owned(), healthy()),
    ];
    let even = [times(9_000_000, 20), times(9_000_000, 20)];
    let slower = [times(9_000_000, 20), times(90_000_000, 20)];
    let question = "Is it slower than it was?";
    let halves = [Some(even.clone()), Some(slower)];
    let cases = [
        ([Some(even.clone()), None], Weight::Fine),
        (
            [None, Some([times(9_000_000, 20), times(90_000_000, 9)])],
            Weight::Unknown,
        ),
        // Ten times as long, and no time that anybody waits for.
        (
            [None, Some([times(90_000, 20), times(900_000, 20)])],
            Weight::Fine,
        ),
    ];
    let (sums, queues) = (Sums::default(), BTreeMap::new());
    let facts = |halves| Facts {
        peers: &peers,
        halves,
        queues: &queues,
        sums: &sums,
        exchanges: true,
        handshakes: true,
        is_delivered: Some(true),
        cost: Cost::default(),
        took_ns: 2_000_000_000,
    };
    let (weight, text) = answer(question, &facts(&halves));
    assert_eq!(weight, Weight::Alarm, "{text}");
    assert!(
        text.starts_with("slow: half of its answers took about 9.") && text.contains(" and 9"),
        "{text}"
    );
    for (halves, expected) in &cases {
        let (weight, text) = answer(question, &facts(halves));
        assert_eq!(weight, *expected, "{text}");
    }

    let refused = Facts {
        is_delivered: Some(false),
        ..facts(&[])
    };
    assert_eq!(answer("Does flowcar deliver?", &refused).0, Weight::Alarm);
    assert_eq!(answer("Does flowcar deliver?", &facts(&[])).0, Weight::Fine);
    let cost = |cpu_ms, command_ms| Facts {
        cost: Cost {
            cpu: Duration::from_millis(cpu_ms),
            command_cpu: Duration::from_millis(command_ms),
            memory: 12_300_000,
        },
        ..facts(&[])
    };
    for (cpu_ms, command_ms, expected) in [
        (20, 10, Weight::Fine),
        (400, 9_000, Weight::Fine),
        (400, 900, Weight::Note),
    ] {
        let (weight, text) = answer("What does flowcar cost?", &cost(cpu_ms, command_ms));
        assert_eq!(weight, expected, "{text}");
    }
    let (_, text) = answer("What does flowcar cost?", &cost(400, 900));
    assert!(text.starts_with("flowcar took 400ms of CPU time in 2.00s, 20.0 % of one processor, and had 12.3MB of memory. The command took 900ms"), "{text}");
}

#[test]
fn process_that_alone_fails_is_an_alarm() {
    let question = "Is it one process or all of them?";
    for (failures, expected) in [
        (
            [0, 4, 0],
            Some("Of 3 processes that ask peer0, worker (8) alone fails: 4 of its attempts"),
        ),
        ([0, 2, 0], None),
        ([4, 4, 0], None),
        ([4, 4, 4], None),
    ] {
        let mut peer = healthy();
        peer.processes = processes(&[(7, 10, 1_000_000), (8, 10, 1_000_000), (9, 10, 1_000_000)]);
        for (process, failures) in peer.processes.values_mut().zip(failures) {
            process.failures = failures;
        }
        let found = ask(&[peer], &Sums::default(), None);
        let found = found.iter().find(|of| of.question == question);
        let found = found.expect("the question");
        assert_eq!(
            found.weight == Weight::Alarm,
            expected.is_some(),
            "{failures:?}: {found:?}"
        );
        assert!(
            found.text.contains(expected.unwrap_or("Of 3 processes")),
            "{found:?}"
        );
        if expected.is_some() {
            assert_eq!((found.peer, found.process), (Some(0), Some(8)));
        }
    }
}

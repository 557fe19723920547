use proptest::prelude::*;

use super::*;
use crate::{
    answer::{ConnectionCounts, Key, RetransmitCounts, Role, RttSum},
    histogram::Histogram,
};

fn peer(series: u64, bytes_sent: u64) -> PeerCounts {
    let mut rtt = Histogram::default();
    rtt.record(3_000_000);
    rtt.record(1);
    let (zero, first) = (rtt.zero_count(), rtt.buckets().next());
    PeerCounts {
        series,
        role: Role::Client,
        name: format!("api-{series}.example.com:443"),
        bytes_sent,
        // As it is after it was sent: without sum and extremes.
        rtt: Histogram::of_buckets(zero, first),
        ..PeerCounts::default()
    }
}

fn by_type(tail_loss_probe: u64) -> RetransmitCounts {
    RetransmitCounts {
        tail_loss_probe,
        unknown: 1,
        ..RetransmitCounts::default()
    }
}

fn answer(peers: Vec<PeerCounts>) -> Answer {
    Answer {
        peers,
        ..Answer::default()
    }
}

#[test]
fn answers_are_the_same_after_they_were_sent() {
    let (mut writer, mut reader) = (Writer::default(), Reader::default());
    let mut first = answer(vec![peer(1, 10), peer(2, 20)]);
    first.peers[0].retransmits_by_type = Some(by_type(12));
    first.books = Books {
        at_unix_ns: u64::MAX,
        source: "ebpf".to_owned(),
        opened: 9,
        lost: BTreeMap::from([("restart".to_owned(), 3)]),
        ..Books::default()
    };
    first.connections = Some(Connections {
        of: peer(1, 0).key().to_string(),
        all: vec![ConnectionCounts {
            cookie: u64::MAX,
            local: "10.0.0.1:4000".parse().expect("an address"),
            peer: "[2001:db8::1]:443".parse().expect("an address"),
            duration_ns: Some(5),
            bytes_sent: 1,
            bytes_received: 2,
            segments_sent: 3,
            retransmits: 4,
            retransmits_by_type: Some(by_type(4)),
            receive_window_limited_us: 5,
            send_buffer_limited_us: 6,
            rtt_p50_ns: None,
            rtt_p99_ns: Some(7),
            rtt_sum: Some(RttSum {
                count: 1,
                sum_ns: 7,
            }),
            exchange_p99_ns: Some(8),
            process: Some("curl 4711".to_owned()),
        }],
        closed: vec![ClosedCounts {
            cookie: 9,
            reason: "peer_fin".to_owned(),
            duration_ns: Some(10),
            retransmits: by_type(11),
            ..ClosedCounts::default()
        }],
        left_out: 2,
    });
    for answer in [
        first,
        answer(vec![peer(1, 11), peer(2, 20)]),
        answer(vec![peer(2, 20), peer(3, 1)]),
        answer(Vec::new()),
    ] {
        let line = writer.answer(answer.clone());
        assert!(!line.contains('\n'));
        assert_eq!(reader.read(line.as_bytes()), Ok(answer), "{line}");
    }
}

#[test]
fn line_of_an_older_flowcar_has_no_types_and_no_closes() {
    let old = r#"{"protocol":"flowcar-top/1","left_out":0,
        "books":{"at_unix_ns":1,"source":"ebpf","opened":1,"closed":0,"live":1,"failed":0,"lost":{}},
        "peers":[{"series":1,"role":"client","name":"db:5432","opened":1,"live":1,"cut_off":0,"failed":0,"bytes_sent":0,
            "bytes_received":0,"segments_sent":9,"handshake_retransmits":2,"data_retransmits":3,"receive_window_limited_us":0,
            "send_buffer_limited_us":0,"connect":{"zero":0,"first":0,"counts":[]},"rtt":{"zero":0,"first":0,"counts":[]},
            "exchange":{"zero":0,"first":0,"counts":[]}}],
        "connections":{"of":"client db:5432","left_out":0,"all":[{"cookie":7,"local":"10.0.0.1:4000","peer":"10.0.0.2:5432",
            "duration_ns":5,"bytes_sent":0,"bytes_received":0,"segments_sent":9,"retransmits":5,"receive_window_limited_us":0,
            "send_buffer_limited_us":0,"rtt_p50_ns":null,"rtt_p99_ns":null,"exchange_p99_ns":null}]}}"#;
    let answer = Reader::default().read(old.as_bytes()).expect("an answer");
    let peer = &answer.peers[0];
    assert_eq!((peer.retransmits(), peer.retransmits_by_type), (5, None));
    let connections = answer.connections.expect("connections");
    let only = &connections.all[0];
    assert_eq!(
        (only.retransmits, only.retransmits_by_type, only.rtt_sum),
        (5, None, None)
    );
    assert!(connections.closed.is_empty());
    // A later one may know more types, or fewer.
    let types = r#""data_retransmits":3,"retransmits_by_type":{"fast":4,"rack":9},"#;
    let new = old.replacen(r#""data_retransmits":3,"#, types, 1);
    let answer = Reader::default().read(new.as_bytes()).expect("an answer");
    let fast = RetransmitCounts {
        fast: 4,
        ..RetransmitCounts::default()
    };
    assert_eq!(answer.peers[0].retransmits_by_type, Some(fast));
    let beyond = new.replacen(r#""fast":4"#, r#""fast":9999999999999999"#, 1);
    let read = Reader::default().read(beyond.as_bytes());
    assert_eq!(
        read,
        Err(LineError::Damaged("a count is beyond all bounds"))
    );
}

#[test]
fn closes_are_bounded_and_their_reasons_printable() {
    let with = |count: u64| {
        let close = |cookie| ClosedCounts {
            cookie,
            reason: "peer\u{1b}[31mfin".to_owned(),
            ..ClosedCounts::default()
        };
        let line = Writer::default().answer(Answer {
            connections: Some(Connections {
                closed: (0..count).map(close).collect(),
                ..Connections::default()
            }),
            ..Answer::default()
        });
        let read = Reader::default().read(line.as_bytes()).expect("an answer");
        read.connections.expect("connections").closed
    };
    let most = MOST_CLOSED as u64;
    for (count, first) in [(1, 0), (most, 0), (most + 3, 3)] {
        let closed = with(count);
        assert_eq!(closed[0].reason, "peer?[31mfin");
        // The newest are last.
        assert_eq!(
            (closed[0].cookie, closed.len() as u64),
            (first, count - first)
        );
    }
}

#[test]
fn line_has_only_what_changed() {
    let mut writer = Writer::default();
    writer.answer(answer((0..100).map(|series| peer(series, 0)).collect()));
    let peers = (1..100).map(|series| peer(series, u64::from(series == 7)));
    let line = writer.answer(answer(peers.collect()));
    assert_eq!(line.matches("\"series\":").count(), 1, "{line}");
    assert!(line.contains("\"dropped\":[0]"), "{line}");
}

#[test]
fn peers_beyond_the_bound_are_counted() {
    let peers = (0..MOST_PEERS as u64 + 5).map(|series| peer(series, series));
    let line = Writer::default().answer(answer(peers.collect()));
    let read = Reader::default().read(line.as_bytes()).expect("an answer");
    assert_eq!((read.peers.len(), read.left_out), (MOST_PEERS, 5));
    // Those without bytes.
    assert!(read.peers.iter().all(|peer| peer.series >= 5));
}

#[test]
fn error_is_passed_on_in_one_printable_line() {
    let line = Writer::error("nobody\nanswers \u{1b}[31m\u{202e}");
    let why = Reader::default().read(line.as_bytes());
    let expected = LineError::Refused("nobody?answers ?[31m?".to_owned());
    assert_eq!(why, Err(expected));
}

/// A line of which a part is replaced.
fn with(from: &str, to: &str) -> String {
    let line = Writer::default().answer(answer(vec![peer(1, 0)]));
    assert!(line.contains(from), "{from} in {line}");
    line.replacen(from, to, 1)
}

#[test]
fn line_of_another_version_is_named() {
    let read = |line: String| Reader::default().read(line.as_bytes());
    let later = read(with("flowcar-top/1", "flowcar-top/2\\u001b"));
    assert_eq!(later, Err(LineError::Version("flowcar-top/2?".to_owned())));
    let other = r#"{"protocol":"flowcar-top/2","peers":7}"#.to_owned();
    assert!(matches!(read(other), Err(LineError::Version(_))));
    // What a later version of this form adds is no error.
    let more = read(with("\"series\":", "\"new\":[1],\"series\":"));
    assert!(more.is_ok(), "{more:?}");
    let role = read(with("\"client\"", "\"proxy\"")).expect("an answer");
    assert_eq!(role.peers[0].role, Role::Unknown);
}

#[test]
fn damaged_and_excessive_lines_are_errors() {
    let counts = vec!["1"; 600].join(",");
    for line in [
        String::new(),
        "no JSON".to_owned(),
        "{}".to_owned(),
        "[]".to_owned(),
        format!("{{\"protocol\":\"{PROTOCOL}\"}}"),
        with("\"live\":0", "\"live\":-1"),
        with("\"live\":0,\"cut", "\"live\":9999999999999999,\"cut"),
        with("\"series\":1,", ""),
        with("\"zero\":0,\"first\":0", "\"zero\":0,\"first\":2147483647"),
        with(
            "\"zero\":0,\"first\":0,\"counts\":[]",
            &format!("\"zero\":0,\"first\":0,\"counts\":[{counts}]"),
        ),
        with("\"zero\":0", "\"zero\":18446744073709551615"),
        "x".repeat(MOST_BYTES + 1),
        format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000)),
    ] {
        let read = Reader::default().read(line.as_bytes());
        let start: String = line.chars().take(200).collect();
        assert!(
            matches!(read, Err(LineError::Damaged(_))),
            "{start} {read:?}"
        );
    }
    let whole = with("\"series\":1", "\"series\":1");
    for length in 0..whole.len() {
        assert!(Reader::default().read(&whole.as_bytes()[..length]).is_err());
    }
}

#[test]
fn peers_of_many_lines_are_bounded_together() {
    let mut reader = Reader::default();
    let half = MOST_PEERS as u64 / 2;
    for start in [0, half] {
        let peers = (start..start + half)
            .map(|series| peer(series, 0))
            .collect();
        let line = Writer::default().answer(answer(peers));
        assert!(reader.read(line.as_bytes()).is_ok());
    }
    let line = Writer::default().answer(answer(vec![peer(5_000, 0)]));
    let error = Err(LineError::Damaged("it has too many peers"));
    assert_eq!(reader.read(line.as_bytes()), error);
}

#[test]
fn names_are_printable_and_short() {
    let name = "api-1.example.com:443";
    let evil = format!("\\u001b]0;x\\u0007\\u202e{}", "y".repeat(1_000));
    let read = Reader::default().read(with(name, &evil).as_bytes());
    let name = &read.expect("an answer").peers[0].name;
    assert_eq!(name.len(), MOST_NAME);
    assert!(name.starts_with("?]0;x??yy"), "{name}");
}

#[test]
fn key_is_read_as_it_was_written() {
    for role in [Role::Client, Role::Server, Role::Unknown] {
        let name = "clients of :8080".to_owned();
        let key = Key { role, name };
        assert_eq!(key.to_string().parse(), Ok(key));
    }
    for other in ["", "client", "proxy x:1"] {
        assert_eq!(other.parse::<Key>(), Err(()), "{other}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_an_answer_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Reader::default().read(&bytes);
    }

    #[test]
    fn any_change_of_a_line_is_an_answer_or_an_error(at in 0_usize..400, byte in any::<u8>()) {
        let mut line = with("\"series\":1", "\"series\":1").into_bytes();
        let at = at % line.len();
        line[at] = byte;
        if let Ok(answer) = Reader::default().read(&line) {
            prop_assert!(answer.peers.iter().all(|peer| !peer.name.contains(|c: char| c.is_control())));
        }
    }
}

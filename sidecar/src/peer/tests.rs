//! Names by messages that are put together byte by byte (RFC 1035 section 4).

use std::net::{IpAddr, SocketAddr};

use super::*;

const S: u64 = 1_000_000_000;
const RESOLVERS_FIRST: u32 = u32::MAX - 3;
const RESOLVER: &str = "10.96.0.10:53";

/// The type codes of RFC 1035 section 3.2.2 and RFC 3596.
const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;

fn encoded(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    let mut bytes: Vec<u8> = labels
        .flat_map(|label| std::iter::once(label.len() as u8).chain(label.bytes()))
        .collect();
    bytes.push(0);
    bytes
}

struct Record<'a>(&'a str, u16, u32, Vec<u8>);

fn a(owner: &str, ttl: u32, address: [u8; 4]) -> Record<'_> {
    Record(owner, A, ttl, address.to_vec())
}

fn cname<'a>(owner: &'a str, ttl: u32, to: &str) -> Record<'a> {
    Record(owner, CNAME, ttl, encoded(to))
}

fn message(id: u16, flags: u16, name: &str, answers: &[Record<'_>]) -> Vec<u8> {
    message_about(A, id, flags, name, answers)
}

/// The same for records of this type.
fn message_about(asked: u16, id: u16, flags: u16, name: &str, answers: &[Record<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [id, flags, 1, answers.len() as u16, 0, 0] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend(encoded(name));
    bytes.extend(asked.to_be_bytes());
    bytes.extend([0, 1]);
    for Record(owner, kind, ttl, data) in answers {
        bytes.extend(encoded(owner));
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1]);
        bytes.extend(ttl.to_be_bytes());
        bytes.extend((data.len() as u16).to_be_bytes());
        bytes.extend(data);
    }
    bytes
}

/// Recursion desired; in an answer, available, too.
const QUERY: u16 = 0x0100;
const ANSWER: u16 = 0x8180;
const TRUNCATED: u16 = 0x8380;
const NO_SUCH_NAME: u16 = 0x8183;

struct Pod(Resolved);

impl Pod {
    fn new() -> Self {
        Self(Resolved::new(100))
    }

    fn udp(&mut self, at_s: u64, is_sent: bool, payload: &[u8]) {
        self.0.packet(&Packet {
            at: Monotonic(at_s * S),
            is_sent,
            transport: Transport::Udp,
            local_port: 40_000,
            resolver: RESOLVER.parse().expect("an address"),
            payload,
            is_cut: false,
        });
    }

    /// The pod's sequence numbers begin at 100, and the resolver's shortly before they wrap.
    fn tcp(&mut self, is_sent: bool, sequence: u32, payload: &[u8]) {
        let segment = Segment {
            sequence,
            acknowledged: if is_sent { RESOLVERS_FIRST } else { 100 },
        };
        self.0.packet(&Packet {
            at: Monotonic(S),
            is_sent,
            transport: Transport::Tcp(segment),
            local_port: 41_000,
            resolver: RESOLVER.parse().expect("an address"),
            payload,
            is_cut: false,
        });
    }

    fn asks(&mut self, at_s: u64, name: &str, answers: &[Record<'_>]) {
        self.udp(at_s, true, &message(7, QUERY, name, &[]));
        self.udp(at_s, false, &message(7, ANSWER, name, answers));
    }

    fn name(&self, address: [u8; 4], at_s: u64) -> Result<String, NoName> {
        let name = self.0.name_of(IpAddr::from(address), Monotonic(at_s * S));
        name.map(|name| name.to_string())
    }

    fn unused(&self, reason: Unused) -> u64 {
        self.0.unused_messages().get(&reason).copied().unwrap_or(0)
    }
}

const WEB: [u8; 4] = [192, 0, 2, 1];
const OTHER: [u8; 4] = [192, 0, 2, 2];

#[test]
fn address_has_the_one_name_that_was_asked_for() {
    let mut pod = Pod::new();
    assert_eq!(pod.name(WEB, 1), Err(NoName::NeverAsked));
    pod.asks(
        2,
        "Api.Example.COM.",
        &[
            a("api.example.com", 30, WEB),
            a("api.example.com", 30, OTHER),
        ],
    );
    let named = Ok("api.example.com".to_owned());
    assert_eq!(
        (pod.name(WEB, 2), pod.name(OTHER, 32)),
        (named.clone(), named.clone())
    );
    assert_eq!(
        pod.name(WEB, 1),
        Err(NoName::NeverAsked),
        "it was opened before"
    );
    assert_eq!(pod.name(WEB, 33), Err(NoName::Expired));
    pod.asks(40, "api.example.com", &[a("api.example.com", 30, WEB)]);
    assert_eq!(pod.name(WEB, 41), named);
    assert_eq!(pod.name(OTHER, 41), Err(NoName::Expired));
    assert_eq!(pod.0.answers(), 2);
}

#[test]
fn two_live_names_are_no_name() {
    let mut pod = Pod::new();
    pod.asks(1, "a.example", &[a("a.example", 10, WEB)]);
    pod.asks(2, "b.example", &[a("b.example", 100, WEB)]);
    assert_eq!(pod.name(WEB, 5), Err(NoName::SeveralNames));
    assert_eq!(
        pod.name(WEB, 1),
        Ok("a.example".to_owned()),
        "before the second"
    );
    assert_eq!(
        pod.name(WEB, 12),
        Ok("b.example".to_owned()),
        "after the first"
    );
}

#[test]
fn alias_keeps_the_name_that_was_asked_for_and_the_shortest_time() {
    let mut pod = Pod::new();
    // In no order, and with an address of a name that nobody asked for.
    let answers = [
        a("c.example", 300, WEB),
        cname("b.example", 5, "c.example"),
        a("stranger.example", 300, OTHER),
        cname("www.example", 60, "b.example"),
    ];
    pod.asks(1, "www.example", &answers);
    assert_eq!(pod.name(WEB, 6), Ok("www.example".to_owned()));
    assert_eq!(pod.name(WEB, 7), Err(NoName::Expired));
    assert_eq!(pod.name(OTHER, 1), Err(NoName::NeverAsked));
    // A circle of aliases ends.
    pod.asks(
        1,
        "x.example",
        &[
            cname("x.example", 5, "y.example"),
            cname("y.example", 5, "x.example"),
        ],
    );
}

#[test]
fn ipv6_and_mapped_addresses_are_found() {
    let mut pod = Pod::new();
    let v6: IpAddr = "2001:db8::1".parse().expect("an address");
    let mapped: IpAddr = "::ffff:192.0.2.1".parse().expect("an address");
    let octets = |address: IpAddr| match address {
        IpAddr::V6(address) => address.octets().to_vec(),
        IpAddr::V4(address) => address.octets().to_vec(),
    };
    let answers = [v6, mapped].map(|address| Record("v6.example", AAAA, 9, octets(address)));
    pod.udp(1, true, &message_about(AAAA, 7, QUERY, "v6.example", &[]));
    pod.udp(
        1,
        false,
        &message_about(AAAA, 7, ANSWER, "v6.example", &answers),
    );
    let name = pod.0.name_of(v6, Monotonic(S));
    assert_eq!(name.as_deref(), Ok("v6.example"));
    assert_eq!(pod.name(WEB, 1), Ok("v6.example".to_owned()));
}

#[test]
fn answer_counts_only_if_this_pod_asked() {
    let mut pod = Pod::new();
    let answer = message(7, ANSWER, "a.example", &[a("a.example", 30, WEB)]);
    let query = |id, name| message(id, QUERY, name, &[]);
    let before = query(7, "a.example");
    for (sent, asked_at_s) in [
        (None, 0),
        (Some(query(8, "a.example")), 1),
        (Some(query(7, "b.example")), 1),
        // Long ago.
        (Some(before), 1),
    ] {
        let mut pod = Pod::new();
        let is_late = sent.as_deref() == Some(&query(7, "a.example")[..]);
        if let Some(sent) = sent {
            pod.udp(asked_at_s, true, &sent);
        }
        pod.udp(if is_late { 60 } else { 1 }, false, &answer);
        assert_eq!(pod.name(WEB, 60), Err(NoName::NeverAsked));
        assert_eq!(pod.unused(Unused::Unasked), 1);
    }
    // Another port, and another resolver.
    for (local_port, resolver) in [(40_001, RESOLVER), (40_000, "10.96.0.11:53")] {
        pod.udp(1, true, &query(7, "a.example"));
        let resolver: SocketAddr = resolver.parse().expect("an address");
        pod.0.packet(&Packet {
            at: Monotonic(S),
            is_sent: false,
            transport: Transport::Udp,
            local_port,
            resolver,
            payload: &answer,
            is_cut: false,
        });
    }
    assert_eq!((pod.unused(Unused::Unasked), pod.0.answers()), (2, 0));
    // A resolver in the pod answers others.
    pod.udp(1, true, &answer);
    assert_eq!(pod.name(WEB, 1), Err(NoName::NeverAsked));
}

#[test]
fn unusable_messages_are_counted_by_reason() {
    let mut pod = Pod::new();
    pod.udp(1, true, &message(7, QUERY, "a.example", &[]));
    let answer = message(7, ANSWER, "a.example", &[a("a.example", 30, WEB)]);
    for bytes in [
        &b""[..],
        b"x",
        &answer[..20],
        &answer[..answer.len() - 1],
        &[0xc0; 40],
    ] {
        pod.udp(1, false, bytes);
    }
    assert_eq!(pod.unused(Unused::Malformed), 5);
    pod.udp(
        1,
        false,
        &message(7, TRUNCATED, "a.example", &[a("a.example", 30, WEB)]),
    );
    assert_eq!(pod.unused(Unused::Truncated), 1);
    assert_eq!(
        pod.name(WEB, 1),
        Ok("a.example".to_owned()),
        "some clients take what there is"
    );
    pod.udp(1, true, &message(8, QUERY, "b.example", &[]));
    let none = message(8, NO_SUCH_NAME, "b.example", &[a("b.example", 30, OTHER)]);
    pod.udp(1, false, &none);
    assert_eq!(pod.name(OTHER, 1), Err(NoName::NeverAsked));
    pod.udp(1, false, &none);
    assert_eq!(pod.unused(Unused::Unasked), 1, "the second answer");
}

#[test]
fn answer_that_may_not_be_kept_names_the_next_connection() {
    let mut pod = Pod::new();
    pod.asks(1, "now.example", &[a("now.example", 0, WEB)]);
    assert_eq!(pod.name(WEB, 1), Ok("now.example".to_owned()));
    assert_eq!(pod.name(WEB, 3), Err(NoName::Expired));
}

#[test]
fn answers_over_tcp_may_be_cut_anywhere_and_come_twice() {
    let framed =
        |message: Vec<u8>| [(message.len() as u16).to_be_bytes().to_vec(), message].concat();
    let query = framed(message(9, QUERY, "tcp.example", &[]));
    let answer = framed(message(
        9,
        ANSWER,
        "tcp.example",
        &[a("tcp.example", 30, WEB)],
    ));
    for cut in 0..=answer.len() {
        let mut pod = Pod::new();
        pod.tcp(true, 100, &query);
        for (at, part) in [
            (0, &answer[..cut]),
            // Sent again, and together with what follows.
            (0, &answer[..cut]),
            (cut / 2, &answer[cut / 2..]),
        ] {
            if !part.is_empty() {
                pod.tcp(false, RESOLVERS_FIRST.wrapping_add(at as u32), part);
            }
        }
        assert_eq!(pod.name(WEB, 1), Ok("tcp.example".to_owned()), "{cut}");
    }
    let mut pod = Pod::new();
    pod.tcp(true, 100, &query);
    pod.tcp(false, RESOLVERS_FIRST, &answer[..9]);
    pod.tcp(false, RESOLVERS_FIRST.wrapping_add(10), &answer[10..]);
    assert_eq!(
        (pod.unused(Unused::Malformed), pod.0.answers()),
        (1, 0),
        "a gap"
    );
}

#[test]
fn segment_that_the_kernel_would_drop_is_no_part_of_the_stream() {
    let framed =
        |message: Vec<u8>| [(message.len() as u16).to_be_bytes().to_vec(), message].concat();
    let query = framed(message(9, QUERY, "tcp.example", &[]));
    let answer = |address| {
        let answers = [a("tcp.example", 30, address)];
        framed(message(9, ANSWER, "tcp.example", &answers))
    };
    let mut pod = Pod::new();
    // Nobody asked.
    pod.tcp(false, RESOLVERS_FIRST, &answer(OTHER));
    pod.tcp(true, 100, &query);
    for sequence in [1, 100, RESOLVERS_FIRST - 1_000_000, RESOLVERS_FIRST + 1] {
        pod.tcp(false, sequence, &answer(OTHER));
    }
    pod.tcp(false, RESOLVERS_FIRST, &answer(WEB));
    assert_eq!(pod.name(WEB, 1), Ok("tcp.example".to_owned()));
    assert_eq!(pod.name(OTHER, 1), Err(NoName::NeverAsked));
    assert_eq!(pod.unused(Unused::Malformed), 5);
    // Another connection from the same port.
    let later = query.len() as u32 + 70_000;
    pod.tcp(true, 100 + later, &query);
    pod.tcp(false, RESOLVERS_FIRST, &answer(OTHER));
    assert_eq!(pod.name(OTHER, 1), Ok("tcp.example".to_owned()));
}

#[test]
fn names_are_bounded_and_the_oldest_make_room() {
    let mut pod = Pod(Resolved::new(8));
    let name_of = |number: u8| format!("n{number}.example");
    let mut shared = 0;
    for number in 0..200u8 {
        let (name, at_s) = (name_of(number), 1 + u64::from(number));
        pod.asks(at_s, &name, &[a(&name, 1_000, [10, 0, 0, number])]);
        match pod.name([10, 0, 0, number], at_s) {
            Ok(newest) => assert_eq!(newest, name),
            Err(reason) => {
                assert_eq!(reason, NoName::Forgotten);
                shared += 1;
            }
        }
    }
    assert!(shared < 40, "few of 4096 places are shared: {shared}");
    assert_eq!(pod.name([10, 0, 0, 1], 300), Err(NoName::Forgotten));
    // The forgotten name stood for this address, too: nobody knows which of both it is.
    pod.asks(300, "b.example", &[a("b.example", 2_000, [10, 0, 0, 1])]);
    assert_eq!(pod.name([10, 0, 0, 1], 301), Err(NoName::Forgotten));
    let later = 1 + 1 + 1_000 + 200;
    assert_eq!(
        pod.name([10, 0, 0, 1], later),
        Ok("b.example".to_owned()),
        "nothing that was forgotten is valid any more"
    );
}

#[test]
fn address_of_many_names_keeps_few_and_has_none() {
    let mut pod = Pod::new();
    for number in 0..50 {
        let name = format!("n{number}.example");
        pod.asks(1, &name, &[a(&name, 100 - number, WEB)]);
    }
    assert_eq!(pod.name(WEB, 2), Err(NoName::SeveralNames));
    // The shortest made room.
    assert_eq!(pod.name(WEB, 101), Ok("n0.example".to_owned()));
    assert_eq!(pod.name(WEB, 200), Err(NoName::Expired));
}

#[test]
fn very_many_queries_and_answers_end() {
    let mut pod = Pod::new();
    for number in 0..100_000_u32 {
        let id = number as u16;
        let name = format!("n{}.example", number / 65_536);
        pod.udp(
            1 + u64::from(number) / 10_000,
            true,
            &message(id, QUERY, &name, &[]),
        );
    }
    // The last one is not forgotten.
    let last = message(34_463, ANSWER, "n1.example", &[a("n1.example", 5, WEB)]);
    pod.udp(10, false, &last);
    assert_eq!(pod.name(WEB, 10), Ok("n1.example".to_owned()));
    // As long as a message may be, in the order that takes longest.
    let aliases: Vec<_> = (0..1_500)
        .rev()
        .map(|number| (format!("a{number}.x"), format!("a{}.x", number + 1)))
        .collect();
    let mut answers: Vec<_> = aliases
        .iter()
        .map(|(from, to)| cname(from, 5, to))
        .collect();
    answers.push(a("a20.x", 5, OTHER));
    pod.asks(11, "a0.x", &answers);
    assert_eq!(pod.name(OTHER, 11), Ok("a0.x".to_owned()));
}

#[test]
fn name_is_text_whatever_its_bytes_are() {
    let mut pod = Pod::new();
    let wire = |label: &[u8]| {
        let name = [&[label.len() as u8], label, &[0]].concat();
        let with = |flags: u16, answers: u16, rest: &[u8]| {
            let words = [7, flags, 1, answers, 0, 0].map(u16::to_be_bytes).concat();
            [&words[..], &name, &[0, 1, 0, 1], rest].concat()
        };
        let address = [&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4][..], &WEB].concat();
        let mut pod = Pod::new();
        pod.udp(1, true, &with(QUERY, 0, &[]));
        pod.udp(1, false, &with(ANSWER, 1, &address));
        pod.name(WEB, 1)
    };
    for label in [
        &b"\x1b[31m"[..],
        b"a\nb",
        b"a.b",
        "\u{e9}".as_bytes(),
        b"a b",
        b"_x",
    ] {
        let name = wire(label).expect("a name");
        assert!(name.bytes().all(|byte| byte.is_ascii_graphic()), "{name:?}");
    }
    assert_eq!(wire(&[0; 63]), Ok("\\000".repeat(63)));
    // Pointers in a circle, and the root.
    pod.udp(
        1,
        true,
        &[
            &[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..],
            &[0xc0, 12, 0, 1, 0, 1],
        ]
        .concat(),
    );
    pod.udp(1, true, &message(7, QUERY, ".", &[]));
    assert_eq!(pod.unused(Unused::Malformed), 2);
}

/// An answer by UDP has room for four thousand names' labels at most, one by TCP for half a million.
#[test]
fn answer_is_read_as_far_as_its_labels_are_bounded() {
    let long = vec!["a"; 126].join(".");
    let count = 200_u8;
    for (name, is_whole) in [("a.example", true), (long.as_str(), false)] {
        let mut pod = Pod(Resolved::new(1_000));
        let answers: Vec<_> = (0..count)
            .map(|number| a(name, 30, [192, 0, 2, number]))
            .collect();
        pod.asks(1, name, &answers);
        let named = Ok(name.to_owned());
        assert_eq!(pod.name([192, 0, 2, 0], 1), named);
        let last = pod.name([192, 0, 2, count - 1], 1);
        let expected = if is_whole {
            named
        } else {
            Err(NoName::NeverAsked)
        };
        assert_eq!(last, expected, "{} labels", name.split('.').count());
        assert_eq!(pod.unused(Unused::Truncated), u64::from(!is_whole));
    }
}

/// The client waits on for an answer that it can read.
#[test]
fn malformed_answer_does_not_end_the_wait() {
    let mut pod = Pod::new();
    pod.udp(1, true, &message(7, QUERY, "a.example", &[]));
    let answer = message(7, ANSWER, "a.example", &[a("a.example", 30, WEB)]);
    pod.udp(1, false, &answer[..answer.len() - 1]);
    assert_eq!(pod.unused(Unused::Malformed), 1);
    pod.udp(1, false, &answer);
    assert_eq!(pod.name(WEB, 1), Ok("a.example".to_owned()));
}

/// What the client does not take gives no name: addresses of the other family, and a name that reads as an address.
#[test]
fn name_is_of_the_addresses_that_were_asked_for() {
    let mut pod = Pod::new();
    let answers = [a("a.example", 30, WEB)];
    pod.udp(1, true, &message_about(AAAA, 7, QUERY, "a.example", &[]));
    pod.udp(
        1,
        false,
        &message_about(AAAA, 7, ANSWER, "a.example", &answers),
    );
    assert_eq!(pod.0.answers(), 1);
    assert_eq!(pod.name(WEB, 1), Err(NoName::NeverAsked));
    pod.asks(1, "198.51.100.7", &[a("198.51.100.7", 30, WEB)]);
    assert_eq!(pod.0.answers(), 2);
    assert_eq!(pod.name(WEB, 1), Err(NoName::NeverAsked));
}

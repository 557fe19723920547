//! Retransmits by type, and the page of the connection that is followed, as they are drawn.

use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    style::Color,
};

use super::*;
use crate::{
    answer::{
        Answer, Books, ClosedCounts, ConnectionCounts, Connections, PeerCounts, RetransmitCounts,
        Role, RttSum,
    },
    top::state::Asked,
};

const SECOND: u64 = 1_000_000_000;
const PODS: [&str; 2] = ["web-aaaaa", "web-bbbbb"];

/// What is on the screen of somebody who sees the answers of two pods.
struct Seen {
    merged: Merged,
    state: State,
    has_colours: bool,
    width: u16,
    height: u16,
    at: u64,
}

/// A connection of a pod with this cookie, after so many seconds: a round trip of a millisecond more in each second, 1,000 bytes a second.
fn connection(cookie: u64, at: u64) -> ConnectionCounts {
    ConnectionCounts {
        cookie,
        local: ([10, 0, 0, 1], 4_000 + cookie as u16).into(),
        peer: ([10, 0, 0, 2], 5432).into(),
        duration_ns: Some(at * SECOND),
        bytes_sent: at * 1_000,
        bytes_received: 0,
        segments_sent: at * 10,
        retransmits: 3 * at,
        retransmits_by_type: Some(RetransmitCounts {
            syn: at,
            timeout: 2 * at,
            ..RetransmitCounts::default()
        }),
        receive_window_limited_us: 0,
        send_buffer_limited_us: 0,
        rtt_p50_ns: Some(1_500_000),
        rtt_p99_ns: None,
        rtt_sum: Some(RttSum {
            count: at,
            sum_ns: at * (at + 1) / 2 * 1_000_000,
        }),
        exchange_p99_ns: None,
        process: Some("nginx (815)".to_owned()),
    }
}

impl Seen {
    fn new(width: u16, has_colours: bool) -> Self {
        Self {
            merged: Merged::default(),
            state: State::default(),
            has_colours,
            width,
            height: 24,
            at: 0,
        }
    }

    /// The next answer of each pod, a second later: that of the first has these, that of the second one with cookie 7.
    fn take(&mut self, all: Vec<ConnectionCounts>, closed: Vec<ClosedCounts>) {
        self.at += 1;
        let of_second = vec![connection(7, self.at)];
        for (pod, (all, closed)) in PODS
            .into_iter()
            .zip([(all, closed), (of_second, Vec::new())])
        {
            self.merged.take(pod, answer(self.at, all, closed));
        }
        self.refresh();
    }

    fn refresh(&mut self) {
        self.merged.refresh();
        if let Some(followed) = &mut self.state.followed {
            followed.refresh(&self.merged);
        }
    }

    fn press(&mut self, code: KeyCode) {
        let rows = self.state.peers(&self.merged);
        let numbers: Vec<u64> = rows.iter().map(|(number, _)| *number).collect();
        let pressed = KeyEvent::new(code, KeyModifiers::NONE);
        match self.state.press(pressed, &numbers, 10) {
            Asked::Follow => self.state.follow(&self.merged),
            asked => assert_eq!(asked, Asked::Nothing),
        }
    }

    /// The screen, and the colours of the line that begins so.
    fn drawn(&mut self, colours_of: &str) -> (String, Vec<Color>) {
        let mut terminal =
            Terminal::new(TestBackend::new(self.width, self.height)).expect("a terminal");
        let screen = Screen {
            merged: &self.merged,
            has_pods: true,
            notes: &[],
            palette: Palette(self.has_colours),
        };
        terminal
            .draw(|frame| {
                screen.draw(frame, &mut self.state);
            })
            .expect("a screen");
        let (mut lines, mut colours) = (Vec::new(), Vec::new());
        let buffer = terminal.backend().buffer();
        for row in buffer.content().chunks(self.width.into()) {
            let text: String = row.iter().map(|cell| cell.symbol()).collect();
            if text.starts_with(colours_of) {
                colours = row.iter().map(|cell| cell.fg).collect();
            }
            lines.push(text.trim_end().to_owned());
        }
        (lines.join("\n"), colours)
    }

    fn screen(&mut self) -> String {
        self.drawn("").0
    }

    /// Whether a line of the screen has these words, in this order and no others before the last.
    #[track_caller]
    fn shows(&mut self, words: &str) {
        let screen = self.screen();
        let all: Vec<&str> = words.split_whitespace().collect();
        let has = |line: &str| {
            let line = line.trim_matches(['│', ' ']).split_whitespace();
            line.take(all.len()).eq(all.iter().copied())
        };
        assert!(screen.lines().any(has), "no {words:?} in\n{screen}");
    }
}

fn answer(at: u64, all: Vec<ConnectionCounts>, closed: Vec<ClosedCounts>) -> Answer {
    let db = PeerCounts {
        series: 1,
        role: Role::Client,
        name: "db.example.com:5432".to_owned(),
        live: all.len() as u64,
        handshake_retransmits: at,
        data_retransmits: 5 * at,
        retransmits_by_type: Some(RetransmitCounts {
            syn: at,
            fast: 2 * at,
            tail_loss_probe: 3 * at,
            ..RetransmitCounts::default()
        }),
        ..PeerCounts::default()
    };
    Answer {
        books: Books {
            at_unix_ns: at * SECOND,
            source: "ebpf".to_owned(),
            ..Books::default()
        },
        connections: Some(Connections {
            of: db.key().to_string(),
            all,
            left_out: 0,
            closed,
        }),
        peers: vec![db],
        left_out: 0,
    }
}

/// The screen on which the connection with cookie 2 of the first pod is followed.
fn followed(width: u16, has_colours: bool) -> Seen {
    let mut seen = Seen::new(width, has_colours);
    for _ in 0..2 {
        let at = seen.at + 1;
        seen.take(vec![connection(1, at), connection(2, at)], Vec::new());
    }
    seen.press(KeyCode::Enter);
    seen.screen();
    seen.press(KeyCode::Down);
    seen.screen();
    seen.press(KeyCode::Char('f'));
    seen
}

#[test]
fn pane_of_a_peer_shows_retransmits_by_type() {
    for width in [80, 140] {
        let mut seen = Seen::new(width, false);
        for at in 1..=3 {
            seen.take(vec![connection(1, at)], Vec::new());
        }
        seen.press(KeyCode::Char('h'));
        seen.shows("retransmits syn synack fast timeout tail_loss_probe unknown");
        // Two pods.
        seen.shows("in all 6 0 12 0 18 0");
        seen.shows("a second 2.0 - 4.0 - 6.0 -");
    }
}

#[test]
fn pane_has_the_sum_of_a_flowcar_that_sends_no_types() {
    let mut seen = Seen::new(80, false);
    for at in 1..=2 {
        let mut old = answer(at, Vec::new(), Vec::new());
        old.peers[0].retransmits_by_type = None;
        seen.merged.take("old", old);
        seen.merged.refresh();
    }
    seen.press(KeyCode::Char('h'));
    seen.shows("retransmits syn synack fast timeout tail_loss_probe unknown no type");
    seen.shows("in all ? ? ? ? ? ? 12");
    seen.shows("a second ? ? ? ? ? ? 6.0");
}

#[test]
fn followed_connection_stays_while_others_come_and_go() {
    for width in [80, 140] {
        let mut seen = followed(width, false);
        seen.shows("following 10.0.0.1:4002 to 10.0.0.2:5432");
        seen.shows("peer db.example.com:5432");
        seen.shows("pod web-aaaaa");
        seen.shows("state open for 2.00s");
        seen.shows("since opened 2 0 0 4 0 0");
        seen.shows("while followed 0 0 0 0 0 0");
        // Keys of lists do nothing here.
        for code in [
            KeyCode::Down,
            KeyCode::Char('s'),
            KeyCode::Enter,
            KeyCode::Char('/'),
        ] {
            seen.press(code);
        }
        // The first goes, and busier ones come before it.
        for _ in 0..4 {
            let at = seen.at + 1;
            let others = [8, 9].map(|cookie| connection(cookie, 100 * at));
            let all = others.into_iter().chain([connection(2, at)]).collect();
            seen.take(all, Vec::new());
        }
        seen.shows("following 10.0.0.1:4002 to");
        seen.shows("state open for 6.00s");
        seen.shows("held back loss");
        seen.shows("sent 6.00kB 1.00kB/s");
        seen.shows("rtt 6.00ms p50 1.50ms p99 -");
        seen.shows("since opened 6 0 0 12 0 0");
        seen.shows("while followed 4 0 0 8 0 0");
        seen.shows("process nginx (815)");
        let screen = seen.screen();
        println!("{screen}");
        assert!(
            screen.contains("▃▅▆▇█") || screen.contains("▄▅▆▇█"),
            "{screen}"
        );
        // A refresh without a new answer is no bar.
        seen.refresh();
        assert_eq!(seen.screen(), screen);
        // Its row is selected, wherever it is now.
        seen.press(KeyCode::Esc);
        let (_, _) = seen.drawn("");
        let (rows, _) = seen.state.connections(&seen.merged);
        assert_eq!(rows[seen.state.selected].1.counts.cookie, 2);
        assert_eq!(rows.len(), 4);
    }
}

#[test]
fn close_of_the_followed_connection_is_named_with_its_last_counts() {
    for (reason, is_failure, words) in [
        ("reset_received", true, "the peer sent a RST"),
        ("local_fin", false, "this end sent the first FIN"),
    ] {
        for width in [80, 140] {
            for has_colours in [false, true] {
                let mut seen = followed(width, has_colours);
                seen.take(vec![connection(8, 3)], Vec::new());
                seen.shows("state open no more: not among the last closes that flowcar keeps");
                let close = ClosedCounts {
                    cookie: 2,
                    reason: reason.to_owned(),
                    is_failure,
                    duration_ns: Some(2 * SECOND),
                    bytes_sent: 9_000,
                    segments_sent: 99,
                    retransmits: RetransmitCounts {
                        syn: 2,
                        timeout: 5,
                        ..RetransmitCounts::default()
                    },
                    ..ClosedCounts::default()
                };
                let other = ClosedCounts {
                    cookie: 1,
                    ..ClosedCounts::default()
                };
                seen.take(vec![connection(8, 4)], vec![other, close]);
                // What is known stays so once flowcar keeps it no more.
                seen.take(Vec::new(), Vec::new());
                seen.merged.remove(PODS[0]);
                seen.refresh();
                seen.shows(&format!("state closed after 2.00s: {reason}: {words}"));
                seen.shows("sent 9.00kB");
                seen.shows("since opened 2 0 0 5 0 0");
                seen.shows("while followed 0 0 0 1 0 0");
                seen.shows("segments 99 sent");
                let (screen, colours) = seen.drawn("state");
                let mut lines = screen.lines();
                let has_rate = lines.any(|line| line.starts_with("sent") && line.contains("/s"));
                assert!(!has_rate, "{screen}");
                let expected = match (has_colours, is_failure) {
                    (false, _) => Color::Reset,
                    (true, true) => Color::Red,
                    (true, false) => Color::Yellow,
                };
                assert_eq!(colours[0], expected);
            }
        }
    }
}

/// A close of the connection with cookie 2 for this reason, after 99 hours and 59 minutes.
fn close_of_2(reason: &str) -> ClosedCounts {
    ClosedCounts {
        cookie: 2,
        reason: reason.to_owned(),
        duration_ns: Some((99 * 60 + 59) * 60 * SECOND),
        ..ClosedCounts::default()
    }
}

#[test]
fn each_close_reason_fits_into_80_columns() {
    for (reason, words) in [
        ("local_fin", "this end sent the first FIN"),
        ("peer_fin", "the peer sent the first FIN"),
        ("reset_sent", "this end sent a RST"),
        ("reset_received", "the peer sent a RST"),
        ("reset", "a RST: whose was not seen"),
        ("timeout", "a timer of the kernel expired"),
        ("unknown", "it was not seen"),
    ] {
        let mut seen = followed(80, false);
        seen.take(Vec::new(), vec![close_of_2(reason)]);
        seen.shows(&format!("state closed after 99h59m: {reason}: {words}"));
    }
}

#[test]
fn page_that_has_shown_the_close_stays_closed() {
    let mut seen = followed(80, false);
    seen.take(Vec::new(), vec![close_of_2("peer_fin")]);
    // The same cookie, by another kernel.
    let at = seen.at + 1;
    seen.take(vec![connection(2, at)], Vec::new());
    seen.shows("state closed after 99h59m: peer_fin:");
}

#[test]
fn connection_of_other_addresses_is_another_one() {
    for is_local in [true, false] {
        let mut seen = followed(80, false);
        let mut other = connection(2, seen.at + 1);
        let address = ([10, 0, 0, 9], 99).into();
        match is_local {
            true => other.local = address,
            false => other.peer = address,
        }
        seen.take(vec![other], Vec::new());
        seen.shows("state open no more:");
    }
}

#[test]
fn connection_whose_peer_is_not_answered_any_more_may_be_open() {
    let mut seen = followed(80, false);
    seen.at += 1;
    let mut renamed = answer(seen.at, Vec::new(), Vec::new());
    renamed.peers[0].name = "10.0.0.2:5432".to_owned();
    seen.merged.take(PODS[0], renamed);
    seen.refresh();
    seen.shows("state not known: flowcar has no peer of this name any more");
    let at = seen.at + 1;
    seen.take(vec![connection(2, at)], Vec::new());
    seen.shows("state open for");
}

#[test]
fn flowcar_that_does_not_answer_has_no_rates() {
    let mut seen = followed(80, false);
    let at = seen.at + 1;
    seen.take(vec![connection(2, at)], Vec::new());
    seen.shows("sent 3.00kB 1.00kB/s");
    let followed = seen.state.followed.as_mut().expect("a connection");
    assert!(followed.miss_answer());
    assert!(!followed.miss_answer());
    seen.shows("state not known: flowcar does not answer");
    seen.shows("sent 3.00kB");
    assert!(!seen.screen().contains("1.00kB/s"));
    // Another flowcar's answer is none of this one.
    let of_second = answer(seen.at + 1, vec![connection(7, seen.at + 1)], Vec::new());
    seen.merged.take(PODS[1], of_second);
    seen.refresh();
    seen.shows("state not known: flowcar does not answer");
    let at = seen.at + 1;
    seen.take(vec![connection(2, at)], Vec::new());
    seen.shows("state open for");
}

#[test]
fn page_has_the_room_of_the_pane() {
    let mut seen = Seen::new(80, false);
    for at in 1..=2 {
        seen.take(vec![connection(2, at)], Vec::new());
    }
    seen.press(KeyCode::Char('h'));
    seen.press(KeyCode::Enter);
    seen.screen();
    seen.press(KeyCode::Char('f'));
    for height in [24, 12] {
        seen.height = height;
        for pressed_again in [false, true] {
            if pressed_again {
                seen.press(KeyCode::Char('h'));
            }
            for words in ["state open", "received", "since opened", "while followed"] {
                seen.shows(words);
            }
            assert!(!seen.screen().contains("since flowcar began"));
        }
    }
    seen.height = 24;
    seen.shows("process nginx (815)");
    seen.press(KeyCode::Esc);
    assert!(seen.screen().contains("since flowcar began"));
}

#[test]
fn long_names_and_addresses_are_whole() {
    const POD: &str = "an-application-with-a-long-name-canary-6f9c7d8b5d-aaaaa";
    let name = format!("{}.example.com:5432", "a".repeat(60));
    let long: std::net::SocketAddr = "[2001:db8:1111:2222:3333:4444:5555:6666]:50000"
        .parse()
        .expect("an address");
    for width in [80, 140] {
        let mut seen = Seen::new(width, false);
        for at in 1..=2 {
            let open = ConnectionCounts {
                local: long,
                peer: long,
                ..connection(2, at)
            };
            let mut answer = answer(at, vec![open], Vec::new());
            answer.peers[0].name.clone_from(&name);
            let of = answer.peers[0].key().to_string();
            answer.connections.as_mut().expect("connections").of = of;
            seen.merged.take(POD, answer);
            seen.refresh();
        }
        seen.press(KeyCode::Enter);
        seen.screen();
        seen.press(KeyCode::Char('f'));
        let screen = seen.screen();
        let joined: String = screen.split_whitespace().collect();
        let peer = match width {
            80 => format!("peer{long}({name})pod{POD}"),
            _ => format!("following{long}to{long}"),
        };
        assert!(screen.contains(&format!("following {long}")), "{screen}");
        assert!(joined.contains(&peer), "{screen}");
        assert!(joined.contains(&name), "{screen}");
        assert!(joined.contains(&format!("pod{POD}")), "{screen}");
    }
}

#[test]
fn flowcar_of_the_followed_connection_may_end() {
    let mut seen = followed(80, false);
    seen.merged.remove(PODS[0]);
    seen.refresh();
    seen.shows("state not known: its flowcar answers no more");
    // Nor is the other pod's connection with the same cookie this one.
    let mut other = answer(9, vec![connection(2, 9)], Vec::new());
    other.books.at_unix_ns = 9 * SECOND;
    seen.merged.take(PODS[1], other);
    seen.refresh();
    seen.shows("state not known: its flowcar answers no more");
    seen.press(KeyCode::Esc);
    assert!(seen.state.followed.is_none());
}

#[test]
fn connection_of_an_older_flowcar_has_the_sum_of_its_retransmits() {
    let mut seen = Seen::new(80, false);
    let older = |at| ConnectionCounts {
        retransmits_by_type: None,
        rtt_sum: None,
        ..connection(2, at)
    };
    for at in 1..=2 {
        seen.merged
            .take("old", answer(at, vec![older(at)], Vec::new()));
        seen.refresh();
    }
    seen.press(KeyCode::Enter);
    seen.screen();
    seen.press(KeyCode::Char('f'));
    seen.merged
        .take("old", answer(3, vec![older(3)], Vec::new()));
    seen.refresh();
    seen.shows("rtt - p50 1.50ms");
    seen.shows("since opened ? ? ? ? ? ? 9");
    seen.shows("while followed ? ? ? ? ? ? 3");
}

#[test]
fn keys_fit_into_80_columns_and_help_into_24_rows() {
    for keys in [KEYS_OF_PEERS, KEYS_OF_CONNECTIONS, KEYS_OF_FOLLOWED] {
        assert!(keys.len() <= 80, "{keys}");
        assert!(keys.ends_with("? help"), "{keys}");
    }
    assert!(KEYS_OF_CONNECTIONS.contains("f follow"));
    let mut seen = followed(80, false);
    seen.press(KeyCode::Char('?'));
    let screen = seen.screen();
    let last = HELP.lines().last().expect("a line");
    assert!(
        screen.contains("follow the selected connection") && screen.contains(last),
        "{screen}"
    );
}

#[test]
fn nothing_is_followed_where_nothing_is_open() {
    let mut seen = Seen::new(80, false);
    seen.merged.take("old", answer(1, Vec::new(), Vec::new()));
    seen.refresh();
    seen.press(KeyCode::Char('f'));
    seen.press(KeyCode::Enter);
    seen.press(KeyCode::Char('f'));
    assert!(seen.state.followed.is_none());
    seen.shows("no connection to this peer is open");
}

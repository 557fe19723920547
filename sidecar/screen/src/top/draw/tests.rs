use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    style::Color,
};

use super::*;
use crate::answer::{Answer, Books, ConnectionCounts, Connections, PeerCounts};

const SECOND: u64 = 1_000_000_000;

fn peer(name: &str, live: u64, bytes_sent: u64) -> PeerCounts {
    PeerCounts {
        series: live,
        role: Role::Client,
        name: name.to_owned(),
        live,
        bytes_sent,
        ..PeerCounts::default()
    }
}

/// Two pods: both have connections to db, one to cache, too.
fn two_pods() -> Merged {
    let mut merged = Merged::default();
    for second in 1..=2 {
        for (pod, of) in [("web-7d9c6b5f4-aaaaa", 1), ("web-7d9c6b5f4-bbbbb", 2)] {
            let mut peers = vec![peer("db.example.com:5432", of, of * second * 1_000)];
            if of == 2 {
                peers.push(PeerCounts {
                    failed: second - 1,
                    ..peer("cache.example.com:6379", 9, 0)
                });
            }
            let connection = ConnectionCounts {
                duration_ns: Some(90 * SECOND),
                rtt_p50_ns: Some(1_500_000),
                process: Some("nginx (815)".to_owned()),
                ..ConnectionCounts::unmeasured(
                    of,
                    ([10, 0, 0, 1], 4_000 + of as u16).into(),
                    ([10, 0, 0, 2], 5432).into(),
                )
            };
            let answer = Answer {
                books: Books {
                    at_unix_ns: second * SECOND,
                    source: "ebpf".to_owned(),
                    live: peers.iter().map(|of| of.live).sum(),
                    ..Books::default()
                },
                connections: Some(Connections {
                    of: peers[0].key().to_string(),
                    all: vec![connection],
                    closed: Vec::new(),
                    left_out: 0,
                }),
                peers,
                left_out: 0,
            };
            merged.take(pod, answer);
        }
    }
    merged.refresh();
    merged
}

/// The lines of a screen, and whether it has a colour.
fn drawn(
    width: u16,
    notes: &[String],
    has_colours: bool,
    state: &mut State,
) -> (Vec<String>, bool) {
    let merged = two_pods();
    let mut terminal = Terminal::new(TestBackend::new(width, 16)).expect("a terminal");
    let screen = Screen {
        merged: &merged,
        has_pods: true,
        notes,
        palette: Palette(has_colours),
    };
    terminal
        .draw(|frame| {
            screen.draw(frame, state);
        })
        .expect("a screen");
    let buffer = terminal.backend().buffer();
    let cells = buffer.content();
    let lines = cells.chunks(width.into()).map(|row| {
        let text: String = row.iter().map(|cell| cell.symbol()).collect();
        text.trim_end().to_owned()
    });
    (
        lines.collect(),
        cells.iter().any(|cell| cell.fg != Color::Reset),
    )
}

#[test]
fn pods_are_counted_and_added_up_in_80_columns_and_wide() {
    for width in [80, 140] {
        let (lines, is_coloured) = drawn(width, &[], false, &mut State::default());
        let all = lines.join("\n");
        assert!(lines[0].starts_with("2 pods  ebpf  12 live  "), "{all}");
        assert!(
            lines[2].contains("pods") && lines[2].contains("held back"),
            "{all}"
        );
        let row = |name: &str| -> Vec<String> {
            let line = lines.iter().find(|line| line.starts_with(name));
            let line = line.unwrap_or_else(|| panic!("no {name} in {all}"));
            line.split_whitespace().map(str::to_owned).collect()
        };
        assert_eq!(row("db.example.com")[1..3], ["2", "3"], "{all}");
        // 1,000 bytes a second of one, 2,000 of the other.
        assert!(
            row("db.example.com").contains(&"3.00kB".to_owned()),
            "{all}"
        );
        assert_eq!(row("cache.exam")[1..3], ["1", "9"], "{all}");
        assert!(row("cache.exam").contains(&"handshake".to_owned()), "{all}");
        assert!(!is_coloured);
        assert!(lines.last().expect("a foot").starts_with("q quit"), "{all}");
    }
    assert!(drawn(80, &[], true, &mut State::default()).1);
}

#[test]
fn opened_peer_shows_which_pods_have_it() {
    for width in [80, 140] {
        let mut state = State::default();
        drawn(width, &[], false, &mut state);
        // The second row: db has sent nothing to this end.
        let numbers: Vec<u64> = state
            .peers(&two_pods())
            .iter()
            .map(|(number, _)| *number)
            .collect();
        for code in [KeyCode::Down, KeyCode::Enter] {
            state.press(KeyEvent::new(code, KeyModifiers::NONE), &numbers, 10);
        }
        let (lines, _) = drawn(width, &[], false, &mut state);
        let all = lines.join("\n");
        let of = "connections of db.example.com:5432: web-7d9c6b5f4-aaaaa 1, ";
        assert!(lines[1].starts_with(of), "{all}");
        for (pod, port) in [("-aaaaa", ":4001"), ("-bbbbb", ":4002")] {
            let line = lines.iter().find(|line| line.contains(port));
            let line = line.unwrap_or_else(|| panic!("no {port} in {all}"));
            assert!(
                line.split_whitespace()
                    .next()
                    .is_some_and(|of| of.ends_with(pod)),
                "{all}"
            );
            assert!(line.contains("1.50ms"), "{all}");
        }
    }
}

#[test]
fn notes_have_a_line_and_all_of_them_a_page() {
    let notes = [
        "1 of 3 pods has no sidecar: kubectl flowcar explain deployment/web shows why".to_owned(),
        format!("web-7d9c6b5f4-ccccc: {}", "a long reason ".repeat(10)),
    ];
    let mut state = State::default();
    let (lines, _) = drawn(80, &notes, false, &mut state);
    assert!(
        lines[2].starts_with("1 of 3 pods has no sidecar"),
        "{lines:?}"
    );
    assert!(lines[2].ends_with("(n: all 2)"), "{lines:?}");
    let (lines, _) = drawn(80, &notes[..1], false, &mut state);
    assert_eq!(lines[2], notes[0]);
    state.press(
        KeyEvent::new(KeyCode::Char('n'), KeyModifiers::NONE),
        &[],
        10,
    );
    let (lines, _) = drawn(80, &notes, false, &mut state);
    let all = lines.join("\n");
    assert!(
        all.contains("any key goes back") && all.contains("ccccc: a long"),
        "{all}"
    );
    assert_eq!(all.matches("reason").count(), 10, "{all}");
}

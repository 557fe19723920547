//! The screen on a terminal, until a key or a signal ends it.

use std::{
    collections::HashMap,
    io,
    os::fd::AsFd as _,
    process,
    sync::atomic::{AtomicI32, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
};
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyEventKind},
};

use super::{
    Feed, News,
    draw::Screen,
    merged::Merged,
    palette::Palette,
    state::{Asked, Level, State},
};
use crate::{answer::Key, terminal::has_colours};

/// How long a new answer waits for its screen at most.
const TURN: Duration = Duration::from_millis(100);

/// The exit status of a program whose terminal was closed: as of a process that SIGHUP ended (bash(1), 128 and the signal's number).
const CLOSED: i32 = 129;

/// The signal that came and ends the process; 0: none.
static ENDED: AtomicI32 = AtomicI32::new(0);

/// A flowcar that has sent no answer for so many intervals does not answer.
const MISSED: u32 = 3;

/// The least of that: a busy machine or network is late without more.
const LEAST_MISSED: Duration = Duration::from_secs(3);

/// Shows what the feed has. `has_pods`: its flowcars are those of pods, which have names. `interval`: how often each answers.
///
/// # Errors
/// The terminal cannot be drawn on.
pub fn show(feed: &mut impl Feed, has_pods: bool, interval: Duration) -> io::Result<()> {
    end_on_signals();
    end_with_terminal();
    let mut terminal = ratatui::try_init()?;
    let shown = Shown::new(has_pods, interval).run(&mut terminal, feed);
    restore();
    if ENDED.load(Ordering::Relaxed) == Signal::SIGHUP as i32 {
        process::exit(CLOSED);
    }
    shown
}

/// Leaves the terminal as it was. One that is closed needs nothing, and standard error may be the same: no message, which would panic.
fn restore() {
    let _ = ratatui::try_restore();
}

/// What is on the screen.
struct Shown {
    merged: Merged,
    notes: Vec<String>,
    state: State,
    has_pods: bool,
    interval: Duration,
    /// Answers since the last refresh, and when that was.
    answers: usize,
    refreshed: Instant,
    /// When each flowcar answered last.
    answered: HashMap<String, Instant>,
    opened: Option<Key>,
}

impl Shown {
    fn new(has_pods: bool, interval: Duration) -> Self {
        Self {
            merged: Merged::default(),
            notes: Vec::new(),
            state: State::default(),
            has_pods,
            interval,
            answers: 0,
            refreshed: now(),
            answered: HashMap::new(),
            opened: None,
        }
    }

    fn run(&mut self, terminal: &mut DefaultTerminal, feed: &mut impl Feed) -> io::Result<()> {
        let palette = Palette(has_colours(&io::stdout()));
        let mut page = 1;
        let mut is_stale = true;
        while ENDED.load(Ordering::Relaxed) == 0 {
            is_stale |= self.take(feed) | self.miss_answer(now());
            if is_stale {
                let screen = Screen {
                    merged: &self.merged,
                    has_pods: self.has_pods,
                    notes: &self.notes,
                    palette,
                };
                terminal.draw(|frame| page = screen.draw(frame, &mut self.state))?;
            }
            is_stale = event::poll(TURN)?;
            if !is_stale {
                continue;
            }
            if let Event::Key(pressed) = event::read()?
                && pressed.kind != KeyEventKind::Release
            {
                let rows = self.state.peers(&self.merged);
                let numbers: Vec<u64> = rows.into_iter().map(|(number, _)| number).collect();
                match self.state.press(pressed, &numbers, page) {
                    Asked::Quit => return Ok(()),
                    Asked::Follow => self.state.follow(&self.merged),
                    Asked::Nothing => {}
                }
                self.ask_for_connections(feed);
            }
        }
        Ok(())
    }

    /// Takes in what is new. Whether the screen is to be drawn.
    fn take(&mut self, feed: &mut impl Feed) -> bool {
        let (mut is_stale, mut has_ended) = (false, false);
        while let Some(news) = feed.next() {
            match news {
                News::Answer { source, answer } => {
                    self.answered.insert(source.clone(), now());
                    if !self.state.is_paused {
                        self.merged.take(&source, answer);
                        self.answers += 1;
                    }
                }
                News::Ended { source } => {
                    self.merged.remove(&source);
                    self.answered.remove(&source);
                    has_ended = true;
                }
                News::Notes(notes) => {
                    self.notes = notes;
                    is_stale = true;
                }
            }
        }
        // One screen for the answers of all, and for those that come in time if some do not.
        let is_whole = self.answers >= self.merged.count();
        let is_due = is_whole || self.refreshed.elapsed() >= self.interval;
        if has_ended || self.answers > 0 && is_due {
            self.merged.refresh();
            if let Some(followed) = &mut self.state.followed {
                followed.refresh(&self.merged);
            }
            (self.answers, self.refreshed) = (0, now());
            is_stale = true;
        }
        is_stale
    }

    /// Whether the flowcar of the followed connection does not answer, and the page does not show that yet.
    fn miss_answer(&mut self, now: Instant) -> bool {
        let Some(followed) = &mut self.state.followed else {
            return false;
        };
        let limit = (self.interval * MISSED).max(LEAST_MISSED);
        let last = self.answered.get(&followed.source);
        let is_late = last.is_some_and(|last| now.saturating_duration_since(*last) > limit);
        !self.state.is_paused && is_late && followed.miss_answer()
    }

    fn ask_for_connections(&mut self, feed: &mut impl Feed) {
        let opened = match (&self.state.followed, self.state.level) {
            // Its peer may be there no more.
            (Some(followed), _) => Some(&followed.peer),
            (None, Level::Peers) => None,
            (None, Level::Connections(number)) => {
                self.merged.rows().get(&number).map(|row| &row.key)
            }
        };
        if opened != self.opened.as_ref() {
            feed.open(opened);
            self.opened = opened.cloned();
        }
    }
}

extern "C" fn end(signal: i32) {
    ENDED.store(signal, Ordering::Relaxed);
}

/// The terminal is left as it was, also where a signal ends the process.
fn end_on_signals() {
    let action = SigAction::new(
        SigHandler::Handler(end),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        let set = unsafe { sigaction(signal, &action) };
        // Without it the signal ends the process as well, and the terminal stays as it is.
        let _ = set;
    }
}

/// Ends the process when its terminal is closed. Where no signal comes of that, reading keys never returns: crossterm reads the end of
/// the input again and again.
fn end_with_terminal() {
    thread::spawn(|| {
        let stdin = io::stdin();
        // Only what needs no request: the terminal is closed, or is none.
        let mut terminal = [PollFd::new(stdin.as_fd(), PollFlags::empty())];
        while poll(&mut terminal, PollTimeout::NONE) == Err(Errno::EINTR) {}
        let events = terminal[0].revents();
        if events.is_some_and(|events| events.contains(PollFlags::POLLHUP)) {
            restore();
            process::exit(CLOSED);
        }
    });
}

/// Now, by which the screen is drawn anew.
#[expect(
    clippy::disallowed_methods,
    reason = "nothing is measured by it, and the clock of measurements is the sidecar's"
)]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

    use super::*;
    use crate::answer::{Answer, Books, ConnectionCounts, Connections, PeerCounts, Role};

    /// Has these answers.
    struct Answers(Vec<News>);

    impl Feed for Answers {
        fn next(&mut self) -> Option<News> {
            self.0.pop()
        }

        fn open(&mut self, _: Option<&Key>) {}
    }

    fn answer(at_unix_ns: u64) -> Answers {
        let peer = PeerCounts {
            role: Role::Client,
            name: "db:5432".to_owned(),
            ..PeerCounts::default()
        };
        let open = ConnectionCounts::unmeasured(
            1,
            ([10, 0, 0, 1], 4_000).into(),
            ([10, 0, 0, 2], 5432).into(),
        );
        let connections = Connections {
            of: peer.key().to_string(),
            all: vec![open],
            ..Connections::default()
        };
        Answers(vec![News::Answer {
            source: String::new(),
            answer: Answer {
                books: Books {
                    at_unix_ns,
                    ..Books::default()
                },
                peers: vec![peer],
                connections: Some(connections),
                ..Answer::default()
            },
        }])
    }

    #[test]
    fn answer_of_a_followed_connection_is_missed_after_three_intervals_and_not_in_a_pause() {
        let interval = Duration::from_secs(2);
        let mut shown = Shown::new(false, interval);
        shown.take(&mut answer(1));
        assert!(!shown.miss_answer(now() + 10 * interval));
        let numbers: Vec<u64> = shown.merged.rows().keys().copied().collect();
        let enter = KeyEvent::new(KeyCode::Enter, KeyModifiers::NONE);
        shown.state.press(enter, &numbers, 1);
        shown.state.follow(&shown.merged);
        let (soon, late) = (now() + 2 * interval, now() + 4 * interval);
        assert!(!shown.miss_answer(soon));
        shown.state.is_paused = true;
        assert!(!shown.miss_answer(late));
        // Answers in a pause are answers.
        shown.take(&mut answer(2));
        shown.state.is_paused = false;
        assert!(shown.miss_answer(now() + 4 * interval));
        // The page shows it already.
        assert!(!shown.miss_answer(now() + 5 * interval));
    }
}

//! The screen on a terminal, until a key or a signal ends it.

use std::{
    env, io,
    os::fd::AsFd as _,
    process,
    sync::atomic::{AtomicBool, Ordering},
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
use crate::answer::Key;

/// How long a new answer waits for its screen at most.
const TURN: Duration = Duration::from_millis(100);

/// The exit status of a program whose terminal was closed: as of a process that SIGHUP ended (bash(1), 128 and the signal's number).
const CLOSED: i32 = 129;

/// A signal came that ends the process.
static ENDED: AtomicBool = AtomicBool::new(false);

/// Shows what the feed has. `has_pods`: its flowcars are those of pods, which have names. `interval`: how often each answers.
///
/// # Errors
/// The terminal cannot be drawn on.
pub fn show(feed: &mut impl Feed, has_pods: bool, interval: Duration) -> io::Result<()> {
    end_on_signals();
    end_with_terminal();
    let mut terminal = ratatui::try_init()?;
    let shown = Shown::new(has_pods, interval).run(&mut terminal, feed);
    ratatui::restore();
    shown
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
            opened: None,
        }
    }

    fn run(&mut self, terminal: &mut DefaultTerminal, feed: &mut impl Feed) -> io::Result<()> {
        let palette = Palette(env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()));
        let mut page = 1;
        let mut is_stale = true;
        while !ENDED.load(Ordering::Relaxed) {
            is_stale |= self.take(feed);
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
                News::Answer { .. } if self.state.is_paused => {}
                News::Answer { source, answer } => {
                    self.merged.take(&source, answer);
                    self.answers += 1;
                }
                News::Ended { source } => {
                    self.merged.remove(&source);
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

extern "C" fn end(_: i32) {
    ENDED.store(true, Ordering::Relaxed);
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
        process::exit(CLOSED);
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

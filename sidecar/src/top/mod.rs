//! `flowcar top`: the peers of a running flowcar on a terminal, with rates, latencies, and what holds them back.

mod delta;
mod feed;
mod held_back;
mod model;
mod own;
mod screen;
mod state;

use std::{
    env,
    io::{self, IsTerminal as _},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyEventKind},
};

use self::{
    feed::Feed,
    model::{Connections, Peers},
    own::Own,
    screen::{Palette, Screen},
    state::{Asked, Level, State},
};
use crate::{
    capabilities,
    control::Running,
    exit::{self, Failure},
};

/// How long a new answer waits for its screen at most.
const TURN: Duration = Duration::from_millis(100);

/// A signal came that ends the process.
static ENDED: AtomicBool = AtomicBool::new(false);

/// Whom to ask, and how often.
#[derive(Debug, clap::Args)]
pub struct TopArgs {
    /// Show the flowcar export that was started with this --cgroup, or follow this cgroup if there is none [default: the flowcar of this
    /// container or the only one on this host; if there is none, the network namespace's flows without eBPF]
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// Seconds between two answers
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    interval: f64,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok();
    let seconds = seconds.filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.ok_or_else(|| "is a number of seconds from 0.1 to 3600".to_owned())
}

/// Shows the peers until a key or a signal ends it.
///
/// # Errors
/// [`Failure`] if nobody can be asked and nothing followed, or there is no terminal.
pub fn top(args: &TopArgs) -> Result<u8, Failure> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Failure::new(
            exit::USAGE,
            "flowcar top needs a terminal: in a script use `flowcar flows --format json`; with kubectl exec give -it",
        ));
    }
    let running = Running::of_cgroup(args.cgroup.clone());
    // Ends when this returns.
    let _own = Own::unless_running(&running, args.cgroup.as_deref())?;
    // The follower has its own.
    capabilities::drop_all(&[])?;
    end_on_signals();
    let feed = Feed::start(running, Duration::from_secs_f64(args.interval));
    let failed = |error: io::Error| {
        Failure::new(
            exit::CANNOT_CREATE,
            format_args!("cannot draw on this terminal: {error}"),
        )
    };
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let shown = show(&mut terminal, &feed);
    ratatui::restore();
    shown.map(|()| 0).map_err(failed)
}

fn show(terminal: &mut DefaultTerminal, feed: &Feed) -> io::Result<()> {
    let palette = Palette(env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()));
    let (mut peers, mut connections) = (Peers::default(), Connections::default());
    let mut state = State::default();
    let mut trouble = None;
    let mut page = 1;
    let mut is_stale = true;
    while !ENDED.load(Ordering::Relaxed) {
        while let Some(answer) = feed.next() {
            match answer {
                Ok(_) if state.is_paused => continue,
                Ok(answer) => {
                    trouble = None;
                    peers.take(answer.peers);
                    answer
                        .flows
                        .into_iter()
                        .for_each(|flows| connections.take(flows));
                }
                Err(error) => trouble = Some(error.to_string()),
            }
            is_stale = true;
        }
        if is_stale {
            let screen = Screen {
                peers: &peers,
                connections: &connections,
                trouble: trouble.as_deref(),
                palette,
            };
            terminal.draw(|frame| page = screen.draw(frame, &mut state))?;
        }
        is_stale = event::poll(TURN)?;
        if !is_stale {
            continue;
        }
        if let Event::Key(pressed) = event::read()?
            && pressed.kind != KeyEventKind::Release
        {
            let rows = state.peers(&peers);
            let series: Vec<u64> = rows.into_iter().map(|(series, _)| series).collect();
            if state.press(pressed, &series, page) == Asked::Quit {
                return Ok(());
            }
            feed.want_flows(state.level != Level::Peers);
        }
    }
    Ok(())
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

//! The signals that stop flowcar.

use std::time::Duration;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};

use crate::{
    exit::{self, Failure},
    signals::is_ignored,
};

/// Signals within this time are of one stop: `timeout` and a terminal signal the process and its group, and systemd sends SIGHUP behind SIGTERM.
const SAME_STOP: Duration = Duration::from_secs(1);

/// The signals that stop flowcar. After SIGHUP from a closed terminal the last report is sent as well.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    pub(super) fn catch() -> Result<Self, Failure> {
        let catch = |kind| {
            signal(kind).map_err(|error| {
                Failure::new(
                    exit::SOFTWARE,
                    format_args!("cannot catch signals: {error}"),
                )
            })
        };
        // Under nohup flowcar continues.
        let hangup = !is_ignored(nix::sys::signal::Signal::SIGHUP);
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            hangup: hangup.then(|| catch(SignalKind::hangup())).transpose()?,
        })
    }

    /// Waits for a signal of another stop than the one that is under way. Those that came meanwhile are of that one, too.
    pub(super) async fn came_again(&mut self) {
        let under_way = Instant::now();
        loop {
            self.came().await;
            if under_way.elapsed() >= SAME_STOP {
                return;
            }
            tracing::debug!("a signal of the same stop");
        }
    }

    /// Waits for a signal.
    pub(super) async fn came(&mut self) {
        let hung_up = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = hung_up => {}
        }
    }
}

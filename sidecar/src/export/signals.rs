//! The signals that stop flowcar.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    exit::{self, Failure},
    signals::is_ignored,
};

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

//! Answers of a running flowcar, asked for once an interval by a thread of its own: a slow answer does not hold up keys.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use crate::control::{Listing, NoAnswer, PeerListing, Running};

/// An answer.
pub(super) struct Answer {
    pub(super) peers: PeerListing,
    /// The connections, where they were asked for.
    pub(super) flows: Option<Listing>,
}

/// The thread that asks. It ends when nobody takes its answers.
pub(super) struct Feed {
    answers: mpsc::Receiver<Result<Answer, NoAnswer>>,
    wants_flows: Arc<AtomicBool>,
    thread: thread::Thread,
}

impl Feed {
    pub(super) fn start(running: Running, interval: Duration) -> Self {
        // One: there is never an old answer in front of a new one for long.
        let (to, answers) = mpsc::sync_channel(1);
        let wants_flows = Arc::new(AtomicBool::new(false));
        let wanted = Arc::clone(&wants_flows);
        let asking = thread::spawn(move || {
            loop {
                let answer = ask(&running, wanted.load(Ordering::Relaxed));
                if to.send(answer).is_err() {
                    return;
                }
                thread::park_timeout(interval);
            }
        });
        Self {
            answers,
            wants_flows,
            thread: asking.thread().clone(),
        }
    }

    /// Whether connections are asked for, too. They are from now on at once, and not with the next interval.
    pub(super) fn want_flows(&self, wanted: bool) {
        if self.wants_flows.swap(wanted, Ordering::Relaxed) != wanted && wanted {
            self.thread.unpark();
        }
    }

    /// The next answer, if it is there.
    pub(super) fn next(&self) -> Option<Result<Answer, NoAnswer>> {
        self.answers.try_recv().ok()
    }
}

fn ask(running: &Running, flows: bool) -> Result<Answer, NoAnswer> {
    Ok(Answer {
        peers: running.peers()?,
        flows: flows.then(|| running.flows()).transpose()?,
    })
}

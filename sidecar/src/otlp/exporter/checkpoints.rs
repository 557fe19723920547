//! Leaves what a report told of for the flowcar after this one, on a thread of its own: a disk that hangs holds up neither the flows
//! nor the reports.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use tokio::{
    sync::oneshot::{self, error::TryRecvError},
    time::timeout,
};

use crate::{handover::Keeper, snapshot::Snapshot};

/// How long the next report waits for the file to be written, so that the last one is there when the process ends.
const WAIT: Duration = Duration::from_secs(2);

/// Writes one file at a time.
#[derive(Debug)]
pub(super) struct Checkpoints {
    keeper: Arc<Mutex<Keeper>>,
    /// A write that takes longer.
    writing: Option<oneshot::Receiver<()>>,
}

// === impl Checkpoints ===

impl Checkpoints {
    pub(super) fn new(keeper: Keeper) -> Self {
        Self {
            keeper: Arc::new(Mutex::new(keeper)),
            writing: None,
        }
    }

    /// Leaves what this report told of. While the write of an earlier report hangs it is left out, and that is told.
    pub(super) async fn keep(&mut self, report: &Arc<Snapshot>) {
        if let Some(writing) = &mut self.writing
            && writing.try_recv() == Err(TryRecvError::Empty)
        {
            tracing::warn!(
                "what was reported cannot be left for the flowcar after this one: an earlier write to FLOWCAR_STATE has not come back"
            );
            return;
        }
        let (done, mut written) = oneshot::channel();
        let (keeper, told) = (Arc::clone(&self.keeper), Arc::clone(report));
        let work = move || {
            write(&keeper, &told);
            // Nobody waits for one that took too long.
            let _ = done.send(());
        };
        let thread = thread::Builder::new().name("checkpoint".to_owned());
        if thread.spawn(work).is_err() {
            write(&self.keeper, report);
            return;
        }
        let in_time = timeout(WAIT, &mut written).await.is_ok();
        self.writing = (!in_time).then_some(written);
    }
}

fn write(keeper: &Mutex<Keeper>, report: &Snapshot) {
    if let Some(left) = &report.left {
        let mut keeper = keeper.lock().unwrap_or_else(PoisonError::into_inner);
        keeper.keep(report.at_unix_ns, left);
    }
}

//! Writes the checkpoint of each acknowledged report on a thread of its own: a disk that hangs delays neither the flows nor the
//! reports.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use tokio::{
    sync::oneshot::{self, error::TryRecvError},
    time::timeout,
};

use crate::{checkpoint::CheckpointFile, snapshot::Snapshot};

/// How long the next report waits for the file to be written, so that the last checkpoint is complete when the process exits.
const WAIT: Duration = Duration::from_secs(2);

/// Writes one file at a time.
#[derive(Debug)]
pub(super) struct Checkpoints {
    checkpoint: Arc<Mutex<CheckpointFile>>,
    /// A write that takes longer.
    writing: Option<oneshot::Receiver<()>>,
}

// === impl Checkpoints ===

impl Checkpoints {
    pub(super) fn new(checkpoint: CheckpointFile) -> Self {
        Self {
            checkpoint: Arc::new(Mutex::new(checkpoint)),
            writing: None,
        }
    }

    /// Writes the checkpoint of this report. While an earlier write hangs it is skipped, and a warning is logged.
    pub(super) async fn keep(&mut self, report: &Arc<Snapshot>) {
        if let Some(writing) = &mut self.writing
            && writing.try_recv() == Err(TryRecvError::Empty)
        {
            tracing::warn!(
                "the checkpoint is not written: an earlier write to FLOWCAR_STATE_DIR has not returned"
            );
            return;
        }
        let (done, mut written) = oneshot::channel();
        let (checkpoint, reported) = (Arc::clone(&self.checkpoint), Arc::clone(report));
        let work = move || {
            write(&checkpoint, &reported);
            // A write that took too long is not waited for.
            let _ = done.send(());
        };
        let thread = thread::Builder::new().name("checkpoint".to_owned());
        if thread.spawn(work).is_err() {
            write(&self.checkpoint, report);
            return;
        }
        let in_time = timeout(WAIT, &mut written).await.is_ok();
        self.writing = (!in_time).then_some(written);
    }
}

fn write(checkpoint: &Mutex<CheckpointFile>, report: &Snapshot) {
    if let Some(left) = &report.checkpoint {
        let mut checkpoint = checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
        checkpoint.keep(report.at_unix_ns, left);
    }
}

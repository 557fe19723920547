//! Writes the checkpoint of each acknowledged report on a thread of its own: a disk that hangs delays neither the flows nor the
//! reports.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tokio::{
    sync::{
        oneshot::{self, error::TryRecvError},
        watch,
    },
    time::{Instant, timeout, timeout_at},
};

use crate::{
    checkpoint::CheckpointFile,
    flow::checkpoint::CheckpointFlows,
    otlp::exporter::ReportProgress,
    task::{Task, TaskEnded},
};

/// How long the next checkpoint waits for the file to be written. Behind it, writes are skipped until the disk answers.
const WAIT: Duration = Duration::from_secs(2);

/// The checkpoints of reports that may yet be acknowledged, and the task that has the acknowledged ones written.
#[derive(Debug)]
pub(super) struct Checkpoints {
    unwritten: Unwritten,
    progress: watch::Receiver<ReportProgress>,
    task: Task,
}

/// The checkpoint of one report.
#[derive(Debug)]
pub(super) struct ReportCheckpoint {
    /// The report's number.
    pub(super) number: u64,
    /// When the report was made, nanoseconds since the Unix epoch.
    pub(super) at_unix_ns: u64,
    /// The flows that it counts.
    pub(super) flows: CheckpointFlows,
}

/// Checkpoints, the oldest first; shared with the task.
#[derive(Clone, Debug, Default)]
struct Unwritten(Arc<Mutex<Vec<ReportCheckpoint>>>);

/// Writes one file at a time.
#[derive(Debug)]
struct Writer {
    file: Arc<Mutex<CheckpointFile>>,
    /// A write that takes longer.
    writing: Option<oneshot::Receiver<()>>,
    /// The newest checkpoint that was not written meanwhile.
    skipped: Option<Arc<ReportCheckpoint>>,
}

// === impl Checkpoints ===

impl Checkpoints {
    /// Writes to `file` the checkpoints of the reports that are acknowledged by `progress`.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(super) fn start(file: CheckpointFile, progress: watch::Receiver<ReportProgress>) -> Self {
        let unwritten = Unwritten::default();
        let writer = Writer {
            file: Arc::new(Mutex::new(file)),
            writing: None,
            skipped: None,
        };
        let work = write_acknowledged(unwritten.clone(), progress.clone(), writer);
        Self {
            unwritten,
            progress,
            task: Task::spawn("writes checkpoints", work),
        }
    }

    /// Takes the checkpoint of the newest report. It is written once that report is acknowledged as a whole.
    pub(super) fn add(&self, newest: ReportCheckpoint) {
        let progress = *self.progress.borrow();
        let mut unwritten = self.unwritten.lock();
        // The newest report replaces the others that wait to be sent.
        unwritten.retain(|of| [progress.sending, progress.acknowledged].contains(&of.number));
        unwritten.push(newest);
    }

    /// The task.
    #[cfg(test)]
    pub(super) const fn task(&self) -> &Task {
        &self.task
    }

    /// Waits until the task ends, which is an error while reports may be acknowledged.
    pub(super) async fn ended(&mut self) -> TaskEnded {
        self.task.ended().await
    }

    /// Waits, until `deadline`, for the checkpoint of the last acknowledged report to be written. The exporter has to be dropped before:
    /// until then more reports may be acknowledged.
    pub(super) async fn finish(self, deadline: Instant) {
        // What the disk has not taken by then is lost, as it is where the process is killed.
        let _ = timeout_at(deadline, self.task.finished()).await;
    }
}

/// Writes the checkpoint of each acknowledged report, until no more can be acknowledged.
async fn write_acknowledged(
    unwritten: Unwritten,
    mut progress: watch::Receiver<ReportProgress>,
    mut writer: Writer,
) {
    while progress.changed().await.is_ok() {
        let acknowledged = progress.borrow_and_update().acknowledged;
        if let Some(checkpoint) = unwritten.take(acknowledged) {
            writer.write(Arc::new(checkpoint)).await;
        }
    }
    writer.finish().await;
}

// === impl Unwritten ===

impl Unwritten {
    /// Takes out the checkpoint of this report; none where it is written already.
    fn take(&self, number: u64) -> Option<ReportCheckpoint> {
        let mut unwritten = self.lock();
        let at = unwritten.iter().position(|of| of.number == number)?;
        Some(unwritten.remove(at))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<ReportCheckpoint>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Writer ===

impl Writer {
    /// Writes this checkpoint. While an earlier write hangs it is skipped, and a warning is logged.
    async fn write(&mut self, checkpoint: Arc<ReportCheckpoint>) {
        if let Some(writing) = &mut self.writing
            && writing.try_recv() == Err(TryRecvError::Empty)
        {
            tracing::warn!(
                "the checkpoint is not written: an earlier write to FLOWCAR_STATE_DIR has not returned"
            );
            self.skipped = Some(checkpoint);
            return;
        }
        self.skipped = None;
        let (done, mut written) = oneshot::channel();
        let (file, of_thread) = (Arc::clone(&self.file), Arc::clone(&checkpoint));
        let work = move || {
            write(&file, &of_thread);
            // A write that took too long is not waited for.
            let _ = done.send(());
        };
        let thread = thread::Builder::new().name("checkpoint".to_owned());
        if let Err(error) = thread.spawn(work) {
            // Here a disk that hangs would stop all that flowcar does.
            tracing::warn!(%error, "the checkpoint is not written: no thread can be started for it");
            self.skipped = Some(checkpoint);
            return;
        }
        let in_time = timeout(WAIT, &mut written).await.is_ok();
        self.writing = (!in_time).then_some(written);
    }

    /// Waits for a write that takes long, and for that of the newest checkpoint, which it may have held up.
    async fn finish(&mut self) {
        if let Some(writing) = self.writing.take() {
            // The thread has ended, whatever it sent.
            let _ = writing.await;
        }
        if let Some(checkpoint) = self.skipped.take() {
            self.write(checkpoint).await;
        }
        if let Some(writing) = self.writing.take() {
            let _ = writing.await;
        }
    }
}

fn write(file: &Mutex<CheckpointFile>, checkpoint: &ReportCheckpoint) {
    let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
    file.keep(checkpoint.at_unix_ns, &checkpoint.flows);
}

#[cfg(test)]
mod tests;

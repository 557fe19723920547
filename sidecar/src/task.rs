//! Tasks that must live until they are waited for: one that ends early ends the process, so that its supervisor starts another one.

use std::{any::Any, future::Future};

use tokio::task::{JoinError, JoinHandle};

/// A task ended early, so its work is not done any more.
#[derive(Debug, thiserror::Error)]
#[error("the task that {work} ended unexpectedly: {why}. Please report this line")]
pub struct TaskEnded {
    work: String,
    why: String,
}

/// A running task.
#[derive(Debug)]
pub(crate) struct Task {
    /// What it does, such as "exports metrics".
    work: String,
    handle: JoinHandle<()>,
}

// === impl Task ===

impl Task {
    /// Starts a task that does this work, such as "exports metrics".
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(crate) fn spawn(
        work: impl Into<String>,
        run: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self {
            work: work.into(),
            handle: tokio::spawn(run),
        }
    }

    /// Waits until it ends, which is an error. Must not be called again after that.
    pub(crate) async fn ended(&mut self) -> TaskEnded {
        let why = match (&mut self.handle).await {
            Ok(()) => "it has returned".to_owned(),
            Err(error) => why(error),
        };
        TaskEnded {
            work: self.work.clone(),
            why,
        }
    }

    /// Waits until it ends by itself, as it is to.
    pub(crate) async fn finished(self) {
        // What [`Self::ended`] has waited for must not be waited for again. A panic is in the log.
        if !self.handle.is_finished() {
            let _ = self.handle.await;
        }
    }

    /// Ends it early, as a panic does.
    #[cfg(test)]
    pub(crate) fn abort(&self) {
        self.handle.abort();
    }

    /// Whether it has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.handle.is_finished()
    }
}

fn why(error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => format!("it panicked ({})", message(&*panic)),
        Err(error) => error.to_string(),
    }
}

/// The message of a `panic!`, which is nearly always a string.
fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without words")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn task_exit_is_reported_with_its_reason() {
        let mut task = Task::spawn("exports metrics", async { panic!("no {}", "writer") });
        let ended = task.ended().await.to_string();
        assert!(
            ended.contains("exports metrics") && ended.contains("panicked (no writer)"),
            "{ended}"
        );
        assert!(task.is_over());
        let mut task = Task::spawn("exports traces", async {});
        let ended = task.ended().await.to_string();
        assert!(
            ended.contains("exports traces") && ended.contains("returned"),
            "{ended}"
        );
    }
}

//! A lane's task, which must live as long as its lane.

use std::{any::Any, future::Future};

use tokio::task::{JoinError, JoinHandle};

use crate::config::Signal;

/// A task of the exporter ended early, so its signal is not exported any more.
#[derive(Debug, thiserror::Error)]
#[error("the task that exports {} ended unexpectedly: {why}. Please report this line", signal.name())]
pub struct TaskEnded {
    signal: Signal,
    why: String,
}

/// A running task.
#[derive(Debug)]
pub(super) struct Task {
    signal: Signal,
    handle: JoinHandle<()>,
}

impl Task {
    /// Starts the task of a signal's lane.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(super) fn spawn(signal: Signal, run: impl Future<Output = ()> + Send + 'static) -> Self {
        let handle = tokio::spawn(run);
        Self { signal, handle }
    }

    /// Waits until it ends, which is an error. Must not be called again after that.
    pub(super) async fn ended(&mut self) -> TaskEnded {
        let why = match (&mut self.handle).await {
            Ok(()) => "it has returned".to_owned(),
            Err(error) => why(error),
        };
        TaskEnded {
            signal: self.signal,
            why,
        }
    }

    /// Whether it has ended.
    pub(super) fn is_over(&self) -> bool {
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
        let mut task = Task::spawn(Signal::Metrics, async { panic!("no {}", "writer") });
        let ended = task.ended().await.to_string();
        assert!(
            ended.contains("exports metrics") && ended.contains("panicked (no writer)"),
            "{ended}"
        );
        assert!(task.is_over());
        let mut task = Task::spawn(Signal::Traces, async {});
        let ended = task.ended().await.to_string();
        assert!(
            ended.contains("exports traces") && ended.contains("returned"),
            "{ended}"
        );
    }
}

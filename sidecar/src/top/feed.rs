//! Answers of a running flowcar, asked for once an interval by a thread of its own: a slow answer does not hold up keys.

use std::{
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use flowcar_screen::{
    answer::{Answer, Key},
    top::{Feed, News},
};

use super::answers;
use crate::control::{NoAnswer, Running};

/// The thread that asks. It ends when nobody takes its answers.
pub(super) struct Local {
    news: mpsc::Receiver<Result<Answer, NoAnswer>>,
    opened: Arc<Mutex<Option<Key>>>,
    thread: thread::Thread,
    /// An answer that follows its note.
    next: Option<News>,
}

impl Local {
    pub(super) fn start(running: Running, interval: Duration) -> Self {
        // One: there is never an old answer in front of a new one for long.
        let (to, news) = mpsc::sync_channel(1);
        let opened: Arc<Mutex<Option<Key>>> = Arc::default();
        let of = Arc::clone(&opened);
        let asking = thread::spawn(move || {
            loop {
                let opened = of.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if to.send(ask(&running, opened.as_ref())).is_err() {
                    return;
                }
                thread::park_timeout(interval);
            }
        });
        Self {
            news,
            opened,
            thread: asking.thread().clone(),
            next: None,
        }
    }
}

impl Feed for Local {
    fn next(&mut self) -> Option<News> {
        if let Some(next) = self.next.take() {
            return Some(next);
        }
        Some(match self.news.try_recv().ok()? {
            Ok(answer) => {
                let source = String::new();
                self.next = Some(News::Answer { source, answer });
                News::Notes(Vec::new())
            }
            Err(error) => News::Notes(vec![error.to_string()]),
        })
    }

    /// Its connections are asked for at once, and not with the next interval.
    fn open(&mut self, peer: Option<&Key>) {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        *opened = peer.cloned();
        if opened.is_some() {
            self.thread.unpark();
        }
    }
}

/// Asks for all peers, and for the connections of the opened one.
pub(super) fn ask(running: &Running, opened: Option<&Key>) -> Result<Answer, NoAnswer> {
    let peers = running.peers()?;
    let opened = opened.map(|key| Ok::<_, NoAnswer>((key, running.flows()?)));
    Ok(answers::answer(peers, opened.transpose()?))
}

//! The streams of all pods: started for pods that appear, ended with pods that end, and tried again where they failed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use flowcar_screen::{answer::Key, top::News};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    pods::{Found, MOST, Pods},
    stream::{End, Event, Plan},
};
use crate::{cli::sentence::sentence, text::clip};

/// How often pods are listed.
const LIST: Duration = Duration::from_secs(5);

/// How long a stream that failed is not tried again.
const PAUSE: Duration = Duration::from_secs(30);

/// The longest sentence of a note, characters.
const MOST_NOTE: usize = 500;

/// All streams.
pub(super) struct Fleet {
    pods: Pods,
    found: Found,
    plan: Plan,
    streams: JoinSet<(String, End)>,
    /// The pods that have a stream.
    followed: BTreeSet<String>,
    failed: BTreeMap<String, Failed>,
    /// What a sidecar reports instead of an answer, by pod.
    troubles: BTreeMap<String, String>,
    /// Why pods cannot be listed now.
    unlisted: Option<String>,
    events: mpsc::Receiver<(String, Event)>,
    news: mpsc::Sender<News>,
    count: watch::Sender<usize>,
    notes: Vec<String>,
}

/// A stream that failed.
struct Failed {
    why: String,
    again: Instant,
}

// === impl Fleet ===

impl Fleet {
    /// A fleet with a stream for each pod that was found, and how many of them there are.
    pub(super) fn start(
        pods: Pods,
        found: Found,
        interval: f64,
        wanted: watch::Receiver<Option<Key>>,
        news: mpsc::Sender<News>,
    ) -> (Self, watch::Receiver<usize>) {
        // One: a stream waits where the screen is slow.
        let (to, events) = mpsc::channel(1);
        let (count, counted) = watch::channel(0);
        let plan = Plan {
            api: pods.api.clone(),
            interval,
            wanted,
            events: to,
        };
        let mut fleet = Self {
            pods,
            found,
            plan,
            streams: JoinSet::new(),
            followed: BTreeSet::new(),
            failed: BTreeMap::new(),
            troubles: BTreeMap::new(),
            unlisted: None,
            events,
            news,
            count,
            notes: Vec::new(),
        };
        fleet.start_streams();
        (fleet, counted)
    }

    /// Passes news on until nobody takes them.
    pub(super) async fn run(mut self) {
        let mut lists = interval(LIST);
        lists.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first list is there.
        lists.tick().await;
        loop {
            if self.note().await.is_err() {
                return;
            }
            tokio::select! {
                Some((pod, event)) = self.events.recv() => {
                    if self.take(pod, event).await.is_err() {
                        return;
                    }
                }
                Some(ended) = self.streams.join_next() => {
                    // A panic names no pod, and was printed: the pod is not followed again.
                    let Ok((pod, end)) = ended else { continue };
                    if self.end(pod, end).await.is_err() {
                        return;
                    }
                }
                _ = lists.tick() => self.list().await,
            }
        }
    }

    async fn take(
        &mut self,
        pod: String,
        event: Event,
    ) -> Result<(), mpsc::error::SendError<News>> {
        match event {
            Event::Trouble(why) => {
                self.troubles.insert(pod, why);
                Ok(())
            }
            Event::Answer(answer) => {
                self.troubles.remove(&pod);
                let source = pod;
                self.news.send(News::Answer { source, answer }).await
            }
        }
    }

    async fn end(&mut self, pod: String, end: End) -> Result<(), mpsc::error::SendError<News>> {
        self.followed.remove(&pod);
        self.troubles.remove(&pod);
        if let End::Failed(why) = end {
            let again = Instant::now() + PAUSE;
            self.failed.insert(pod.clone(), Failed { why, again });
        }
        self.news.send(News::Ended { source: pod }).await?;
        // Who sees that none is left has its note.
        self.note().await?;
        self.count.send_replace(self.followed.len());
        Ok(())
    }

    async fn list(&mut self) {
        match self.pods.list().await {
            Ok(found) => {
                self.found = found;
                self.unlisted = None;
                let there = &self.found.running;
                self.failed.retain(|name, _| there.contains(name));
            }
            Err(error) => self.unlisted = Some(sentence(&error)),
        }
        self.start_streams();
    }

    /// Starts a stream for each pod that has none, as far as there is room.
    fn start_streams(&mut self) {
        let now = Instant::now();
        for name in &self.found.running {
            let waits = self
                .failed
                .get(name)
                .is_some_and(|failed| failed.again > now);
            // A StatefulSet's next pod of the same name waits until the stream of the last one has ended.
            if waits || self.followed.contains(name) || self.followed.len() >= MOST {
                continue;
            }
            self.failed.remove(name);
            self.followed.insert(name.clone());
            let (plan, name) = (self.plan.clone(), name.clone());
            self.streams.spawn(async move {
                let end = plan.follow(&name).await;
                (name, end)
            });
        }
        self.count.send_replace(self.followed.len());
    }

    /// Passes the notes on where they have changed.
    async fn note(&mut self) -> Result<(), mpsc::error::SendError<News>> {
        let mut notes = self.found.notes(&self.pods.title);
        notes.extend(self.unlisted.clone());
        let failed = self.failed.iter().map(|(pod, failed)| (pod, &failed.why));
        notes.extend(by_sentence(failed.chain(&self.troubles)));
        if notes == self.notes {
            return Ok(());
        }
        self.notes.clone_from(&notes);
        self.news.send(News::Notes(notes)).await
    }
}

/// Pods with one sentence together: `web-1 and 3 more: why`.
fn by_sentence<'a>(all: impl Iterator<Item = (&'a String, &'a String)>) -> Vec<String> {
    let mut pods: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (pod, why) in all {
        // The API server's sentence names the pod.
        let alike = why.replace(pod.as_str(), "...");
        pods.entry(alike).or_default().push(pod);
    }
    let lines = pods.into_iter().map(|(why, pods)| {
        let (first, more) = (pods[0], pods.len() - 1);
        let which = match more {
            0 => first.to_owned(),
            more => format!("{first} and {more} more"),
        };
        clip(
            &format!("{which}: {}", why.replace("...", first)),
            MOST_NOTE,
        )
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::by_sentence;

    #[test]
    fn pods_with_one_sentence_are_one_note() {
        let all = [
            ("web-1", "pods \"web-1\" is forbidden"),
            ("web-2", "pods \"web-2\" is forbidden"),
            ("web-3", "too old"),
            ("web-4", "pods \"web-4\" is forbidden"),
        ]
        .map(|(pod, why)| (pod.to_owned(), why.to_owned()));
        let notes = by_sentence(all.iter().map(|(pod, why)| (pod, why)));
        let expected = [
            "web-1 and 2 more: pods \"web-1\" is forbidden",
            "web-3: too old",
        ];
        assert_eq!(notes, expected);
    }
}

//! `kubectl flowcar top`: the screen of `flowcar top` over the sidecars of all pods of a workload.

mod fleet;
mod lines;
mod pods;
mod stream;

use std::{
    collections::VecDeque,
    io::{self, IsTerminal as _},
    time::Duration,
};

use anyhow::{Context as _, bail};
use fleet::Fleet;
use flowcar_screen::{
    answer::Key,
    terminal::has_cursor,
    top::{Feed, News, Once, seconds, show},
};
use pods::Pods;
use tokio::sync::{mpsc, watch};

use super::{ClusterArgs, remote::Remote};

/// News that wait for the screen: streams wait, too, where it is slow.
const WAITING: usize = 64;

/// How long the screen waits for an answer to begin with.
const MOMENT: Duration = Duration::from_secs(5);

/// How long one table waits for pods that do not answer, besides its intervals.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whose sidecars are shown, and how often each answers.
#[derive(Clone, Debug, clap::Args)]
pub struct TopArgs {
    /// `deployment/NAME`, `statefulset/NAME`, `pod/NAME`, `cronjob/NAME`, or any kind with a selector of pods, as `rollout/NAME`.
    pub target: String,
    /// Seconds between two answers of each sidecar.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    pub interval: f64,
    /// Print one table and exit, as where the output is no terminal.
    #[arg(long)]
    pub once: bool,
}

/// News of all pods.
struct OfPods {
    /// What came before the screen was there.
    first: VecDeque<News>,
    news: mpsc::Receiver<News>,
    opened: watch::Sender<Option<Key>>,
    /// How many pods are followed.
    followed: watch::Receiver<usize>,
}

// === impl OfPods ===

impl Feed for OfPods {
    fn next(&mut self) -> Option<News> {
        let first = self.first.pop_front();
        first.or_else(|| self.news.try_recv().ok())
    }

    fn open(&mut self, peer: Option<&Key>) {
        self.opened.send_replace(peer.cloned());
    }
}

impl OfPods {
    /// Waits until a pod has answered, for a moment at most.
    ///
    /// # Errors
    /// No pod is left that could.
    async fn wait(&mut self, title: &str) -> anyhow::Result<()> {
        let moment = tokio::time::sleep(MOMENT);
        tokio::pin!(moment);
        loop {
            let news = tokio::select! {
                biased;
                Some(news) = self.news.recv() => news,
                Ok(()) = self.followed.changed() => {
                    if *self.followed.borrow_and_update() == 0 {
                        bail!(self.failure(title));
                    }
                    continue;
                }
                () = &mut moment => return Ok(()),
            };
            let is_answer = matches!(news, News::Answer { .. });
            self.first.push_back(news);
            if is_answer {
                return Ok(());
            }
        }
    }

    /// Why no pod can be asked.
    fn failure(&self, title: &str) -> String {
        let last = self.first.iter().rev().find_map(|news| match news {
            News::Notes(notes) => Some(notes.join("; ")),
            _ => None,
        });
        match last.as_deref() {
            None | Some("") => format!(
                "the sidecars of {title} have ended: start this again once their successors run"
            ),
            Some(why) => format!("no sidecar of {title} can be asked: {why}"),
        }
    }
}

/// Shows the peers of all sidecars until a key or a signal ends it, or prints one table.
///
/// # Errors
/// No pod can be shown, or the terminal cannot be drawn on.
pub(super) async fn run(args: TopArgs, cluster: &ClusterArgs) -> anyhow::Result<bool> {
    let is_once = args.once || !has_cursor(&io::stdout());
    if !is_once && !io::stdin().is_terminal() {
        bail!(
            "kubectl flowcar top needs a terminal for its keys: start it in one, or give --once for one table"
        );
    }
    let remote = Remote::connect(cluster).await?;
    let (_, object) = remote.target(&args.target).await?;
    let pods = Pods::of(&remote, &args.target, &object)?;
    let found = pods.list().await?;
    found.check(&args.target, &remote.namespace)?;
    let (to, news) = mpsc::channel(WAITING);
    let (opened, wanted) = watch::channel(None);
    let title = pods.title.clone();
    let (fleet, followed) = Fleet::start(pods, found, args.interval, wanted, to);
    tokio::spawn(fleet.run());
    let mut feed = OfPods {
        first: VecDeque::new(),
        news,
        opened,
        followed,
    };
    feed.wait(&title).await?;
    let interval = Duration::from_secs_f64(args.interval);
    if is_once {
        return once(feed, interval, &title).await;
    }
    let shown = tokio::task::spawn_blocking(move || show(&mut feed, true, interval)).await;
    shown
        .context("the screen broke off")?
        .context("cannot draw on this terminal")?;
    Ok(true)
}

/// Prints the peers of all pods once each pod has answered often enough.
///
/// # Errors
/// None has.
async fn once(mut feed: OfPods, interval: Duration, title: &str) -> anyhow::Result<bool> {
    let (mut table, mut notes) = (Once::default(), Vec::new());
    let deadline = tokio::time::sleep(2 * interval + PATIENCE);
    tokio::pin!(deadline);
    while !feed.first.is_empty() || table.complete() < *feed.followed.borrow() {
        let news = match feed.first.pop_front() {
            Some(first) => first,
            None => tokio::select! {
                Some(news) = feed.news.recv() => news,
                () = &mut deadline => break,
            },
        };
        match news {
            News::Answer { source, answer } => table.take(&source, answer),
            News::Notes(new) => notes = new,
            News::Ended { .. } => {}
        }
    }
    if table.complete() == 0 {
        feed.first.push_back(News::Notes(notes));
        bail!(feed.failure(title));
    }
    for note in notes {
        eprintln!("flowcar: {note}");
    }
    let lines = table.lines(true).join("\n") + "\n";
    super::print(lines.as_bytes())?;
    Ok(true)
}

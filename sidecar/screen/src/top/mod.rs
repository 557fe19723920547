//! `flowcar top`: peers with rates, latencies, and what holds them back; of one flowcar, or of those of several pods, added up.

mod by_type;
mod columns;
mod delta;
mod draw;
mod follow_page;
mod followed;
mod held_back;
mod merged;
mod once;
mod palette;
mod source;
mod state;
mod terminal;

pub use once::Once;
pub use terminal::show;

use crate::answer::{Answer, Key};

/// What a [`Feed`] has.
#[derive(Debug)]
pub enum News {
    /// An answer of a flowcar.
    Answer {
        /// The flowcar's name: its pod.
        source: String,
        /// What it answered.
        answer: Answer,
    },
    /// A flowcar has ended, and is shown no more.
    Ended {
        /// Its name.
        source: String,
    },
    /// Sentences about what is not shown, and why: instead of all that were before.
    Notes(Vec<String>),
}

/// Where answers come from.
pub trait Feed {
    /// What is new, if something is. It does not wait.
    fn next(&mut self) -> Option<News>;

    /// From now on the connections of this peer are asked for, too.
    fn open(&mut self, peer: Option<&Key>);
}

/// An interval of the command line: seconds.
///
/// # Errors
/// A text of how it is to be.
pub fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok();
    let seconds = seconds.filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.ok_or_else(|| "is a number of seconds from 0.1 to 3600".to_owned())
}

//! `flowcar probe`.

use std::{path::PathBuf, time::Duration};

use super::{
    ask::{Whom, ask},
    protocol,
};
use crate::{
    capabilities, clock,
    exit::{self, Failure},
};

/// How long an answer may take: the main loop takes milliseconds, the rest is for a throttled container.
const PATIENCE: Duration = Duration::from_secs(4);

/// A question to a running sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Question {
    /// Does its main loop run?
    Live,
    /// Does it follow flows, and has a receiver taken a report (if one is to be sent)?
    Ready,
    /// Does it follow flows?
    Started,
}

/// What to ask.
#[derive(Debug, clap::Args)]
pub struct ProbeArgs {
    /// What is asked
    #[arg(value_enum)]
    question: Question,
    /// Ask the one that was started with this --cgroup
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
}

/// Asks the sidecar of this container.
///
/// # Errors
/// [`Failure`] with status 1 if the answer is no, or if nobody answers; with another if capabilities cannot be dropped before.
pub fn probe(args: &ProbeArgs) -> Result<u8, Failure> {
    capabilities::drop_all(&[])?;
    let whom = Whom {
        cgroup: args.cgroup.as_deref(),
        elsewhere: false,
    };
    let answer = ask(protocol::Question::Health, whom, clock::now() + PATIENCE)
        .map_err(|error| Failure::new(exit::NO, error))?;
    let answer = String::from_utf8_lossy(&answer);
    let (words, note) = answer.split_once('\n').unwrap_or((&answer, ""));
    if !note.is_empty() {
        // The kubelet shows what a probe prints when it fails; people see it in any case.
        println!("{}", note.trim_end());
    }
    let wanted = match args.question {
        Question::Live => "live",
        Question::Ready => "ready",
        Question::Started => "started",
    };
    if words.split_whitespace().any(|word| word == wanted) {
        return Ok(0);
    }
    Err(Failure::new(
        exit::NO,
        format_args!("not {wanted}: flows are followed, but no receiver has taken a report yet"),
    ))
}

//! `flowcar top`: the peers of a running flowcar on a terminal, with rates, latencies, and what holds them back; as one table, or as lines
//! of JSON. The screen itself is `kubectl flowcar`'s, too: it is in the crate `flowcar-screen`.

mod answers;
mod feed;
mod lines;
mod own;

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    time::Duration,
};

use flowcar_screen::terminal::has_cursor;

use self::{feed::Local, own::Own};
use crate::{
    capabilities,
    control::Running,
    exit::{self, Failure},
};

/// Whom to ask, how often, and how the answers are shown.
#[derive(Debug, clap::Args)]
pub struct TopArgs {
    /// Show the flowcar export that was started with this --cgroup, or follow this cgroup if there is none [default: the flowcar of this
    /// container or the only one on this host; if there is none, the network namespace's flows without eBPF]
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// Seconds between two answers
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = flowcar_screen::top::seconds)]
    interval: f64,
    /// Print one table and exit, as where the output is no terminal
    #[arg(long)]
    once: bool,
    /// The form: a screen, or one JSON object a line, with what changed since the last one
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// With --format json: read from the standard input whose connections are added, a line such as `client db:5432` for one peer, an empty
    /// line for none. End with the standard input, and follow nothing where no export runs (kubectl flowcar top)
    #[arg(long)]
    stdin: bool,
}

/// The form of the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A screen, or one table
    Table,
    /// One JSON object a line
    Json,
}

/// Shows the peers until a key or a signal ends it, or prints them.
///
/// # Errors
/// [`Failure`] if nobody can be asked and nothing followed, there is no terminal to draw on, or the output cannot be written.
pub fn top(args: &TopArgs) -> Result<u8, Failure> {
    let is_once = args.once || !has_cursor(&io::stdout());
    if args.stdin && (args.format != Format::Json || args.once) {
        let message = "--stdin is for lines of JSON: give --format json without --once";
        return Err(Failure::new(exit::USAGE, message));
    }
    if args.format == Format::Table && !is_once && !io::stdin().is_terminal() {
        return Err(Failure::new(
            exit::USAGE,
            "flowcar top needs a terminal for its keys: with kubectl exec give -it, in a script use `flowcar top --once`",
        ));
    }
    let running = Running::of_cgroup(args.cgroup.clone());
    // Ends when this returns.
    let _own = match args.stdin {
        true => None,
        false => Own::unless_running(&running, args.cgroup.as_deref())?,
    };
    // The follower has its own.
    capabilities::drop_all(&[])?;
    let interval = Duration::from_secs_f64(args.interval);
    match args.format {
        Format::Json if args.once => lines::line(&running)?,
        Format::Json => lines::lines(&running, interval, args.stdin)?,
        Format::Table if is_once => lines::table(&running, interval)?,
        Format::Table => {
            let mut feed = Local::start(running, interval);
            let shown = flowcar_screen::top::show(&mut feed, false, interval);
            shown.map_err(|error| {
                Failure::new(
                    exit::CANNOT_CREATE,
                    format_args!("cannot draw on this terminal: {error}"),
                )
            })?;
        }
    }
    Ok(0)
}

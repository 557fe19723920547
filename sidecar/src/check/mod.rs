//! `flowcar check`: whether flows can be followed here, by which source, and what stands in the way.
//!
//! It tries what it tells of (programs are loaded, sockets are dumped) and leaves nothing behind: no program is
//! attached, and nothing is sent to the network.

mod lines;
mod report;
mod verdict;

use std::{io::Write as _, path::PathBuf};

pub use self::report::{Line, Report, State};
use crate::{
    config::{Config, Mistakes},
    exit::{self, Failure},
    run::Format,
};

/// What to look at.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The cgroup2 directory that `flowcar export` would be given [default: that of the pod that flowcar runs in]
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// For people or for programs
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// Looks, and prints what it saw. Gives 0 if flows can be followed, else [`exit::UNAVAILABLE`].
///
/// # Errors
/// Standard output cannot be written.
pub fn check(args: &CheckArgs, config: Result<Config, Mistakes>) -> Result<u8, Failure> {
    let report = lines::look(args.cgroup.as_deref(), config);
    let text = match args.format {
        Format::Table => report.table(),
        Format::Json => report.json(),
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| {
            Failure::new(
                exit::CANNOT_CREATE,
                format_args!("cannot write to standard output: {error}"),
            )
        })?;
    Ok(if report.source.is_some() {
        0
    } else {
        exit::UNAVAILABLE
    })
}

//! `flowcar flows`: the open connections of a running flowcar.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use super::{client::Running, protocol::Listing};
use crate::{
    capabilities,
    exit::{self, Failure},
    view::{
        json,
        table::{self, Style},
    },
};

/// Which flows, and how they are shown.
#[derive(Debug, clap::Args)]
pub struct FlowsArgs {
    /// The form: rows for people, or one JSON object a line
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Ask the flowcar export that was started with this --cgroup [default: the one of this container, or the only one on this host]
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
}

/// The form of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Rows for people
    Table,
    /// One JSON object a line
    Json,
}

/// Prints the open connections of a running `flowcar export`, oldest first, and its books.
///
/// # Errors
/// [`Failure`] if nobody answers, the list cannot be written, or capabilities cannot be dropped before.
pub fn flows(args: &FlowsArgs) -> Result<u8, Failure> {
    capabilities::drop_all(&[])?;
    let listing = Running::of_cgroup(args.cgroup.clone()).flows();
    let listing = listing.map_err(|error| Failure::new(exit::UNAVAILABLE, error))?;
    match print(&listing, args.format) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(
            exit::CANNOT_CREATE,
            format_args!("cannot write the list: {error}"),
        )),
        _ => Ok(0),
    }
}

fn print(listing: &Listing, format: Format) -> io::Result<()> {
    let stdout = io::stdout();
    let style = Style::of(&stdout);
    let mut out = io::BufWriter::new(stdout.lock());
    match format {
        Format::Json => {
            for row in &listing.flows {
                writeln!(out, "{}", json::line(row))?;
            }
            writeln!(out, "{}", json::summary(&listing.sums(), None))?;
        }
        Format::Table => {
            writeln!(out, "{}", table::head(style))?;
            for row in &listing.flows {
                writeln!(out, "{}", table::flow(row, None, style))?;
            }
            writeln!(out, "{}", table::summary(&listing.sums(), style))?;
        }
    }
    out.flush()
}

//! `flowcar check`: whether flows can be followed here, by which source, and what stands in the way.
//!
//! It tries what it reports (it loads the programs and dumps the sockets) and leaves nothing behind: no program is
//! attached, and nothing is sent to the network without `--send`.

mod fixes;
mod lines;
mod report;
mod send;
mod verdict;

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

pub use self::{
    fixes::Fix,
    report::{Line, Report, State},
};
use crate::{
    capabilities,
    config::{Config, ConfigErrors},
    exit::{self, Failure},
    hardening::{self, Needs},
    run::Format,
};

/// What to check.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The cgroup2 directory that `flowcar export` would be given [default: that of the pod that flowcar runs in]
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// For people or for programs
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Also send a small export of each signal to its receiver, and report the result
    #[arg(long)]
    send: bool,
    /// Also print what to type, or to write into a manifest, so that eBPF follows connections here
    #[arg(long)]
    fix_hints: bool,
}

/// Checks, and prints the report. Returns 0 if flows can be followed and, with `--send`, every receiver took its export;
/// else [`exit::UNAVAILABLE`].
///
/// # Errors
/// Standard output cannot be written, or capabilities cannot be dropped before something is sent.
pub async fn check(args: &CheckArgs, config: Result<Config, ConfigErrors>) -> Result<u8, Failure> {
    let mut report = lines::report(args.cgroup.as_deref(), &config, args.send);
    let mut fine = report.source.is_some();
    if let Ok(config) = config.as_ref()
        && args.send
    {
        // Nothing is loaded any more, and what comes from here on is a receiver's.
        capabilities::drop_all(&[])?;
        hardening::confine(&Needs {
            writes: None,
            child: false,
            attaches: false,
        });
        let (lines, taken) = send::send(config).await;
        report.checks.extend(lines);
        fine &= taken;
    }
    let mut text = match args.format {
        Format::Table => report.table(),
        Format::Json => {
            let reason = report.reason.filter(|_| args.fix_hints);
            let fixes = reason.map(|reason| fixes::of(reason, report.source));
            report.fixes = fixes.map(<[Fix]>::to_vec);
            report.json()
        }
    };
    if args.fix_hints && args.format == Format::Table {
        text += &fixes::table(report.reason, report.source);
    }
    match io::stdout().write_all(text.as_bytes()) {
        // The reader has closed the pipe.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let message = format_args!("cannot write to standard output: {error}");
            Err(Failure::new(exit::CANNOT_CREATE, message))
        }
        _ if fine => Ok(0),
        _ => Ok(exit::UNAVAILABLE),
    }
}

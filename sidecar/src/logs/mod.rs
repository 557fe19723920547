//! flowcar's own log lines, on standard error: few of a kind in a time, as text or as JSON.

mod limit;
mod one_line;
mod stderr;

use std::io::IsTerminal as _;

use tracing_subscriber::filter::LevelFilter;

use self::limit::Limited;
pub use self::stderr::lost;
use crate::config::{Config, LogFormat};

/// Starts logging. Beside a command, only warnings are told unless `FLOWCAR_LOG` says more.
pub fn start(config: &Config, beside_command: bool) {
    let default = if beside_command { "warn" } else { "info" };
    let level = config.log.as_deref().unwrap_or(default);
    // The configuration has read it: it is a level's name.
    let level = level.parse().unwrap_or(LevelFilter::INFO);
    let lines = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(Limited::new(config.log_format))
        // Where a line cannot be written it would say so by `eprintln!`, which panics there.
        .log_internal_errors(false)
        .with_target(false);
    match config.log_format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().init(),
    }
}

/// Writes a process's last line, why it ends, to standard error.
pub fn last_line(line: std::fmt::Arguments<'_>) {
    stderr::write_line(format!("{line}\n").as_bytes());
}

/// Tells what is worth a line about the settings: those that are wrong, and those that change nothing.
pub fn notices(config: &Config) {
    // The limit for lines of one place would leave the rest out without a word.
    const LINES: usize = 8;
    let (first, rest) = config.notices.split_at(config.notices.len().min(LINES));
    for notice in first {
        tracing::warn!("{notice}");
    }
    if !rest.is_empty() {
        let names: Vec<_> = rest.iter().map(|notice| notice.name.as_str()).collect();
        tracing::warn!(
            "of these settings there is as much to say: {}",
            names.join(", ")
        );
    }
}

//! flowcar's own log lines, on standard error: few of a kind in a time, as text or as JSON.

mod limit;

use std::io::IsTerminal as _;

use tracing_subscriber::filter::LevelFilter;

use self::limit::Limited;
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
        .with_target(false);
    match config.log_format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().init(),
    }
}

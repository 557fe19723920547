//! flowcar's own log lines, on standard error: rate limited by call site, as text or as JSON.

mod limit;
mod one_line;
mod stderr;

use flowcar_screen::terminal::has_colours;
use tracing_subscriber::filter::LevelFilter;

use self::limit::Limited;
pub use self::stderr::{clear_status, draw_status, lost};
use crate::config::{Config, LogFormat};

/// Starts logging. Beside a command, only warnings are logged unless `FLOWCAR_LOG` is set.
pub fn start(config: &Config, beside_command: bool) {
    stderr::prepare();
    let default = if beside_command { "warn" } else { "info" };
    let level = config.log.as_deref().unwrap_or(default);
    // The configuration has read it: it is a level's name.
    let level = level.parse().unwrap_or(LevelFilter::INFO);
    let lines = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(Limited::new(config.log_format))
        // If a line cannot be written, the subscriber would call `eprintln!`, which panics then.
        .log_internal_errors(false)
        .with_target(false);
    match config.log_format {
        LogFormat::Text => lines.with_ansi(has_colours(&std::io::stderr())).init(),
        LogFormat::Json => lines.json().init(),
    }
}

/// Writes a process's last line, why it ends, to standard error.
pub fn last_line(line: std::fmt::Arguments<'_>) {
    stderr::write_line(format!("{line}\n").as_bytes());
}

/// Logs warnings about settings that are wrong or change nothing.
pub fn notices(config: &Config) {
    // The limit for lines of one call site would omit the rest silently.
    const LINES: usize = 8;
    let (first, rest) = config.notices.split_at(config.notices.len().min(LINES));
    for notice in first {
        tracing::warn!("{notice}");
    }
    if !rest.is_empty() {
        let names: Vec<_> = rest.iter().map(|notice| notice.name.as_str()).collect();
        tracing::warn!("more settings with warnings: {}", names.join(", "));
    }
}

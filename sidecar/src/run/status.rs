//! The status line: where it is drawn, from when on, and how long it is.

use std::{
    io::{self, IsTerminal as _},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use flowcar_screen::terminal::{columns, has_cursor};
use nix::sys::stat::fstat;

use crate::{clock, logs};

/// A command that ends sooner has none.
const FIRST: Duration = Duration::from_secs(1);

/// The columns of a terminal that does not know them.
const COLUMNS: usize = 80;

/// A status line on the terminal that standard error is.
pub(super) struct Status {
    began: Instant,
}

/// What decides whether there is one.
#[derive(Clone, Copy, Debug)]
struct Wish {
    /// `--status`
    is_asked_for: bool,
    /// Standard error is a terminal that can have one.
    has_cursor: bool,
    /// The command writes to a terminal, or to a pipe, whose reader may be a pager on the same terminal.
    shares_terminal: bool,
    /// The terminal gets lines that a program may read.
    has_json: bool,
}

// === impl Status ===

impl Status {
    /// A status line that `--status` asks for, or that is in nobody's way; `has_json`: the report's JSON goes to standard error.
    pub(super) fn new(is_asked_for: bool, has_json: bool) -> Option<Self> {
        let wish = Wish {
            is_asked_for,
            has_cursor: has_cursor(&io::stderr()),
            shares_terminal: io::stdout().is_terminal() || is_pipe(&io::stdout()),
            has_json,
        };
        let began = clock::now();
        wish.is_granted().then_some(Self { began })
    }

    /// Draws it, in place of the last one.
    pub(super) fn draw(&self, text: impl FnOnce() -> String) {
        if clock::now().duration_since(self.began) >= FIRST {
            let columns = columns(&io::stderr()).unwrap_or(COLUMNS);
            logs::draw_status(cut(&text(), columns));
        }
    }
}

// === impl Wish ===

impl Wish {
    /// What the command writes to a terminal may be a prompt, or drawn by itself.
    const fn is_granted(self) -> bool {
        self.has_cursor && (self.is_asked_for || !self.shares_terminal && !self.has_json)
    }
}

fn is_pipe(file: &impl AsFd) -> bool {
    fstat(file).is_ok_and(|found| found.st_mode & libc::S_IFMT == libc::S_IFIFO)
}

/// The part of a text of ASCII that leaves the last column free: behind it some terminals begin a new line.
fn cut(text: &str, columns: usize) -> &str {
    text.get(..columns.saturating_sub(1)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_line_is_where_it_is_in_nobodys_way_or_asked_for() {
        for (is_asked_for, has_cursor, shares_terminal, has_json, expected) in [
            (false, true, false, false, true),
            (false, true, true, false, false),
            (false, true, false, true, false),
            (true, true, true, false, true),
            (true, true, false, true, true),
            (false, false, false, false, false),
            (true, false, true, false, false),
        ] {
            let wish = Wish {
                is_asked_for,
                has_cursor,
                shares_terminal,
                has_json,
            };
            assert_eq!(wish.is_granted(), expected, "{wish:?}");
        }
    }

    #[test]
    fn status_line_leaves_a_column_free() {
        for (columns, expected) in [(80, "12345"), (6, "12345"), (5, "1234"), (1, ""), (0, "")] {
            assert_eq!(cut("12345", columns), expected, "{columns}");
        }
    }
}

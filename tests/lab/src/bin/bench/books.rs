//! flowcar's books, as it logs them when it stops.

use std::io;

use flowcar_lab::sidecar::Stopped;

/// Flows, by what became of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Books {
    /// Those that were opened.
    pub(crate) opened: u64,
    /// Of those, the ones whose close or figures are not known.
    pub(crate) lost: u64,
}

/// Those of a flowcar that was stopped.
pub(crate) fn of(stopped: &Stopped) -> io::Result<Books> {
    stopped
        .log
        .iter()
        .rev()
        .find_map(|line| Books::read(line))
        .ok_or_else(|| io::Error::other(format!("flowcar logged no books: {stopped:?}")))
}

// === impl Books ===

impl Books {
    fn read(line: &str) -> Option<Self> {
        let field = |name: &str| {
            let mut words = line.split_whitespace();
            words.find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
        };
        Some(Self {
            opened: field("opened")?,
            lost: field("lost")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_are_read_from_the_last_line() {
        let line =
            "INFO stopping: sending the last report opened=12 closed=10 live=1 lost=1 failed=0";
        let books = Books {
            opened: 12,
            lost: 1,
        };
        assert_eq!(Books::read(line), Some(books));
        assert_eq!(Books::read("INFO stopping"), None);
    }
}

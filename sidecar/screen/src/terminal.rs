//! What may be written to a terminal: colours, and sequences that move its cursor.

use std::{
    env,
    ffi::{OsStr, OsString},
    io::IsTerminal,
    os::fd::{AsFd, AsRawFd as _},
};

use nix::libc::{TIOCGWINSZ, winsize};

nix::ioctl_read_bad!(
    /// ioctl_tty(2)
    window_size,
    TIOCGWINSZ,
    winsize
);

/// Whether `output` gets colours: it is a terminal that has them, and `NO_COLOR` is empty or not set (<https://no-color.org>).
pub fn has_colours(output: &impl IsTerminal) -> bool {
    output.is_terminal() && allows_colours(env::var_os("NO_COLOR").as_deref(), term().as_deref())
}

/// Whether `output` is a terminal that understands sequences that move its cursor.
pub fn has_cursor(output: &impl IsTerminal) -> bool {
    output.is_terminal() && !is_dumb(term().as_deref())
}

/// The columns of a terminal; `None` of anything else, and of one that does not know.
pub fn columns(output: &impl AsFd) -> Option<usize> {
    let mut size = winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the descriptor is open, and the kernel writes a struct winsize during the call.
    unsafe { window_size(output.as_fd().as_raw_fd(), &mut size) }.ok()?;
    Some(size.ws_col.into()).filter(|columns| *columns > 0)
}

fn term() -> Option<OsString> {
    env::var_os("TERM")
}

fn allows_colours(no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    no_color.is_none_or(OsStr::is_empty) && !is_dumb(term)
}

fn is_dumb(term: Option<&OsStr>) -> bool {
    term.is_some_and(|term| term == "dumb")
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn environment_switches_colours_off() {
        for (no_color, term, expected) in [
            (None, None, true),
            (None, Some("xterm-256color"), true),
            (Some(""), Some("xterm"), true),
            (Some("1"), Some("xterm"), false),
            (Some("0"), Some("xterm"), false),
            (None, Some("dumb"), false),
            (Some(""), Some("dumb"), false),
        ] {
            let allowed = allows_colours(no_color.map(OsStr::new), term.map(OsStr::new));
            assert_eq!(allowed, expected, "{no_color:?} {term:?}");
        }
    }

    #[test]
    fn file_has_neither_colours_nor_columns() {
        let file = File::open("/dev/null").expect("/dev/null");
        assert!(!has_colours(&file) && !has_cursor(&file));
        assert_eq!(columns(&file), None);
    }
}

//! Somebody else's words, fit for one line of a log: whatever is in them, they neither begin another line, nor steer a
//! terminal, nor turn the direction of the text (bidi controls), nor fill the log.

use std::fmt::{self, Write as _};

/// Characters of a receiver's words that are shown, at most.
const MOST_QUOTED: usize = 200;

/// Characters of a reason that are shown, at most: several addresses, names and files have room.
const MOST_SHOWN: usize = 600;

/// Words in quotation marks, with everything escaped that is no printable character.
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (words, more) = cut(self.0.trim(), MOST_QUOTED);
        // Debug's escapes are those of Rust's literals.
        write!(f, "{words:?}")?;
        f.write_str(if more { "..." } else { "" })
    }
}

/// The same after a colon, if there are any words.
pub(super) struct Said<'a>(pub(super) &'a str);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.trim() {
            "" => Ok(()),
            words => write!(f, ": {}", Quoted(words)),
        }
    }
}

/// A reason of our own making that may hold others' words (the names in a certificate, say).
pub(super) struct Shown<'a>(pub(super) &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (words, more) = cut(self.0, MOST_SHOWN);
        for character in words.chars() {
            match character {
                '"' | '\'' | '\\' => f.write_char(character)?,
                _ => write!(f, "{}", character.escape_debug())?,
            }
        }
        f.write_str(if more { "..." } else { "" })
    }
}

/// The first so many characters, and whether there are more.
fn cut(text: &str, most: usize) -> (&str, bool) {
    match text.char_indices().nth(most) {
        Some((at, _)) => (&text[..at], true),
        None => (text, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each is a way to make a log say what flowcar did not.
    const FORGERIES: [&str; 12] = [
        "no\n2026-01-01T00:00:00Z  INFO all is well",
        "no\r\nINFO",
        "no\rINFO",
        "\x1b[2K\x1b[1G INFO",
        "\u{9b}2J",
        "\x07\x08\0",
        "\u{202e}drawkcab",
        "\u{2066}isolated\u{2069}",
        "\u{200f}\u{200b}\u{feff}",
        "line\u{2028}separator\u{2029}paragraph\u{85}next",
        "closed\" level=info message=\"all is well",
        "tag\u{e0041}",
    ];

    #[test]
    fn no_words_leave_their_line_or_their_quotation_marks() {
        for forgery in FORGERIES {
            let quoted = Quoted(forgery).to_string();
            let shown = Shown(forgery).to_string();
            for text in [&quoted, &shown] {
                assert!(text.is_ascii(), "{text:?}");
                assert!(!text.contains(|c: char| c.is_control()), "{text:?}");
            }
            let inside = &quoted[1..quoted.len() - 1];
            assert!(!inside.replace("\\\"", "").contains('"'), "{quoted}");
        }
    }

    #[test]
    fn words_of_any_language_stay_readable_and_long_ones_are_cut() {
        assert_eq!(Quoted(" Zu groß: 太大 ").to_string(), "\"Zu groß: 太大\"");
        assert_eq!(Said(" \n ").to_string(), "");
        let long = "é".repeat(5_000);
        assert_eq!(Quoted(&long).to_string().chars().count(), MOST_QUOTED + 5);
        assert_eq!(Shown(&long).to_string().chars().count(), MOST_SHOWN + 3);
    }
}

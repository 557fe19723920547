//! Foreign text, made safe for one line of a log: it cannot begin another line, control a terminal, change the direction of the
//! text (bidi controls), or fill the log.

use std::fmt::{self, Write as _};

/// The most characters of a receiver's message that are shown.
const MOST_QUOTED: usize = 200;

/// The most characters of a reason that are shown: several addresses, names and files have room.
const MOST_SHOWN: usize = 600;

/// Text in quotation marks, with everything escaped that is no printable character.
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (words, more) = cut(self.0.trim(), MOST_QUOTED);
        // Debug's escapes are those of Rust's literals.
        write!(f, "{words:?}")?;
        f.write_str(if more { "..." } else { "" })
    }
}

/// The same after a colon, if the text is not empty.
pub(super) struct ServerMessage<'a>(pub(super) &'a str);

impl fmt::Display for ServerMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.trim() {
            "" => Ok(()),
            words => write!(f, ": {}", Quoted(words)),
        }
    }
}

/// flowcar's own reason with foreign text in it, such as the names in a certificate.
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

    /// Each would forge a log line.
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
    fn quoted_text_stays_on_its_line_and_in_its_quotes() {
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
    fn any_language_stays_readable_and_long_text_is_cut() {
        assert_eq!(Quoted(" Zu groß: 太大 ").to_string(), "\"Zu groß: 太大\"");
        assert_eq!(ServerMessage(" \n ").to_string(), "");
        let long = "é".repeat(5_000);
        assert_eq!(Quoted(&long).to_string().chars().count(), MOST_QUOTED + 5);
        assert_eq!(Shown(&long).to_string().chars().count(), MOST_SHOWN + 3);
    }
}

//! One event is one line, whatever text is in it: a line break, or a character that reverses the text, would let
//! others forge flowcar's log lines.

use std::borrow::Cow;

/// The line with all line breaks but the last, and all invisible characters, escaped. Escape sequences
/// are the subscriber's own: it escapes those of others.
pub(super) fn one_line(line: &[u8]) -> Cow<'_, [u8]> {
    let Ok(text) = std::str::from_utf8(line) else {
        return line.into();
    };
    let (text, end) = match text.strip_suffix('\n') {
        Some(text) => (text, "\n"),
        None => (text, ""),
    };
    if !text.contains(is_odd) {
        return line.into();
    }
    let mut escaped = String::with_capacity(line.len() + 16);
    for character in text.chars() {
        if is_odd(character) {
            escaped.extend(character.escape_unicode());
        } else {
            escaped.push(character);
        }
    }
    escaped.push_str(end);
    escaped.into_bytes().into()
}

/// Whether it is a control character, but for ESC, or steers the direction or the visibility of text (Unicode's Cf, Zl and
/// Zp), which are those that Debug escapes besides quotation marks.
fn is_odd(character: char) -> bool {
    const ESC: char = '\x1b';
    match character {
        ' '..='~' | ESC => false,
        _ if character.is_alphanumeric() => false,
        _ => character.escape_debug().len() > 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_is_one_line_with_escapes() {
        for (line, written) in [
            ("INFO all is well\n", "INFO all is well\n"),
            (
                "INFO \"größer\" – 太大 `x`\n",
                "INFO \"größer\" – 太大 `x`\n",
            ),
            ("\x1b[32m INFO\x1b[0m ok\n", "\x1b[32m INFO\x1b[0m ok\n"),
            ("a\nINFO b\n", "a\\u{a}INFO b\n"),
            ("a\r\u{85}\u{2028}b\n", "a\\u{d}\\u{85}\\u{2028}b\n"),
            ("\u{202e}b\u{2066}\n", "\\u{202e}b\\u{2066}\n"),
            ("half", "half"),
        ] {
            assert_eq!(String::from_utf8_lossy(&one_line(line.as_bytes())), written);
        }
        assert_eq!(&*one_line(b"\xff\n"), b"\xff\n");
    }
}

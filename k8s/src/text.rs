//! Cutting text to the sizes that Kubernetes shows.

/// The longest admission warning that clients show whole, in characters (Kubernetes' webhook documentation).
pub(crate) const WARNING_CHARS: usize = 120;

/// The text, made one line and cut to at most `max` characters; a cut is shown by `...`.
pub(crate) fn clip(text: &str, max: usize) -> String {
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if line.chars().count() <= max {
        return line;
    }
    let kept: String = line.chars().take(max.saturating_sub(3)).collect();
    format!("{kept}...")
}

#[cfg(test)]
mod tests {
    use super::clip;

    #[test]
    fn a_short_text_stays_and_a_long_one_is_cut_on_a_character() {
        assert_eq!(clip("short", 5), "short");
        assert_eq!(clip("öööööööö", 6), "ööö...");
        assert_eq!(clip("two\nlines", 20), "two lines");
    }
}

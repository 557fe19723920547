//! Text as people and Kubernetes write it, and cut to the sizes that Kubernetes shows.

use std::time::Duration;

use k8s_openapi::jiff::SignedDuration;

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

/// `1 pod`, `2 pods`.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}

/// `10m`, `720h`, `1h30m`, as people write durations.
///
/// # Errors
/// If it is no such text, or negative.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let parsed: SignedDuration = text
        .parse()
        .map_err(|error| format!("{error}; write it as in 10m or 720h"))?;
    Duration::try_from(parsed).map_err(|error| error.to_string())
}

/// The candidate that `word` was most likely meant to be, if one is near enough to name.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let word = word.to_lowercase().replace('_', "-");
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(&word, candidate), candidate))
        .filter(|(distance, candidate)| {
            *distance <= (candidate.len() / 3).max(2) && *distance < candidate.len()
        })
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{clip, counted, duration};

    #[test]
    fn one_is_not_plural() {
        assert_eq!(
            [0, 1, 2].map(|count| counted(count, "pod")),
            ["0 pods", "1 pod", "2 pods"]
        );
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert!(duration("-1s").is_err() && duration("ten").is_err());
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        assert_eq!(clip("short", 5), "short");
        assert_eq!(clip("öööööööö", 6), "ööö...");
        assert_eq!(clip("two\nlines", 20), "two lines");
    }
}

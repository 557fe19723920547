//! The environment, read by envy into maps of texts, which cannot fail.

use std::collections::BTreeMap;

/// A variable's name and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Variable {
    pub(super) name: &'static str,
    pub(super) value: String,
}

/// The variables that have a value, by their names in small letters.
#[derive(Debug, Default)]
pub(super) struct Environment {
    /// Those whose names have no small letter.
    capital: BTreeMap<String, String>,
    /// Those whose names have no capital letter.
    small: BTreeMap<String, String>,
}

// === impl Environment ===

impl Environment {
    pub(super) fn new(vars: &[(String, String)]) -> Self {
        Self {
            capital: texts(vars, |letter| !letter.is_ascii_lowercase()),
            small: texts(vars, |letter| !letter.is_ascii_uppercase()),
        }
    }

    /// The first of `names` that is set. `FLOWCAR_log` is not `FLOWCAR_LOG`.
    pub(super) fn find(&self, names: &[&'static str]) -> Option<Variable> {
        names.iter().find_map(|name| {
            let is_small = name.contains(|letter: char| letter.is_ascii_lowercase());
            let map = if is_small { &self.small } else { &self.capital };
            let value = map.get(&name.to_ascii_lowercase())?.clone();
            Some(Variable { name, value })
        })
    }
}

/// envy ignores the case of names, so the caller keeps those of one case. Of a name that is there twice the first counts, as for
/// getenv(3).
fn texts(vars: &[(String, String)], keep: impl Fn(char) -> bool) -> BTreeMap<String, String> {
    let kept = vars
        .iter()
        .rev()
        .filter(|(name, _)| name.is_ascii() && name.chars().all(&keep));
    envy::from_iter(kept.cloned()).expect("a map of texts takes any text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_counts_in_its_own_case_and_the_first_of_two_wins() {
        let vars = [
            ("FLOWCAR_LOG", "warn"),
            ("FLOWCAR_log", "debug"),
            ("FLOWCAR_LOG", "trace"),
            ("http_proxy", "http://a:1"),
            ("http_proxy", "http://b:1"),
            ("Https_Proxy", "http://c:1"),
        ];
        let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let environment = Environment::new(&vars);
        for (names, expected) in [
            (
                &["FLOWCAR_LOG"] as &[&'static str],
                Some(("FLOWCAR_LOG", "warn")),
            ),
            (
                &["HTTP_PROXY", "http_proxy"],
                Some(("http_proxy", "http://a:1")),
            ),
            (&["HTTPS_PROXY", "https_proxy"], None),
            (&["FLOWCAR_LOG_FORMAT"], None),
        ] {
            let found = environment.find(names);
            let expected = expected.map(|(name, value)| Variable {
                name,
                value: value.to_owned(),
            });
            assert_eq!(found, expected, "{names:?}");
        }
    }
}

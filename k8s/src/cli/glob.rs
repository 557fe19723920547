//! Patterns of paths, as Go's `filepath.Glob` has them, which kubectl asks where nothing has the pattern for its name.

use std::path::{Path, PathBuf};

/// The paths that fit the pattern, sorted; none where the pattern is malformed.
pub(super) fn glob(pattern: &str) -> Vec<PathBuf> {
    let root = if pattern.starts_with('/') { "/" } else { "" };
    let mut paths = vec![PathBuf::from(root)];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        paths = paths.iter().flat_map(|path| step(path, part)).collect();
    }
    paths.sort();
    paths
}

/// What fits the part in a directory.
fn step(directory: &Path, part: &str) -> Vec<PathBuf> {
    if !part.contains(['*', '?', '[', '\\']) {
        let path = directory.join(part);
        return path.symlink_metadata().map_or(Vec::new(), |_| vec![path]);
    }
    let here = if directory.as_os_str().is_empty() {
        Path::new(".")
    } else {
        directory
    };
    let pattern: Vec<_> = part.chars().collect();
    let entries = std::fs::read_dir(here).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| fits(&pattern, &name.chars().collect::<Vec<_>>()))
        .map(|name| directory.join(name))
        .collect()
}

/// `*`, `?`, `[a-z]`, `[^a]` and `\` before a character that stands for itself.
fn fits(pattern: &[char], name: &[char]) -> bool {
    // Where the last star was, and what it has taken.
    let (mut p, mut n, mut star) = (0, 0, None);
    loop {
        if pattern.get(p) == Some(&'*') {
            star = Some((p, n));
            p += 1;
            continue;
        }
        match one(&pattern[p..], name.get(n).copied()) {
            Some(0) => return true,
            Some(length) => (p, n) = (p + length, n + 1),
            None => match &mut star {
                Some((at, taken)) if *taken < name.len() => {
                    *taken += 1;
                    (p, n) = (*at + 1, *taken);
                }
                _ => return false,
            },
        }
    }
}

/// How much of the pattern stands for this character; nothing is left of it at the name's end.
fn one(pattern: &[char], c: Option<char>) -> Option<usize> {
    let Some(c) = c else {
        return pattern.is_empty().then_some(0);
    };
    match pattern {
        ['?', ..] => Some(1),
        ['[', class @ ..] => one_of(class, c).map(|length| length + 1),
        ['\\', own, ..] => (*own == c).then_some(2),
        [own, ..] => (*own == c).then_some(1),
        [] => None,
    }
}

/// The length of a class behind its bracket, where it has the character.
fn one_of(class: &[char], c: char) -> Option<usize> {
    let is_negated = class.first() == Some(&'^');
    let mut at = usize::from(is_negated);
    let (mut is_first, mut is_in) = (true, false);
    let character = |at: &mut usize| {
        *at += usize::from(class.get(*at) == Some(&'\\'));
        *at += 1;
        class.get(*at - 1).copied()
    };
    while is_first || class.get(at) != Some(&']') {
        is_first = false;
        let low = character(&mut at)?;
        let high = match class.get(at) {
            Some('-') => {
                at += 1;
                character(&mut at)?
            }
            _ => low,
        };
        is_in |= (low..=high).contains(&c);
    }
    (is_in != is_negated).then_some(at + 1)
}

#[cfg(test)]
mod tests {
    use super::{fits, glob};

    #[test]
    fn names_fit_as_in_go() {
        for (pattern, name, does_fit) in [
            ("*.yaml", "a.yaml", true),
            ("*.yaml", ".yaml", true),
            ("*.yaml", "a.yml", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b", false),
            ("?.yaml", "ü.yaml", true),
            ("?.yaml", ".yaml", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[a-c]x", "dx", false),
            ("[a", "a", false),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("*", "", true),
            ("", "a", false),
        ] {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            assert_eq!(
                fits(&chars(pattern), &chars(name)),
                does_fit,
                "{pattern} {name}"
            );
        }
    }

    #[test]
    fn pattern_may_have_directories() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["b/x.yaml", "a/y.yaml", "a/z.txt"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            std::fs::write(path, "").expect("a file");
        }
        let at = |pattern: &str| glob(&format!("{}/{pattern}", folder.path().display()));
        assert_eq!(
            at("*/*.yaml"),
            ["a/y.yaml", "b/x.yaml"].map(|name| folder.path().join(name))
        );
        assert_eq!(at("a/[y-z].*").len(), 2);
        assert!(at("*/none").is_empty());
    }
}

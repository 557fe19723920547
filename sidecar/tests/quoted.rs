//! The log lines and errors that docs/troubleshooting.md quotes are in the sources: a renamed message is noticed here.
//!
//! A quote is compared piece by piece, as a message may be put together of several: a piece is what stands between placeholders of the
//! page (`PATH`, `N`, `...`) and between `: ` and `; `. Placeholders of a format string stand for anything.

use std::{
    fs,
    path::{Path, PathBuf},
    str::FromStr as _,
};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Shorter pieces say too little to be searched for.
const PIECE_CHARS: usize = 10;

/// Of a piece at least so much stands in the source literally, in percent: the rest is what placeholders stand for.
const LITERAL_PERCENT: usize = 60;

/// What is in a string literal: characters, and placeholders.
type Pattern = Vec<Option<char>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every file below a folder that ends so.
fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of the repository") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, ending, found);
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
}

/// Whether a file has tests only.
fn is_of_tests(path: &Path) -> bool {
    path.iter()
        .filter_map(|part| part.to_str())
        .any(|part| part == "tests" || part == "tests.rs" || part.ends_with("_tests.rs"))
}

/// The string literals of a source, without those of its docs and of its tests.
fn literals(tokens: TokenStream, found: &mut Vec<String>) {
    let mut tokens = tokens.into_iter().peekable();
    let mut is_test = false;
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == '#' => {
                let attribute = tokens.peek().map(ToString::to_string).unwrap_or_default();
                is_test |= attribute.contains("cfg(test)") || attribute.contains("cfg (test)");
                if attribute.starts_with("[doc") || attribute.starts_with("[ doc") {
                    tokens.next();
                }
            }
            TokenTree::Group(group) => {
                if is_test && group.delimiter() == Delimiter::Brace {
                    is_test = false;
                } else {
                    literals(group.stream(), found);
                }
            }
            TokenTree::Punct(punct) if punct.as_char() == ';' => is_test = false,
            TokenTree::Literal(literal) => {
                if let Ok(text) = syn::parse_str::<syn::LitStr>(&literal.to_string()) {
                    found.push(text.value());
                }
            }
            _ => {}
        }
    }
}

/// A literal with the placeholders that format strings (`{name}`) and the chart's templates (`{{ name }}`) have, in white space of one
/// blank each.
fn pattern(literal: &str) -> Pattern {
    let words = literal.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut pattern = Pattern::new();
    let mut rest = words.as_str();
    while let Some(c) = rest.chars().next() {
        let is_template = rest.starts_with("{{ ") || rest.starts_with("{{- ");
        let end = if is_template { "}}" } else { "}" };
        match rest.find(end) {
            Some(at) if c == '{' && (is_template || !rest.starts_with("{{")) => {
                pattern.push(None);
                rest = &rest[at + end.len()..];
            }
            _ => {
                pattern.push(Some(c));
                let doubled = rest.starts_with("{{") || rest.starts_with("}}");
                rest = &rest[c.len_utf8() + usize::from(doubled)..];
            }
        }
    }
    pattern
}

/// How many characters of a piece stand literally in a pattern, at most, where all of the piece is in it.
fn literal_chars(piece: &[char], pattern: &Pattern) -> Option<usize> {
    // By the position behind what the piece has so far: the most characters of it that stand literally.
    let mut best = vec![Some(0); pattern.len() + 1];
    for c in piece {
        let mut next = vec![None; pattern.len() + 1];
        for (at, count) in best.iter().enumerate() {
            let Some(count) = *count else { continue };
            for (to, own) in pattern.iter().enumerate().skip(at) {
                // A placeholder stands for more of the piece, or ends here.
                if own.is_none() {
                    next[to] = next[to].max(Some(count));
                    continue;
                }
                if *own == Some(*c) {
                    next[to + 1] = next[to + 1].max(Some(count + 1));
                }
                break;
            }
        }
        best = next;
    }
    best.into_iter().flatten().max()
}

fn is_in(piece: &str, patterns: &[Pattern]) -> bool {
    let chars: Vec<char> = piece.chars().collect();
    let enough = (chars.len() * LITERAL_PERCENT).div_ceil(100);
    let as_it_is: Pattern = chars.iter().copied().map(Some).collect();
    let mut windows = patterns.iter().flat_map(|own| own.windows(chars.len()));
    windows.any(|window| window == as_it_is)
        || patterns
            .iter()
            .filter(|pattern| pattern.contains(&None))
            .any(|pattern| literal_chars(&chars, pattern).is_some_and(|count| count >= enough))
}

/// The messages that a page quotes, each with its line: code of four words or more, in what is not advice.
fn quotes(page: &str) -> Vec<(usize, String)> {
    let mut quotes = Vec::new();
    let (mut is_block, mut is_advice) = (false, false);
    let mut open: Option<(usize, String)> = None;
    for (number, line) in page.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            is_block = !is_block;
            continue;
        }
        if line.starts_with("- **") || line.starts_with('#') || line.trim().is_empty() {
            is_advice = line.starts_with("- **Do:**");
            open = None;
        }
        if is_block || is_advice {
            continue;
        }
        let mut parts = line.split('`');
        // A quote may go on in the next line.
        if let Some((_, text)) = &mut open {
            text.push(' ');
            text.push_str(parts.next().unwrap_or_default());
        } else {
            parts.next();
        }
        for part in parts {
            match open.take() {
                Some(quote) => quotes.push(quote),
                None => open = Some((number + 1, part.to_owned())),
            }
        }
    }
    quotes.retain(|(_, text)| text.split_whitespace().count() >= 4);
    quotes
}

/// The parts of a quote that have to be in the sources.
fn pieces(quote: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for word in quote.split_whitespace() {
        let name: String = word.chars().filter(char::is_ascii_alphanumeric).collect();
        let is_placeholder = word.contains("...")
            || word.contains('"')
            || name.is_empty()
            || name.chars().all(|c| c.is_ascii_digit())
            || name.chars().all(|c| !c.is_ascii_lowercase());
        if is_placeholder {
            pieces.push(String::new());
            continue;
        }
        let last = pieces.last_mut().expect("there is one");
        if !last.is_empty() {
            last.push(' ');
        }
        last.push_str(word.trim_end_matches([':', ';']));
        if word.ends_with([':', ';']) {
            pieces.push(String::new());
        }
    }
    let whole = pieces
        .iter()
        .map(|piece| piece.trim_end_matches([',', ')']).to_owned());
    whole
        .filter(|piece| piece.chars().count() >= PIECE_CHARS)
        .collect()
}

/// Everything that flowcar may print.
fn sources() -> Vec<Pattern> {
    let mut literals_of_all = Vec::new();
    for folder in ["sidecar/src", "k8s/src", "sidecar/screen/src", "shared/src"] {
        let mut paths = Vec::new();
        files(&root().join(folder), ".rs", &mut paths);
        assert!(!paths.is_empty(), "{folder}");
        for path in paths.iter().filter(|path| !is_of_tests(path)) {
            let text = fs::read_to_string(path).expect("a source");
            let tokens = TokenStream::from_str(&text).expect("Rust");
            literals(tokens, &mut literals_of_all);
        }
    }
    let mut charts = Vec::new();
    for ending in [".yaml", ".txt", ".tpl"] {
        files(&root().join("k8s/chart"), ending, &mut charts);
    }
    literals_of_all.extend(
        charts
            .iter()
            .map(|path| fs::read_to_string(path).expect("a file of the chart")),
    );
    literals_of_all.iter().map(|text| pattern(text)).collect()
}

#[test]
fn quoted_messages_are_in_the_sources() {
    let page = fs::read_to_string(root().join("docs/troubleshooting.md")).expect("the page");
    let quotes = quotes(&page);
    assert!(quotes.len() > 100, "{} quotes", quotes.len());
    let sources = sources();
    let mut missing = Vec::new();
    for (line, quote) in quotes {
        for piece in pieces(&quote) {
            let mut parts = piece.split(", ");
            let mut has_parts =
                || parts.all(|part| part.len() < PIECE_CHARS || is_in(part, &sources));
            if !is_in(&piece, &sources) && !has_parts() {
                missing.push(format!("line {line}: {piece:?} of `{quote}`"));
            }
        }
    }
    assert!(
        missing.is_empty(),
        "docs/troubleshooting.md quotes what no source says:\n{}",
        missing.join("\n")
    );
}

#[test]
fn quotes_are_compared_with_their_placeholders() {
    let patterns = [
        pattern("the task that exports {signal} ended unexpectedly"),
        pattern("{path} is no directory on a cgroup2 file system"),
        pattern("a {{brace}} is \n   one"),
    ];
    for (piece, is_there) in [
        ("the task that exports metrics ended unexpectedly", true),
        ("that exports metrics ended", true),
        ("ended unexpectedly", true),
        ("is no directory on a cgroup2 file system", true),
        ("a {brace} is one", true),
        ("the task that exports metrics ended", true),
        ("the task that sends metrics ended unexpectedly", false),
        ("the task that exports metrics stopped unexpectedly", false),
        ("is not on a cgroup file system", false),
        ("ended unexpectedly here", false),
        ("anything that a placeholder could stand for", false),
    ] {
        assert_eq!(is_in(piece, &patterns), is_there, "{piece}");
    }
    assert_eq!(
        pieces("PATH is refused: flowcar is in a pod ... N of them"),
        ["is refused", "flowcar is in a pod"]
    );
    let page = "- **Symptom:** `one two three\n  four five`, `a b`.\n- **Do:** `cargo run with that`\n```sh\n`a b c d`\n```\n";
    assert_eq!(quotes(page), [(1, "one two three   four five".to_owned())]);
}

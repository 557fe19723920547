//! Values as YAML text.

use serde_json::{Map, Value};

/// Puts a value where its token is: as an indented block where the token ends a line of a block, else inline.
pub(super) fn put(text: &str, token: &str, value: &Value) -> Option<String> {
    let at = text.find(token)?;
    let line = &text[text[..at].rfind('\n').map_or(0, |end| end + 1)..at];
    let rest = text[at + token.len()..].lines().next().unwrap_or_default();
    let indent = line.len() - line.trim_start_matches([' ', '-']).len();
    let in_block = rest.trim().is_empty() && !line[indent..].contains(['{', '[', ',']);
    let is_long = matches!(value, Value::Array(items) if !items.is_empty())
        || matches!(value, Value::Object(m) if !m.is_empty());
    let written = if !in_block || !is_long {
        value.to_string()
    } else if line[indent..].is_empty() {
        indented(&block(value), indent).trim_start().to_owned()
    } else {
        format!("\n{}", indented(&block(value), indent + 2))
    };
    // The space before a block's first line would be left at the end of the key's.
    let before = if written.starts_with('\n') {
        text[..at].trim_end_matches(' ')
    } else {
        &text[..at]
    };
    Some(format!("{before}{written}{}", &text[at + token.len()..]))
}

fn indented(block: &str, by: usize) -> String {
    let lines: Vec<_> = block
        .lines()
        .map(|line| format!("{:by$}{line}", ""))
        .collect();
    lines.join("\n")
}

/// The value as block YAML that readers of YAML 1.1 and 1.2 understand alike.
pub(super) fn block(value: &Value) -> String {
    let mut quoted = Vec::new();
    let marked = mark_strings(value, &mut quoted);
    let mut text = serde_yaml_ng::to_string(&marked).expect("JSON values serialise");
    for (index, string) in quoted.iter().enumerate() {
        text = text.replace(
            &token("String", index),
            &Value::from(string.as_str()).to_string(),
        );
    }
    text
}

fn mark_strings(value: &Value, quoted: &mut Vec<String>) -> Value {
    match value {
        Value::String(string) if !is_plain(string) => {
            quoted.push(string.clone());
            Value::from(token("String", quoted.len() - 1))
        }
        Value::Array(items) => items
            .iter()
            .map(|item| mark_strings(item, quoted))
            .collect(),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (name.clone(), mark_strings(value, quoted)))
            .collect::<Map<_, _>>()
            .into(),
        other => other.clone(),
    }
}

/// Whether every reader takes the string, unquoted, for a string.
fn is_plain(string: &str) -> bool {
    const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    string.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && string
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b))
        && !WORDS.contains(&string.to_ascii_lowercase().as_str())
}

pub(super) fn token(what: &str, index: usize) -> String {
    format!("flowcar{what}{index}Token")
}

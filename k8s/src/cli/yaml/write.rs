//! Values as text that readers of YAML 1.1, of YAML 1.2 and, in one line, of JSON understand alike.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// How far a block's lines are indented more than its key.
const STEP: usize = 2;

/// `key: value` as lines of a block mapping whose keys begin at `column`; each line is ended by `newline`.
pub(super) fn member(key: &str, value: &Value, column: usize, newline: &str) -> String {
    let mut out = String::new();
    put_member(&mut out, key, value, column);
    out.replace('\n', newline)
}

/// `- item` as lines of a block list whose dashes are at `column`.
pub(super) fn item(value: &Value, column: usize, newline: &str) -> String {
    let mut out = String::new();
    put_item(&mut out, value, column);
    out.replace('\n', newline)
}

/// The items, or the members, of a collection as lines of a block at `column`.
pub(super) fn block(value: &Value, column: usize, newline: &str) -> String {
    let mut out = String::new();
    put_block(&mut out, value, column);
    out.replace('\n', newline)
}

fn put_block(out: &mut String, value: &Value, column: usize) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| put_item(out, item, column)),
        Value::Object(members) => members
            .iter()
            .for_each(|(key, value)| put_member(out, key, value, column)),
        _ => {}
    }
}

fn put_member(out: &mut String, key: &str, value: &Value, column: usize) {
    let _ = write!(out, "{:column$}{}:", "", scalar(key));
    put_value(out, value, column + STEP);
}

fn put_item(out: &mut String, value: &Value, column: usize) {
    let _ = write!(out, "{:column$}-", "");
    match value {
        Value::Object(members) if !members.is_empty() => {
            let mut block = String::new();
            put_block(&mut block, value, column + STEP);
            out.push(' ');
            out.push_str(block.trim_start());
        }
        // A list in a list would begin behind two dashes.
        value => {
            out.push(' ');
            out.push_str(&leaf(value));
            out.push('\n');
        }
    }
}

fn put_value(out: &mut String, value: &Value, column: usize) {
    let is_block = match value {
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
        _ => false,
    };
    if is_block {
        out.push('\n');
        put_block(out, value, column);
    } else {
        out.push(' ');
        out.push_str(&leaf(value));
        out.push('\n');
    }
}

/// The value in one line, as JSON.
pub(super) fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(inline).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(members) => {
            let members: Vec<_> = members
                .iter()
                .map(|(key, value)| inline_member(key, value))
                .collect();
            format!("{{{}}}", members.join(", "))
        }
        other => other.to_string(),
    }
}

/// `"key": value` in one line, as JSON.
pub(super) fn inline_member(key: &str, value: &Value) -> String {
    format!("{}: {}", quoted(key), inline(value))
}

/// The value as JSON over lines, each but the first indented by `indent`.
pub(super) fn pretty(value: &Value, indent: &str) -> String {
    match value {
        Value::Array(items) if !items.is_empty() => {
            let inner = format!("{indent}  ");
            let items: Vec<_> = items
                .iter()
                .map(|item| format!("{inner}{}", pretty(item, &inner)))
                .collect();
            format!("[\n{}\n{indent}]", items.join(",\n"))
        }
        Value::Object(members) if !members.is_empty() => pretty_members(members, indent),
        other => inline(other),
    }
}

fn pretty_members(members: &Map<String, Value>, indent: &str) -> String {
    let inner = format!("{indent}  ");
    let members: Vec<_> = members
        .iter()
        .map(|(key, value)| format!("{inner}{}: {}", quoted(key), pretty(value, &inner)))
        .collect();
    format!("{{\n{}\n{indent}}}", members.join(",\n"))
}

/// `"key": value` as JSON over lines.
pub(super) fn pretty_member(key: &str, value: &Value, indent: &str) -> String {
    format!("{}: {}", quoted(key), pretty(value, indent))
}

/// In a block, what takes one line.
fn leaf(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        other => inline(other),
    }
}

fn scalar(text: &str) -> String {
    if is_plain(text) {
        text.to_owned()
    } else {
        quoted(text)
    }
}

/// In double quotes, with only such escapes as JSON and YAML share, and nothing that YAML does not print.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{85}' | '\u{a0}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}'
            | '\u{ffff}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Whether every reader takes the string, without quotes, for a string.
fn is_plain(string: &str) -> bool {
    const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    string.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && string
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b))
        && !WORDS.contains(&string.to_ascii_lowercase().as_str())
}

//! Changing YAML text without losing its comments and its order.
//!
//! The patch library finds the places; what goes there is written by [`block`], because the library writes long
//! flow lists, and because no YAML 1.2 writer quotes `off`, which kubectl's YAML 1.1 reader takes for a boolean.

use std::borrow::Cow;

use serde_json::{Map, Value};
use yamlpatch::{Op, Patch};
use yamlpath::{Component, Document, Route};

/// The documents of a YAML text, each with the separator line before it: joined they are the text.
pub(super) fn split(text: &str) -> Vec<&str> {
    let mut starts = vec![0];
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let is_separator = line.trim_end() == "---" || line.starts_with("--- ");
        if is_separator && at > 0 {
            starts.push(at);
        }
        at += line.len();
    }
    starts.push(text.len());
    starts
        .windows(2)
        .map(|ends| &text[ends[0]..ends[1]])
        .collect()
}

/// A document as JSON; `Null` where it has only comments.
///
/// # Errors
/// Where it is no YAML, or has keys that are no strings.
pub(super) fn parse(document: &str) -> anyhow::Result<Value> {
    Ok(serde_yaml_ng::from_str(document)?)
}

/// The document's text with the value `after`; whether its comments are kept.
pub(super) fn rewrite(document: &str, before: &Value, after: &Value) -> (String, bool) {
    if before == after {
        return (document.to_owned(), true);
    }
    let (separator, body) = cut_separator(document);
    if serde_json::from_str::<Value>(body).is_ok() {
        let text = serde_json::to_string_pretty(after).expect("JSON values serialise");
        return (format!("{separator}{text}\n"), true);
    }
    if let Some(text) = patched(body, before, after) {
        return (format!("{separator}{text}"), true);
    }
    (format!("{separator}{}", block(after)), false)
}

/// Only counts where it reads back as what it should be.
fn patched(body: &str, before: &Value, after: &Value) -> Option<String> {
    let mut changes = Changes::default();
    changes.between(&mut Vec::new(), before, after);
    let document = Document::new(body.to_owned()).ok()?;
    let mut text = yamlpatch::apply_yaml_patches(&document, &changes.patches)
        .ok()?
        .source()
        .to_owned();
    for (token, value) in &changes.values {
        text = put(&text, token, value)?;
    }
    (parse(&text).ok()? == *after).then_some(text)
}

/// Puts a value where its token is: as an indented block where the token ends a line of a block, else inline.
fn put(text: &str, token: &str, value: &Value) -> Option<String> {
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
fn block(value: &Value) -> String {
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

fn token(what: &str, index: usize) -> String {
    format!("flowcar{what}{index}Token")
}

fn cut_separator(document: &str) -> (&str, &str) {
    if document.starts_with("---") {
        document.split_at(document.find('\n').map_or(document.len(), |end| end + 1))
    } else {
        ("", document)
    }
}

/// The patches from one value to another, with tokens in the places of values, and the values.
#[derive(Default)]
struct Changes {
    patches: Vec<Patch<'static>>,
    values: Vec<(String, Value)>,
}

type Path = Vec<Component<'static>>;

// === impl Changes ===

impl Changes {
    fn between(&mut self, path: &mut Path, before: &Value, after: &Value) {
        match (before, after) {
            _ if before == after => {}
            (Value::Object(old), Value::Object(new)) => {
                for key in old.keys().filter(|key| !new.contains_key(*key)) {
                    self.at(
                        path,
                        Component::Key(Cow::Owned(key.clone())),
                        |changes, path| changes.push(path, Op::Remove),
                    );
                }
                for (key, value) in new {
                    if let Some(old) = old.get(key) {
                        self.at(
                            path,
                            Component::Key(Cow::Owned(key.clone())),
                            |changes, path| changes.between(path, old, value),
                        );
                    } else {
                        let value = self.value(value);
                        self.push(
                            path,
                            Op::Add {
                                key: key.clone(),
                                value,
                            },
                        );
                    }
                }
            }
            (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
                for (index, (old, new)) in old.iter().zip(new).enumerate() {
                    self.at(path, Component::Index(index), |changes, path| {
                        changes.between(path, old, new)
                    });
                }
            }
            (Value::Array(old), Value::Array(new)) if !old.is_empty() && new.starts_with(old) => {
                for item in &new[old.len()..] {
                    let value = self.value(item);
                    self.push(path, Op::Append { value });
                }
            }
            (Value::Array(old), Value::Array(new))
                if !new.is_empty() && is_subsequence(new, old) =>
            {
                let mut kept = new.iter().rev().peekable();
                for (index, item) in old.iter().enumerate().rev() {
                    if kept.next_if(|kept| *kept == item).is_none() {
                        self.at(path, Component::Index(index), |changes, path| {
                            changes.push(path, Op::Remove)
                        });
                    }
                }
            }
            _ => {
                let value = self.value(after);
                self.push(path, Op::Replace(value));
            }
        }
    }

    fn at(
        &mut self,
        path: &mut Path,
        component: Component<'static>,
        change: impl FnOnce(&mut Self, &mut Path),
    ) {
        path.push(component);
        change(self, path);
        path.pop();
    }

    fn push(&mut self, path: &Path, operation: Op<'static>) {
        self.patches.push(Patch {
            route: Route::from(path.clone()),
            operation,
        });
    }

    /// A token in the value's place.
    fn value(&mut self, value: &Value) -> yaml_serde::Value {
        let token = token("Value", self.values.len());
        self.values.push((token.clone(), value.clone()));
        yaml_serde::Value::String(token)
    }
}

fn is_subsequence(part: &[Value], whole: &[Value]) -> bool {
    let mut whole = whole.iter();
    part.iter()
        .all(|item| whole.any(|candidate| candidate == item))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{parse, rewrite, split};

    const TEXT: &str = "# the web\nkind: Pod # a pod\nspec:\n  # containers\n  containers:\n    - name: app # ours\n";

    #[test]
    fn documents_are_cut_at_their_separators_and_nowhere_else() {
        let text = "# a\n---\na: 1\n---\nb: |\n  text\n  --- no\n--- # c\nc: 1\n";
        let documents = split(text);
        assert_eq!(documents.concat(), text);
        assert_eq!(documents.len(), 4);
        assert_eq!(
            parse(documents[2]).expect("YAML"),
            json!({"b": "text\n--- no\n"})
        );
        assert_eq!(split("---\na: 1\n").len(), 1);
        assert_eq!(split("").concat(), "");
    }

    #[test]
    fn comments_and_order_stay() {
        let before = parse(TEXT).expect("YAML");
        let mut after = before.clone();
        after["spec"]["initContainers"] =
            json!([{"name": "flowcar", "env": [{"name": "X", "value": "off"}]}]);
        after["spec"]["containers"]
            .as_array_mut()
            .expect("a list")
            .push(json!({"name": "b"}));
        let (text, kept) = rewrite(TEXT, &before, &after);
        assert!(kept);
        for comment in [
            "# the web\nkind: Pod # a pod\n",
            "  # containers\n",
            "name: app # ours",
        ] {
            assert!(text.contains(comment), "{comment} in\n{text}");
        }
        assert_eq!(parse(&text).expect("YAML"), after);
        assert!(
            !text.contains("value: off"),
            "YAML 1.1 readers would take it for a boolean:\n{text}"
        );
        assert!(
            text.contains("\n  initContainers:\n    - env:\n"),
            "as people write it:\n{text}"
        );
        let (back, kept) = rewrite(&text, &after, &before);
        assert!(kept && back.contains("name: app # ours"), "{back}");
        assert_eq!(parse(&back).expect("YAML"), before);
    }

    #[test]
    fn what_the_library_cannot_change_is_written_anew() {
        let text = "{kind: Pod,\n spec: {containers: [{name: a}]}}\n";
        let before = parse(text).expect("YAML");
        let mut after = before.clone();
        after["spec"]["volumes"] = json!([{"name": "v"}]);
        let (rewritten, _) = rewrite(text, &before, &after);
        assert_eq!(parse(&rewritten).expect("YAML"), after);
    }
}

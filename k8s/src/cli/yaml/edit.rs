//! The changes from one value to another, made in the text one after the other.

use std::borrow::Cow;

use serde_json::{Map, Value};
use yamlpatch::{Op, Patch, Style};
use yamlpath::{Component, Document, Route};

use super::write::token;

type Path = Vec<Component<'static>>;
type Members = Map<String, Value>;

/// Makes the changes with tokens in the places of values: the text, and the tokens' values. `None` where the
/// text has a form that none of the changes can be made in.
pub(super) fn apply(
    document: Document,
    before: &Value,
    after: &Value,
) -> Option<(String, Vec<(String, Value)>)> {
    let mut changes = Changes {
        document,
        values: Vec::new(),
    };
    changes.between(&mut Vec::new(), before, after)?;
    Some((changes.document.source().to_owned(), changes.values))
}

/// The document so far, and the values that tokens stand for.
struct Changes {
    document: Document,
    values: Vec<(String, Value)>,
}

// === impl Changes ===

impl Changes {
    fn between(&mut self, path: &mut Path, before: &Value, after: &Value) -> Option<()> {
        match (before, after) {
            _ if before == after => Some(()),
            (Value::Object(old), Value::Object(new)) if self.can_change_mapping(path, old, new) => {
                self.mapping(path, old, new)
            }
            (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
                for (index, (old, new)) in old.iter().zip(new).enumerate() {
                    path.push(Component::Index(index));
                    self.between(path, old, new)?;
                    path.pop();
                }
                Some(())
            }
            (Value::Array(old), Value::Array(new)) if self.can_change_list(path) => {
                self.list(path, old, new)
            }
            _ => self.replace(path, after),
        }
    }

    fn mapping(&mut self, path: &mut Path, old: &Members, new: &Members) -> Option<()> {
        for key in old.keys().filter(|key| !new.contains_key(*key)) {
            path.push(Component::Key(Cow::Owned(key.clone())));
            self.remove(path)?;
            path.pop();
        }
        for (key, value) in new {
            let Some(old) = old.get(key) else {
                let (key, value) = (key.clone(), self.token(value).into());
                self.patch(path, Op::Add { key, value })?;
                continue;
            };
            path.push(Component::Key(Cow::Owned(key.clone())));
            self.between(path, old, value)?;
            path.pop();
        }
        Some(())
    }

    /// Items that come to either end, and items that go.
    fn list(&mut self, path: &mut Path, old: &[Value], new: &[Value]) -> Option<()> {
        if new.starts_with(old) {
            for item in &new[old.len()..] {
                let value = self.token(item).into();
                self.patch(path, Op::Append { value })?;
            }
        } else if new.ends_with(old) {
            for item in new[..new.len() - old.len()].iter().rev() {
                self.prepend(path, item)?;
            }
        } else if !new.is_empty() && is_subsequence(new, old) {
            let mut kept = new.iter().rev().peekable();
            for (index, item) in old.iter().enumerate().rev() {
                if kept.next_if(|kept| *kept == item).is_none() {
                    path.push(Component::Index(index));
                    self.remove(path)?;
                    path.pop();
                }
            }
        } else {
            self.replace(path, &Value::from(new))?;
        }
        Some(())
    }

    fn replace(&mut self, path: &Path, value: &Value) -> Option<()> {
        let exact = self.document.query_exact(&Route::from(path.clone()));
        // Absent where a key has no value at all.
        if exact.ok()?.is_some() {
            self.style(path)?;
        }
        let value = self.token(value).into();
        self.patch(path, Op::Replace(value))
    }

    fn patch(&mut self, path: &Path, operation: Op<'static>) -> Option<()> {
        let route = Route::from(path.clone());
        let patch = Patch { route, operation };
        self.document = yamlpatch::apply_yaml_patches(&self.document, &[patch]).ok()?;
        Some(())
    }

    /// Takes the lines of a member or an item. The library would also take comments that follow it.
    fn remove(&mut self, path: &Path) -> Option<()> {
        let route = Route::from(path.clone());
        let feature = self.document.query_pretty(&route).ok()?;
        let source = self.document.source();
        let (from, to) = feature.location.byte_span;
        let start = source[..from].rfind('\n').map_or(0, |end| end + 1);
        let (mut at, mut end) = (start, start);
        for line in source[start..].split_inclusive('\n') {
            if at >= to {
                break;
            }
            let content = at + line.len() - line.trim_start().len();
            at += line.len();
            if !line.trim().is_empty() && !self.document.offset_inside_comment(content) {
                end = at;
            }
        }
        let text = format!("{}{}", &source[..start], &source[end..]);
        self.document = Document::new(text).ok()?;
        Some(())
    }

    /// The library has no such operation. The item goes above the comments of the item that was first.
    fn prepend(&mut self, path: &Path, item: &Value) -> Option<()> {
        let token = self.token(item);
        let source = self.document.source();
        let list = self
            .document
            .query_exact(&Route::from(path.clone()))
            .ok()??;
        let first = list.location.byte_span.0;
        let mut start = source[..first].rfind('\n')? + 1;
        let indent = &source[start..first];
        // A list in a list may begin behind another dash.
        if !indent.trim().is_empty() {
            return None;
        }
        while let Some(above) = source[..start - 1].rfind('\n').map(|end| end + 1) {
            if !source[above..start].trim_start().starts_with('#') {
                break;
            }
            start = above;
        }
        let text = format!(
            "{}{indent}- {token}\n{}",
            &source[..start],
            &source[start..]
        );
        self.document = Document::new(text).ok()?;
        Some(())
    }

    /// Whether the library can make these changes in this mapping. Of `{a: 1, b: 2}` it would take the whole line.
    fn can_change_mapping(&self, path: &Path, old: &Members, new: &Members) -> bool {
        let only_adds = old.keys().all(|key| new.contains_key(key));
        match self.style(path) {
            _ if path.is_empty() => true,
            Some(Style::BlockMapping) => true,
            Some(Style::FlowMapping) => only_adds,
            _ => false,
        }
    }

    fn can_change_list(&self, path: &Path) -> bool {
        self.style(path) == Some(Style::BlockSequence)
    }

    fn style(&self, path: &Path) -> Option<Style> {
        let feature = self
            .document
            .query_exact(&Route::from(path.clone()))
            .ok()??;
        // The library panics on these.
        let is_marked = self
            .document
            .extract(&feature)
            .starts_with(['&', '*', '!', '#']);
        (!is_marked).then(|| Style::from_feature(&feature, &self.document))
    }

    /// A token in the value's place.
    fn token(&mut self, value: &Value) -> String {
        let token = token("Value", self.values.len());
        self.values.push((token.clone(), value.clone()));
        token
    }
}

fn is_subsequence(part: &[Value], whole: &[Value]) -> bool {
    let mut whole = whole.iter();
    part.iter()
        .all(|item| whole.any(|candidate| candidate == item))
}

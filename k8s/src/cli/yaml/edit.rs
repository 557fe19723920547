//! The changes from one value to another, as edits at byte positions.
//!
//! What `inject` adds is only inserted, so that taking the same bytes out again leaves what was there. A token for
//! null (`~`, or an absent value with a comment), and one for a text that cannot grow at its end, is kept in a comment.

pub(super) mod flow;

use std::ops::Range;

use serde_json::{Map, Value};

use super::{
    locate::Lines,
    tree::{Content, Entry, Flow, Node, NodeId, Style, Tree},
    value::Member,
    write,
};

/// Keeps the token of a field behind it; one of several lines has this at the start of each.
pub(super) const WAS: &str = "# flowcar: was ";

/// Bytes to replace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edit {
    pub(super) at: Range<usize>,
    pub(super) text: String,
    /// Takes or adds whole lines.
    pub(super) is_lines: bool,
    /// The anchored node that it is in, where an alias uses that too.
    pub(super) shared: Option<NodeId>,
}

/// Why a value cannot be changed by edits, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) at: usize,
    pub(super) why: String,
}

pub(super) type Planned = Result<(), Refusal>;

/// Collects edits.
pub(super) struct Editor<'a> {
    pub(super) lines: Lines<'a>,
    pub(super) tree: &'a Tree,
    pub(super) edits: Vec<Edit>,
    /// The innermost shared node around what is edited.
    shared: Option<NodeId>,
}

/// The edits that make `after` of the node, whose value is `before`.
///
/// # Errors
/// Where the text has a form that the change cannot be written in.
pub(super) fn plan(
    lines: Lines<'_>,
    tree: &Tree,
    node: NodeId,
    before: &Value,
    after: &Value,
) -> Result<Vec<Edit>, Refusal> {
    let mut editor = Editor {
        lines,
        tree,
        edits: Vec::new(),
        shared: None,
    };
    editor.between(node, before, after)?;
    Ok(editor.edits)
}

pub(super) fn refuse<T>(at: usize, why: &str) -> Result<T, Refusal> {
    let why = why.to_owned();
    Err(Refusal { at, why })
}

// === impl Editor ===

impl<'a> Editor<'a> {
    pub(super) fn replace_bytes(&mut self, at: Range<usize>, text: impl Into<String>) {
        let (text, is_lines, shared) = (text.into(), false, self.shared);
        self.edits.push(Edit {
            at,
            text,
            is_lines,
            shared,
        });
    }

    /// Puts lines at the start of a line, or behind a last line that has no end.
    pub(super) fn insert_lines(&mut self, at: usize, lines: String) {
        let is_open = at > self.lines.base && !self.lines.text[..at].ends_with('\n');
        let newline = self.lines.newline(at);
        let text = match is_open {
            true => format!("{newline}{}", lines.strip_suffix(newline).unwrap_or(&lines)),
            false => lines,
        };
        self.replace_bytes(at..at, text);
    }

    pub(super) fn remove_lines(&mut self, at: Range<usize>) {
        self.replace_bytes(at, "");
        self.edits
            .last_mut()
            .expect("it was just put there")
            .is_lines = true;
    }

    pub(super) fn node(&self, id: NodeId) -> &'a Node {
        self.tree.node(id)
    }

    pub(super) fn between(&mut self, id: NodeId, before: &Value, after: &Value) -> Planned {
        if before == after {
            return Ok(());
        }
        let id = self.tree.behind_alias(id);
        let around = self.shared;
        if self.node(id).alias.is_some() {
            self.shared = Some(id);
        }
        let planned = match (before, after, &self.node(id).content) {
            (Value::Object(old), Value::Object(new), Content::Mapping { .. }) => {
                self.mapping(id, old, new)
            }
            (Value::Array(old), Value::Array(new), Content::Sequence { .. }) => {
                self.sequence(id, old, new)
            }
            _ => self.replace(id, after),
        };
        self.shared = around;
        planned
    }

    fn mapping(
        &mut self,
        id: NodeId,
        old: &Map<String, Value>,
        new: &Map<String, Value>,
    ) -> Planned {
        self.remove_members(id, old.keys().filter(|key| !new.contains_key(*key)))?;
        let mut added = Vec::new();
        for (key, value) in new {
            match old.get(key) {
                None => added.push((key.as_str(), value)),
                Some(old) if old == value => {}
                Some(old) => self.change_member(id, key, old, value)?,
            }
        }
        if added.is_empty() {
            return Ok(());
        }
        match &self.node(id).content {
            Content::Mapping { entries, flow } if *flow == Flow::Block => {
                self.add_members(entries, &added)
            }
            Content::Mapping { entries, flow } => {
                let spans = self.entry_spans(entries);
                flow::add_members(self, *flow, &spans, &added, self.node(id).start)
            }
            _ => refuse(self.node(id).start, "here is no mapping"),
        }
    }

    fn entry_spans(&self, entries: &[Entry]) -> Vec<Range<usize>> {
        let span = |entry: &Entry| {
            let end = flow::behind_was(self.lines.text, self.entry_end(entry, true));
            self.node(entry.key).start..end
        };
        entries.iter().map(span).collect()
    }

    /// Where an entry ends. An absent value is at its colon in a block, before what follows in brackets.
    fn entry_end(&self, entry: &Entry, is_flow: bool) -> usize {
        let (key, value) = (self.node(entry.key), self.node(entry.value));
        match (value.start < value.end, self.lines.behind_colon(key.end)) {
            (true, _) => value.end,
            (false, None) => key.end,
            (false, Some(_)) if is_flow => value.end,
            (false, Some(colon)) => colon,
        }
    }

    pub(super) fn behind(&self, end: usize) -> Result<usize, Refusal> {
        match self.lines.behind(end) {
            Some(behind) => Ok(behind),
            None => refuse(end, "something else follows in the line"),
        }
    }

    /// Behind the last entry: `<<` may stand before it, and what comes later holds.
    fn add_members(&mut self, entries: &[Entry], added: &[(&str, &Value)]) -> Planned {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Ok(());
        };
        let key = self.node(first.key).start;
        let column = self.lines.column_of_key(key);
        let behind = self.behind(self.entry_end(last, false))?;
        let at = self.lines.behind_comments(behind, column);
        let newline = self.lines.newline(key);
        let members = added
            .iter()
            .map(|(key, value)| write::member(key, value, column, newline));
        self.insert_lines(at, members.collect());
        Ok(())
    }

    fn remove_members<'k>(
        &mut self,
        id: NodeId,
        keys: impl Iterator<Item = &'k String>,
    ) -> Planned {
        let own = |key: &String| match self.tree.member(id, key) {
            Some(Member::Own(index)) => Ok(index),
            _ => refuse(
                self.node(id).start,
                &format!("{key} comes from what is merged here"),
            ),
        };
        let mut removed = keys.map(own).collect::<Result<Vec<_>, _>>()?;
        removed.sort_unstable();
        let Content::Mapping { entries, flow } = &self.node(id).content else {
            return Ok(());
        };
        if removed.is_empty() {
            return Ok(());
        }
        if *flow != Flow::Block {
            return flow::remove(self, *flow, &self.entry_spans(entries), &removed);
        }
        removed
            .iter()
            .try_for_each(|index| self.remove_lines_of_entry(&entries[*index]))
    }

    fn remove_lines_of_entry(&mut self, entry: &Entry) -> Planned {
        let start = self.node(entry.key).start;
        if !self.lines.is_first(start) {
            return refuse(start, "something else stands before it in the line");
        }
        let behind = self.behind(self.entry_end(entry, false))?;
        self.remove_lines(self.lines.start(start)..behind);
        Ok(())
    }

    fn change_member(&mut self, id: NodeId, key: &str, old: &Value, new: &Value) -> Planned {
        let index = match self.tree.member(id, key) {
            Some(Member::Own(index)) => index,
            Some(Member::Merged(source, value)) => {
                let around = self.shared.replace(source);
                let planned = self.between(value, old, new);
                self.shared = around;
                return planned;
            }
            None => return refuse(self.node(id).start, &format!("{key} is not found here")),
        };
        let entry = self.tree.entries(id)[index];
        let is_flow = !matches!(
            self.node(id).content,
            Content::Mapping {
                flow: Flow::Block,
                ..
            }
        );
        let value = self.node(entry.value);
        match (&value.content, old, new) {
            (Content::Scalar { .. }, Value::Null, Value::Array(_) | Value::Object(_)) => {
                self.fill_null(entry, is_flow, new)
            }
            (Content::Sequence { .. } | Content::Mapping { .. }, _, Value::Null) => match is_flow {
                true => flow::restore_null(self, value),
                false => self.take_block(entry, None),
            },
            (Content::Sequence { flow, .. } | Content::Mapping { flow, .. }, _, _)
                if *flow == Flow::Block && is_empty(new) =>
            {
                self.take_block(entry, Some(new))
            }
            (
                Content::Scalar { .. } | Content::Alias(_),
                Value::String(old),
                Value::String(new),
            ) => self.change_text(entry, is_flow, old, new),
            _ => self.between(entry.value, old, new),
        }
    }

    /// A text that grows at its end, or shrinks again.
    fn change_text(&mut self, entry: Entry, is_flow: bool, old: &str, new: &str) -> Planned {
        let id = entry.value;
        let node = self.node(id);
        if self.restore_text(entry, is_flow, new) {
            return Ok(());
        }
        let can_be_kept = match &node.content {
            Content::Scalar { style, .. } => {
                if let Some((at, text)) = tail(self.lines.text, node, *style, is_flow, old, new) {
                    let around = self.shared;
                    if node.alias.is_some() {
                        self.shared = Some(id);
                    }
                    self.replace_bytes(at, text);
                    self.shared = around;
                    return Ok(());
                }
                // JSON has no comments, and an alias needs its anchor.
                *style != Style::Quoted && node.alias.is_none()
            }
            content => matches!(content, Content::Alias(_)),
        };
        if can_be_kept && new.starts_with(old) {
            self.keep_text(node, is_flow, new);
            return Ok(());
        }
        self.between(id, &Value::from(old), &Value::from(new))
    }

    /// Writes a text before the token of the one that it replaces, which becomes a comment.
    fn keep_text(&mut self, node: &Node, is_flow: bool, new: &str) {
        let written = write::quoted(new);
        if is_flow {
            flow::keep(self, node.start..node.end, &written);
        } else {
            self.replace_bytes(node.start..node.start, format!("{written} {WAS}"));
            self.comment_out(node.start..node.end);
        }
    }

    /// Puts all lines of a token but its first one behind [`WAS`].
    pub(super) fn comment_out(&mut self, token: Range<usize>) {
        let text = self.lines.text;
        for (at, _) in text[token.clone()].match_indices('\n') {
            let start = token.start + at + 1;
            if start < token.end {
                self.replace_bytes(start..start, WAS);
            }
        }
    }

    /// Behind the last line of a token that [`Editor::comment_out`] put into comments.
    fn behind_commented_out(&self, token: usize) -> usize {
        let mut end = self.lines.next(token);
        while self.lines.text[end..self.lines.end].starts_with(WAS) {
            end = self.lines.next(end);
        }
        end
    }

    /// Undoes [`Editor::keep_text`], where what stands in the comment is the text that is wanted.
    fn restore_text(&mut self, entry: Entry, is_flow: bool, new: &str) -> bool {
        let (key, node) = (self.node(entry.key), self.node(entry.value));
        let text = self.lines.text;
        let mark = format!(" {WAS}");
        if !text[node.end..self.lines.end].starts_with(&mark) {
            return false;
        }
        let token = node.end + mark.len();
        let end = match is_flow {
            true => text[token..self.lines.end].find(flow::LINE),
            false => Some(self.behind_commented_out(token) - token),
        };
        let Some(end) = end.map(|length| token + length) else {
            return false;
        };
        let was = text[token..end].replace(&format!("\n{WAS}"), "\n");
        let column = if is_flow {
            0
        } else {
            self.lines.column(key.start)
        };
        if !is_token_of(&was, column, new) {
            return false;
        }
        let space = usize::from(is_flow && text[..node.start].ends_with(' '));
        self.replace_bytes(node.start - space..token, "");
        for (at, mark) in text[token..end].match_indices(&format!("\n{WAS}")) {
            self.replace_bytes(token + at + 1..token + at + mark.len(), "");
        }
        if is_flow {
            self.replace_bytes(end..end + flow::LINE.len(), "");
        }
        true
    }

    /// A field that was null: its token goes into a comment, and the block follows.
    fn fill_null(&mut self, entry: Entry, is_flow: bool, new: &Value) -> Planned {
        let (key, value) = (self.node(entry.key), self.node(entry.value));
        let Some(colon) = self.lines.behind_colon(key.end) else {
            return refuse(key.start, "this null field has no colon");
        };
        if is_flow {
            flow::fill_null(self, value.start..value.end, new);
            return Ok(());
        }
        let token = match value.start == value.end {
            true => colon..colon,
            false => value.start..value.end,
        };
        if !token.is_empty() {
            self.replace_bytes(token.start..token.start, WAS);
        }
        let column = self.lines.column(key.start) + 2;
        let newline = self.lines.newline(key.start);
        let behind = self.behind(token.end)?;
        self.insert_lines(behind, write::block(new, column, newline));
        Ok(())
    }

    /// Takes a block's lines from behind its key: what was null is null again, or the field is `instead`.
    fn take_block(&mut self, entry: Entry, instead: Option<&Value>) -> Planned {
        let (key, value) = (self.node(entry.key), self.node(entry.value));
        let Some(colon) = self.lines.behind_colon(key.end) else {
            return refuse(key.start, "this field has no colon");
        };
        let is_block = matches!(
            value.content,
            Content::Sequence {
                flow: Flow::Block,
                ..
            } | Content::Mapping {
                flow: Flow::Block,
                ..
            }
        );
        if !is_block || !self.lines.is_first(value.start) {
            return self.replace(entry.value, instead.unwrap_or(&Value::Null));
        }
        if let Some(instead) = instead {
            self.replace_bytes(colon..colon, format!(" {}", write::inline(instead)));
        } else if let Some(at) = self.lines.text[colon..value.start].find(WAS) {
            self.replace_bytes(colon + at..colon + at + WAS.len(), "");
        }
        let behind = self.behind(value.end)?;
        self.remove_lines(self.lines.start(value.start)..behind);
        Ok(())
    }

    /// Replaces a scalar or a flow collection by another value.
    fn replace(&mut self, id: NodeId, value: &Value) -> Planned {
        let node = self.node(id);
        let text = write::inline(value);
        match &node.content {
            Content::Scalar {
                style: Style::Block,
                ..
            } => {
                let newline = self.lines.newline(node.start);
                self.replace_bytes(node.start..node.end, format!("{text}{newline}"));
            }
            Content::Scalar { .. } if node.start < node.end => {
                self.replace_bytes(node.start..node.end, text);
            }
            Content::Sequence {
                flow: Flow::In(_), ..
            }
            | Content::Mapping {
                flow: Flow::In(_), ..
            } => self.replace_bytes(node.start..node.end, text),
            _ => return refuse(node.start, "another value cannot be written in its place"),
        }
        Ok(())
    }
}

/// The edit at the end of a text that grows or shrinks there, in its own quotes or without any.
fn tail(
    text: &str,
    node: &Node,
    style: Style,
    is_flow: bool,
    old: &str,
    new: &str,
) -> Option<(Range<usize>, String)> {
    let end = match style {
        Style::Quoted => node.end - 1,
        Style::Plain if !old.is_empty() && !new.is_empty() => node.end,
        Style::Plain | Style::Block => return None,
    };
    // In brackets a comma ends what has no quotes.
    let fits = |more: &str| {
        is_same_in_quotes(more) && (style == Style::Quoted || !is_flow || !more.contains(','))
    };
    if let Some(more) = new.strip_prefix(old) {
        return fits(more).then(|| (end..end, more.to_owned()));
    }
    let less = old.strip_prefix(new)?;
    let is_there = fits(less) && text[..end].ends_with(less);
    is_there.then(|| (end - less.len()..end, String::new()))
}

/// Whether the token of a member in this column stands for this text, or for whatever an alias refers to.
fn is_token_of(token: &str, column: usize, text: &str) -> bool {
    let token = token.trim_start();
    if token.starts_with('*') {
        return true;
    }
    let document = format!("{:column$}k: {token}", "");
    let read = Tree::read(&document, 0..document.len());
    let value = read
        .ok()
        .flatten()
        .and_then(|tree| tree.value(tree.root).ok());
    value.is_some_and(|value| value["k"] == text)
}

/// What has to be written in the same way in every kind of quotes, and without.
fn is_same_in_quotes(text: &str) -> bool {
    let is_same = |b: u8| b.is_ascii_alphanumeric() || b"-_.,".contains(&b);
    text.bytes().all(is_same)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    }
}

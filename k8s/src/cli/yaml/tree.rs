//! A document as a tree in which every node knows where in the text it stands.
//!
//! YAML is read by a port of libyaml, as kubectl's go-yaml v2 is one: the two agree on what is YAML, and where.

use std::{collections::HashMap, io::Read as _, ops::Range};

use libyaml_safer::{
    Encoding, Event, EventData, MappingStyle, Mark, Parser, ScalarStyle, SequenceStyle,
};

use super::{Unreadable, contain::contain, resolve::Scalar};

/// Nested deeper than this is no manifest, and would end our stack.
pub(super) const MAX_DEPTH: usize = 256;

const BOM: char = '\u{feff}';

/// A node's index in [`Tree`].
pub(super) type NodeId = usize;

/// The nodes of one document.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) nodes: Vec<Node>,
    pub(super) root: NodeId,
    /// Where the document's text begins, in bytes from the text's start.
    pub(super) base: usize,
    /// Where text begins that kubectl never reads: a document after `...`, and what follows a finished value.
    pub(super) unread: Option<usize>,
}

/// A node; positions are in bytes from the text's start.
#[derive(Debug)]
pub(super) struct Node {
    /// Its first byte; an anchor and a tag are a part of it.
    pub(super) start: usize,
    /// Behind its last byte; of a block it is the last child's. A block scalar ends at the start of a line.
    pub(super) end: usize,
    /// Where an alias refers to it.
    pub(super) alias: Option<usize>,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Scalar { scalar: Scalar, style: Style },
    Alias(NodeId),
    Sequence { items: Vec<NodeId>, flow: Flow },
    Mapping { entries: Vec<Entry>, flow: Flow },
}

/// How a scalar is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    /// In quotes of either kind.
    Quoted,
    /// Behind `|` or `>`.
    Block,
}

/// How a collection is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// By indentation.
    Block,
    /// In brackets; what is inside begins here.
    In(usize),
    /// `[key: value]`: a mapping without brackets of its own.
    Pair,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) key: NodeId,
    pub(super) value: NodeId,
    /// The key is `<<`.
    pub(super) is_merge: bool,
}

/// Builds a tree from events.
struct Builder<'a> {
    text: &'a str,
    tree: Tree,
    end: usize,
    anchors: HashMap<String, NodeId>,
    open: Vec<NodeId>,
}

// === impl Tree ===

impl Tree {
    /// The first document of a chunk, as kubectl reads no other; `None` where the chunk has only comments.
    ///
    /// # Errors
    /// Where it is no YAML, and where.
    pub(super) fn read(text: &str, chunk: Range<usize>) -> Result<Option<Self>, Unreadable> {
        let part = &text[chunk.clone()];
        let part = part.strip_prefix(BOM).unwrap_or(part);
        let base = chunk.end - part.len();
        // The parser skips one that begins a line; to go-yaml it is a character like others.
        if let Some(at) = part.find(BOM) {
            let why = "a byte order mark stands here, in the middle of the text".to_owned();
            return Err(Unreadable { at: base + at, why });
        }
        // kubectl ends every line, the last one too.
        let missing: &[u8] = if part.ends_with('\n') { b"" } else { b"\n" };
        let mut parser = Parser::new();
        parser.set_encoding(Encoding::Utf8);
        parser.set_input(part.as_bytes().chain(missing));
        let tree = Self {
            base,
            ..Self::default()
        };
        let mut builder = Builder {
            text,
            tree,
            end: chunk.end,
            anchors: HashMap::new(),
            open: Vec::new(),
        };
        let mut seen = base;
        loop {
            let event = contain(|| parser.parse()).ok_or_else(|| Unreadable {
                at: seen,
                why: "a tag behind here cannot be read".to_owned(),
            })?;
            let event = event.map_err(|error| builder.unreadable(&error))?;
            seen = builder.byte(event.end_mark);
            match event.data {
                EventData::StreamEnd => return Ok(None),
                EventData::DocumentEnd { .. } => break,
                _ => builder.take(event)?,
            }
        }
        builder.tree.unread = match contain(|| parser.parse()) {
            Some(Ok(Event {
                data: EventData::StreamEnd,
                ..
            })) => None,
            Some(Ok(event)) => Some(builder.byte(event.start_mark)),
            Some(Err(error)) => Some(error.problem_mark().map_or(seen, |mark| builder.byte(mark))),
            None => Some(seen),
        };
        builder.finish();
        Ok(Some(builder.tree))
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    /// The node that an alias stands for.
    pub(super) fn behind_alias(&self, id: NodeId) -> NodeId {
        match self.nodes[id].content {
            Content::Alias(target) => target,
            _ => id,
        }
    }
}

// === impl Builder ===

impl Builder<'_> {
    /// The parser counts bytes, where libyaml counts characters.
    fn byte(&self, mark: Mark) -> usize {
        let index = usize::try_from(mark.index).unwrap_or(usize::MAX);
        self.tree.base.saturating_add(index).min(self.end)
    }

    fn unreadable(&self, error: &libyaml_safer::Error) -> Unreadable {
        let why = match error.context() {
            Some(context) => format!("{context}: {}", error.problem()),
            None => error.problem().to_owned(),
        };
        let at = match error.problem_mark() {
            Some(mark) => self.byte(mark),
            None => self.first_control_character(),
        };
        Unreadable { at, why }
    }

    /// The reader's errors have no position; it refuses characters that are not printable.
    fn first_control_character(&self) -> usize {
        let is_refused = |c: char| {
            c.is_control() && !"\t\r\n\u{85}".contains(c) || matches!(c, '\u{fffe}' | '\u{ffff}')
        };
        let part = &self.text[self.tree.base..self.end];
        self.tree.base + part.find(is_refused).unwrap_or(0)
    }

    fn take(&mut self, event: Event) -> Result<(), Unreadable> {
        let (start, end) = (self.byte(event.start_mark), self.byte(event.end_mark));
        match event.data {
            EventData::SequenceEnd | EventData::MappingEnd => self.close(end),
            EventData::Alias { anchor } => self.alias(&anchor, start, end)?,
            EventData::Scalar {
                anchor,
                tag,
                value,
                plain_implicit,
                style,
                ..
            } => {
                let style = match style {
                    ScalarStyle::Literal | ScalarStyle::Folded => Style::Block,
                    ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => Style::Quoted,
                    _ => Style::Plain,
                };
                let is_merge = value == "<<"
                    && (plain_implicit || tag.as_deref() == Some("tag:yaml.org,2002:merge"));
                let scalar = Scalar::resolve(value, tag.as_deref(), plain_implicit)
                    .map_err(|why| Unreadable { at: start, why })?;
                let content = Content::Scalar { scalar, style };
                let id = self.add(start, end, content, is_merge);
                self.anchor(anchor, id);
            }
            EventData::SequenceStart { anchor, style, .. } => {
                let flow = self.flow(style == SequenceStyle::Flow, end, '[');
                let items = Vec::new();
                self.enter(start, end, Content::Sequence { items, flow }, anchor)?;
            }
            EventData::MappingStart { anchor, style, .. } => {
                let flow = self.flow(style == MappingStyle::Flow, end, '{');
                let entries = Vec::new();
                self.enter(start, end, Content::Mapping { entries, flow }, anchor)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn flow(&self, is_flow: bool, end: usize, bracket: char) -> Flow {
        match is_flow {
            false => Flow::Block,
            true if self.text[..end].ends_with(bracket) => Flow::In(end),
            true => Flow::Pair,
        }
    }

    fn alias(&mut self, anchor: &str, start: usize, end: usize) -> Result<(), Unreadable> {
        let Some(&target) = self.anchors.get(anchor) else {
            let why = format!("there is no anchor &{anchor} before this alias");
            return Err(Unreadable { at: start, why });
        };
        if self.open.contains(&target) {
            let why = format!("the value of &{anchor} contains itself");
            return Err(Unreadable { at: start, why });
        }
        self.tree.nodes[target].alias.get_or_insert(start);
        self.add(start, end, Content::Alias(target), false);
        Ok(())
    }

    fn anchor(&mut self, anchor: Option<String>, id: NodeId) {
        if let Some(anchor) = anchor {
            self.anchors.insert(anchor, id);
        }
    }

    fn enter(
        &mut self,
        start: usize,
        end: usize,
        content: Content,
        anchor: Option<String>,
    ) -> Result<(), Unreadable> {
        if self.open.len() >= MAX_DEPTH {
            let why = format!("it is nested deeper than {MAX_DEPTH} levels");
            return Err(Unreadable { at: start, why });
        }
        let id = self.add(start, end, content, false);
        self.anchor(anchor, id);
        self.open.push(id);
        Ok(())
    }

    fn add(&mut self, start: usize, end: usize, content: Content, is_merge: bool) -> NodeId {
        let id = self.tree.push(start, end, content);
        if let Some(&parent) = self.open.last() {
            self.tree.give_child(parent, id, is_merge);
        }
        id
    }

    fn close(&mut self, end: usize) {
        let Some(id) = self.open.pop() else {
            return;
        };
        let end = match &self.tree.nodes[id].content {
            Content::Sequence {
                flow: Flow::In(_), ..
            }
            | Content::Mapping {
                flow: Flow::In(_), ..
            } => end,
            _ => self.tree.last_end(id, self.text),
        };
        self.tree.nodes[id].end = end;
    }

    /// A mapping is given keys and values in turn: the last one may still wait for its value.
    fn finish(&mut self) {
        while let Some(id) = self.open.pop() {
            self.open.push(id);
            self.close(self.end);
        }
    }
}

impl Tree {
    pub(super) fn push(&mut self, start: usize, end: usize, content: Content) -> NodeId {
        self.nodes.push(Node {
            start,
            end,
            alias: None,
            content,
        });
        self.nodes.len() - 1
    }

    /// An item, or a key, or the value of the key before it.
    pub(super) fn give_child(&mut self, parent: NodeId, child: NodeId, is_merge: bool) {
        match &mut self.nodes[parent].content {
            Content::Sequence { items, .. } => items.push(child),
            Content::Mapping { entries, .. } => match entries.last_mut() {
                // A key without a value is its own until the value comes.
                Some(entry) if entry.value == entry.key => entry.value = child,
                _ => entries.push(Entry {
                    key: child,
                    value: child,
                    is_merge,
                }),
            },
            Content::Scalar { .. } | Content::Alias(_) => {}
        }
    }

    /// Where a block's last child ends. An absent value is reported where the next token is, and moved to its key.
    fn last_end(&mut self, id: NodeId, text: &str) -> usize {
        match &self.nodes[id].content {
            Content::Sequence { items, .. } => items.last().map(|item| self.nodes[*item].end),
            Content::Mapping { entries, .. } => entries.last().map(|entry| {
                let (key, value) = (&self.nodes[entry.key], &self.nodes[entry.value]);
                let is_absent = value.start == value.end && !text[..value.start].ends_with(':');
                if is_absent { key.end } else { value.end }
            }),
            Content::Scalar { .. } | Content::Alias(_) => None,
        }
        .unwrap_or(self.nodes[id].end)
    }
}

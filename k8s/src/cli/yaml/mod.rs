//! Manifests: read as kubectl reads them, changed by edits at byte positions.
//!
//! ```text
//! text -> stream (documents) -> tree (nodes with positions) -> value (aliases, merges) -> the objects
//! object before, object after -> edit (insertions, deletions) -> text, read again and compared
//! ```

mod contain;
mod document;
mod edit;
mod items;
mod json;
mod locate;
mod objects;
mod resolve;
mod stream;
mod tree;
mod value;
mod write;

pub(super) use document::Document;
use stream::Segment;

/// Where a text is nothing that kubectl would take, in bytes from its start, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Unreadable {
    at: usize,
    why: String,
}

/// Something about a line of a text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub(super) struct AtLine {
    /// From 1.
    pub(super) line: usize,
    pub(super) why: String,
}

/// A text's documents.
pub(super) struct Stream<'a> {
    text: &'a str,
    pub(super) documents: Vec<Document<'a>>,
}

// === impl Stream ===

impl<'a> Stream<'a> {
    /// # Errors
    /// At the line where kubectl would stop.
    pub(super) fn read(text: &'a str) -> Result<Self, AtLine> {
        let read = || -> Result<_, Unreadable> {
            let parts = stream::parts(text)?;
            let (mut line, mut at) = (1, 0);
            let document = |part: Segment| {
                line += text[at..part.range.start].matches('\n').count();
                at = part.range.start;
                Document::new(text, line, part)
            };
            parts.into_iter().map(document).collect()
        };
        let documents = read().map_err(|wrong| AtLine::new(text, wrong.at, wrong.why))?;
        Ok(Self { text, documents })
    }

    /// The text with some documents replaced.
    pub(super) fn with(&self, changed: &[Option<String>]) -> String {
        let mut out = String::with_capacity(self.text.len());
        let mut at = 0;
        for (document, changed) in self.documents.iter().zip(changed) {
            let range = document.range();
            out.push_str(&self.text[at..range.start]);
            out.push_str(changed.as_deref().unwrap_or(&self.text[range.clone()]));
            at = range.end;
        }
        out.push_str(&self.text[at..]);
        out
    }
}

// === impl AtLine ===

impl AtLine {
    fn new(text: &str, at: usize, why: String) -> Self {
        let before = &text.as_bytes()[..at.min(text.len())];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        Self { line, why }
    }
}

/// A text as documents of a longer YAML stream: each begins with a separator and ends its last line.
pub(super) fn standalone(text: &str) -> String {
    let Ok(stream) = Stream::read(text) else {
        return text.to_owned();
    };
    let mut out = String::new();
    for document in &stream.documents {
        let part = document.text().trim_start_matches('\u{feff}');
        let newline = if part.ends_with('\n') { "" } else { "\n" };
        out.push_str("---\n");
        out.push_str(part);
        out.push_str(newline);
    }
    out
}

#[cfg(test)]
mod tests;

//! A text's documents, cut as kubectl's `YAMLOrJSONDecoder` cuts them.

use std::ops::Range;

use super::{Unreadable, json, tree::Tree};

const SEPARATOR: &str = "---";
const BOM: char = '\u{feff}';

/// One document of a text: its range, and the tree where there is more than comments.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) range: Range<usize>,
    pub(super) tree: Option<Tree>,
    pub(super) is_json: bool,
}

/// Every document of a text, in its order.
///
/// # Errors
/// Where kubectl would stop, and why.
pub(super) fn parts(text: &str) -> Result<Vec<Segment>, Unreadable> {
    let start = if text.starts_with(BOM) {
        BOM.len_utf8()
    } else {
        0
    };
    let mut parts = Vec::new();
    let mut at = start;
    let mut why_no_json = None;
    if text[start..].trim_start().starts_with('{') {
        match read_json(text, start, &mut parts) {
            Ok(()) => return Ok(parts),
            // Two objects one after the other are JSON for good; with fewer the rest may be YAML.
            Err(wrong) if parts.len() > 1 => return Err(wrong),
            Err(wrong) => {
                at = after_white_line(text, parts.last().map_or(start, |part| part.range.end));
                why_no_json = Some(wrong);
            }
        }
    }
    match read_yaml(text, at, &mut parts) {
        // For a text that begins as JSON, kubectl reports the JSON error.
        Err(_) if why_no_json.is_some() && parts.len() <= 1 => {
            Err(why_no_json.expect("it was just seen"))
        }
        result => result.map(|()| parts),
    }
}

fn read_json(text: &str, start: usize, parts: &mut Vec<Segment>) -> Result<(), Unreadable> {
    let mut at = json::skip_white(text, start);
    while at < text.len() {
        let tree = json::read(text, at)?;
        let range = at..tree.node(tree.root).end;
        at = json::skip_white(text, range.end);
        parts.push(Segment {
            range,
            tree: Some(tree),
            is_json: true,
        });
    }
    Ok(())
}

fn read_yaml(text: &str, start: usize, parts: &mut Vec<Segment>) -> Result<(), Unreadable> {
    let (mut chunk, mut at) = (start, start);
    for line in text[start..].split_inclusive('\n') {
        if let Some(rest) = line.strip_prefix(SEPARATOR) {
            let rest = rest.trim();
            if !rest.is_empty() && !rest.starts_with('#') {
                let why = "kubectl takes only a comment behind --- in its line";
                let why = why.to_owned();
                return Err(Unreadable { at, why });
            }
            push(text, chunk..at, parts)?;
            chunk = at + line.len();
        }
        at += line.len();
    }
    push(text, chunk..text.len(), parts)
}

fn push(text: &str, range: Range<usize>, parts: &mut Vec<Segment>) -> Result<(), Unreadable> {
    if !range.is_empty() {
        let tree = Tree::read(text, range.clone())?;
        parts.push(Segment {
            range,
            tree,
            is_json: false,
        });
    }
    Ok(())
}

/// Behind white space, to the end of the first line at most.
fn after_white_line(text: &str, at: usize) -> usize {
    for (offset, c) in text[at..].char_indices() {
        if c == '\n' {
            return at + offset + 1;
        }
        if !c.is_whitespace() {
            return at + offset;
        }
    }
    text.len()
}

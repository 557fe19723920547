//! JSON as the same tree: a stream of objects is JSON to kubectl, not YAML.

use super::{
    Unreadable,
    resolve::Scalar,
    tree::{Content, Flow, MAX_DEPTH, NodeId, Style, Tree},
};

/// Reads one value.
struct Reader<'a> {
    text: &'a str,
    at: usize,
    tree: Tree,
}

/// What stands for a value in a collection that is still open.
enum Open {
    List,
    Object,
}

/// The value that begins at `at`, which is not white; it ends where its root does.
///
/// # Errors
/// Where it is no JSON, and where.
pub(super) fn read(text: &str, at: usize) -> Result<Tree, Unreadable> {
    let tree = Tree {
        base: at,
        ..Tree::default()
    };
    let mut reader = Reader { text, at, tree };
    reader.tree.root = reader.value(0)?;
    Ok(reader.tree)
}

/// The first byte at or after `at` that is not white.
pub(super) fn skip_white(text: &str, at: usize) -> usize {
    let rest = text[at..].trim_start_matches([' ', '\t', '\r', '\n']);
    text.len() - rest.len()
}

// === impl Reader ===

impl Reader<'_> {
    fn value(&mut self, depth: usize) -> Result<NodeId, Unreadable> {
        if depth > MAX_DEPTH {
            return Err(self.wrong(&format!("it is nested deeper than {MAX_DEPTH} levels")));
        }
        match self.text.as_bytes().get(self.at) {
            Some(b'{') => self.collection(&Open::Object, depth),
            Some(b'[') => self.collection(&Open::List, depth),
            Some(b'"') => self.string(),
            _ => self.word(),
        }
    }

    fn collection(&mut self, open: &Open, depth: usize) -> Result<NodeId, Unreadable> {
        let (start, flow) = (self.at, Flow::In(self.at + 1));
        let (content, close) = match open {
            Open::Object => {
                let entries = Vec::new();
                (Content::Mapping { entries, flow }, b'}')
            }
            Open::List => {
                let items = Vec::new();
                (Content::Sequence { items, flow }, b']')
            }
        };
        let id = self.tree.push(start, start, content);
        self.at += 1;
        self.at = skip_white(self.text, self.at);
        let mut is_first = true;
        while self.text.as_bytes().get(self.at) != Some(&close) {
            if !is_first {
                self.expect(b',')?;
            }
            is_first = false;
            if matches!(open, Open::Object) {
                if self.text.as_bytes().get(self.at) != Some(&b'"') {
                    return Err(self.wrong("a key in quotes is missing here"));
                }
                let key = self.string()?;
                self.tree.give_child(id, key, false);
                self.at = skip_white(self.text, self.at);
                self.expect(b':')?;
            }
            let value = self.value(depth + 1)?;
            self.tree.give_child(id, value, false);
            self.at = skip_white(self.text, self.at);
        }
        self.at += 1;
        self.tree.nodes[id].end = self.at;
        Ok(id)
    }

    fn expect(&mut self, byte: u8) -> Result<(), Unreadable> {
        if self.text.as_bytes().get(self.at) != Some(&byte) {
            return Err(self.wrong(&format!("{:?} is missing here", char::from(byte))));
        }
        self.at = skip_white(self.text, self.at + 1);
        Ok(())
    }

    fn string(&mut self) -> Result<NodeId, Unreadable> {
        let start = self.at;
        let mut is_escaped = false;
        let length = self.text[start + 1..].bytes().position(|byte| {
            let ends = byte == b'"' && !is_escaped;
            is_escaped = byte == b'\\' && !is_escaped;
            ends
        });
        let Some(length) = length else {
            return Err(self.wrong("the string has no end"));
        };
        let end = start + length + 2;
        let token = &self.text[start..end];
        let text = serde_json::from_str(token)
            // Go takes half of a surrogate pair for U+FFFD.
            .or_else(|error| {
                serde_json::from_str(&without_lone_surrogates(token)).map_err(|_| error)
            })
            .map_err(|error| self.wrong(&error.to_string()))?;
        self.at = end;
        Ok(self.scalar(start, Scalar::Text(text)))
    }

    fn word(&mut self) -> Result<NodeId, Unreadable> {
        let start = self.at;
        let rest = &self.text[start..];
        let is_end = |c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c);
        let token = &rest[..rest.find(is_end).unwrap_or(rest.len())];
        let scalar = match token {
            "null" => Scalar::Null,
            "true" => Scalar::Bool(true),
            "false" => Scalar::Bool(false),
            _ => number(token).ok_or_else(|| self.wrong("here is no JSON value"))?,
        };
        self.at += token.len();
        Ok(self.scalar(start, scalar))
    }

    fn scalar(&mut self, start: usize, scalar: Scalar) -> NodeId {
        let style = match scalar {
            Scalar::Text(_) => Style::Quoted,
            _ => Style::Plain,
        };
        let content = Content::Scalar { scalar, style };
        self.tree.push(start, self.at, content)
    }

    fn wrong(&self, why: &str) -> Unreadable {
        let (at, why) = (self.at, why.to_owned());
        Unreadable { at, why }
    }
}

fn number(token: &str) -> Option<Scalar> {
    let number: serde_json::Number = serde_json::from_str(token).ok()?;
    let int = number.as_i64().map(Scalar::Int);
    int.or_else(|| number.as_u64().map(Scalar::Uint))
        .or_else(|| number.as_f64().map(Scalar::Float))
}

/// `\ud800` that no second half follows, and a second half alone, as `\ufffd`.
fn without_lone_surrogates(token: &str) -> String {
    let half = |at: usize, of: [u8; 4]| {
        let bytes = token.as_bytes().get(at..at + 4);
        bytes.is_some_and(|bytes| {
            bytes.starts_with(b"\\u")
                && bytes[2].eq_ignore_ascii_case(&b'd')
                && of.contains(&bytes[3].to_ascii_lowercase())
        })
    };
    let (mut out, mut at) = (String::new(), 0);
    while let Some(c) = token[at..].chars().next() {
        let is_first = half(at, *b"89ab");
        if is_first && half(at + 6, *b"cdef") {
            out.push_str(token.get(at..at + 12).unwrap_or_default());
            at += 12;
        } else if is_first || half(at, *b"cdef") {
            out.push_str("\\ufffd");
            at += 6;
        } else {
            let length = if c == '\\' { 2 } else { c.len_utf8() };
            out.push_str(token.get(at..at + length).unwrap_or_default());
            at += length;
        }
        if !token.is_char_boundary(at.min(token.len())) || at >= token.len() {
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{read, without_lone_surrogates};

    #[test]
    fn value_ends_at_its_last_byte() {
        let text = r#" {"a": [1, "\"]", {}], "b": null}{"#;
        let tree = read(text, 1).expect("JSON");
        let root = tree.node(tree.root);
        assert_eq!((root.start, root.end), (1, text.len() - 1));
    }

    #[test]
    fn invalid_json_is_reported_with_its_position() {
        for (text, at) in [
            ("{\"a\" 1}", 5),
            ("{a: 1}", 1),
            ("[1,]", 3),
            ("{\"a\": \"", 6),
            ("{\"a\": 01}", 6),
        ] {
            assert_eq!(
                read(text, 0).err().map(|wrong| wrong.at),
                Some(at),
                "{text}"
            );
        }
    }

    #[test]
    fn lone_surrogate_becomes_a_replacement_character() {
        assert_eq!(
            without_lone_surrogates(r"a\ud83d\ude00b"),
            r"a\ud83d\ude00b"
        );
        assert_eq!(without_lone_surrogates(r"\ud83dx\udc00"), r"\ufffdx\ufffd");
        assert_eq!(without_lone_surrogates(r"\\ud83d"), r"\\ud83d");
        assert!(read(r#"{"a": "\ud83d"}"#, 0).is_ok());
    }
}

//! A tree's values as kubectl has them: aliases and merge keys resolved.

use serde_json::{Map, Value};

use super::{
    Unreadable,
    tree::{Content, Entry, MAX_DEPTH, NodeId, Tree},
};

/// go-yaml v2 refuses a document of which aliases make more than these shares (`allowedAliasRatio`).
const SMALL: f64 = 400_000.0;
const LARGE: f64 = 4_000_000.0;

/// Counts what is decoded, and what of it behind aliases.
struct Decoder<'a> {
    tree: &'a Tree,
    decoded: usize,
    behind_aliases: usize,
}

/// Where a mapping has a key from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Member {
    /// Its own entry, by index.
    Own(usize),
    /// A mapping that it merges, and the value there.
    Merged(NodeId, NodeId),
}

// === impl Tree ===

impl Tree {
    /// The value of a node.
    ///
    /// # Errors
    /// Where kubectl refuses it: keys that are no strings, aliases that multiply, NaN.
    pub(super) fn value(&self, id: NodeId) -> Result<Value, Unreadable> {
        let mut decoder = Decoder {
            tree: self,
            decoded: 0,
            behind_aliases: 0,
        };
        decoder.value(id, 0, 0)
    }

    /// The text of a key.
    pub(super) fn key(&self, id: NodeId) -> Result<String, Unreadable> {
        let at = self.node(id).start;
        let why = match &self.node(self.behind_alias(id)).content {
            Content::Scalar { scalar, .. } => match scalar.to_key() {
                Ok(key) => return Ok(key),
                Err(why) => why,
            },
            _ => "a mapping or a list is no key".to_owned(),
        };
        Err(Unreadable { at, why })
    }

    /// Where the mapping `id` has `key` from: entries and merges count in their order, the last one holds.
    pub(super) fn member(&self, id: NodeId, key: &str) -> Option<Member> {
        let Content::Mapping { entries, .. } = &self.node(id).content else {
            return None;
        };
        let mut found = None;
        for (index, entry) in entries.iter().enumerate() {
            if !entry.is_merge {
                if self.key(entry.key).is_ok_and(|own| own == key) {
                    found = Some(Member::Own(index));
                }
                continue;
            }
            for source in self.merged(entry.value) {
                found = match self.member(source, key) {
                    Some(Member::Own(index)) => {
                        Some(Member::Merged(source, self.entries(source)[index].value))
                    }
                    merged @ Some(Member::Merged(..)) => merged,
                    None => found,
                };
            }
        }
        found
    }

    /// The value of a member, wherever the mapping has it from.
    pub(super) fn member_value(&self, id: NodeId, key: &str) -> Option<NodeId> {
        Some(match self.member(id, key)? {
            Member::Own(index) => self.entries(id)[index].value,
            Member::Merged(_, value) => value,
        })
    }

    pub(super) fn items(&self, id: NodeId) -> &[NodeId] {
        match &self.node(id).content {
            Content::Sequence { items, .. } => items,
            _ => &[],
        }
    }

    pub(super) fn entries(&self, id: NodeId) -> &[Entry] {
        match &self.node(id).content {
            Content::Mapping { entries, .. } => entries,
            _ => &[],
        }
    }

    /// The mappings behind `<<`, in the order in which later ones win.
    fn merged(&self, id: NodeId) -> Vec<NodeId> {
        match &self.node(id).content {
            Content::Sequence { items, .. } => items
                .iter()
                .rev()
                .map(|item| self.behind_alias(*item))
                .collect(),
            _ => vec![self.behind_alias(id)],
        }
    }
}

// === impl Decoder ===

impl Decoder<'_> {
    fn value(&mut self, id: NodeId, depth: usize, aliases: usize) -> Result<Value, Unreadable> {
        let node = self.tree.node(id);
        let wrong = |why: String| Unreadable {
            at: node.start,
            why,
        };
        self.count(aliases).map_err(wrong)?;
        if depth > 2 * MAX_DEPTH {
            return Err(wrong("its aliases nest too deep".to_owned()));
        }
        match &node.content {
            Content::Scalar { scalar, .. } => scalar.to_value().map_err(wrong),
            Content::Alias(target) => self.value(*target, depth + 1, aliases + 1),
            Content::Sequence { items, .. } => items
                .iter()
                .map(|item| self.value(*item, depth + 1, aliases))
                .collect(),
            Content::Mapping { entries, .. } => {
                let mut members = Map::new();
                self.members(entries, &mut members, depth, aliases)?;
                Ok(Value::Object(members))
            }
        }
    }

    fn members(
        &mut self,
        entries: &[Entry],
        into: &mut Map<String, Value>,
        depth: usize,
        aliases: usize,
    ) -> Result<(), Unreadable> {
        for entry in entries {
            if entry.is_merge {
                self.merge(entry.value, into, depth, aliases)?;
            } else {
                let key = self.tree.key(entry.key)?;
                let value = self.value(entry.value, depth + 1, aliases)?;
                into.insert(key, value);
            }
        }
        Ok(())
    }

    fn merge(
        &mut self,
        id: NodeId,
        into: &mut Map<String, Value>,
        depth: usize,
        aliases: usize,
    ) -> Result<(), Unreadable> {
        for source in self.tree.merged(id) {
            let node = self.tree.node(source);
            let wrong = |why: &str| Unreadable {
                at: self.tree.node(id).start,
                why: why.to_owned(),
            };
            let Content::Mapping { entries, .. } = &node.content else {
                return Err(wrong("<< merges mappings, and this is none"));
            };
            if depth > 2 * MAX_DEPTH {
                return Err(wrong("its merges nest too deep"));
            }
            self.count(aliases + 1).map_err(|why| wrong(&why))?;
            self.members(entries, into, depth + 1, aliases + 1)?;
        }
        Ok(())
    }

    fn count(&mut self, aliases: usize) -> Result<(), String> {
        self.decoded += 1;
        self.behind_aliases += usize::from(aliases > 0);
        let decoded = self.decoded as f64;
        let allowed = match decoded {
            few if few <= SMALL => 0.99,
            many if many >= LARGE => 0.10,
            some => 0.99 - 0.89 * (some - SMALL) / (LARGE - SMALL),
        };
        let share = self.behind_aliases as f64 / decoded;
        let is_excessive = self.behind_aliases > 100 && self.decoded > 1000 && share > allowed;
        match is_excessive {
            true => Err("the document is mostly aliases".to_owned()),
            false => Ok(()),
        }
    }
}

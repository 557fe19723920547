//! One document: its objects, and its text with other objects in their places.

use std::collections::HashSet;
use std::ops::Range;

use serde_json::Value;

use super::edit::{self, Edit, Refusal};
use super::json;
use super::locate::Lines;
use super::stream::Part;
use super::tree::{NodeId, Tree};
use super::{AtLine, Unreadable};

/// A document, and the objects in it: one, or those of a List.
pub(in crate::cli) struct Document<'a> {
    text: &'a str,
    part: Part,
    root: Value,
    objects: Vec<Object>,
}

/// Where an object is.
struct Object {
    node: NodeId,
    /// Indices of `items`, from the document's root.
    path: Vec<usize>,
}

/// The edits for one object.
struct Plan(Result<Vec<Edit>, Refusal>);

/// A document that was changed, and which of its objects could not be, by their index.
pub(in crate::cli) struct Changed {
    pub(in crate::cli) text: String,
    pub(in crate::cli) refused: Vec<(usize, AtLine)>,
}

// === impl Document ===

impl<'a> Document<'a> {
    /// A document that is the whole text; `None` where kubectl would not take it.
    pub(in crate::cli) fn alone(text: &'a str, is_json: bool) -> Option<Self> {
        let range = 0..text.len();
        let tree = match is_json {
            true => json::read(text, 0).map(Some),
            false => Tree::read(text, range.clone()),
        };
        let part = Part {
            range,
            tree: tree.ok()?,
            is_json,
        };
        Self::new(text, part).ok()
    }

    pub(super) fn new(text: &'a str, part: Part) -> Result<Self, Unreadable> {
        let mut document = Self {
            text,
            part,
            root: Value::Null,
            objects: Vec::new(),
        };
        if let Some(tree) = &document.part.tree {
            document.root = tree.value(tree.root)?;
            let mut objects = Vec::new();
            find(
                tree,
                tree.root,
                &document.root,
                &mut Vec::new(),
                &mut objects,
            );
            document.objects = objects;
        }
        Ok(document)
    }

    /// The document's own text.
    pub(in crate::cli) fn text(&self) -> &'a str {
        &self.text[self.part.range.clone()]
    }

    /// Where it is in the text.
    pub(super) fn range(&self) -> Range<usize> {
        self.part.range.clone()
    }

    /// Whether it is JSON to kubectl, not YAML.
    pub(in crate::cli) fn is_json(&self) -> bool {
        self.part.is_json
    }

    pub(in crate::cli) fn objects(&self) -> impl Iterator<Item = &Value> {
        self.objects
            .iter()
            .filter_map(|object| at_path(&self.root, &object.path))
    }

    /// What kubectl does not read of the document.
    pub(in crate::cli) fn unread(&self) -> Option<AtLine> {
        let at = self.part.tree.as_ref()?.unread?;
        let why = "kubectl does not read what follows here, as no --- is before it".to_owned();
        Some(AtLine::new(self.text, at, why))
    }

    /// The document with the objects `after`, where one is given. Only what reads back as that, and for which
    /// `is_undone` holds, is written; every other object stays as it is.
    pub(in crate::cli) fn change(
        &self,
        after: &[Option<Value>],
        is_undone: impl Fn(&str) -> bool,
    ) -> Changed {
        let plans: Vec<_> = after
            .iter()
            .enumerate()
            .map(|(index, after)| self.plan(index, after.as_ref()?))
            .collect();
        let mut chosen: Vec<_> = plans
            .iter()
            .map(|plan| plan.as_ref().is_some_and(|Plan(edits)| edits.is_ok()))
            .collect();
        let attempt = |chosen: &[bool]| {
            let text = self.apply(&plans, chosen)?;
            (self.is(&text, after, chosen) && is_undone(&text)).then_some(text)
        };
        let mut text = attempt(&chosen);
        if text.is_none() {
            let is_shared = |plan: &Option<Plan>| {
                plan.as_ref()
                    .and_then(|Plan(edits)| edits.as_ref().ok())
                    .is_some_and(|edits| edits.iter().any(|edit| edit.shared.is_some()))
            };
            for (chosen, plan) in chosen.iter_mut().zip(&plans) {
                *chosen &= !is_shared(plan);
            }
            text = attempt(&chosen);
        }
        if text.is_none() {
            chosen = self.one_by_one(chosen, attempt);
            text = attempt(&chosen);
        }
        if text.is_none() {
            chosen.fill(false);
        }
        let refused = plans
            .iter()
            .enumerate()
            .filter(|(index, _)| !chosen[*index])
            .filter_map(|(index, plan)| Some((index, self.refusal(index, plan.as_ref()?))))
            .collect();
        let text = text.unwrap_or_else(|| self.text().to_owned());
        Changed { text, refused }
    }

    /// Those of the chosen objects that can be changed alone. Of too many none is, as each is a reading.
    fn one_by_one(
        &self,
        chosen: Vec<bool>,
        attempt: impl Fn(&[bool]) -> Option<String>,
    ) -> Vec<bool> {
        const MOST: usize = 100;
        let few = chosen.iter().filter(|chosen| **chosen).count() <= MOST;
        let alone = |index: usize| {
            let mut only = vec![false; chosen.len()];
            only[index] = true;
            few && chosen[index] && attempt(&only).is_some()
        };
        (0..chosen.len()).map(alone).collect()
    }

    fn plan(&self, index: usize, after: &Value) -> Option<Plan> {
        let tree = self.part.tree.as_ref()?;
        let object = &self.objects[index];
        let before = at_path(&self.root, &object.path)?;
        let plan = edit::plan(self.lines(tree), tree, object.node, before, after);
        Some(Plan(plan))
    }

    fn lines(&self, tree: &Tree) -> Lines<'a> {
        Lines {
            text: self.text,
            base: tree.base,
            end: self.part.range.end,
        }
    }

    /// The document's text after the edits of the chosen objects; `None` where they are in each other's way.
    fn apply(&self, plans: &[Option<Plan>], chosen: &[bool]) -> Option<String> {
        let mut edits: Vec<&Edit> = plans
            .iter()
            .zip(chosen)
            .filter(|(_, chosen)| **chosen)
            .filter_map(|(plan, _)| plan.as_ref()?.0.as_ref().ok())
            .flatten()
            .collect();
        // What is put before a byte goes before what happens to the byte.
        edits.sort_by_key(|edit| (edit.at.start, !edit.at.is_empty()));
        // Two objects that share a node may well want the same of it.
        let mut seen = HashSet::new();
        edits.retain(|edit| edit.shared.is_none() || seen.insert((edit.at.clone(), &edit.text)));
        apply(self.text, &self.part.range, &edits)
    }

    /// Whether the changed text is what it should be to kubectl.
    fn is(&self, text: &str, after: &[Option<Value>], chosen: &[bool]) -> bool {
        let mut wanted = self.root.clone();
        for ((object, after), chosen) in self.objects.iter().zip(after).zip(chosen) {
            if let (true, Some(after)) = (chosen, after) {
                let Some(place) = at_path_mut(&mut wanted, &object.path) else {
                    return false;
                };
                place.clone_from(after);
            }
        }
        Document::alone(text, self.part.is_json).is_some_and(|read| read.root == wanted)
    }

    fn refusal(&self, index: usize, Plan(edits): &Plan) -> AtLine {
        let at = |at, why| AtLine::new(self.text, at, why);
        match (edits, &self.part.tree) {
            (Err(refusal), _) => at(refusal.at, refusal.why.clone()),
            (Ok(edits), Some(tree)) => {
                let shared = edits.iter().find_map(|edit| edit.shared);
                let alias =
                    shared.and_then(|shared| Some((tree.node(shared), tree.node(shared).alias?)));
                match alias {
                    Some((node, alias)) => {
                        let line = AtLine::new(self.text, alias, String::new()).line;
                        let why = format!(
                            "what has to change here is also used in line {line}, through an anchor: write it out in both places"
                        );
                        at(node.start, why)
                    }
                    None => {
                        let start = tree.node(self.objects[index].node).start;
                        at(
                            start,
                            "it cannot be changed without changing more".to_owned(),
                        )
                    }
                }
            }
            (Ok(_), None) => at(self.part.range.start, "there is nothing here".to_owned()),
        }
    }
}

/// Collects the objects of a document; those of a List are its items.
fn find(tree: &Tree, node: NodeId, value: &Value, path: &mut Vec<usize>, into: &mut Vec<Object>) {
    let is_list = value["kind"]
        .as_str()
        .is_some_and(|kind| kind.ends_with("List"));
    if !is_list {
        if value.is_object() {
            let path = path.clone();
            into.push(Object { node, path });
        }
        return;
    }
    let Some(items) = value["items"].as_array() else {
        return;
    };
    let node = tree.member_value(tree.behind_alias(node), "items");
    let nodes = node.map_or(&[][..], |node| tree.items(tree.behind_alias(node)));
    for (index, (value, node)) in items.iter().zip(nodes).enumerate() {
        path.push(index);
        find(tree, *node, value, path, into);
        path.pop();
    }
}

fn at_path<'a>(root: &'a Value, path: &[usize]) -> Option<&'a Value> {
    path.iter()
        .try_fold(root, |value, index| value.get("items")?.get(index))
}

fn at_path_mut<'a>(root: &'a mut Value, path: &[usize]) -> Option<&'a mut Value> {
    path.iter()
        .try_fold(root, |value, index| value.get_mut("items")?.get_mut(index))
}

/// The bytes of `range` after the edits, which are in their order; deletions may meet and overlap.
fn apply(text: &str, range: &Range<usize>, edits: &[&Edit]) -> Option<String> {
    let mut out = String::with_capacity(range.len());
    let mut at = range.start;
    for edit in edits {
        let is_deletion = edit.text.is_empty() && !edit.at.is_empty();
        if edit.at.start < at && !is_deletion {
            return None;
        }
        if at < edit.at.start {
            out.push_str(&text[at..edit.at.start]);
        }
        out.push_str(&edit.text);
        at = at.max(edit.at.end);
        // Lines at the end of a text whose last line is open were put there behind a line break.
        if edit.is_lines && at == text.len() && !text.ends_with('\n') {
            let kept = out
                .strip_suffix('\n')
                .map(|out| out.strip_suffix('\r').unwrap_or(out).len());
            out.truncate(kept.unwrap_or(out.len()));
        }
    }
    out.push_str(&text[at..range.end]);
    Some(out)
}

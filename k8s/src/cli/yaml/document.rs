//! One document: its objects, and its text with changed objects.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, HashSet},
    ops::Range,
};

use serde_json::Value;

use super::{
    AtLine, Unreadable,
    edit::{self, Edit, Refusal},
    json,
    locate::Lines,
    objects::{Found, Object},
    stream::Segment,
    tree::{Content, Flow, NodeId, Tree},
    value::Member,
};

/// How often the objects at fault are left out, all at once; then they are looked for in halves.
const ROUNDS: usize = 8;

/// The most readings of the document for that: each one takes as long as the document is.
const READINGS: usize = 64;

/// A document, and the objects in it: one, or those of a List.
pub(in crate::cli) struct Document<'a> {
    text: &'a str,
    /// The number of the line that it begins in.
    first_line: usize,
    part: Segment,
    root: Value,
    objects: Vec<Object>,
    /// What stands where an object is expected and is none to kubectl.
    foreign: Vec<AtLine>,
}

/// The edits for one object.
struct Plan(Result<Vec<Edit>, Refusal>);

/// Makes of an object what `uninject` makes of it; `None` where that is the object itself.
pub(in crate::cli) type Undo = dyn Fn(&Value) -> Option<Value>;

/// The objects, by index, whose edits do not do what they should, each with a position; empty where that is not known.
type Faults = Vec<(usize, usize)>;

/// What all attempts at changing a document have in common.
struct Attempts<'a> {
    document: &'a Document<'a>,
    plans: Vec<Option<Plan>>,
    after: &'a [Option<Value>],
    undo: Option<&'a Undo>,
    /// The document after `undo`.
    clean: OnceCell<String>,
}

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
        let part = Segment {
            range,
            tree: tree.ok()?,
            is_json,
        };
        Self::new(text, 1, part).ok()
    }

    pub(super) fn new(text: &'a str, first_line: usize, part: Segment) -> Result<Self, Unreadable> {
        let mut document = Self {
            text,
            first_line,
            part,
            root: Value::Null,
            objects: Vec::new(),
            foreign: Vec::new(),
        };
        if let Some(tree) = &document.part.tree {
            document.root = tree.value(tree.root)?;
            let found = Found::of(tree, &document.root);
            document.objects = found.objects;
            let at_line = |(node, why): (NodeId, &str)| {
                AtLine::new(text, tree.node(node).start, why.to_owned())
            };
            document.foreign = found.foreign.into_iter().map(at_line).collect();
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

    pub(in crate::cli) fn objects(&self) -> impl Iterator<Item = &Value> {
        let of = |object: &'_ Object| at_path(&self.root, &object.path);
        self.objects
            .iter()
            .filter_map(move |object| object.inferred.as_ref().or_else(|| of(object)))
    }

    /// Whether kubectl refuses the object with this index.
    pub(in crate::cli) fn is_foreign(&self, index: usize) -> bool {
        self.objects[index].is_foreign
    }

    /// What kubectl refuses in the document: what is no object, and objects without a kind.
    pub(in crate::cli) fn foreign(&self) -> &[AtLine] {
        &self.foreign
    }

    /// What kubectl does not read of the document.
    pub(in crate::cli) fn unread(&self) -> Option<AtLine> {
        let at = self.part.tree.as_ref()?.unread?;
        let why = "kubectl does not read what follows here, as no --- is before it".to_owned();
        Some(AtLine::new(self.text, at, why))
    }

    /// The document with the objects `after`, where one is given. Only what reads back as that, and of which `undo` makes
    /// what it makes of the document as it is, is written; every other object stays as it is.
    pub(in crate::cli) fn change(&self, after: &[Option<Value>], undo: Option<&Undo>) -> Changed {
        let after: Vec<_> = self
            .objects
            .iter()
            .zip(after)
            .map(|(object, after)| Some(object.as_written(after.as_ref()?.clone())))
            .collect();
        let plans = (0..after.len())
            .map(|index| self.plan(index, after[index].as_ref()?))
            .collect();
        let attempts = Attempts {
            document: self,
            plans,
            after: &after,
            undo,
            clean: OnceCell::new(),
        };
        let (text, faults) = attempts.run();
        let newlines = OnceCell::new();
        let refused = attempts
            .plans
            .iter()
            .enumerate()
            .filter_map(|(index, plan)| {
                let plan = plan.as_ref()?;
                let is_left = plan.0.is_err() || faults.contains_key(&index) || text.is_none();
                is_left.then(|| (index, self.refusal(index, plan, &faults, &newlines)))
            })
            .collect();
        let text = text.unwrap_or_else(|| self.text().to_owned());
        Changed { text, refused }
    }

    /// The document after `undo`.
    fn undone(&self, undo: &Undo) -> String {
        let after: Vec<_> = self.objects().map(undo).collect();
        match after.iter().any(Option::is_some) {
            true => self.change(&after, None).text,
            false => self.text().to_owned(),
        }
    }

    fn plan(&self, index: usize, after: &Value) -> Option<Plan> {
        let tree = self.part.tree.as_ref()?;
        let object = &self.objects[index];
        let before = at_path(&self.root, &object.path)?;
        let plan = edit::plan(self.lines(tree), tree, object.node, before, after);
        Some(Plan(plan))
    }

    /// Where the object is written otherwise than it should be read: at the key, or at the item.
    fn difference(&self, index: usize, wanted: &Value, read: &Value) -> usize {
        let Some(tree) = &self.part.tree else {
            return self.part.range.start;
        };
        let (mut wanted, mut read) = (wanted, read);
        let mut node = self.objects[index].node;
        let mut at = tree.node(node).start;
        loop {
            node = tree.behind_alias(node);
            let next = match (wanted, read) {
                (Value::Object(new), Value::Object(old)) => {
                    let differs = |key: &&String| new.get(*key) != old.get(*key);
                    let key = new.keys().chain(old.keys()).find(differs);
                    key.and_then(|key| {
                        let place = match tree.member(node, key)? {
                            Member::Own(entry) => tree.node(tree.entries(node)[entry].key).start,
                            Member::Merged(..) => at,
                        };
                        Some((
                            place,
                            tree.member_value(node, key)?,
                            new.get(key)?,
                            old.get(key)?,
                        ))
                    })
                }
                (Value::Array(new), Value::Array(old)) => {
                    let items = tree.items(node);
                    let same = new.len() == items.len() && old.len() == items.len();
                    let first = new.iter().zip(old).position(|(new, old)| new != old);
                    first.filter(|_| same).map(|item| {
                        (
                            tree.node(items[item]).start,
                            items[item],
                            &new[item],
                            &old[item],
                        )
                    })
                }
                _ => None,
            };
            let Some((place, inner, new, old)) = next else {
                return at;
            };
            (at, node, wanted, read) = (place, inner, new, old);
        }
    }

    fn lines(&self, tree: &Tree) -> Lines<'a> {
        Lines {
            text: self.text,
            base: tree.base,
            end: self.part.range.end,
        }
    }

    fn refusal(
        &self,
        index: usize,
        Plan(edits): &Plan,
        faults: &BTreeMap<usize, usize>,
        newlines: &OnceCell<Vec<usize>>,
    ) -> AtLine {
        let start = self.part.range.start;
        let newlines = newlines.get_or_init(|| {
            let breaks = self.text().match_indices('\n');
            breaks.map(|(at, _)| start + at).collect()
        });
        let line = |at| self.first_line + newlines.partition_point(|newline| *newline < at);
        let at = |at, why| AtLine {
            line: line(at),
            why,
        };
        match (edits, &self.part.tree) {
            (Err(refusal), _) => at(refusal.at, refusal.why.clone()),
            (Ok(edits), Some(tree)) => {
                let shared = edits.iter().find_map(|edit| edit.shared);
                let alias =
                    shared.and_then(|shared| Some((tree.node(shared), tree.node(shared).alias?)));
                match alias {
                    Some((node, alias)) => {
                        let line = line(alias);
                        let why = format!(
                            "what has to change here is also used in line {line}, through an anchor: write it out in both places"
                        );
                        at(node.start, why)
                    }
                    None => {
                        let start = tree.node(self.objects[index].node).start;
                        let why = "it cannot be changed without changing more".to_owned();
                        at(faults.get(&index).copied().unwrap_or(start), why)
                    }
                }
            }
            (Ok(_), None) => at(start, "there is nothing here".to_owned()),
        }
    }
}

// === impl Attempts ===

impl Attempts<'_> {
    /// The text with every object changed that can be, and the others, each with a position; no text where there is none.
    fn run(&self) -> (Option<String>, BTreeMap<usize, usize>) {
        let mut faults = BTreeMap::new();
        let mut chosen: Vec<_> = (0..self.plans.len())
            .map(|index| self.edits(index).is_some())
            .collect();
        for _ in 0..ROUNDS {
            match self.attempt(&chosen) {
                Ok(text) => return (Some(text), faults),
                Err(at_fault) if at_fault.is_empty() => break,
                Err(at_fault) => {
                    for (index, at) in at_fault {
                        chosen[index] = false;
                        faults.insert(index, at);
                    }
                }
            }
        }
        for (index, chosen) in chosen.iter_mut().enumerate().filter(|(_, chosen)| **chosen) {
            if let Some(at) = self.breaks_alone(index) {
                *chosen = false;
                faults.insert(index, at);
            }
        }
        let (text, changed) = self.in_halves(&chosen);
        for (index, _) in chosen.iter().enumerate().filter(|(_, chosen)| **chosen) {
            if !changed[index] {
                faults.insert(index, self.start(index));
            }
        }
        (text, faults)
    }

    /// As many of the chosen objects as can be changed together.
    fn in_halves(&self, chosen: &[bool]) -> (Option<String>, Vec<bool>) {
        let mut text = None;
        let mut changed = vec![false; chosen.len()];
        let all: Vec<_> = (0..chosen.len()).filter(|index| chosen[*index]).collect();
        let mut open = vec![all];
        for _ in 0..READINGS {
            let Some(part) = open.pop() else {
                break;
            };
            let mut more = changed.clone();
            part.iter().for_each(|index| more[*index] = true);
            match self.attempt(&more) {
                Ok(done) => (text, changed) = (Some(done), more),
                Err(_) if part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    open.push(second.to_vec());
                    open.push(first.to_vec());
                }
                Err(_) => {}
            }
        }
        (text, changed)
    }

    fn edits(&self, index: usize) -> Option<&Vec<Edit>> {
        self.plans[index].as_ref()?.0.as_ref().ok()
    }

    fn start(&self, index: usize) -> usize {
        let tree = self.document.part.tree.as_ref();
        let start = tree.map(|tree| tree.node(self.document.objects[index].node).start);
        start.unwrap_or(self.document.part.range.start)
    }

    /// The document's text with the chosen objects changed.
    fn attempt(&self, chosen: &[bool]) -> Result<String, Faults> {
        let document = self.document;
        let Some(text) = self.apply(chosen) else {
            return Err(self.sharing(chosen));
        };
        let Some(read) = Document::alone(&text, document.part.is_json) else {
            return Err(self.sharing(chosen));
        };
        self.reads_as_wanted(&read, chosen)?;
        if let Some(undo) = self.undo {
            self.comes_back(&read.undone(undo), undo, chosen)?;
        }
        Ok(text)
    }

    /// The document's text after the edits of the chosen objects; `None` where they are in each other's way.
    fn apply(&self, chosen: &[bool]) -> Option<String> {
        let mut edits: Vec<&Edit> = (0..chosen.len())
            .filter(|index| chosen[*index])
            .filter_map(|index| self.edits(index))
            .flatten()
            .collect();
        // An insertion before a byte precedes an edit of that byte.
        edits.sort_by_key(|edit| (edit.at.start, !edit.at.is_empty()));
        // Two objects that share a node may well want the same of it.
        let mut seen = HashSet::new();
        edits.retain(|edit| edit.shared.is_none() || seen.insert((edit.at.clone(), &edit.text)));
        apply(self.document.text, &self.document.part.range, &edits)
    }

    /// The chosen objects that change what others use, too.
    fn sharing(&self, chosen: &[bool]) -> Faults {
        let is_shared = |edits: &Vec<Edit>| edits.iter().any(|edit| edit.shared.is_some());
        (0..chosen.len())
            .filter(|index| chosen[*index] && self.edits(*index).is_some_and(is_shared))
            .map(|index| (index, self.start(index)))
            .collect()
    }

    /// Whether the changed text is what it should be to kubectl.
    fn reads_as_wanted(&self, read: &Document<'_>, chosen: &[bool]) -> Result<(), Faults> {
        let document = self.document;
        let mut wanted = document.root.clone();
        for (index, object) in document.objects.iter().enumerate() {
            if let (true, Some(after), Some(target)) = (
                chosen[index],
                &self.after[index],
                at_path_mut(&mut wanted, &object.path),
            ) {
                target.clone_from(after);
            }
        }
        if read.root == wanted {
            return Ok(());
        }
        let mut faults = Vec::new();
        for (index, object) in document.objects.iter().enumerate() {
            let (wanted, read) = (
                at_path(&wanted, &object.path).unwrap_or(&Value::Null),
                at_path(&read.root, &object.path).unwrap_or(&Value::Null),
            );
            if chosen[index] && wanted != read {
                faults.push((index, document.difference(index, wanted, read)));
            }
        }
        match faults.is_empty() {
            true => Err(self.sharing(chosen)),
            false => Err(faults),
        }
    }

    /// Whether the changed text, after `undo`, is to the byte what the text as it was is after that.
    fn comes_back(&self, back: &str, undo: &Undo, chosen: &[bool]) -> Result<(), Faults> {
        let document = self.document;
        let clean = self.clean.get_or_init(|| document.undone(undo));
        if back == clean {
            return Ok(());
        }
        let starts = |text: &str| {
            let read = Document::alone(text, document.part.is_json)?;
            let tree = read.part.tree.as_ref()?;
            let of = |object: &Object| tree.node(object.node).start;
            Some(read.objects.iter().map(of).collect::<Vec<_>>())
        };
        let (Some(before), Some(after)) = (starts(clean), starts(back)) else {
            return Err(self.sharing(chosen));
        };
        let part = |text: &str, starts: &[usize], index: usize| {
            let end = starts.get(index + 1).copied().unwrap_or(text.len());
            text.get(starts[index]..end).map(str::to_owned)
        };
        let is_same_count = before.len() == after.len() && before.len() == chosen.len();
        let mut faults = Vec::new();
        for index in (0..chosen.len()).filter(|index| is_same_count && chosen[*index]) {
            let (Some(old), Some(new)) = (part(clean, &before, index), part(back, &after, index))
            else {
                continue;
            };
            if old != new {
                let same = old.bytes().zip(new.bytes()).take_while(|(a, b)| a == b);
                let offset = before[index] + same.count();
                let at = document.part.range.start + offset;
                let is_as_it_was = clean == document.text();
                faults.push((index, if is_as_it_was { at } else { self.start(index) }));
            }
        }
        match faults.is_empty() {
            true => Err(self.sharing(chosen)),
            false => Err(faults),
        }
    }

    /// Whether an object that can be read without the rest of the document no longer can after its edits, and where it is.
    fn breaks_alone(&self, index: usize) -> Option<usize> {
        let document = self.document;
        let tree = document.part.tree.as_ref()?;
        let node = tree.node(document.objects[index].node);
        let lines = document.lines(tree);
        let edits = self.edits(index)?;
        let is_flow = matches!(
            node.content,
            Content::Mapping {
                flow: Flow::In(_),
                ..
            }
        );
        let range = match is_flow {
            true => node.start..node.end,
            false => {
                let ends = edits.iter().map(|edit| edit.at.end);
                let end = ends.chain([node.end]).max().unwrap_or(node.end);
                let is_line = document.text[..end].ends_with('\n');
                lines.start(node.start)..if is_line { end } else { lines.next(end) }
            }
        };
        let is_read = |text: &str| Tree::read(text, 0..text.len()).is_ok();
        if !is_read(&document.text[range.clone()]) {
            return None;
        }
        let mut edits: Vec<_> = edits.iter().collect();
        edits.sort_by_key(|edit| (edit.at.start, !edit.at.is_empty()));
        let breaks = |edits: &[&Edit]| {
            let changed = apply(document.text, &range, edits);
            changed.map(|changed| !is_read(&changed))
        };
        if !breaks(&edits)? {
            return None;
        }
        let first = (1..=edits.len()).find(|count| breaks(&edits[..*count]) == Some(true));
        let place = first.map(|count| &edits[count - 1].at);
        // What is inserted behind a line is about that line.
        place.map(|at| at.start - usize::from(at.is_empty() && at.start > node.start))
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

//! The objects of a document, as kubectl finds them.

use serde_json::Value;

use super::tree::{NodeId, Tree};

const NO_OBJECT: &str = "this is no object: kubectl refuses it";
const NO_KIND: &str = "this has no kind: kubectl refuses it; write its kind and apiVersion";
const NO_ITEMS: &str = "the items are no list: kubectl refuses it";
const VERSION_IS_NO_TEXT: &str =
    "the apiVersion is no text: kubectl refuses it; write it in quotes";

/// Where an object is.
pub(super) struct Object {
    pub(super) node: NodeId,
    /// Indices of `items`, from the document's root.
    pub(super) path: Vec<usize>,
    /// The object with the kind that it has as an item of a typed list (`PodList`), where it names none.
    pub(super) inferred: Option<Value>,
    /// kubectl refuses it, for a reason that [`Found`] has.
    pub(super) is_foreign: bool,
}

/// What is in a document: its objects, and what kubectl would refuse, with why.
#[derive(Default)]
pub(super) struct Found {
    pub(super) objects: Vec<Object>,
    pub(super) foreign: Vec<(NodeId, &'static str)>,
}

// === impl Object ===

impl Object {
    /// An object that was read as this one, without what it was given for that.
    pub(super) fn as_written(&self, mut object: Value) -> Value {
        if self.inferred.is_some()
            && let Some(members) = object.as_object_mut()
        {
            members.shift_remove("kind");
            members.shift_remove("apiVersion");
        }
        object
    }
}

// === impl Found ===

impl Found {
    /// In the document that has this value.
    pub(super) fn of(tree: &Tree, root: &Value) -> Self {
        let mut found = Self::default();
        // kubectl passes over an empty document.
        if !root.is_null() {
            found.find(tree, tree.root, root, None, &mut Vec::new());
        }
        found
    }

    /// Those of a list are its items. As for kubectl (`unstructuredJSONScheme.decodeToList`), whatever has `items` is a list, and an
    /// item without a kind is of the list's.
    fn find(
        &mut self,
        tree: &Tree,
        node: NodeId,
        value: &Value,
        list: Option<&Value>,
        path: &mut Vec<usize>,
    ) {
        let inferred = list.and_then(|list| as_item(value, list));
        let refusal = refusal(inferred.as_ref().unwrap_or(value));
        self.foreign.extend(refusal.map(|why| (node, why)));
        let items = value.get("items").filter(|_| refusal.is_none());
        let Some(items) = items else {
            if value.is_object() {
                self.objects.push(Object {
                    node,
                    path: path.clone(),
                    inferred,
                    is_foreign: refusal.is_some(),
                });
            }
            return;
        };
        let node = tree.member_value(tree.behind_alias(node), "items");
        let nodes = node.map_or(&[][..], |node| tree.items(tree.behind_alias(node)));
        let items = items.as_array().into_iter().flatten();
        for (index, (item, node)) in items.zip(nodes).enumerate() {
            path.push(index);
            self.find(tree, *node, item, Some(value), path);
            path.pop();
        }
    }
}

/// Why kubectl would refuse this where an object is expected.
fn refusal(value: &Value) -> Option<&'static str> {
    let text = |field: &str| value[field].as_str().unwrap_or_default();
    let is_missing = |field: &str| value.get(field).is_none_or(Value::is_null);
    if !value.is_object() {
        Some(NO_OBJECT)
    } else if text("kind").is_empty() {
        Some(NO_KIND)
    } else if !is_missing("apiVersion") && !value["apiVersion"].is_string() {
        Some(VERSION_IS_NO_TEXT)
    } else if !is_missing("items") && !value["items"].is_array() {
        Some(NO_ITEMS)
    } else {
        None
    }
}

/// The item with the kind and the version that a typed list gives it; `None` where it has its own.
fn as_item(item: &Value, list: &Value) -> Option<Value> {
    let is_empty = |field: &str| item[field].as_str().unwrap_or_default().is_empty();
    let kind = list["kind"].as_str()?.strip_suffix("List")?;
    if kind.is_empty() || !is_empty("kind") || !is_empty("apiVersion") {
        return None;
    }
    let (mut whole, given) = (item.clone(), item.as_object()?);
    // Taken away again by name: an empty one that stands there would go, too.
    if given.contains_key("kind") || given.contains_key("apiVersion") {
        return None;
    }
    whole["apiVersion"] = list["apiVersion"].clone();
    whole["kind"] = kind.into();
    Some(whole)
}

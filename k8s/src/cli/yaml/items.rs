//! Edits of lists: items that are added at either end, and items that are removed.

use std::ops::Range;

use serde_json::Value;

use super::{
    edit::{Editor, Planned, Refusal, flow, refuse},
    tree::{Content, Flow, NodeId},
    write,
};

// === impl Editor ===

impl Editor<'_> {
    pub(super) fn sequence(&mut self, id: NodeId, old: &[Value], new: &[Value]) -> Planned {
        let Content::Sequence { items, flow } = &self.node(id).content else {
            return Ok(());
        };
        let kept = new.len().checked_sub(old.len());
        if kept.is_some_and(|more| more > 0 && new.ends_with(old)) {
            self.prepend(items, *flow, &new[..new.len() - old.len()])
        } else if kept.is_some_and(|more| more > 0 && new.starts_with(old)) {
            self.append(items, *flow, &new[old.len()..])
        } else if old.len() == new.len() {
            let pairs = old.iter().zip(new);
            let mut each = items.iter().zip(pairs);
            each.try_for_each(|(item, (old, new))| self.between(*item, old, new))
        } else if let Some(removed) = missing(new, old) {
            self.remove_items(items, *flow, &removed)
        } else {
            refuse(self.node(id).start, "this list changed in its middle")
        }
    }

    fn item_spans(&self, items: &[NodeId]) -> Vec<Range<usize>> {
        let span = |item: &NodeId| self.node(*item).start..self.node(*item).end;
        items.iter().map(span).collect()
    }

    /// Above the comments of the item that was first.
    fn prepend(&mut self, items: &[NodeId], flow: Flow, new: &[Value]) -> Planned {
        if flow != Flow::Block {
            return flow::prepend(self, flow, &self.item_spans(items), new);
        }
        let dash = self.dash(items[0])?;
        if !self.lines.is_first(dash) {
            return refuse(dash, "something else stands before this list in the line");
        }
        let (column, newline) = (self.lines.column(dash), self.lines.newline(dash));
        let mut at = self.lines.start(dash);
        while at > self.lines.base {
            let above = self.lines.start(at - 1);
            if !self.lines.text[above..at].trim_start().starts_with('#') {
                break;
            }
            at = above;
        }
        let text = new
            .iter()
            .map(|item| write::item(item, column, newline))
            .collect();
        self.insert_lines(at, text);
        Ok(())
    }

    fn append(&mut self, items: &[NodeId], flow: Flow, new: &[Value]) -> Planned {
        if flow != Flow::Block {
            return flow::append(self, flow, &self.item_spans(items), new);
        }
        let last = *items.last().expect("a block has items");
        let dash = self.dash(last)?;
        let (column, newline) = (self.lines.column(dash), self.lines.newline(dash));
        let behind = self.behind(self.node(last).end)?;
        let at = self.lines.behind_comments(behind, column);
        let text = new
            .iter()
            .map(|item| write::item(item, column, newline))
            .collect();
        self.insert_lines(at, text);
        Ok(())
    }

    fn dash(&self, item: NodeId) -> Result<usize, Refusal> {
        let at = self.node(item).start;
        match self.lines.dash(at) {
            Some(dash) => Ok(dash),
            None => refuse(at, "the dash of this item is not found"),
        }
    }

    fn remove_items(&mut self, items: &[NodeId], flow: Flow, removed: &[usize]) -> Planned {
        if flow != Flow::Block {
            return flow::remove(self, flow, &self.item_spans(items), removed);
        }
        removed
            .iter()
            .try_for_each(|index| self.remove_lines_of_item(items[*index]))
    }

    fn remove_lines_of_item(&mut self, item: NodeId) -> Planned {
        let dash = self.dash(item)?;
        if !self.lines.is_first(dash) {
            return refuse(dash, "something else stands before it in the line");
        }
        let behind = self.behind(self.node(item).end)?;
        self.remove_lines(self.lines.start(dash)..behind);
        Ok(())
    }
}

/// Which items of `whole` are not in `part`, where the rest is `part` in its order.
fn missing(part: &[Value], whole: &[Value]) -> Option<Vec<usize>> {
    let mut part = part.iter().peekable();
    let removed = whole
        .iter()
        .enumerate()
        .filter(|(_, item)| part.next_if(|kept| kept == item).is_none())
        .map(|(index, _)| index)
        .collect();
    part.next().is_none().then_some(removed)
}

//! Connections that the flowcar before this one told of: each is counted on from there, once, or as lost to the restart. Pure.

use std::collections::HashMap;

use super::{
    History, Sight, Table,
    handover::{Leaving, Left, ends},
};

/// Connections that the flowcar before this one told of, until it is known what became of each.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    waiting: HashMap<u64, Waiting>,
    /// Those that ended unseen: news of them comes too late.
    gone: HashMap<u64, u32>,
    /// Ends that the flowcar before this one counted as lost, and that may be those of connections that it told of.
    unheard: u64,
    lost: u64,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    left: Left,
    /// A dump showed it, or its end was told: it will be counted with its figures.
    heard: bool,
}

/// What became of the connections that the flowcar before this one told of and of which nothing is heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndedUnseen {
    /// Lost to the restart.
    pub lost: u64,
    /// Lost before, and counted then.
    pub lost_before: u64,
}

impl Table {
    /// Goes on from what the flowcar before this one told of. Before the first look.
    pub fn inherit(&mut self, left: &Leaving) {
        self.inherited = Inherited::new(left);
    }

    /// How many of these it is not known of yet what became of them.
    pub fn inherited(&self) -> u64 {
        self.inherited.waiting().len() as u64
    }

    /// Looks, and the news of ends, have had their time: what was left and is not heard of ended unseen.
    pub fn settle_inherited(&mut self) -> EndedUnseen {
        let lost_before = self.inherited.settle();
        let lost = self.inherited.lost();
        EndedUnseen { lost, lost_before }
    }

    /// What to leave for the flowcar after this one, should nothing more be told: every connection that lives, and those of
    /// which it is not known yet what became of them. `unheard` ends are lost of which it is not known whose they are.
    pub fn leave(&self, unheard: u64) -> Leaving {
        let listed = self.iter().filter_map(Left::of);
        let waiting = self.inherited.waiting().copied();
        Leaving {
            unheard: unheard.saturating_add(self.inherited.unheard),
            flows: listed.chain(waiting).take(self.bound).collect(),
        }
    }

    /// Whether the flowcar before this one told of a socket, and it is not known yet what became of it.
    pub fn inherits(&self, cookie: u64) -> bool {
        self.inherited.waits(cookie)
    }

    /// The end of this socket will be taken in, though not at once.
    pub fn expect_end(&mut self, cookie: u64) {
        self.inherited.hear(cookie);
    }
}

// === impl Inherited ===

impl Inherited {
    /// All that was left waits.
    pub(super) fn new(left: &Leaving) -> Self {
        let waiting = |left: &Left| {
            let heard = false;
            (left.cookie, Waiting { left: *left, heard })
        };
        Self {
            waiting: left.flows.iter().map(waiting).collect(),
            unheard: left.unheard,
            ..Self::default()
        }
    }

    /// Those of which it is not known yet what became of them.
    pub(super) fn waiting(&self) -> impl ExactSizeIterator<Item = &Left> {
        self.waiting.values().map(|waiting| &waiting.left)
    }

    /// Those that ended unseen.
    pub(super) const fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether the socket's connection waits.
    pub(super) fn waits(&self, cookie: u64) -> bool {
        self.waiting.contains_key(&cookie)
    }

    /// What is remembered of a socket whose connection waits.
    pub(super) fn history(&self, cookie: u64) -> Option<History> {
        self.waiting.get(&cookie)?.left.history()
    }

    /// Whether the connection of which a look or the news of its end tells was counted as lost.
    pub(super) fn is_gone(&self, sight: &Sight) -> bool {
        let of = self.gone.get(&sight.cookie);
        of.is_some_and(|of| sight.is_wiped() || *of == ends(sight))
    }

    /// What was told of the socket of which a look or the news of its end tells. If the socket has another connection now,
    /// nothing, and the one that waited is lost.
    pub(super) fn find(&mut self, sight: &Sight) -> Option<Left> {
        let Waiting { left, .. } = self.waiting.get(&sight.cookie)?;
        let (left, same) = (*left, left.is_of(sight));
        if !same {
            self.waiting.remove(&sight.cookie);
            self.lost += 1;
        }
        same.then_some(left)
    }

    /// Notes that more will be heard of a socket, so that it does not count as lost.
    pub(super) fn hear(&mut self, cookie: u64) {
        if let Some(waiting) = self.waiting.get_mut(&cookie) {
            waiting.heard = true;
        }
    }

    /// Takes out what is counted with its figures from now on.
    pub(super) fn take(&mut self, cookie: u64) {
        self.waiting.remove(&cookie);
    }

    /// Counts a connection as lost, if it waits: its end was told, and nothing of it.
    pub(super) fn lose(&mut self, cookie: u64) -> bool {
        let waited = self.waiting.remove(&cookie).is_some();
        self.lost += u64::from(waited);
        waited
    }

    /// Counts as lost all of which nothing was heard, but for those that were lost before. Gives how many these are.
    pub(super) fn settle(&mut self) -> u64 {
        let Self { waiting, gone, .. } = self;
        let before = waiting.len();
        waiting.retain(|cookie, waiting| {
            if !waiting.heard {
                gone.insert(*cookie, waiting.left.ends);
            }
            waiting.heard
        });
        let ended = (before - waiting.len()) as u64;
        let lost_before = std::mem::take(&mut self.unheard).min(ended);
        self.lost += ended - lost_before;
        lost_before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Role, Volume};

    fn left(cookie: u64) -> Left {
        Left {
            cookie,
            ends: 0,
            role: Role::Unknown,
            volume: Volume::default(),
            receive_window_limited_us: 0,
            send_buffer_limited_us: 0,
        }
    }

    #[test]
    fn each_is_decided_once() {
        let flows = (1..=4).map(left).collect();
        let mut inherited = Inherited::new(&Leaving { unheard: 0, flows });
        inherited.take(1);
        inherited.hear(2);
        assert!(inherited.lose(3) && !inherited.lose(3));
        assert_eq!(inherited.settle(), 0);
        assert_eq!((inherited.lost(), inherited.waiting().len()), (2, 1));
        assert!(inherited.gone.contains_key(&4) && !inherited.gone.contains_key(&2));
        inherited.settle();
        inherited.hear(4);
        assert_eq!((inherited.lost(), inherited.waits(2)), (2, true));
    }

    #[test]
    fn what_was_lost_before_is_not_lost_to_the_restart_too() {
        for (unheard, lost, lost_before) in [(0, 3, 0), (2, 1, 2), (3, 0, 3), (5, 0, 3)] {
            let flows: Vec<_> = (1..=4).map(left).collect();
            let mut table = Table::new(10);
            table.inherit(&Leaving { unheard, flows });
            table.expect_end(4);
            assert_eq!(
                table.leave(1).unheard,
                unheard + 1,
                "whoever comes next needs it"
            );
            let ended = table.settle_inherited();
            assert_eq!(ended, EndedUnseen { lost, lost_before });
            let books = table.books(|_| 0);
            assert_eq!((books.opened, books.lost_total()), (lost, lost));
            assert_eq!(table.leave(0).unheard, 0, "it is settled");
        }
    }
}

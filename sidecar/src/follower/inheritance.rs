//! What the flowcar before this one left, until it is known what became of it.

use jiff::Timestamp;

use crate::flow::{
    Table,
    handover::{Handover, Place},
};

/// Where this flowcar goes on from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inheritance {
    /// When the last report of the one before was made, nanoseconds since the Unix epoch.
    taken_unix_ns: u64,
    /// From then until this one could see anything.
    pub(super) unfollowed_ns: u64,
    connections: u64,
    /// Looks until all that is not heard of counts as ended.
    looks: u8,
}

impl Inheritance {
    /// Goes on from what the flowcar before this one left, to be settled after so many looks. This one follows since `since`
    /// (nanoseconds since the Unix epoch).
    pub(super) fn begin(
        table: &mut Table,
        handover: &Handover,
        here: &Place,
        looks: u8,
        since: u64,
    ) -> Self {
        table.inherit(&handover.leaving);
        let mut this = Self {
            taken_unix_ns: handover.taken_unix_ns,
            unfollowed_ns: since.saturating_sub(handover.taken_unix_ns),
            connections: table.inherited(),
            looks,
        };
        if handover.place != *here {
            tracing::warn!(
                "the flowcar before this one followed another network namespace, or before the machine started: all that it followed is lost"
            );
            this.settle(table);
        }
        this
    }

    /// A look is over, and the ends that were told by then are taken in.
    pub(super) fn look_is_over(&mut self, table: &mut Table) {
        match self.looks {
            0 => {}
            1 => self.settle(table),
            _ => self.looks -= 1,
        }
    }

    /// What has not been heard of ended unseen. Says so, once.
    pub(super) fn settle(&mut self, table: &mut Table) {
        if std::mem::take(&mut self.looks) == 0 {
            return;
        }
        let ended = table.settle_inherited();
        let last_report = Timestamp::from_nanosecond(self.taken_unix_ns.into())
            .map_or_else(|_| "unknown".to_owned(), |time| time.to_string());
        tracing::info!(
            last_report,
            unfollowed_s = self.unfollowed_ns as f64 / 1e9,
            taken_over = self
                .connections
                .saturating_sub(ended.lost + ended.lost_before),
            ended_unseen = ended.lost,
            lost_before = ended.lost_before,
            "goes on from what the flowcar before it reported"
        );
    }
}

//! What the flowcar before this one left, until it is known what became of it.

use jiff::Timestamp;

use super::flows::Flows;
use crate::flow::handover::{Handover, Place};

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

impl Flows {
    /// Goes on from what the flowcar before this one left, to be settled after so many looks.
    pub(super) fn inherit(&mut self, handover: &Handover, here: &Place, looks: u8) {
        self.table.inherit(&handover.flows);
        let elsewhere = handover.place != *here;
        self.inheritance = Some(Inheritance {
            taken_unix_ns: handover.taken_unix_ns,
            unfollowed_ns: self.start_unix_ns.saturating_sub(handover.taken_unix_ns),
            connections: self.table.inherited(),
            looks,
        });
        if elsewhere {
            tracing::warn!(
                "the flowcar before this one followed another network namespace, or before the machine started: all that it followed is lost"
            );
            self.settle();
        }
    }

    /// A look is over, and the ends that were told by then are taken in.
    pub(super) fn settle_after_look(&mut self) {
        let Some(inheritance) = &mut self.inheritance else {
            return;
        };
        match inheritance.looks {
            0 => {}
            1 => self.settle(),
            _ => inheritance.looks -= 1,
        }
    }

    /// What has not been heard of ended unseen. Says so, once.
    pub(super) fn settle(&mut self) {
        let Some(inheritance) = self.inheritance.as_mut().filter(|of| of.looks > 0) else {
            return;
        };
        inheritance.looks = 0;
        let Inheritance {
            taken_unix_ns,
            unfollowed_ns,
            connections,
            ..
        } = *inheritance;
        let ended_unseen = self.table.settle_inherited();
        let last_report = Timestamp::from_nanosecond(taken_unix_ns.into())
            .map_or_else(|_| "unknown".to_owned(), |time| time.to_string());
        tracing::info!(
            last_report,
            unfollowed_s = unfollowed_ns as f64 / 1e9,
            taken_over = connections.saturating_sub(ended_unseen),
            ended_unseen,
            "goes on from what the flowcar before it reported"
        );
    }
}

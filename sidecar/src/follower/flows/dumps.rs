//! Dumps of the sockets: what they report, adopt and update, and which flows they do not show any more.

use std::{collections::HashSet, time::Duration};

use flowcar_shared::counter::Counter;

use super::Flows;
use crate::{
    clock::{self, Anchor},
    flow::{Adopt, Event, Monotonic, PollContext, SocketSnapshot},
    series::lost_closes,
    source::{DiagError, Purpose, Records, Sockets, Turn},
};

/// Listeners are dumped so seldom beside the polls.
const LISTENERS_EVERY: Duration = Duration::from_millis(100);

/// While a dump updates flows, the ring is drained after so many sockets: a dump may take longer than the ring takes to fill.
const DRAIN_EVERY: u32 = 4_096;

impl Flows {
    /// Dumps the sockets, and takes in what the dump shows, as its purpose is.
    ///
    /// # Errors
    /// [`DiagError`]: then some sockets were perhaps not taken in.
    pub(in crate::follower) fn dump(
        &mut self,
        purpose: Purpose,
        records: &mut Records,
        sockets: &mut Sockets,
        poll: &mut PollContext,
    ) -> Result<(), DiagError> {
        self.counted = [self.readings.now().into(), self.counted[0]];
        self.timers.dump_begins(self.counted[1]);
        match purpose {
            Purpose::Report => self.report(sockets, poll),
            Purpose::Adopt { open_dropped } => self.adopt(open_dropped, records, sockets, poll),
            Purpose::Update => {
                poll.lost_closes = lost_closes(&self.books(&records.counters()));
                self.update(records, sockets, poll)
            }
        }
    }

    /// Each socket may be new, and what the dump does not show is evicted at once.
    fn report(&mut self, sockets: &mut Sockets, poll: &PollContext) -> Result<(), DiagError> {
        sockets.dump(|observed| self.take_socket(observed, poll))?;
        self.dumped_listeners(sockets, poll.at);
        self.finish_poll(sockets, poll);
        Ok(())
    }

    /// The dump is kept until the ring is drained: sockets that the table does not know then are older than the programs. Sockets of a
    /// cgroup that was followed before are all known, or counted where they are not.
    fn adopt(
        &mut self,
        open_dropped: u64,
        records: &mut Records,
        sockets: &mut Sockets,
        poll: &PollContext,
    ) -> Result<(), DiagError> {
        // Before the dump, so that no close falls between the two.
        sockets.subscribe()?;
        let kept = self.keep(sockets)?;
        self.dumped_listeners(sockets, poll.at);
        // Records have reported all of these.
        let before = self.closed.len();
        self.records(records, sockets, Turn::Whole);
        let closed: HashSet<u64> = self.closed[before..].iter().map(|of| of.cookie).collect();
        let dropped = records.counters()[Counter::OpenDropped.index() as usize] - open_dropped;
        let adopted = self.table.listing().adopted();
        let unadopted = self.table.adoption().unadopted();
        for observed in kept.iter().filter(|of| !closed.contains(&of.cookie)) {
            let adopt = match sockets.is_newest(observed) {
                true if dropped == 0 => Adopt::Connected,
                true => Adopt::Restored,
                false => Adopt::Nothing,
            };
            self.take_socket(observed, &PollContext { adopt, ..*poll });
        }
        let unadopted = self.table.adoption().unadopted() - unadopted;
        if unadopted > 0 {
            tracing::warn!(
                unadopted,
                dropped,
                "the ring buffer overran at the start, so connections that were open before cannot be distinguished from new ones and are not followed; raise FLOWCAR_RING_BYTES"
            );
        }
        let adopted = self.table.listing().adopted().saturating_sub(adopted);
        tracing::info!(adopted, "connections that were open already");
        Ok(())
    }

    /// The sockets of a dump, as many as the table has room for. What they take for a moment is less than the kernel's storage, which the
    /// budget counts for each flow and which adopted ones lack.
    fn keep(&mut self, sockets: &mut Sockets) -> Result<Vec<SocketSnapshot>, DiagError> {
        let mut kept = Vec::new();
        let (room, mut left_out) = (self.table.listing().room(), 0);
        sockets.dump(|observed| {
            if kept.len() < room {
                kept.push(*observed);
            } else {
                left_out += 1;
            }
        })?;
        self.table.listing_mut().count_over_capacity(left_out);
        Ok(kept)
    }

    /// The flows that the table knows are updated. Records that come during the dump are taken in without queries.
    fn update(
        &mut self,
        records: &mut Records,
        sockets: &mut Sockets,
        poll: &PollContext,
    ) -> Result<(), DiagError> {
        let mut count = 0;
        sockets.dump(|observed| {
            self.take_socket(observed, poll);
            count += 1;
            if count % DRAIN_EVERY == 0 {
                self.records(records, &mut Sockets::none(), Turn::Whole);
            }
        })?;
        self.dumped_listeners(sockets, poll.at);
        Ok(())
    }

    /// Evicts the flows that dumps do not show any more, once the records are taken in that were sent before this one was over.
    pub(in crate::follower) fn judge(
        &mut self,
        records: &Records,
        sockets: &mut Sockets,
        poll: &PollContext,
    ) {
        self.finish_poll(sockets, poll);
        let absent = self.table.listing().absent() + self.excluded.absent();
        let waiting = self.waiting(&records.counters());
        self.unattributed
            .finish_poll(poll.lost_closes, absent + waiting);
    }

    /// Takes in one socket of a dump.
    pub(in crate::follower) fn take_socket(
        &mut self,
        observed: &SocketSnapshot,
        poll: &PollContext,
    ) {
        if self.excluded.is_excluded_socket(observed.cookie, poll) {
            return;
        }
        if self.table.listing().is_reconnected(observed) {
            self.apply(Event::Reconnected(observed, poll));
        }
        self.apply(Event::Polled(observed, poll));
    }

    /// A dump is complete: evicts flows that dumps do not show any more, and queries their addresses.
    fn finish_poll(&mut self, sockets: &mut Sockets, poll: &PollContext) {
        self.excluded.finish_poll(poll);
        let absent = self.table.finish_poll(poll, |flow| sockets.is_here(flow));
        for cookie in absent.evicted {
            self.apply(Event::Evicted(cookie, poll));
        }
        for cookie in absent.held {
            self.apply(Event::Held(cookie));
        }
        for name in absent.unqueried {
            let found = sockets.find(&name, true);
            self.table.listing_mut().set_post_close(name.cookie, found);
        }
    }

    /// Dumps the listeners where two of one address may be open, and only that shows which are.
    pub(super) fn decide_listeners(&mut self, sockets: &mut Sockets) {
        if !self.origins.wants_listeners() {
            return;
        }
        let dumped = self.listeners_dumped;
        // Else it is asked for with the next records, or answered by a poll.
        if sockets.are_shown() && dumped.is_none_or(|dumped| dumped.elapsed() >= LISTENERS_EVERY) {
            self.listeners_dumped = Some(clock::now());
            let at = Anchor::now().monotonic();
            match sockets.dump_listeners() {
                Ok(()) => self.dumped_listeners(sockets, at),
                Err(error) => tracing::debug!(%error, "the listeners cannot be dumped"),
            }
        }
    }

    /// Takes in the listeners of a dump that began at this time.
    fn dumped_listeners(&mut self, sockets: &Sockets, at: Monotonic) {
        if self.origins.are_wanted() {
            self.origins.dumped(sockets.listening(), at);
        }
    }
}

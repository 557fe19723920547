//! Polls: when the sockets are dumped, and when a poll is over.

use std::time::Instant;

use super::{
    Follower,
    unfinished::{Unfinished, Waiting},
};
use crate::{
    clock::Anchor,
    flow::{Adopt, PollContext},
    source::{Dumping, More, Purpose, Source, SourceError, Turn},
};

impl Follower {
    /// Polls the sockets, if that is due, and takes in all that waits. The first poll adopts the connections that are open already; later
    /// polls come as often as their cost allows.
    pub fn poll_sockets(&mut self) {
        // The first poll takes in itself what waits, behind the dump: of a server's connection that opened before it, the listener may be
        // older than the programs, and only the dump shows it.
        if self.dumps > 0 || !self.source.capabilities().dumps {
            self.drain_all();
        }
        self.begin_poll();
        self.drain_all();
    }

    /// The same, but what waits is left to the next turns: the poll is over, and the next one may begin, once all is taken in that waited
    /// at its end.
    pub fn begin_poll(&mut self) {
        if !self.source.capabilities().dumps {
            return self.flows.settle();
        }
        if self.pace.is_due() && self.unfinished.is_none() {
            self.unfinished = Some(self.dump());
        }
    }

    /// Polls the sockets whether that is due or not, so that connections since the last poll are not missed, and takes in what waits as
    /// long as there is time.
    pub fn poll_again(&mut self, deadline: Option<Instant>) {
        if !self.drain_until(deadline) {
            return;
        }
        self.pace.hurry();
        self.begin_poll();
        self.drain_until(deadline);
    }

    /// Has the source follow what it did not follow yet, and adopts the connections that are there already.
    pub(super) fn adopt(
        &mut self,
        follow: impl FnOnce(&mut Source) -> Result<u64, SourceError>,
    ) -> Result<u64, SourceError> {
        if self.dumps == 0 {
            self.poll_sockets();
        }
        self.drain_all();
        let id = follow(&mut self.source)?;
        self.flows.origins.root_changed();
        if self.source.capabilities().dumps {
            self.dump();
            self.drain_all();
        }
        Ok(id)
    }

    /// Dumps the sockets, and takes in what the dump shows. Gives what is left to do once all is taken in that waits.
    fn dump(&mut self) -> Unfinished {
        let dumping = Dumping::begin();
        self.dumps += 1;
        let mut poll = self.poll();
        let purpose = self.source.next_purpose();
        let (records, sockets) = self.source.parts();
        let dumped = self.flows.dump(purpose, records, sockets, &mut poll);
        if let Err(error) = &dumped {
            tracing::warn!(%error, "the sockets cannot be polled");
        }
        self.pace.dumped(&dumping);
        Unfinished {
            poll,
            judges: purpose == Purpose::Update && dumped.is_ok(),
            shown: dumped.is_ok() || self.source.capabilities().handshakes,
            waiting: Waiting::upto(self.source.upto()),
        }
    }

    /// Finishes a poll once all that waited at its end is taken in: a closed socket has sent its last record by then.
    pub(super) fn finish_poll(&mut self, turn: Turn, more: More) {
        let taken = self.source.taken();
        let over = self
            .unfinished
            .take_if(|unfinished| turn == Turn::Whole || unfinished.waiting.is_over(more, taken));
        let Some(over) = over else {
            return;
        };
        if over.judges {
            let (records, sockets) = self.source.parts();
            self.flows.judge(records, sockets, &over.poll);
        }
        if over.shown {
            self.flows.poll_finished();
        }
    }

    /// The circumstances of a poll now.
    pub(super) fn poll(&self) -> PollContext {
        PollContext {
            at: Anchor::now().monotonic(),
            dump: self.dumps,
            // Records report what is new; without them everything is adopted.
            adopt: if self.source.capabilities().handshakes {
                Adopt::Nothing
            } else {
                Adopt::All
            },
            overruns: self.source.sockets().events_dropped(),
            lost_closes: 0,
            seed: self.flows.seed,
        }
    }
}

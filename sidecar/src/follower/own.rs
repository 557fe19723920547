//! flowcar's own connections to receivers, which are no part of the pod's figures.

use std::collections::HashMap;

use flowcar_shared::{
    counter::{COUNTERS, Counter},
    record::Kind,
};

use crate::{
    flow::{ABSENT, Looking, Monotonic, Record},
    otlp::own::OwnSockets,
};

/// Which flows are left out, and how many of the kernel's count they are.
///
/// One whose end was lost with the ring full is among the kernel's lost ones, where nobody knows whose they were. It is
/// left in with those opened, then: the books are closed, and say one lost too many.
#[derive(Debug, Default)]
pub(super) struct OwnFlows {
    sockets: OwnSockets,
    open: HashMap<u64, Open>,
    closed: u64,
    /// Dumps show own sockets: they are in the network namespace that is dumped, and in the cgroup that is followed.
    shown: bool,
}

/// One that is established, as far as records told.
#[derive(Debug)]
struct Open {
    seen: Monotonic,
    /// The last dump that showed it.
    dump: u64,
    /// Dumps in a row that did not.
    absent: u8,
}

impl OwnFlows {
    pub(super) fn new(sockets: OwnSockets) -> Self {
        Self {
            sockets,
            ..Self::default()
        }
    }

    /// Whether the flow of this record is one of them.
    pub(super) fn has_record(&mut self, record: &Record) -> bool {
        let cookie = record.flow.cookie;
        if !self.sockets.contains(cookie) {
            return false;
        }
        let established = record.flow.established.is_some();
        if record.kind == Kind::Close {
            self.open.remove(&cookie);
            self.closed += u64::from(established);
            self.sockets.forget(cookie);
        } else if established {
            let seen = record.flow.seen;
            let open = self.open.entry(cookie);
            open.and_modify(|open| open.seen = seen).or_insert(Open {
                seen,
                dump: 0,
                absent: 0,
            });
        }
        true
    }

    /// Whether the socket with this cookie is one of them.
    pub(super) fn has(&self, cookie: u64) -> bool {
        self.sockets.contains(cookie)
    }

    /// Whether the socket that a dump shows is one of them.
    pub(super) fn is_looked_at(&mut self, cookie: u64, looking: &Looking) -> bool {
        if !self.sockets.contains(cookie) {
            return false;
        }
        self.shown = true;
        if let Some(open) = self.open.get_mut(&cookie) {
            open.dump = looking.dump;
            open.absent = 0;
        }
        true
    }

    /// Whether so many sockets are its own, and their other ends where these are here, too.
    pub(super) fn are_all_of(&self, others: u64) -> bool {
        others <= 2 * self.sockets.len() as u64
    }

    /// Takes in that a dump is over: what it did not show ended, and its record was lost.
    pub(super) fn looked(&mut self, looking: &Looking) {
        let Self {
            sockets,
            open,
            shown,
            ..
        } = self;
        open.retain(|cookie, open| {
            if !*shown || open.dump == looking.dump || open.seen > looking.at {
                return true;
            }
            open.absent += 1;
            let is_kept = open.absent < ABSENT;
            if !is_kept {
                sockets.forget(*cookie);
            }
            is_kept
        });
    }

    /// Those that the last dump did not show: they may be over.
    pub(super) fn absent(&self) -> u64 {
        self.open.values().filter(|open| open.absent > 0).count() as u64
    }

    /// How many at most have ended, and their end is among those that the ring lost.
    pub(super) fn may_be_lost(&self, kernel: &[u64; COUNTERS]) -> u64 {
        let lost = kernel[Counter::CloseDropped.index() as usize];
        lost.min(self.open.len() as u64)
    }

    /// How many were established, as far as records told: the kernel counted them among all.
    pub(super) fn established(&self) -> u64 {
        self.closed + self.open.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Adopt, Flow, example};

    const OWN: u64 = 7;

    fn opened(cookie: u64) -> Record {
        let flow = Flow {
            cookie,
            outcome: None,
            ..example::closed(1)
        };
        Record {
            kind: Kind::Open,
            flow,
            failed: None,
        }
    }

    fn looking(dump: u64) -> Looking {
        Looking {
            at: Monotonic(3_000),
            dump,
            adopt: Adopt::Nothing,
            overruns: 0,
            unheard: 1,
            seed: 1,
        }
    }

    /// How many are left out after each of three dumps that show none.
    fn left_out(own: &mut OwnFlows) -> [u64; 3] {
        [2, 3, 4].map(|dump| {
            own.looked(&looking(dump));
            own.established()
        })
    }

    #[test]
    fn one_that_dumps_do_not_show_any_more_is_left_in_with_the_others() {
        let sockets = OwnSockets::default();
        sockets.add(OWN);
        let mut own = OwnFlows::new(sockets.clone());
        assert!(own.has_record(&opened(OWN)) && !own.has_record(&opened(8)));
        assert!(own.is_looked_at(OWN, &looking(1)) && !own.is_looked_at(8, &looking(1)));
        own.looked(&looking(1));
        assert_eq!((own.established(), own.absent()), (1, 0));
        assert_eq!(left_out(&mut own), [1, 0, 0]);
        assert!(sockets.is_empty());
    }

    #[test]
    fn where_dumps_show_none_all_stay() {
        let sockets = OwnSockets::default();
        sockets.add(OWN);
        let mut own = OwnFlows::new(sockets);
        own.has_record(&opened(OWN));
        assert_eq!(left_out(&mut own), [1, 1, 1]);
    }
}

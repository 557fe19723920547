//! flowcar's own connections to receivers, which are no part of the pod's figures.

use std::collections::HashMap;

use flowcar_shared::{
    counter::{COUNTERS, Counter},
    record::Kind,
};

use crate::{
    exporter_sockets::ExporterSockets,
    flow::{ABSENT, Monotonic, PollContext, Record},
};

/// The flows that are excluded, and how many of the kernel's count they are.
///
/// A flow whose close was lost with the ring full is among the kernel's lost ones, which are of unknown connections. It stays among
/// those opened, then: the books are closed, and count one lost too many.
#[derive(Debug, Default)]
pub(super) struct ExcludedFlows {
    sockets: ExporterSockets,
    open: HashMap<u64, Open>,
    closed: u64,
    /// Dumps show excluded sockets: they are in the network namespace that is dumped, and in the cgroup that is followed.
    shown: bool,
}

/// One that is established, by the records so far.
#[derive(Debug)]
struct Open {
    seen: Monotonic,
    /// The last dump that showed it.
    dump: u64,
    /// Dumps in a row that did not.
    absent: u8,
}

impl ExcludedFlows {
    pub(super) fn new(sockets: ExporterSockets) -> Self {
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
    pub(super) fn is_excluded_socket(&mut self, cookie: u64, poll: &PollContext) -> bool {
        if !self.sockets.contains(cookie) {
            return false;
        }
        self.shown = true;
        if let Some(open) = self.open.get_mut(&cookie) {
            open.dump = poll.dump;
            open.absent = 0;
        }
        true
    }

    /// Whether so many sockets can all be excluded ones and their other ends.
    pub(super) fn are_all_of(&self, others: u64) -> bool {
        others <= 2 * self.sockets.len() as u64
    }

    /// Takes in that a dump is complete: a flow that dumps do not show any more has closed, and its record was lost.
    pub(super) fn finish_poll(&mut self, poll: &PollContext) {
        let Self {
            sockets,
            open,
            shown,
            ..
        } = self;
        open.retain(|cookie, open| {
            if !*shown || open.dump == poll.dump || open.seen > poll.at {
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

    /// Those that the last dump did not show: they may have closed.
    pub(super) fn absent(&self) -> u64 {
        self.open.values().filter(|open| open.absent > 0).count() as u64
    }

    /// How many closes of excluded flows may at most be among those that the ring lost.
    pub(super) fn may_be_lost(&self, kernel: &[u64; COUNTERS]) -> u64 {
        let lost = kernel[Counter::CloseDropped.index() as usize];
        lost.min(self.open.len() as u64)
    }

    /// How many were established, by the records so far: the kernel counted them among all.
    pub(super) fn established(&self) -> u64 {
        self.closed + self.open.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Adopt, Flow, example};

    const EXCLUDED: u64 = 7;

    fn opened(cookie: u64) -> Record {
        let flow = Flow {
            cookie,
            outcome: None,
            ..example::closed(1)
        };
        Record {
            kind: Kind::Open,
            flow,
            netns: None,
            failed: None,
        }
    }

    fn poll(dump: u64) -> PollContext {
        PollContext {
            at: Monotonic(3_000),
            dump,
            adopt: Adopt::Nothing,
            overruns: 0,
            lost_closes: 1,
            seed: 1,
        }
    }

    /// How many are excluded after each of three dumps that show none.
    fn established_after(excluded: &mut ExcludedFlows) -> [u64; 3] {
        [2, 3, 4].map(|dump| {
            excluded.finish_poll(&poll(dump));
            excluded.established()
        })
    }

    #[test]
    fn excluded_flow_missing_from_dumps_counts_with_the_others() {
        let sockets = ExporterSockets::default();
        sockets.add(EXCLUDED);
        let mut excluded = ExcludedFlows::new(sockets.clone());
        assert!(excluded.has_record(&opened(EXCLUDED)) && !excluded.has_record(&opened(8)));
        assert!(
            excluded.is_excluded_socket(EXCLUDED, &poll(1))
                && !excluded.is_excluded_socket(8, &poll(1))
        );
        excluded.finish_poll(&poll(1));
        assert_eq!((excluded.established(), excluded.absent()), (1, 0));
        assert_eq!(established_after(&mut excluded), [1, 0, 0]);
        assert!(sockets.is_empty());
    }

    #[test]
    fn excluded_flows_stay_where_dumps_show_none() {
        let sockets = ExporterSockets::default();
        sockets.add(EXCLUDED);
        let mut excluded = ExcludedFlows::new(sockets);
        excluded.has_record(&opened(EXCLUDED));
        assert_eq!(established_after(&mut excluded), [1, 1, 1]);
    }
}

//! Which timewait sockets the closed connections of the network namespace left. Pure.
//!
//! The kernel counts a timewait socket before it sends the destroy event of the connection that left it. So one that was counted, and that
//! no event explains, was left by a connection under whose addresses nothing was found: a RST had removed it by then.

use std::collections::VecDeque;

use crate::flow::{MadeTimewaits, Monotonic, SocketName};

/// Turns, and closes of which it is not known, that are kept, at most.
const MOST: usize = 4_096;

/// The time for which they are kept: longer than the time between two readings of the counts.
const KEPT_NS: u64 = 10_000_000_000;

/// Connections that are queried, at most, to explain counts: some 10 us of CPU time each.
const QUERIES: usize = 256;

/// The time that an event may take, on a busy machine.
const LAG_NS: u64 = 100_000_000;

/// Recent closes.
#[derive(Debug, Default)]
pub(super) struct Timewaits {
    /// When connections that left a timewait socket were taken in, and how many.
    left: VecDeque<(Monotonic, u64)>,
    /// The same of connections of which it is not known.
    others: VecDeque<(Monotonic, SocketName)>,
}

impl Timewaits {
    /// Forgets what is too old to matter.
    pub(super) fn forget(&mut self, now: Monotonic) {
        self.left.retain(|(at, _)| now.since_ns(*at) < KEPT_NS);
        self.others.retain(|(at, _)| now.since_ns(*at) < KEPT_NS);
    }

    /// A connection closed that left a timewait socket.
    pub(super) fn is_left(&mut self, at: Monotonic) {
        match self.left.back_mut() {
            Some((last, count)) if *last == at => *count += 1,
            _ => push(&mut self.left, (at, 1)),
        }
    }

    /// A connection closed that may have left one.
    pub(super) fn may_be_left(&mut self, at: Monotonic, name: SocketName) {
        push(&mut self.others, (at, name));
    }

    /// Whether the connections that are known to have left one are as many as the timewait sockets that were made.
    pub(super) fn explain(&self, made: &MadeTimewaits) -> bool {
        let left = self.left.iter().filter(|(at, _)| made.may_count(*at));
        left.map(|(_, count)| count).sum::<u64>() >= made.count
    }

    /// The same, once the others are queried for theirs, where `find` gives whether one is there. True, too, of more than can be queried.
    pub(super) fn explain_by(
        &mut self,
        made: &MadeTimewaits,
        mut find: impl FnMut(&SocketName) -> bool,
    ) -> bool {
        if self.explain(made) {
            return true;
        }
        let may_count = |(at, _): &&(Monotonic, SocketName)| made.may_count(*at);
        if self.others.iter().filter(may_count).count() > QUERIES {
            return true;
        }
        for (at, name) in std::mem::take(&mut self.others) {
            if !made.may_count(at) {
                self.others.push_back((at, name));
            } else if find(&name) {
                self.is_left(at);
            }
        }
        self.explain(made)
    }
}

fn push<T>(kept: &mut VecDeque<T>, newest: T) {
    if kept.len() == MOST {
        kept.pop_front();
    }
    kept.push_back(newest);
}

impl MadeTimewaits {
    /// Whether the timewait socket of a close whose event was taken in at this time may be among them.
    const fn may_count(&self, at: Monotonic) -> bool {
        at.0 >= self.from.0 && at.0 <= self.to.0 + LAG_NS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    const fn at(ms: u64) -> Monotonic {
        Monotonic(ms * MS)
    }

    fn name(port: u16) -> SocketName {
        SocketName {
            cookie: port.into(),
            local: ([10, 0, 0, 1], port).into(),
            peer: ([10, 0, 0, 2], 80).into(),
            interface: 0,
        }
    }

    const fn made(count: u64) -> MadeTimewaits {
        MadeTimewaits {
            from: at(20_000),
            to: at(21_000),
            count,
        }
    }

    #[test]
    fn timewait_socket_that_no_close_left_is_not_explained() {
        let mut timewaits = Timewaits::default();
        assert!(timewaits.explain(&made(0)));
        assert!(!timewaits.explain(&made(1)));
        // One before, two meanwhile, one whose event was late, and one after.
        for ms in [19_999, 20_500, 20_500, 21_050, 21_200] {
            timewaits.is_left(at(ms));
        }
        assert!(timewaits.explain(&made(3)));
        assert!(!timewaits.explain(&made(4)));
        timewaits.forget(at(30_600));
        assert!(!timewaits.explain(&made(3)));
    }

    #[test]
    fn connections_that_are_not_followed_are_queried_once_and_only_in_doubt() {
        let mut timewaits = Timewaits::default();
        timewaits.may_be_left(at(19_000), name(1));
        timewaits.may_be_left(at(20_500), name(2));
        timewaits.may_be_left(at(20_600), name(3));
        let mut queried = Vec::new();
        let mut explain = |count| {
            timewaits.explain_by(&made(count), |name| {
                queried.push(name.cookie);
                name.cookie == 3
            })
        };
        assert!(explain(0));
        assert!(explain(1));
        assert!(!explain(2));
        assert_eq!(queried, [2, 3]);
        assert_eq!(timewaits.others.len(), 1);
    }

    #[test]
    fn more_connections_than_can_be_queried_explain_every_count() {
        let mut timewaits = Timewaits::default();
        for port in 0..=QUERIES {
            timewaits.may_be_left(at(20_500), name(port as u16));
        }
        assert!(timewaits.explain_by(&made(1), |_| unreachable!("too many")));
    }
}

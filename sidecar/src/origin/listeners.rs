//! The listener that a server's socket came from: it has the listener's cgroup, and the process that called `listen()` is known. Pure.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU64,
};

use crate::flow::{
    Monotonic, Origin, OriginEvent, Process, SharedText, SocketNetns, SocketSnapshot,
};

/// The most listeners that are kept.
const MOST: usize = 4_096;

/// A closed listener is kept so long: records of the connections that came from it may be read later.
const KEPT_NS: u64 = 60_000_000_000;

/// A socket that was bound takes so long, at most, until it listens and dumps show it.
const LISTENS_WITHIN_NS: u64 = 1_000_000_000;

/// The listeners by their addresses.
#[derive(Debug, Default)]
pub struct Listeners {
    /// The cookie of the network namespace that dumps show; `None` where it is not known.
    own_netns: Option<NonZeroU64>,
    at: HashMap<SocketAddr, Vec<Known>>,
    /// The address of each.
    addresses: HashMap<u64, SocketAddr>,
    /// Those of the dump under way, and when it began.
    shown: HashSet<u64>,
    dump: Monotonic,
    /// Whether two listeners of one address are of different processes, and the older one may be closed by now.
    contested: bool,
}

#[derive(Clone, Debug)]
struct Known {
    cookie: u64,
    origin: Origin,
    /// The cookie of its network namespace; `None` of one that only dumps have shown, where that of theirs is not known.
    netns: Option<NonZeroU64>,
    since: Monotonic,
    /// When a dump did not show it any more.
    until: Option<Monotonic>,
    /// When the last dump began that has shown it.
    shown: Option<Monotonic>,
}

// === impl Listeners ===

impl Listeners {
    /// None yet; dumps show those of the network namespace with this cookie, 0 where it is not known.
    pub fn new(own_netns: u64) -> Self {
        Self {
            own_netns: NonZeroU64::new(own_netns),
            ..Self::default()
        }
    }

    /// Whether a dump is wanted: only that shows which of two listeners is open.
    pub const fn is_contested(&self) -> bool {
        self.contested
    }

    /// The socket with this cookie was bound, and is a client's.
    pub fn connected(&mut self, cookie: u64) {
        let Some(local) = self.addresses.remove(&cookie) else {
            return;
        };
        if let Some(all) = self.at.get_mut(&local) {
            all.retain(|known| known.cookie != cookie);
            if all.is_empty() {
                self.at.remove(&local);
            }
        }
    }

    /// Takes in that a process called `listen()`, or bound a socket, or that a listener was closed; `name` is the process's.
    pub fn apply(&mut self, event: &OriginEvent, name: Option<SharedText>) {
        match event {
            OriginEvent::Connects(_) => {}
            OriginEvent::Closed(cookie, at) => {
                let local = self.addresses.get(cookie);
                let all = local.and_then(|local| self.at.get_mut(local));
                let known = all.and_then(|all| all.iter_mut().find(|of| of.cookie == *cookie));
                if let Some(known) = known {
                    known.until = Some(*at);
                }
            }
            OriginEvent::Listens(listener, caller) => {
                let process = caller.pid.map(|pid| Process { pid, name });
                let new = Known {
                    cookie: listener.cookie,
                    origin: Origin {
                        cgroup: caller.cgroup,
                        process,
                        container: None,
                    },
                    netns: listener.netns,
                    since: caller.at,
                    until: None,
                    shown: None,
                };
                self.insert(listener.local, new);
            }
        }
    }

    /// A dump begins.
    pub fn begin(&mut self, at: Monotonic) {
        self.dump = at;
        self.shown.clear();
    }

    /// A followed listener of the dump. One that nobody has reported is older than the programs.
    pub fn saw(&mut self, observed: &SocketSnapshot) {
        self.shown.insert(observed.cookie);
        let known = self.at.get_mut(&observed.local);
        let known = known.and_then(|all| all.iter_mut().find(|of| of.cookie == observed.cookie));
        if let Some(known) = known {
            (known.until, known.shown) = (None, Some(self.dump));
            return;
        }
        self.insert(
            observed.local,
            Known {
                cookie: observed.cookie,
                origin: Origin::new(observed.cgroup.unwrap_or_default(), 0),
                netns: self.own_netns,
                since: Monotonic(0),
                until: None,
                shown: Some(self.dump),
            },
        );
    }

    /// The dump is complete: those of its network namespace that it did not show are closed. One whose address another took since the
    /// last dump that showed it was closed by then, as only SO_REUSEPORT lets both listen.
    pub fn end(&mut self) {
        let at = self.dump;
        self.contested = false;
        for all in self.at.values_mut() {
            let since: Vec<_> = all.iter().map(|of| (of.netns, of.since)).collect();
            for known in all.iter_mut().filter(|known| known.until.is_none()) {
                let is_here = match (known.netns, self.own_netns) {
                    (None, _) => true,
                    (Some(netns), Some(own)) => netns == own,
                    // Before Linux 5.14 a process does not know its namespace's cookie (SO_NETNS_COOKIE).
                    (Some(_), None) => known.shown.is_some(),
                };
                let listens =
                    known.shown.is_some() || at.since_ns(known.since) >= LISTENS_WITHIN_NS;
                if is_here && listens && !self.shown.contains(&known.cookie) {
                    let seen = known.shown.unwrap_or_default().max(known.since);
                    let others = since.iter().filter(|of| may_be_one(of.0, known.netns));
                    let next = others.map(|of| of.1).filter(|since| *since > seen).min();
                    known.until = Some(next.map_or(at, |next| at.min(next)));
                }
            }
        }
        self.forget(at);
    }

    /// Whose the listener was that a connection came from, which began at this time in this network namespace. Where several may have
    /// been it, what they have in common. None where the namespace was lost: a listener of this one may have the address of one that is
    /// not known.
    pub fn of(&self, local: SocketAddr, started: Monotonic, netns: SocketNetns) -> Option<Origin> {
        let netns = match netns {
            SocketNetns::Of(netns) => Some(netns),
            SocketNetns::Dumped => self.own_netns,
            SocketNetns::Unread => None,
            SocketNetns::Lost => return None,
        };
        let wildcards = match local.ip() {
            IpAddr::V4(_) => [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            IpAddr::V6(_) => [IpAddr::from(Ipv6Addr::UNSPECIFIED); 2],
        };
        let addresses = [local.ip()].into_iter().chain(wildcards);
        let mut found = addresses.filter_map(|ip| {
            let all = self.at.get(&SocketAddr::new(ip, local.port()))?;
            let all = all.iter().filter(|known| may_be_one(known.netns, netns));
            common(all, started)
        });
        found.next()
    }

    fn insert(&mut self, local: SocketAddr, new: Known) {
        if self.addresses.len() >= MOST {
            self.forget(Monotonic(u64::MAX));
        }
        if self.addresses.len() >= MOST {
            return;
        }
        self.addresses.insert(new.cookie, local);
        let all = self.at.entry(local).or_default();
        // It was bound, and listens now.
        all.retain(|known| known.cookie != new.cookie);
        let differs = |known: &Known| {
            known.until.is_none()
                && known.origin != new.origin
                && may_be_one(known.netns, new.netns)
        };
        self.contested |= all.iter().any(differs);
        all.push(new);
    }

    /// Forgets those that closed long ago.
    fn forget(&mut self, now: Monotonic) {
        let addresses = &mut self.addresses;
        self.at.retain(|_, all| {
            all.retain(|known| {
                let until = known.until;
                let keep = until.is_none_or(|until| now.since_ns(until) < KEPT_NS);
                if !keep {
                    addresses.remove(&known.cookie);
                }
                keep
            });
            !all.is_empty()
        });
    }
}

/// Whether two network namespaces may be one.
fn may_be_one(one: Option<NonZeroU64>, other: Option<NonZeroU64>) -> bool {
    one.zip(other).is_none_or(|(one, other)| one == other)
}

/// What the listeners have in common that may have taken a connection: several share an address (SO_REUSEPORT), or the older one is closed
/// and no dump has shown that yet, or they may be in different network namespaces.
fn common<'a>(all: impl Iterator<Item = &'a Known>, started: Monotonic) -> Option<Origin> {
    let was_open =
        |known: &&Known| known.since <= started && known.until.is_none_or(|until| started < until);
    let mut open = all.filter(was_open);
    let mut common = open.next()?.origin.clone();
    let pid = |of: &Origin| of.process.as_ref().map(|process| process.pid);
    for other in open {
        if other.origin.cgroup != common.cgroup {
            common.cgroup = None;
        }
        if pid(&other.origin) != pid(&common) {
            common.process = None;
        }
    }
    Some(common)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::flow::{Caller, ListenerName, State};

    const SECOND: u64 = 1_000_000_000;

    fn listens(cookie: u64, local: &str, cgroup: u64, pid: u32, at: u64) -> OriginEvent {
        listens_in(0, cookie, local, cgroup, pid, at)
    }

    fn listens_in(
        netns: u64,
        cookie: u64,
        local: &str,
        cgroup: u64,
        pid: u32,
        at: u64,
    ) -> OriginEvent {
        let caller = Caller {
            at: Monotonic(at),
            cgroup: NonZeroU64::new(cgroup),
            pid: NonZeroU32::new(pid),
            own_pid: None,
        };
        let listener = ListenerName {
            cookie,
            local: local.parse().expect("an address"),
            netns: NonZeroU64::new(netns),
        };
        OriginEvent::Listens(listener, caller)
    }

    fn shown(cookie: u64, local: &str, cgroup: u64) -> SocketSnapshot {
        SocketSnapshot {
            cookie,
            local: local.parse().expect("an address"),
            peer: ([0, 0, 0, 0], 0).into(),
            interface: 0,
            state: State::Listen,
            unread: 0,
            unacknowledged: 0,
            cgroup: Some(cgroup),
            info: None,
            drops: None,
        }
    }

    fn ids(listeners: &Listeners, local: &str, at: u64) -> Option<(u64, u32)> {
        ids_in(listeners, local, at, SocketNetns::Unread)
    }

    fn ids_in(
        listeners: &Listeners,
        local: &str,
        at: u64,
        netns: SocketNetns,
    ) -> Option<(u64, u32)> {
        let local = local.parse().expect("an address");
        let origin = listeners.of(local, Monotonic(at), netns)?;
        let pid = origin.process.map_or(0, |process| process.pid.get());
        Some((origin.cgroup.map_or(0, NonZeroU64::get), pid))
    }

    #[test]
    fn connection_has_the_listener_of_its_address_or_of_the_wildcard() {
        let mut listeners = Listeners::default();
        listeners.apply(&listens(1, "0.0.0.0:80", 10, 100, 5), None);
        listeners.apply(&listens(2, "10.0.0.1:80", 20, 200, 5), None);
        listeners.apply(&listens(3, "[::]:81", 30, 300, 5), None);
        assert_eq!(ids(&listeners, "10.0.0.1:80", 6), Some((20, 200)));
        assert_eq!(ids(&listeners, "10.0.0.2:80", 6), Some((10, 100)));
        assert_eq!(ids(&listeners, "10.0.0.2:81", 6), Some((30, 300)));
        assert_eq!(ids(&listeners, "10.0.0.2:82", 6), None);
        assert_eq!(ids(&listeners, "10.0.0.2:80", 4), None, "it is older");
    }

    #[test]
    fn dump_shows_which_listener_of_an_address_is_open() {
        let mut listeners = Listeners::default();
        listeners.apply(&listens(1, "0.0.0.0:80", 10, 100, SECOND), None);
        assert!(!listeners.is_contested());
        listeners.apply(&listens(2, "0.0.0.0:80", 20, 200, 5 * SECOND), None);
        assert!(listeners.is_contested());
        assert_eq!(ids(&listeners, "10.0.0.1:80", 6 * SECOND), Some((0, 0)));
        listeners.begin(Monotonic(7 * SECOND));
        listeners.saw(&shown(2, "0.0.0.0:80", 20));
        listeners.end();
        assert!(!listeners.is_contested());
        assert_eq!(ids(&listeners, "10.0.0.1:80", 6 * SECOND), Some((20, 200)));
        assert_eq!(ids(&listeners, "10.0.0.1:80", 4 * SECOND), Some((10, 100)));
    }

    /// Before Linux 5.14 flowcar does not know its own namespace, and before 5.15 programs do not know those of connections.
    #[test]
    fn dump_of_an_unknown_namespace_closes_only_what_a_dump_has_shown() {
        let mut listeners = Listeners::default();
        let event = listens_in(7, 1, "0.0.0.0:80", 10, 100, SECOND);
        listeners.apply(&event, None);
        let dump = |listeners: &mut Listeners, at, is_shown| {
            listeners.begin(Monotonic(at));
            if is_shown {
                listeners.saw(&shown(1, "0.0.0.0:80", 10));
            }
            listeners.end();
        };
        dump(&mut listeners, 100 * SECOND, false);
        let found = ids(&listeners, "10.0.0.1:80", 101 * SECOND);
        assert_eq!(found, Some((10, 100)), "it is elsewhere");
        dump(&mut listeners, 110 * SECOND, true);
        dump(&mut listeners, 120 * SECOND, false);
        assert_eq!(ids(&listeners, "10.0.0.1:80", 121 * SECOND), None);
    }

    /// Dumps show those of namespace 7; in namespaces 8 and 9 others have the same addresses.
    #[test]
    fn connection_has_a_listener_of_its_own_namespace() {
        let in_netns = |netns| SocketNetns::Of(NonZeroU64::new(netns).expect("one"));
        let mut listeners = Listeners::new(7);
        listeners.begin(Monotonic(1));
        listeners.saw(&shown(1, "0.0.0.0:80", 10));
        listeners.saw(&shown(2, "0.0.0.0:81", 20));
        listeners.end();
        let elsewhere = listens_in(8, 3, "10.0.0.1:81", 30, 300, 2);
        listeners.apply(&elsewhere, None);
        listeners.apply(&listens_in(7, 4, "0.0.0.0:82", 40, 400, 2), None);
        listeners.apply(&listens_in(8, 5, "0.0.0.0:82", 50, 500, 2), None);
        let rows = [
            (80, in_netns(7), Some((10, 0))),
            (80, SocketNetns::Dumped, Some((10, 0))),
            (80, in_netns(8), None),
            (80, SocketNetns::Lost, None),
            (80, SocketNetns::Unread, Some((10, 0))),
            (81, in_netns(7), Some((20, 0))),
            (81, SocketNetns::Dumped, Some((20, 0))),
            (81, in_netns(8), Some((30, 300))),
            (81, in_netns(9), None),
            (82, in_netns(7), Some((40, 400))),
            (82, in_netns(8), Some((50, 500))),
            (82, SocketNetns::Lost, None),
            (82, SocketNetns::Unread, Some((0, 0))),
        ];
        for (port, netns, expected) in rows {
            let found = ids_in(&listeners, &format!("10.0.0.1:{port}"), 3, netns);
            assert_eq!(found, expected, "{port} {netns:?}");
        }
    }

    #[test]
    fn listener_of_another_namespace_does_not_show_that_one_is_closed() {
        let in_7 = SocketNetns::Of(NonZeroU64::new(7).expect("one"));
        let mut listeners = Listeners::new(7);
        let listens = listens_in(7, 1, "0.0.0.0:80", 10, 100, SECOND);
        listeners.apply(&listens, None);
        let elsewhere = listens_in(8, 2, "0.0.0.0:80", 20, 200, 3 * SECOND);
        listeners.apply(&elsewhere, None);
        assert!(!listeners.is_contested());
        listeners.begin(Monotonic(9 * SECOND));
        listeners.end();
        let found = |at| ids_in(&listeners, "10.0.0.1:80", at * SECOND, in_7);
        assert_eq!((found(8), found(9)), (Some((10, 100)), None));
    }

    #[test]
    fn bound_socket_that_connects_is_no_listener() {
        let mut listeners = Listeners::default();
        listeners.apply(&listens(1, "10.0.0.1:80", 10, 100, 5), None);
        listeners.apply(&listens(2, "10.0.0.1:80", 20, 200, 6), None);
        listeners.connected(2);
        listeners.connected(3);
        assert_eq!(ids(&listeners, "10.0.0.1:80", 7), Some((10, 100)));
        listeners.connected(1);
        assert_eq!(ids(&listeners, "10.0.0.1:80", 7), None);
    }

    #[test]
    fn listener_that_was_closed_has_no_later_connection() {
        let mut listeners = Listeners::default();
        listeners.apply(&listens(1, "0.0.0.0:80", 10, 100, 5), None);
        listeners.apply(&OriginEvent::Closed(1, Monotonic(8)), None);
        listeners.apply(&listens(2, "0.0.0.0:80", 20, 200, 9), None);
        assert!(!listeners.is_contested());
        assert_eq!(ids(&listeners, "10.0.0.1:80", 7), Some((10, 100)));
        assert_eq!(ids(&listeners, "10.0.0.1:80", 8), None);
        assert_eq!(ids(&listeners, "10.0.0.1:80", 9), Some((20, 200)));
    }

    #[test]
    fn listeners_that_share_an_address_have_what_they_have_in_common() {
        let mut listeners = Listeners::default();
        listeners.apply(&listens(1, "0.0.0.0:80", 10, 100, 1), None);
        listeners.apply(&listens(2, "0.0.0.0:80", 10, 200, 1), None);
        listeners.begin(Monotonic(2));
        listeners.saw(&shown(1, "0.0.0.0:80", 10));
        listeners.saw(&shown(2, "0.0.0.0:80", 10));
        listeners.end();
        assert_eq!(ids(&listeners, "10.0.0.1:80", 3), Some((10, 0)));
    }

    #[test]
    fn older_listener_is_known_by_its_cgroup_and_all_are_bounded() {
        let mut listeners = Listeners::default();
        listeners.begin(Monotonic(2));
        listeners.saw(&shown(1, "[::]:80", 10));
        listeners.end();
        assert_eq!(ids(&listeners, "10.0.0.1:80", 3), Some((10, 0)));
        for cookie in 2..2 * MOST as u64 {
            let local = format!("10.0.{}.{}:80", cookie / 256, cookie % 256);
            listeners.apply(&listens(cookie, &local, 1, 1, 1), None);
        }
        assert_eq!(listeners.addresses.len(), MOST);
        assert!(listeners.at.values().map(Vec::len).sum::<usize>() <= MOST);
    }
}

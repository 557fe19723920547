//! The second source: the network namespace's sockets, requested by netlink (sock_diag(7)). It needs no capability.
//!
//! A dump shows every TCP socket with its `tcp_info` and the id of its cgroup; the destroy group has an event for every socket that
//! closes, with its last `tcp_info` and without its cgroup. A member of that group makes the kernel write a message for each socket of
//! the namespace that closes, so beside eBPF flowcar joins it only while adopted flows are open.

mod cgroup_filter;
mod link;
mod listeners;
mod pace;
mod tcp_info;
mod wire;

use std::{
    cell::OnceCell,
    collections::{BTreeMap, HashSet, VecDeque},
    fs, io,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use netlink_packet_sock_diag::inet::StateFlags;
use nix::ifaddrs::getifaddrs;

pub use self::pace::{Dumping, Pace};
use self::{
    cgroup_filter::{CgroupFilter, Side},
    link::{DestroyEvents, EVENT_COST, MOST_EVENTS, Requests},
    listeners::Listeners,
    wire::Message,
};
use super::turn::{Allowance, Turn};
use crate::{
    clock,
    files::{NO_DESCRIPTOR, lacks_descriptor},
    flow::{Flow, Listener, PostCloseState, Role, SocketName, SocketSnapshot, State},
    histogram::Histogram,
};

/// Why sockets cannot be polled.
#[derive(Debug, thiserror::Error)]
pub enum DiagError {
    /// The kernel or a sandbox refuses.
    #[error(
        "cannot {what} by netlink ({error}): flowcar needs a kernel with CONFIG_INET_DIAG and a sandbox that lets AF_NETLINK sockets through"
    )]
    Netlink {
        /// What was refused.
        what: &'static str,
        /// The kernel's answer.
        error: io::Error,
    },
    /// No file descriptor is left.
    #[error("cannot {0} by netlink: {NO_DESCRIPTOR}")]
    Descriptors(&'static str),
    /// The cgroup's directory cannot be read.
    #[error("cannot read the cgroup {path}: {error}")]
    Cgroup {
        /// The directory.
        path: String,
        /// Why.
        error: io::Error,
    },
}

/// The most listeners whose cgroups are kept.
const MOST_LISTENING: usize = 4_096;

/// The most sockets of which it is asked whether any waits for an answer.
const MOST_WAITING: u64 = 4_096;

/// Polls sockets.
pub(super) struct DiagSource {
    requests: Requests,
    /// Whether the kernel or a sandbox refuses requests for both address families.
    by_family: bool,
    destroy_events: Option<DestroyEvents>,
    /// Destroy events that came while a dump was read.
    backlog: VecDeque<Message>,
    /// Destroy events that were taken in.
    taken: u64,
    scope: CgroupFilter,
    listeners: Listeners,
    /// The followed listeners of the last dump.
    listening: Vec<SocketSnapshot>,
    /// The network namespace's addresses as of this dump, except those that every namespace has; listed where they are needed.
    addresses: OnceCell<HashSet<IpAddr>>,
    counts: SocketCounts,
    /// Destroy events dropped by earlier subscriptions.
    dropped_before: u64,
}

/// What the source counts of its own work.
#[derive(Debug, Default)]
pub struct SocketCounts {
    /// Sockets in dumps.
    pub polls: u64,
    /// Sockets in destroy events.
    pub closes: u64,
    /// Closed sockets that no dump had shown and that came from no known listener.
    pub unscoped: u64,
    /// Messages that did not decode.
    pub malformed: u64,
    /// Sockets of the namespace in the last dump: `followed` and `other`.
    pub sockets: BTreeMap<&'static str, u64>,
    /// How long dumps took.
    pub duration: Histogram,
}

// === impl DiagSource ===

impl DiagSource {
    /// Polls the sockets of `cgroup` and of the cgroups below it; without one, all of the network namespace.
    ///
    /// # Errors
    /// [`DiagError`].
    pub(super) fn open(cgroup: Option<&Path>) -> Result<Self, DiagError> {
        let path = cgroup.unwrap_or(Path::new(""));
        let scope = CgroupFilter::new(cgroup).map_err(DiagError::of_cgroup(path))?;
        let requests = Requests::open().map_err(DiagError::of("request sockets"))?;
        Ok(Self {
            requests,
            by_family: false,
            destroy_events: None,
            backlog: VecDeque::new(),
            taken: 0,
            scope,
            listeners: Listeners::default(),
            listening: Vec::new(),
            addresses: OnceCell::new(),
            counts: SocketCounts::default(),
            dropped_before: 0,
        })
    }

    /// The cgroup of this id has taken the place of the one that was followed, whose sockets may outlive it.
    pub(super) fn follow(&mut self, id: u64) {
        self.scope.follow(id);
    }

    /// The id of the cgroup that is followed, if one is.
    pub(super) fn cgroup(&self) -> Option<u64> {
        self.scope.cgroup()
    }

    /// Whether a followed socket is of the cgroup that is there now, not of one that was there before it.
    pub(super) fn is_newest(&self, observed: &SocketSnapshot) -> bool {
        self.scope.is_newest(observed)
    }

    /// Joins the destroy group. From here on the close of every socket is reported.
    ///
    /// # Errors
    /// [`DiagError::Netlink`], [`DiagError::Descriptors`].
    pub(super) fn subscribe(&mut self) -> Result<(), DiagError> {
        if self.destroy_events.is_none() {
            let events = DestroyEvents::subscribe()
                .map_err(DiagError::of("subscribe to socket destroy events"))?;
            self.destroy_events = Some(events);
        }
        Ok(())
    }

    /// Leaves the destroy group.
    pub(super) fn unsubscribe(&mut self) {
        self.dropped_before = self.dropped();
        self.destroy_events = None;
    }

    /// Whether the close of every socket is reported.
    pub(super) const fn is_subscribed(&self) -> bool {
        self.destroy_events.is_some()
    }

    /// Waits until there is a destroy event; for ever without a subscription.
    pub(super) async fn woken(&self) {
        match &self.destroy_events {
            Some(events) => events.readable().await,
            None => std::future::pending().await,
        }
    }

    /// Hands over every followed connection there is. Gives how many there are, the others included.
    ///
    /// # Errors
    /// [`DiagError::Netlink`], [`DiagError::Descriptors`]: then some were perhaps not handed over.
    pub(super) fn dump(&mut self, mut each: impl FnMut(&SocketSnapshot)) -> Result<u64, DiagError> {
        let began = clock::now();
        self.scope.refresh();
        self.dump_listeners()?;
        self.addresses = OnceCell::new();
        let (mut followed, mut others) = (0, 0);
        self.dump_states(wire::connections(), |side, observed| {
            if side == Side::Inside {
                followed += 1;
                each(observed);
            } else {
                others += 1;
            }
        })?;
        self.counts.polls += followed;
        self.counts.sockets = BTreeMap::from([("followed", followed), ("other", others)]);
        let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.counts.duration.record(took);
        Ok(followed + others)
    }

    /// Dumps the listeners. They also show the cgroup of sockets that no dump showed, by the listener that they came from.
    ///
    /// # Errors
    /// [`DiagError::Netlink`], [`DiagError::Descriptors`].
    pub(super) fn dump_listeners(&mut self) -> Result<(), DiagError> {
        let mut listeners = std::mem::take(&mut self.listeners);
        let mut listening = std::mem::take(&mut self.listening);
        listeners.begin();
        listening.clear();
        let dumped = self.dump_states(StateFlags::LISTEN, |side, observed| {
            if side == Side::Inside {
                listeners.saw(observed);
                if listening.len() < MOST_LISTENING {
                    listening.push(*observed);
                }
            }
        });
        self.listening = listening;
        if dumped.is_ok() {
            listeners.end();
        }
        self.listeners = listeners;
        dumped
    }

    /// Whether any socket of the network namespace waits for an answer to its first SYN, or has waited in vain for one to what it has sent
    /// since. Also where that cannot be known cheaply.
    ///
    /// # Errors
    /// [`DiagError::Netlink`], [`DiagError::Descriptors`].
    pub(super) fn any_waits(&mut self) -> Result<bool, DiagError> {
        if self.counts.sockets.values().sum::<u64>() > MOST_WAITING {
            return Ok(true);
        }
        let mut any = false;
        self.dump_states(wire::connections(), |_, observed| any |= waits(observed))?;
        Ok(any)
    }

    /// The followed listeners of the last dump.
    pub(super) fn listening(&self) -> &[SocketSnapshot] {
        &self.listening
    }

    /// Followed listeners, by port.
    pub(super) const fn listeners(&self) -> &BTreeMap<Option<u16>, Listener> {
        self.listeners.ports()
    }

    /// Whether this end of a connection is in the network namespace that dumps show, as far as is known: the namespace has its address,
    /// or a followed listener is at the port of its server on loopback.
    pub(super) fn is_here(&self, flow: &Flow) -> bool {
        let server = match flow.role {
            Role::Server => flow.local,
            Role::Client | Role::Unknown => flow.peer,
        };
        let listens =
            server.ip().to_canonical().is_loopback() && self.listeners.is_at(server.port());
        listens || {
            let addresses = self.addresses.get_or_init(own_addresses);
            addresses.contains(&flow.local.ip())
        }
    }

    fn dump_states(
        &mut self,
        states: StateFlags,
        mut each: impl FnMut(Side, &SocketSnapshot),
    ) -> Result<(), DiagError> {
        if !self.by_family {
            let sequence = self.requests.next();
            let request = wire::dump_both(&states, sequence);
            let mut is_answered = false;
            let dumped = self.dump_answer(&request, sequence, |side, observed| {
                is_answered = true;
                each(side, observed);
            });
            match dumped {
                Err(error) if !is_answered && error.is_refusal() => {
                    tracing::debug!(%error, "sockets are requested by address family");
                    self.by_family = true;
                }
                dumped => return dumped,
            }
        }
        wire::FAMILIES.into_iter().try_for_each(|family| {
            let sequence = self.requests.next();
            let request = wire::dump(family, states.clone(), sequence);
            self.dump_answer(&request, sequence, &mut each)
        })
    }

    fn dump_answer(
        &mut self,
        request: &[u8],
        sequence: u32,
        mut each: impl FnMut(Side, &SocketSnapshot),
    ) -> Result<(), DiagError> {
        let Self {
            requests,
            scope,
            counts,
            destroy_events,
            backlog,
            ..
        } = self;
        // A dump may take longer than the receive buffer lasts.
        let mut between = || match destroy_events {
            Some(events) => events
                .drain(Turn::Short, |message| backlog.push_back(message))
                .map(|_| ()),
            None => Ok(()),
        };
        let mut refused = None;
        let each = |message| match message {
            Message::Socket(observed) => {
                each(scope.side(&observed), &observed);
                false
            }
            Message::Done => true,
            Message::Refused(errno) => {
                refused = Some(io::Error::from_raw_os_error(errno));
                true
            }
            Message::Malformed => {
                counts.malformed += 1;
                false
            }
        };
        let asked = requests.ask(request, sequence, each, &mut between);
        let asked = asked.and_then(|interrupted| refused.map_or(Ok(interrupted), Err));
        // An interrupted dump may lack sockets, as any may; a socket that two dumps lack has closed.
        asked.map(|_| ()).map_err(DiagError::of("list the sockets"))
    }

    /// The closed sockets that are `known`, and, if `others`, those that are followed all the same: only their listener still shows their
    /// cgroup. One without a known listener is counted. Those of one turn, and whether more wait.
    pub(super) fn closed(
        &mut self,
        turn: Turn,
        known: impl Fn(&SocketSnapshot) -> bool,
        others: bool,
    ) -> (Vec<SocketSnapshot>, bool) {
        let mut closed = Vec::new();
        let Self {
            destroy_events: Some(destroy_events),
            backlog,
            taken,
            scope,
            counts,
            ..
        } = self
        else {
            return (closed, false);
        };
        let mut take = |message| {
            *taken += 1;
            let Message::Socket(observed) = message else {
                counts.malformed += 1;
                return;
            };
            counts.closes += 1;
            let side = match known(&observed) {
                true => Side::Inside,
                false if others => scope.side(&observed),
                false => Side::Outside,
            };
            match side {
                Side::Inside => closed.push(observed),
                Side::Outside => {}
                Side::Unknown => counts.unscoped += u64::from(observed.peer.port() != 0),
            }
        };
        let mut allowance = Allowance::of(turn);
        while let Some(message) = backlog.pop_front() {
            take(message);
            if allowance.is_spent(EVENT_COST) {
                return (closed, true);
            }
        }
        let more = destroy_events.drain(turn, take).unwrap_or_else(|error| {
            tracing::warn!(%error, "socket destroy events cannot be read");
            false
        });
        (closed, more)
    }

    /// Destroy events that were taken in so far.
    pub(super) const fn taken(&self) -> u64 {
        self.taken
    }

    /// The same once all are taken in that can wait now.
    pub(super) fn upto(&self) -> u64 {
        self.taken + (self.backlog.len() + MOST_EVENTS) as u64
    }

    /// The state under a closed connection's addresses. Its timewait socket has its cookie if a dump showed the connection: else the
    /// socket got its cookie after the timewait socket was made, which gets another.
    pub(super) fn find(&mut self, name: &SocketName, dumped: bool) -> PostCloseState {
        let sequence = self.requests.next();
        let request = wire::find(name, sequence);
        let mut found = PostCloseState::Nothing;
        let each = |message| {
            if let Message::Socket(other) = message {
                let its = other.cookie == name.cookie || !dumped;
                found = match other.state {
                    State::Listen => PostCloseState::Listener,
                    State::TimeWait if its => PostCloseState::TimeWait,
                    // Timewait sockets have no counts.
                    State::FinWait2 if its && other.info.is_none() => PostCloseState::FinWait2,
                    // It is open, or another has taken its addresses.
                    _ => PostCloseState::NotPolled,
                };
            }
            true
        };
        match self.requests.ask(&request, sequence, each, || Ok(())) {
            Ok(_) => found,
            Err(_) => PostCloseState::NotPolled,
        }
    }

    /// Whether anything is under a connection's addresses: it, its timewait socket or its listener.
    pub(super) fn is_there(&mut self, name: &SocketName) -> bool {
        let sequence = self.requests.next();
        let request = wire::find(name, sequence);
        let mut there = false;
        let each = |message| {
            there = matches!(message, Message::Socket(_));
            true
        };
        let asked = self.requests.ask(&request, sequence, each, || Ok(()));
        asked.is_ok() && there
    }

    /// Connections of the network namespace that are not followed, as of the last dump.
    pub(super) fn others(&self) -> u64 {
        self.counts.sockets.get("other").copied().unwrap_or(0)
    }

    /// Destroy events that found no room, ever.
    pub(super) fn dropped(&self) -> u64 {
        let now = self.destroy_events.as_ref().map(DestroyEvents::dropped);
        self.dropped_before + now.and_then(Result::ok).unwrap_or_default()
    }

    /// Closed sockets that no dump had shown and that came from no known listener.
    pub(super) const fn unscoped(&self) -> u64 {
        self.counts.unscoped
    }

    /// What the source counts of its own work.
    pub(super) const fn counts(&self) -> &SocketCounts {
        &self.counts
    }
}

/// Whether a socket waits for an answer to its first SYN, or has waited in vain for one to what it has sent since.
fn waits(observed: &SocketSnapshot) -> bool {
    let retransmits = observed.info.map_or(0, |info| info.retransmits);
    if observed.state == State::SynSent {
        retransmits == 0
    } else {
        observed.unacknowledged > 0 && retransmits > 0
    }
}

/// The addresses of this network namespace; none where they cannot be listed: then only a poll shows where a socket is.
pub(super) fn own_addresses() -> HashSet<IpAddr> {
    let interfaces = getifaddrs().into_iter().flatten();
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
    });
    addresses.filter(|ip| !ip.is_loopback()).collect()
}

/// Tries everything once that following by socket dumps needs. Gives how many connections the network namespace has.
///
/// # Errors
/// [`DiagError::Netlink`], [`DiagError::Descriptors`].
pub fn try_dump() -> Result<u64, DiagError> {
    let mut source = DiagSource::open(None)?;
    let sockets = source.dump(|_| {})?;
    source.subscribe()?;
    Ok(sockets)
}

/// The id of the cgroup at this path.
///
/// # Errors
/// [`DiagError::Cgroup`].
pub(super) fn id_of(cgroup: &Path) -> Result<u64, DiagError> {
    let found = fs::metadata(cgroup).map_err(DiagError::of_cgroup(cgroup))?;
    Ok(found.ino())
}

impl DiagError {
    fn of_cgroup(path: &Path) -> impl Fn(io::Error) -> Self {
        move |error| Self::Cgroup {
            path: path.display().to_string(),
            error,
        }
    }

    fn of(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| match lacks_descriptor(&error) {
            true => Self::Descriptors(what),
            false => Self::Netlink { what, error },
        }
    }

    /// Whether the request itself is refused. Where memory or descriptors lack for a moment, the next one may be answered.
    fn is_refusal(&self) -> bool {
        let lacks = [libc::ENOMEM, libc::ENOBUFS, libc::EAGAIN, libc::EINTR];
        let errno = |error: &io::Error| error.raw_os_error().unwrap_or_default();
        matches!(self, Self::Netlink { error, .. } if !lacks.contains(&errno(error)))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn only_a_refusal_changes_the_form_of_requests() {
        let refusal = |errno| {
            let error = io::Error::from_raw_os_error(errno);
            DiagError::of("list the sockets")(error).is_refusal()
        };
        for errno in [libc::EINVAL, libc::ENOENT, libc::EOPNOTSUPP, libc::EPERM] {
            assert!(refusal(errno), "{}", io::Error::from_raw_os_error(errno));
        }
        for errno in [
            libc::ENOMEM,
            libc::ENOBUFS,
            libc::EAGAIN,
            libc::EINTR,
            libc::EMFILE,
            libc::ENFILE,
        ] {
            assert!(!refusal(errno), "{}", io::Error::from_raw_os_error(errno));
        }
    }

    /// The kernel's answer to one request for both families, and to one for each.
    #[test]
    fn sockets_of_both_families_are_listed_by_either_form_of_request() {
        let listeners = ["127.0.0.1:0", "[::1]:0"].map(|at| TcpListener::bind(at).unwrap());
        let addresses = listeners.each_ref().map(|of| of.local_addr().unwrap());
        let listed = |by_family| {
            let mut source = DiagSource::open(None).unwrap();
            source.by_family = by_family;
            source.dump_listeners().unwrap();
            assert_eq!(source.by_family, by_family);
            assert_eq!(source.counts.malformed, 0);
            let listening = source.listening().iter();
            let ours = listening.filter(|of| addresses.contains(&of.local));
            let mut ours: Vec<_> = ours.map(|of| (of.local, of.cookie, of.drops)).collect();
            ours.sort_unstable();
            ours
        };
        let once = listed(false);
        assert_eq!(once.len(), 2);
        assert_eq!(once, listed(true));
    }
}

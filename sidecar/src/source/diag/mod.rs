//! The second source: the network namespace's sockets, asked for by netlink (sock_diag(7)). It needs no right at all.
//!
//! A dump shows every TCP socket with its `tcp_info` and the id of its cgroup; the destroy group tells of every socket that
//! ends, with its last `tcp_info` and without its cgroup. Whoever is in that group makes the kernel write a message
//! for each socket of the namespace that ends, so beside eBPF it is joined only while adopted flows live.

mod link;
mod listeners;
mod pace;
mod scope;
mod tcp_info;
mod wire;

use std::{
    cell::OnceCell,
    collections::{BTreeMap, HashSet},
    fs, io,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::Instant,
};

use netlink_packet_sock_diag::inet::StateFlags;
use nix::ifaddrs::getifaddrs;

use self::{
    link::{News, Requests},
    listeners::Listeners,
    scope::{Scope, Side},
    wire::Message,
};
use super::Turn;
use crate::{
    flow::{Afterlife, Flow, Role, Sight, SocketName, State},
    histogram::Histogram,
    snapshot::{Listener, Own},
};

pub use self::pace::{Dumping, Pace};

/// Why sockets cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum DiagError {
    /// The kernel or a sandbox says no.
    #[error(
        "cannot {what} by netlink ({error}): flowcar needs a kernel with CONFIG_INET_DIAG and a sandbox that lets AF_NETLINK sockets through"
    )]
    Netlink {
        /// What was refused.
        what: &'static str,
        /// The kernel's answer.
        error: io::Error,
    },
    /// The cgroup's directory cannot be read.
    #[error("cannot read the cgroup {path}: {error}")]
    Cgroup {
        /// The directory.
        path: String,
        /// Why.
        error: io::Error,
    },
}

/// Looks at sockets.
pub struct DiagSource {
    requests: Requests,
    news: Option<News>,
    /// News that came while a dump was read.
    backlog: Vec<Message>,
    scope: Scope,
    listeners: Listeners,
    /// The network namespace's own addresses as of this dump, but for those that every one has; asked for where they are needed.
    addresses: OnceCell<HashSet<IpAddr>>,
    counts: Counts,
    /// Dropped by groups that were left.
    dropped_before: u64,
}

/// What the source counts of itself, as [`Own`] has it.
#[derive(Debug, Default)]
struct Counts {
    looks: u64,
    ends: u64,
    unscoped: u64,
    malformed: u64,
    sockets: BTreeMap<&'static str, u64>,
    duration: Histogram,
}

impl DiagSource {
    /// Looks at the sockets of `cgroup` and of the cgroups below it; without one, at all of the network namespace.
    ///
    /// # Errors
    /// [`DiagError`].
    pub fn open(cgroup: Option<&Path>) -> Result<Self, DiagError> {
        let path = cgroup.unwrap_or(Path::new(""));
        let scope = Scope::new(cgroup).map_err(DiagError::of_cgroup(path))?;
        let requests = Requests::open().map_err(DiagError::of("ask for sockets"))?;
        Ok(Self {
            requests,
            news: None,
            backlog: Vec::new(),
            scope,
            listeners: Listeners::default(),
            addresses: OnceCell::new(),
            counts: Counts::default(),
            dropped_before: 0,
        })
    }

    /// The cgroup of this id has taken the place of the one that was followed, whose sockets may outlive it.
    pub fn follow(&mut self, id: u64) {
        self.scope.follow(id);
    }

    /// The id of the cgroup that is followed, if one is.
    pub fn cgroup(&self) -> Option<u64> {
        self.scope.cgroup()
    }

    /// Whether a followed socket is of the cgroup that is there now, not of one that was there before it.
    pub fn is_newest(&self, sight: &Sight) -> bool {
        self.scope.is_newest(sight)
    }

    /// Joins the destroy group. From here on the end of every socket is told.
    ///
    /// # Errors
    /// [`DiagError::Netlink`].
    pub fn subscribe(&mut self) -> Result<(), DiagError> {
        if self.news.is_none() {
            let news = News::subscribe().map_err(DiagError::of("hear of sockets that end"))?;
            self.news = Some(news);
        }
        Ok(())
    }

    /// Leaves the destroy group.
    pub fn unsubscribe(&mut self) {
        self.dropped_before = self.dropped();
        self.news = None;
    }

    /// Whether the end of every socket is told.
    pub const fn is_subscribed(&self) -> bool {
        self.news.is_some()
    }

    /// Waits until the end of a socket is told; for ever where it is not.
    pub async fn woken(&self) {
        match &self.news {
            Some(news) => news.readable().await,
            None => std::future::pending().await,
        }
    }

    /// Hands over every followed connection there is. Gives how many there are, the others included.
    ///
    /// # Errors
    /// [`DiagError::Netlink`]: then some were perhaps not handed over.
    pub fn dump(&mut self, mut each: impl FnMut(&Sight)) -> Result<u64, DiagError> {
        let began = Instant::now();
        self.scope.refresh();
        self.dump_listeners()?;
        self.addresses = OnceCell::new();
        let (mut followed, mut others) = (0, 0);
        self.dump_states(wire::connections(), |side, sight| {
            if side == Side::Inside {
                followed += 1;
                each(sight);
            } else {
                others += 1;
            }
        })?;
        self.counts.looks += followed;
        self.counts.sockets = BTreeMap::from([("followed", followed), ("other", others)]);
        let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.counts.duration.record(took);
        Ok(followed + others)
    }

    /// They also place sockets that no dump showed, by the listener that they came from.
    fn dump_listeners(&mut self) -> Result<(), DiagError> {
        let mut listeners = std::mem::take(&mut self.listeners);
        listeners.begin();
        let dumped = self.dump_states(StateFlags::LISTEN, |side, sight| {
            if side == Side::Inside {
                listeners.saw(sight);
            }
        });
        if dumped.is_ok() {
            listeners.end();
        }
        self.listeners = listeners;
        dumped
    }

    /// Followed listeners, by port.
    pub const fn listeners(&self) -> &BTreeMap<Option<u16>, Listener> {
        self.listeners.ports()
    }

    /// Whether this end of a connection is in the network namespace that dumps show, as far as what is there tells: the namespace
    /// has its address, or a followed listener is at the port of its server on loopback.
    pub fn is_here(&self, flow: &Flow) -> bool {
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
        mut each: impl FnMut(Side, &Sight),
    ) -> Result<(), DiagError> {
        let Self {
            requests,
            scope,
            counts,
            news,
            backlog,
            ..
        } = self;
        // A dump may take longer than the room for news lasts.
        let mut between = || match news {
            Some(news) => news
                .drain(Turn::Whole, |message| backlog.push(message))
                .map(|_| ()),
            None => Ok(()),
        };
        for family in wire::FAMILIES {
            let sequence = requests.next();
            let request = wire::dump(family, states.clone(), sequence);
            let mut refused = None;
            let each = |message| match message {
                Message::Socket(sight) => {
                    each(scope.side(&sight), &sight);
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
            let asked = requests.ask(&request, sequence, each, &mut between);
            let asked = asked.and_then(|interrupted| refused.map_or(Ok(interrupted), Err));
            // A dump that met a change may lack sockets, as any may; what it lacks twice is gone.
            asked.map_err(DiagError::of("list the sockets"))?;
        }
        Ok(())
    }

    /// The sockets whose end was told that are `known`, and, if `others`, those that are followed all the same: they must be
    /// placed in the scope by what is left, their listener. One that cannot be is counted. Those of one turn, and whether more
    /// wait.
    pub fn ends(
        &mut self,
        turn: Turn,
        known: impl Fn(&Sight) -> bool,
        others: bool,
    ) -> (Vec<Sight>, bool) {
        let mut ends = Vec::new();
        let Self {
            news: Some(news),
            backlog,
            scope,
            counts,
            ..
        } = self
        else {
            return (ends, false);
        };
        let mut take = |message| {
            let Message::Socket(sight) = message else {
                counts.malformed += 1;
                return;
            };
            counts.ends += 1;
            let side = match known(&sight) {
                true => Side::Inside,
                false if others => scope.side(&sight),
                false => Side::Outside,
            };
            match side {
                Side::Inside => ends.push(sight),
                Side::Outside => {}
                Side::Unknown => counts.unscoped += u64::from(sight.peer.port() != 0),
            }
        };
        std::mem::take(backlog).into_iter().for_each(&mut take);
        let more = news.drain(turn, take).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot hear of sockets that end");
            false
        });
        (ends, more)
    }

    /// What is under a connection's addresses now that its end was told. Its remains have its cookie if a dump showed it:
    /// else it got its cookie after they were made, and they get another.
    pub fn find(&mut self, name: &SocketName, dumped: bool) -> Afterlife {
        let sequence = self.requests.next();
        let request = wire::find(name, sequence);
        let mut found = Afterlife::Nothing;
        let each = |message| {
            if let Message::Socket(other) = message {
                let its = other.cookie == name.cookie || !dumped;
                found = match other.state {
                    State::Listen => Afterlife::Listener,
                    State::TimeWait if its => Afterlife::TimeWait,
                    // Remains have no counts.
                    State::FinWait2 if its && other.info.is_none() => Afterlife::FinWait2,
                    // It lives, or another has taken its addresses.
                    _ => Afterlife::NotLooked,
                };
            }
            true
        };
        match self.requests.ask(&request, sequence, each, || Ok(())) {
            Ok(_) => found,
            Err(_) => Afterlife::NotLooked,
        }
    }

    /// Whether anything is under a connection's addresses: it, its remains or its listener.
    pub fn is_there(&mut self, name: &SocketName) -> bool {
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
    pub fn others(&self) -> u64 {
        self.counts.sockets.get("other").copied().unwrap_or(0)
    }

    /// News of sockets' ends that found no room, ever.
    pub fn dropped(&self) -> u64 {
        let now = self.news.as_ref().map(News::dropped);
        self.dropped_before + now.and_then(Result::ok).unwrap_or_default()
    }

    /// Sockets whose end was told before a dump showed whose they were, and that came from no listener.
    pub const fn unscoped(&self) -> u64 {
        self.counts.unscoped
    }

    /// Adds what the source counts of itself.
    pub fn tell(&self, own: &mut Own) {
        let Counts {
            looks,
            ends,
            unscoped,
            malformed,
            sockets,
            duration,
        } = &self.counts;
        own.records.extend([("look", *looks), ("end", *ends)]);
        own.records_dropped.insert("end", self.dropped());
        own.records_malformed += malformed;
        own.sockets = sockets.clone();
        own.sockets_unscoped = *unscoped;
        own.dump_duration = duration.clone();
    }
}

/// Where they cannot be listed, none: then a look at a socket itself has to tell.
pub(super) fn own_addresses() -> HashSet<IpAddr> {
    let interfaces = getifaddrs().into_iter().flatten();
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
    });
    addresses.filter(|ip| !ip.is_loopback()).collect()
}

/// The id of the cgroup at this path.
///
/// # Errors
/// [`DiagError::Cgroup`].
pub fn id_of(cgroup: &Path) -> Result<u64, DiagError> {
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
        move |error| Self::Netlink { what, error }
    }
}

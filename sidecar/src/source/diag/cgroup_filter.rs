//! Which sockets are followed: all of the network namespace, or those of a cgroup and the cgroups below it.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::{DirEntryExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use crate::flow::{SocketSnapshot, State};

/// The sockets that are followed.
#[derive(Debug)]
pub(super) enum CgroupFilter {
    /// Every one of the network namespace: the pod's.
    Namespace,
    /// Those of a cgroup2 directory and of those below it.
    Cgroup(Box<Cgroups>),
}

/// The cgroups that are followed, by id. A removed cgroup is kept: its sockets may outlive it.
#[derive(Debug)]
pub(super) struct Cgroups {
    root: PathBuf,
    /// The id of the one that was found under the root's path last.
    root_id: u64,
    inside: HashSet<u64>,
    /// Of those inside, the root that was found last, and those below it.
    newest: HashSet<u64>,
    /// Known to be elsewhere; forgotten with every dump, as it may be about to be made.
    outside: HashSet<u64>,
    /// Whether each listener, by its address, is followed. A connection has the cgroup of the listener that it came from.
    listeners: HashMap<SocketAddr, Side>,
}

/// Whether a socket is inside the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Followed.
    Inside,
    /// Not followed.
    Outside,
    /// A destroy event does not have the cgroup.
    Unknown,
}

impl CgroupFilter {
    /// The filter of a cgroup2 directory; without one, the whole namespace.
    pub(super) fn new(cgroup: Option<&Path>) -> io::Result<Self> {
        let Some(root) = cgroup else {
            return Ok(Self::Namespace);
        };
        let mut cgroups = Cgroups {
            root: root.to_owned(),
            root_id: 0,
            inside: HashSet::new(),
            newest: HashSet::new(),
            outside: HashSet::new(),
            listeners: HashMap::new(),
        };
        cgroups.follow(fs::metadata(root)?.ino());
        Ok(Self::Cgroup(Box::new(cgroups)))
    }

    /// The cgroup of this id has taken the place of the one that was followed.
    pub(super) fn follow(&mut self, id: u64) {
        if let Self::Cgroup(cgroups) = self {
            cgroups.follow(id);
        }
    }

    /// The id of the cgroup that is followed.
    pub(super) fn cgroup(&self) -> Option<u64> {
        match self {
            Self::Namespace => None,
            Self::Cgroup(cgroups) => Some(cgroups.root_id),
        }
    }

    /// Whether a socket that is followed is of the cgroup that is there now, not of one that was there before it.
    pub(super) fn is_newest(&self, observed: &SocketSnapshot) -> bool {
        match (self, observed.cgroup) {
            (Self::Namespace, _) => true,
            (Self::Cgroup(cgroups), Some(id)) => cgroups.newest.contains(&id),
            (Self::Cgroup(_), None) => false,
        }
    }

    /// A dump begins: what was outside may have moved, and listeners come anew.
    pub(super) fn refresh(&mut self) {
        if let Self::Cgroup(cgroups) = self {
            cgroups.outside.clear();
            cgroups.listeners.clear();
        }
    }

    /// On which side a socket is.
    pub(super) fn side(&mut self, observed: &SocketSnapshot) -> Side {
        let Self::Cgroup(cgroups) = self else {
            return Side::Inside;
        };
        let side = match observed.cgroup {
            Some(id) => cgroups.side(id),
            None => cgroups.listener_of(observed),
        };
        if observed.state == State::Listen {
            let known = cgroups.listeners.entry(observed.local).or_insert(side);
            // SO_REUSEPORT lets several cgroups listen on one address.
            if *known != side {
                *known = Side::Unknown;
            }
        }
        side
    }
}

impl Cgroups {
    fn follow(&mut self, id: u64) {
        if self.root_id == id {
            return;
        }
        self.root_id = id;
        self.newest = HashSet::from([id]);
        self.inside.insert(id);
        self.outside.clear();
        self.walk();
    }

    fn side(&mut self, id: u64) -> Side {
        if self.inside.contains(&id) {
            return Side::Inside;
        }
        if self.outside.contains(&id) {
            return Side::Outside;
        }
        self.walk();
        if self.inside.contains(&id) {
            Side::Inside
        } else {
            self.outside.insert(id);
            Side::Outside
        }
    }

    /// The side of the listener that a connection came from, by its local address or by the wildcard.
    fn listener_of(&self, observed: &SocketSnapshot) -> Side {
        let port = observed.local.port();
        let wildcards = [
            IpAddr::from(Ipv4Addr::UNSPECIFIED),
            IpAddr::from(Ipv6Addr::UNSPECIFIED),
        ];
        let mut found = Some(observed.local)
            .into_iter()
            .chain(wildcards.map(|ip| SocketAddr::new(ip, port)))
            .filter_map(|address| self.listeners.get(&address));
        match found.next() {
            Some(side) if found.all(|other| other == side) => *side,
            _ => Side::Unknown,
        }
    }

    fn walk(&mut self) {
        let mut waiting = vec![self.root.clone()];
        while let Some(directory) = waiting.pop() {
            // One that was removed in the meantime has no children.
            let Ok(entries) = fs::read_dir(&directory) else {
                continue;
            };
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    self.inside.insert(entry.ino());
                    self.newest.insert(entry.ino());
                    waiting.push(entry.path());
                }
            }
        }
    }
}

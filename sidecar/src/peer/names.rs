//! Which names stand for an address, and for how long.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher as _,
    net::IpAddr,
    time::Duration,
};

use crate::flow::{Monotonic, Name};

/// An answer that may not be kept (RFC 1035 section 3.2.1, a TTL of zero) is for the connection that follows at once.
const SHORTEST: Duration = Duration::from_secs(1);

/// Resolvers and their clients keep no answer for longer (RFC 8767 section 4).
const LONGEST: Duration = Duration::from_secs(7 * 86_400);

/// A TTL with this bit is one of zero (RFC 2181 section 8).
const SIGN: u64 = 1 << 31;

/// Names of one address at most: two are as good as many.
const MOST_OF_ADDRESS: usize = 8;

/// Slots of [`Forgotten`]: 32 KiB.
const SLOTS: usize = 4_096;

/// Why an address has no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NoName {
    /// No answer named it: the application has the address from elsewhere, as by DNS over TLS, or asked before flowcar followed.
    NeverAsked,
    /// Its name was no longer valid when the connection was opened: the application keeps addresses longer than it may.
    Expired,
    /// Two names or more stand for it.
    SeveralNames,
    /// A name that stood for it, or may have, made room for others.
    Forgotten,
}

/// Names by address.
#[derive(Debug)]
pub(super) struct Names {
    most: usize,
    held: usize,
    addresses: HashMap<IpAddr, Address>,
    forgotten: Forgotten,
}

#[derive(Debug)]
struct Address {
    /// When a name was last learnt.
    last: Monotonic,
    names: Vec<Held>,
}

#[derive(Debug)]
struct Held {
    name: Name,
    since: Monotonic,
    until: Monotonic,
}

/// Until when forgotten names were valid, by a hash of their address. An address of which one of two names was forgotten must not have
/// the other one; that some addresses share a slot only leaves more of them without a name.
#[derive(Debug)]
struct Forgotten {
    hasher: RandomState,
    until: Box<[Monotonic]>,
}

// === impl NoName ===

impl NoName {
    /// Every reason.
    pub const ALL: [Self; 4] = [
        Self::NeverAsked,
        Self::Expired,
        Self::SeveralNames,
        Self::Forgotten,
    ];

    /// The value of the reason's attribute.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NeverAsked => "never_asked",
            Self::Expired => "expired",
            Self::SeveralNames => "several_names",
            Self::Forgotten => "table_full",
        }
    }
}

// === impl Names ===

impl Names {
    /// No names yet, and at most so many pairs of a name and an address later on.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            held: 0,
            addresses: HashMap::new(),
            forgotten: Forgotten {
                hasher: RandomState::new(),
                until: vec![Monotonic::default(); SLOTS].into(),
            },
        }
    }

    /// Takes in that a name stands for an address from now on.
    pub(super) fn learn(&mut self, name: &Name, address: IpAddr, at: Monotonic, ttl: Duration) {
        let until = Monotonic(at.0.saturating_add(lifetime_ns(ttl)));
        if let Some(known) = self.addresses.get_mut(&address) {
            known.last = known.last.max(at);
            if let Some(held) = known.names.iter_mut().find(|held| held.name == *name) {
                if held.until < at {
                    self.forgotten.add(&address, held.until);
                    held.since = at;
                }
                held.until = held.until.max(until);
                return;
            }
        }
        let new = Held {
            name: Name::clone(name),
            since: at,
            until,
        };
        let known = self.addresses.get_mut(&address);
        if let Some(known) = known.filter(|known| known.names.len() >= MOST_OF_ADDRESS) {
            let first = known.names.iter_mut().min_by_key(|held| held.until);
            let first = first.expect("there are names");
            self.forgotten.add(&address, first.until);
            *first = new;
            return;
        }
        if self.held >= self.most {
            self.make_room(at);
        }
        self.held += 1;
        let known = self.addresses.entry(address).or_insert_with(|| Address {
            last: at,
            names: Vec::new(),
        });
        known.names.push(new);
    }

    /// The one name that stood for the address at this time.
    pub(super) fn of(&self, address: IpAddr, at: Monotonic) -> Result<Name, NoName> {
        let names = self.addresses.get(&address).map_or(&[][..], |of| &of.names);
        let mut live = names
            .iter()
            .filter(|held| held.since <= at && at <= held.until);
        let one = live.next();
        if live.next().is_some() {
            return Err(NoName::SeveralNames);
        }
        if at <= self.forgotten.until(&address) {
            return Err(NoName::Forgotten);
        }
        match one {
            Some(one) => Ok(Name::clone(&one.name)),
            None if names.iter().any(|held| held.since <= at) => Err(NoName::Expired),
            None => Err(NoName::NeverAsked),
        }
    }

    /// Forgets names that have expired. If that does not free an eighth, forgets addresses whose last answer is oldest: so each pair costs
    /// the same, however many come.
    fn make_room(&mut self, now: Monotonic) {
        let Self {
            addresses,
            forgotten,
            ..
        } = self;
        addresses.retain(|address, of| {
            of.names.retain(|held| {
                let expired = held.until < now;
                if expired {
                    forgotten.add(address, held.until);
                }
                !expired
            });
            !of.names.is_empty()
        });
        self.held = addresses.values().map(|of| of.names.len()).sum();
        let target = (self.most - self.most / 8).min(self.most - 1);
        if self.held <= target {
            return;
        }
        let mut by_age: Vec<_> = addresses.iter().map(|(ip, of)| (of.last, *ip)).collect();
        by_age.sort_unstable();
        for (_, address) in by_age {
            if self.held <= target {
                break;
            }
            let names = self.addresses.remove(&address).map(|of| of.names);
            for held in names.into_iter().flatten() {
                self.held -= 1;
                self.forgotten.add(&address, held.until);
            }
        }
    }
}

/// How long an answer is valid, nanoseconds.
fn lifetime_ns(ttl: Duration) -> u64 {
    let ttl = if ttl.as_secs() & SIGN == 0 {
        ttl.clamp(SHORTEST, LONGEST)
    } else {
        SHORTEST
    };
    ttl.as_secs() * 1_000_000_000
}

// === impl Forgotten ===

impl Forgotten {
    fn add(&mut self, address: &IpAddr, until: Monotonic) {
        let slot = self.slot(address);
        self.until[slot] = self.until[slot].max(until);
    }

    /// The zero time where nothing was forgotten, which is before every connection.
    fn until(&self, address: &IpAddr) -> Monotonic {
        self.until[self.slot(address)]
    }

    fn slot(&self, address: &IpAddr) -> usize {
        self.hasher.hash_one(address) as usize % SLOTS
    }
}

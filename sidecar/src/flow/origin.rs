//! Whose a socket is: from the bytes of the kernel's records to a flow's origin. Pure.

use std::{
    fmt,
    mem::offset_of,
    net::SocketAddr,
    num::{NonZeroU32, NonZeroU64},
    ops::Deref,
    sync::Arc,
};

use flowcar_shared::origin::{CALLER, CLOSED_LISTENER, LISTENER, OriginRecord, RECORD_LEN};

use super::{Malformed, Monotonic, raw, raw::socket_addr};

/// A text that many flows have in common: one word in each of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SharedText(Arc<String>);

/// A container's id: 64 hex digits.
pub type ContainerId = SharedText;

/// Whose a socket is, as far as is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The cgroup that called `connect()`, or `listen()` of a server's listener; or the socket's, of a flow that polls report.
    pub cgroup: Option<NonZeroU64>,
    /// The process that called; of a server that of its listener.
    pub process: Option<Process>,
    /// The container that the cgroup belongs to.
    pub container: Option<ContainerId>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number in the initial PID namespace.
    pub pid: NonZeroU32,
    /// What it is called.
    pub name: Option<SharedText>,
}

/// What a process did that shows whose sockets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginEvent {
    /// It called `connect()`, and was not seen lately.
    Connects(Caller),
    /// It called `listen()`, or bound a socket that may listen.
    Listens(ListenerName, Caller),
    /// The listener with this cookie was closed at this time.
    Closed(u64, Monotonic),
}

/// A process that called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// When.
    pub at: Monotonic,
    /// The id of its cgroup.
    pub cgroup: Option<NonZeroU64>,
    /// Its number in the initial PID namespace.
    pub pid: Option<NonZeroU32>,
    /// Its number in the PID namespace that flowcar is in; `None` where it is of another one, or the programs were not asked.
    pub own_pid: Option<NonZeroU32>,
}

/// What names a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerName {
    /// The socket's cookie.
    pub cookie: u64,
    /// Its address and port.
    pub local: SocketAddr,
    /// The cookie of its network namespace; `None` where the kernel does not give it.
    pub netns: Option<NonZeroU64>,
}

/// In which network namespace a server's socket is: its listener is in the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketNetns {
    /// The one with this cookie.
    Of(NonZeroU64),
    /// The one that dumps show.
    Dumped,
    /// Any: the kernel does not return it.
    Unread,
    /// Any: the record that had it was lost.
    Lost,
}

// === impl SharedText ===

impl From<&str> for SharedText {
    fn from(text: &str) -> Self {
        Self(Arc::new(text.to_owned()))
    }
}

impl From<String> for SharedText {
    fn from(text: String) -> Self {
        Self(Arc::new(text))
    }
}

impl Deref for SharedText {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SharedText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}

// === impl Origin ===

impl Origin {
    /// Of these ids, of which 0 is none.
    pub const fn new(cgroup: u64, pid: u32) -> Self {
        let process = match NonZeroU32::new(pid) {
            Some(pid) => Some(Process { pid, name: None }),
            None => None,
        };
        Self {
            cgroup: NonZeroU64::new(cgroup),
            process,
            container: None,
        }
    }

    /// Whether nothing is known.
    pub const fn is_unknown(&self) -> bool {
        self.cgroup.is_none() && self.process.is_none()
    }
}

// === impl OriginEvent ===

impl OriginEvent {
    /// Whether a record of the kernel's is of this kind.
    pub fn is_in(bytes: &[u8]) -> bool {
        let kind = bytes.get(offset_of!(OriginRecord, kind));
        kind.is_some_and(|kind| [LISTENER, CALLER, CLOSED_LISTENER].contains(kind))
    }

    /// Decodes a record.
    ///
    /// # Errors
    /// [`Malformed`] if the bytes are not a record of this version's kernel programs.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let malformed = Malformed::Origin { len: bytes.len() };
        let raw: OriginRecord = raw::read(bytes, RECORD_LEN).ok_or(malformed)?;
        let at = Monotonic(raw.at_ns);
        let caller = Caller {
            at,
            cgroup: NonZeroU64::new(raw.cgroup_id),
            pid: NonZeroU32::new(raw.tgid),
            own_pid: NonZeroU32::new(raw.own_tgid),
        };
        let listener = ListenerName {
            cookie: raw.cookie,
            local: socket_addr(raw.address, raw.port),
            netns: NonZeroU64::new(raw.netns),
        };
        match raw.kind {
            CALLER => Ok(Self::Connects(caller)),
            LISTENER => Ok(Self::Listens(listener, caller)),
            CLOSED_LISTENER => Ok(Self::Closed(raw.cookie, at)),
            _ => Err(malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    #[test]
    fn record_is_decoded_and_other_bytes_are_refused() {
        let mut bytes = [0; RECORD_LEN];
        let kind = offset_of!(OriginRecord, kind);
        bytes[..8].copy_from_slice(&7_u64.to_ne_bytes());
        bytes[8..16].copy_from_slice(&5_u64.to_ne_bytes());
        bytes[16..24].copy_from_slice(&9_u64.to_ne_bytes());
        let address: Ipv6Addr = "::ffff:10.1.0.1".parse().expect("one");
        bytes[offset_of!(OriginRecord, address)..][..16].copy_from_slice(&address.octets());
        bytes[offset_of!(OriginRecord, tgid)..][..4].copy_from_slice(&42_u32.to_ne_bytes());
        bytes[offset_of!(OriginRecord, own_tgid)..][..4].copy_from_slice(&7_u32.to_ne_bytes());
        bytes[offset_of!(OriginRecord, port)..][..2].copy_from_slice(&80_u16.to_ne_bytes());
        assert!(!OriginEvent::is_in(&bytes));
        let malformed = Err(Malformed::Origin { len: RECORD_LEN });
        assert_eq!(OriginEvent::decode(&bytes), malformed);
        bytes[kind] = LISTENER;
        assert!(OriginEvent::is_in(&bytes));
        let listener = ListenerName {
            cookie: 7,
            local: ([10, 1, 0, 1], 80).into(),
            netns: None,
        };
        let caller = Caller {
            at: Monotonic(5),
            cgroup: NonZeroU64::new(9),
            pid: NonZeroU32::new(42),
            own_pid: NonZeroU32::new(7),
        };
        let listens = OriginEvent::Listens(listener, caller);
        assert_eq!(OriginEvent::decode(&bytes), Ok(listens));
        bytes[kind] = CALLER;
        let connects = OriginEvent::Connects(caller);
        assert_eq!(OriginEvent::decode(&bytes), Ok(connects));
        bytes[kind] = CLOSED_LISTENER;
        let closed = OriginEvent::Closed(7, Monotonic(5));
        assert_eq!(OriginEvent::decode(&bytes), Ok(closed));
        let len = kind + 1;
        assert_eq!(
            OriginEvent::decode(&bytes[..len]),
            Err(Malformed::Origin { len })
        );
    }
}

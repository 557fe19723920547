//! Which sockets are flowcar's own: its connections to receivers are no part of the pod's figures.

use std::{
    collections::{HashSet, VecDeque},
    os::fd::AsFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use socket2::SockRef;

/// Cookies remembered, at most; the oldest is forgotten for a new one. Each signal has one connection, and its
/// attempts at another follow each other by half a second or more, so the newest thousand span minutes.
const MOST: usize = 1024;

/// The kernel's cookies (`SO_COOKIE`) of every socket that exports have been sent over, or were to be. Clones share
/// one set: the connectors fill it, whoever follows flows asks it.
///
/// A cookie is noted before its socket is connected, so no record of the kernel about it can come earlier, and stays
/// after the socket is closed, as that is when its last record comes.
#[derive(Clone, Debug, Default)]
pub struct OwnSockets(Arc<Mutex<Cookies>>);

#[derive(Debug, Default)]
struct Cookies {
    all: HashSet<u64>,
    /// Oldest first.
    order: VecDeque<u64>,
}

impl OwnSockets {
    /// Notes a socket that is about to be connected.
    pub fn note(&self, socket: &impl AsFd) {
        match SockRef::from(socket).cookie() {
            Ok(cookie) => self.add(cookie),
            Err(error) => {
                tracing::warn!(%error, "a connection to the receiver will be among the pod's: its cookie is not known");
            }
        }
    }

    /// Notes a cookie.
    pub fn add(&self, cookie: u64) {
        let mut cookies = self.lock();
        if !cookies.all.insert(cookie) {
            return;
        }
        cookies.order.push_back(cookie);
        if cookies.order.len() > MOST
            && let Some(oldest) = cookies.order.pop_front()
        {
            cookies.all.remove(&oldest);
        }
    }

    /// Whether the socket with this cookie is flowcar's own.
    pub fn contains(&self, cookie: u64) -> bool {
        self.lock().all.contains(&cookie)
    }

    /// Forgets a cookie: the last record of its socket has come.
    pub fn forget(&self, cookie: u64) {
        let mut cookies = self.lock();
        if cookies.all.remove(&cookie) {
            cookies.order.retain(|known| *known != cookie);
        }
    }

    /// Cookies known.
    pub fn len(&self) -> usize {
        self.lock().all.len()
    }

    /// Whether no socket was ever noted, or all are forgotten.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Cookies> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_known_from_before_the_connection_until_it_is_forgotten() {
        let own = OwnSockets::default();
        let seen_elsewhere = own.clone();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("one");
        own.note(&socket);
        let cookie = socket.cookie().expect("its cookie");
        assert!(seen_elsewhere.contains(cookie));
        socket.connect(&address.into()).expect("a connection");
        assert_eq!(socket.cookie().expect("a cookie"), cookie);
        let stranger = std::net::TcpStream::connect(address).expect("a connection");
        let other = SockRef::from(&stranger).cookie().expect("its cookie");
        assert!(!own.contains(other));
        drop(socket);
        assert!(own.contains(cookie));
        seen_elsewhere.forget(cookie);
        assert!(own.is_empty());
    }

    #[test]
    fn the_set_is_bounded_and_the_oldest_goes_first() {
        let own = OwnSockets::default();
        for cookie in 0..MOST as u64 + 10 {
            own.add(cookie);
            own.add(cookie);
        }
        assert_eq!(own.len(), MOST);
        assert!(!own.contains(9) && own.contains(10));
    }
}

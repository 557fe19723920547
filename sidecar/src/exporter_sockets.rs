//! flowcar's own sockets: its connections to receivers are excluded from the pod's metrics.

use std::{
    collections::{HashSet, VecDeque},
    os::fd::AsFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use socket2::SockRef;

/// The most cookies; a new one evicts the oldest. Each signal has one connection, and its attempts at another one are half a
/// second or more apart, so the newest thousand span minutes.
const MOST: usize = 1024;

/// The kernel's cookies (`SO_COOKIE`) of all sockets of exports. Clones share one set: the connectors add to it, the follower
/// reads it.
///
/// A cookie is added before its socket is connected, so no kernel record about it can come earlier, and stays after the socket
/// is closed, because its last record comes then.
#[derive(Clone, Debug, Default)]
pub struct ExporterSockets(Arc<Mutex<Cookies>>);

#[derive(Debug, Default)]
struct Cookies {
    all: HashSet<u64>,
    /// Oldest first.
    order: VecDeque<u64>,
}

impl ExporterSockets {
    /// Adds a socket that is about to be connected.
    pub fn note(&self, socket: &impl AsFd) {
        match SockRef::from(socket).cookie() {
            Ok(cookie) => self.add(cookie),
            Err(error) => {
                tracing::warn!(%error, "a connection to the receiver will count among the pod's: its cookie is unknown");
            }
        }
    }

    /// Adds a cookie.
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

    /// Whether the set is empty.
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
    fn cookie_is_known_before_connect_until_forgotten() {
        let self_metrics = ExporterSockets::default();
        let seen_elsewhere = self_metrics.clone();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("one");
        self_metrics.note(&socket);
        let cookie = socket.cookie().expect("its cookie");
        assert!(seen_elsewhere.contains(cookie));
        socket.connect(&address.into()).expect("a connection");
        assert_eq!(socket.cookie().expect("a cookie"), cookie);
        let stranger = std::net::TcpStream::connect(address).expect("a connection");
        let other = SockRef::from(&stranger).cookie().expect("its cookie");
        assert!(!self_metrics.contains(other));
        drop(socket);
        assert!(self_metrics.contains(cookie));
        seen_elsewhere.forget(cookie);
        assert!(self_metrics.is_empty());
    }

    #[test]
    fn cookie_set_is_bounded_and_evicts_the_oldest() {
        let self_metrics = ExporterSockets::default();
        for cookie in 0..MOST as u64 + 10 {
            self_metrics.add(cookie);
            self_metrics.add(cookie);
        }
        assert_eq!(self_metrics.len(), MOST);
        assert!(!self_metrics.contains(9) && self_metrics.contains(10));
    }
}

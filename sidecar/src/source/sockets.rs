//! The sockets of the network namespace, for whoever asks for them: where they cannot be dumped, none are shown and no close is reported.

use std::collections::BTreeMap;

use super::{
    diag::{DiagError, DiagSource, SocketCounts},
    turn::Turn,
};
use crate::flow::{Flow, Listener, PostCloseState, SocketName, SocketSnapshot};

/// The sockets of the network namespace: dumps of them, queries for one, and the destroy events of those that closed.
pub struct Sockets {
    /// `None` where sockets cannot be dumped.
    pub(super) diag: Option<DiagSource>,
}

/// What a dump of the sockets is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To report all sockets. No programs report any, so each may be new.
    Report,
    /// To adopt the sockets that are older than the programs, which were attached since the last dump.
    Adopt {
        /// Open records that had found the ring full before the programs were attached.
        open_dropped: u64,
    },
    /// To update the flows that are known, and to find those whose close was lost. The programs report all others.
    Update,
}

// === impl Sockets ===

impl Sockets {
    /// None at all.
    pub const fn none() -> Self {
        Self { diag: None }
    }

    /// Whether dumps show them, and queries answer.
    pub const fn are_shown(&self) -> bool {
        self.diag.is_some()
    }

    /// Hands over every followed connection there is.
    ///
    /// # Errors
    /// [`DiagError::Netlink`], [`DiagError::Descriptors`]: then some were perhaps not handed over.
    pub fn dump(&mut self, each: impl FnMut(&SocketSnapshot)) -> Result<(), DiagError> {
        match &mut self.diag {
            Some(diag) => diag.dump(each).map(|_| ()),
            None => Ok(()),
        }
    }

    /// Dumps the listeners.
    ///
    /// # Errors
    /// [`DiagError::Netlink`], [`DiagError::Descriptors`].
    pub fn dump_listeners(&mut self) -> Result<(), DiagError> {
        self.diag
            .as_mut()
            .map_or(Ok(()), DiagSource::dump_listeners)
    }

    /// The followed listeners of the last dump.
    pub fn listening(&self) -> &[SocketSnapshot] {
        self.diag.as_ref().map_or(&[], DiagSource::listening)
    }

    /// The followed listeners by port, as of the last dump; `None` where nothing is dumped.
    pub fn listeners(&self) -> Option<&BTreeMap<Option<u16>, Listener>> {
        self.diag.as_ref().map(DiagSource::listeners)
    }

    /// Whether a followed socket is of the cgroup that is there now, not of one that was there before it.
    pub fn is_newest(&self, observed: &SocketSnapshot) -> bool {
        self.diag
            .as_ref()
            .is_some_and(|diag| diag.is_newest(observed))
    }

    /// Subscribes to destroy events: from here on the close of every socket is reported.
    ///
    /// # Errors
    /// [`DiagError::Netlink`], [`DiagError::Descriptors`].
    pub fn subscribe(&mut self) -> Result<(), DiagError> {
        self.diag.as_mut().map_or(Ok(()), DiagSource::subscribe)
    }

    /// Whether the close of every socket is reported.
    pub fn report_closes(&self) -> bool {
        self.diag.as_ref().is_some_and(DiagSource::is_subscribed)
    }

    /// The closed sockets that are `known`, and, if `others`, those that are followed all the same: only their listener still shows their
    /// cgroup. Those of one turn, and whether more wait.
    pub fn closed(
        &mut self,
        turn: Turn,
        known: impl Fn(&SocketSnapshot) -> bool,
        others: bool,
    ) -> (Vec<SocketSnapshot>, bool) {
        match &mut self.diag {
            Some(diag) => diag.closed(turn, known, others),
            None => (Vec::new(), false),
        }
    }

    /// The state under a closed connection's addresses. `dumped`: a dump showed the connection.
    pub fn find(&mut self, name: &SocketName, dumped: bool) -> PostCloseState {
        match &mut self.diag {
            Some(diag) => diag.find(name, dumped),
            None => PostCloseState::NotPolled,
        }
    }

    /// Whether anything is under a connection's addresses: it, its timewait socket or its listener.
    pub fn is_there(&mut self, name: &SocketName) -> bool {
        self.diag.as_mut().is_some_and(|diag| diag.is_there(name))
    }

    /// Whether this end of a connection is in the network namespace that dumps show, as far as is known.
    pub fn is_here(&self, flow: &Flow) -> bool {
        self.diag.as_ref().is_some_and(|diag| diag.is_here(flow))
    }

    /// Whether a socket waits for an answer, or may do so: where that cannot be known, one may.
    pub fn may_wait(&mut self) -> bool {
        let Some(diag) = &mut self.diag else {
            return true;
        };
        diag.any_waits().unwrap_or_else(|error| {
            tracing::debug!(%error, "the sockets that wait for an answer cannot be dumped");
            true
        })
    }

    /// Connections of the network namespace that are not followed, as of the last dump.
    pub fn others(&self) -> u64 {
        self.diag.as_ref().map_or(0, DiagSource::others)
    }

    /// Destroy events that the kernel could not deliver, ever.
    pub fn events_dropped(&self) -> u64 {
        self.diag.as_ref().map_or(0, DiagSource::dropped)
    }

    /// What is counted of dumps and of destroy events; `None` where nothing is dumped.
    pub fn counts(&self) -> Option<&SocketCounts> {
        self.diag.as_ref().map(DiagSource::counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::example;

    #[test]
    fn without_dumps_no_socket_is_shown_and_any_may_wait() {
        let mut sockets = Sockets::none();
        let mut shown = 0;
        sockets.dump(|_| shown += 1).unwrap();
        sockets.dump_listeners().unwrap();
        sockets.subscribe().unwrap();
        assert_eq!(shown, 0);
        assert!(!sockets.are_shown() && !sockets.report_closes());
        assert_eq!(sockets.closed(Turn::Whole, |_| true, true), (vec![], false));
        assert!(sockets.listening().is_empty() && sockets.listeners().is_none());
        assert!(!sockets.is_here(&example::closed(1)));
        assert!(sockets.may_wait());
    }
}

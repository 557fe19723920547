//! flowcar's own connections to receivers, which are no part of the pod's figures.

use std::collections::HashSet;

use flowcar_shared::record::Kind;

use crate::{flow::Record, otlp::own::OwnSockets};

/// Which flows are left out, and how many of the kernel's count they are.
#[derive(Debug, Default)]
pub(super) struct OwnFlows {
    sockets: OwnSockets,
    open: HashSet<u64>,
    closed: u64,
}

impl OwnFlows {
    pub(super) fn new(sockets: OwnSockets) -> Self {
        Self {
            sockets,
            ..Self::default()
        }
    }

    /// Whether the flow of this record is one of them.
    pub(super) fn has_record(&mut self, record: &Record) -> bool {
        let cookie = record.flow.cookie;
        if !self.sockets.contains(cookie) {
            return false;
        }
        let established = record.flow.established.is_some();
        if record.kind == Kind::Close {
            self.open.remove(&cookie);
            self.closed += u64::from(established);
            self.sockets.forget(cookie);
        } else if established {
            self.open.insert(cookie);
        }
        true
    }

    /// Whether the socket with this cookie is one of them.
    pub(super) fn has(&self, cookie: u64) -> bool {
        self.sockets.contains(cookie)
    }

    /// How many were established, as far as records told: the kernel counted them among all.
    pub(super) fn established(&self) -> u64 {
        self.closed + self.open.len() as u64
    }
}

//! A running flowcar, as other commands ask it.

use std::{path::PathBuf, time::Duration};

use prost::Message as _;

pub use super::ask::NoAnswer;
use super::{
    ask::{Whom, ask},
    protocol::{Listing, MOST_FLOWS, PeerListing, ProtocolError, Question},
};
use crate::{clock, view::Row};

/// How long all parts of an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The running `flowcar export` of this container, or on a host.
#[derive(Clone, Debug)]
pub struct Running {
    cgroup: Option<PathBuf>,
}

impl Running {
    /// The one that was started with this --cgroup; with none, that of this container or the only one on this host.
    pub const fn of_cgroup(cgroup: Option<PathBuf>) -> Self {
        Self { cgroup }
    }

    /// The books, and the open flows: oldest first.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub fn flows(&self) -> Result<Listing, NoAnswer> {
        let deadline = clock::now() + PATIENCE;
        let mut flows: Vec<Row> = Vec::new();
        loop {
            let after = flows.last().map_or(0, |row| row.cookie);
            let most = MOST_FLOWS;
            let answer = ask(Question::Flows { after, most }, self.whom(), deadline)?;
            let mut part = Listing::decode(&answer[..]).map_err(|_| ProtocolError::Damaged)?;
            let more = part.more && !part.flows.is_empty();
            flows.append(&mut part.flows);
            if !more {
                flows.sort_by_key(|row| (row.opened_unix_ns, row.cookie));
                return Ok(Listing { flows, ..part });
            }
        }
    }

    /// The books, and every series.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub fn peers(&self) -> Result<PeerListing, NoAnswer> {
        let answer = ask(Question::Peers, self.whom(), clock::now() + PATIENCE)?;
        Ok(PeerListing::decode(&answer[..]).map_err(|_| ProtocolError::Damaged)?)
    }

    fn whom(&self) -> Whom<'_> {
        Whom {
            cgroup: self.cgroup.as_deref(),
            elsewhere: true,
        }
    }
}

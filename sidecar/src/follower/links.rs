//! Whether the programs are still attached. A process that holds their links, or has more rights than flowcar, can detach them
//! (BPF_LINK_DETACH) or put other programs in their place (BPF_LINK_UPDATE), and then no more records come, without an error.

use super::Follower;
use crate::{
    clock::Anchor,
    flow::Monotonic,
    source::{Attachment, Source, SourceError},
};

/// The state of the links.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Links {
    /// When they were last seen attached.
    seen: Option<Monotonic>,
    /// How often they were found detached.
    detached: u64,
    /// Whether it was logged that they cannot be checked.
    is_logged: bool,
}

impl Follower {
    /// How often the programs were found detached by another process.
    pub const fn detached(&self) -> u64 {
        self.links.detached
    }

    /// Checks whether the programs are still attached to the followed cgroup, and attaches them again where another process detached them.
    /// Connections that are open by then are adopted; those that closed meanwhile are lost as `detached` once dumps do not show them.
    ///
    /// # Errors
    /// They cannot be attached again: nothing is followed from here on.
    pub fn check_links(&mut self) -> Result<(), SourceError> {
        let Some(attachment) = self.source.attachment() else {
            return Ok(());
        };
        let now = Anchor::now().monotonic();
        let before = self.links.seen.replace(now);
        match attachment {
            Attachment::Attached => Ok(()),
            Attachment::Unknown => {
                if !std::mem::replace(&mut self.links.is_logged, true) {
                    tracing::warn!(
                        "flowcar cannot check here whether its programs stay attached (/proc/self/fdinfo cannot be read, or no file descriptor was left): if another process detaches them, flowcar does not notice"
                    );
                }
                Ok(())
            }
            Attachment::Detached => {
                let since = before.map_or(0, |before| now.0.saturating_sub(before.0));
                self.links.detached += 1;
                self.flows.detached_ns += since;
                self.flows.table.listing_mut().detached();
                self.adopt(Source::attach_again)?;
                tracing::error!(
                    within_s = since as f64 / 1e9,
                    "flowcar's programs were detached from the cgroup by another process, or replaced, and are attached again: connections that opened and closed meanwhile are in no figure, others that closed are lost (detached)"
                );
                Ok(())
            }
        }
    }
}

//! Whether the programs are still attached. Whoever holds their links, or more rights than flowcar, can take them off
//! (BPF_LINK_DETACH), and then the kernel tells of nothing without a word.

use super::Follower;
use crate::{
    clock::Anchor,
    flow::{Flow, Monotonic},
    source::{SourceError, ebpf::Attachment},
};

/// What is known of the links.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Links {
    /// When they were last seen attached.
    seen: Option<Monotonic>,
    /// How often they were found detached.
    detached: u64,
    /// Whether it was logged that they cannot be asked for.
    is_logged: bool,
}

impl Follower {
    /// How often the programs were found detached by somebody else.
    pub const fn detached(&self) -> u64 {
        self.links.detached
    }

    /// Asks whether the programs are still attached to the followed cgroup, and attaches them again where somebody took them off.
    /// Connections that are there by then are adopted; those that ended meanwhile are lost as `detached` once dumps do not show them.
    ///
    /// # Errors
    /// They cannot be attached again: nothing is followed from here on.
    pub fn look_after_links(
        &mut self,
        finished: impl FnMut(&Flow, &Anchor),
    ) -> Result<(), SourceError> {
        let Some(ebpf) = self.source.ebpf() else {
            return Ok(());
        };
        let now = Anchor::now().monotonic();
        let attachment = ebpf.attachment();
        let before = self.links.seen.replace(now);
        match attachment {
            Attachment::Attached => Ok(()),
            Attachment::Unknown => {
                if !std::mem::replace(&mut self.links.is_logged, true) {
                    tracing::warn!(
                        "whether programs stay attached cannot be asked here (/proc/self/fdinfo): if somebody detaches them, flowcar does not see it"
                    );
                }
                Ok(())
            }
            Attachment::Detached => {
                let since = before.map_or(0, |before| now.0.saturating_sub(before.0));
                self.links.detached += 1;
                self.flows.detached_ns += since;
                self.flows.table.detached();
                self.attach(|source| source.attach_again(), finished)?;
                tracing::error!(
                    within_s = since as f64 / 1e9,
                    "flowcar's programs were detached from the cgroup by another process, and are attached again: connections that began and ended meanwhile are in no figure, others that ended are lost (detached)"
                );
                Ok(())
            }
        }
    }
}

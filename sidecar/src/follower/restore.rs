//! The checkpoint of the previous flowcar, until it is known what became of its connections.

use jiff::Timestamp;

use crate::flow::{
    Table,
    checkpoint::{Checkpoint, KernelInstance},
};

/// A checkpoint that is being restored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Restore {
    /// Time of the previous flowcar's last report, nanoseconds since the Unix epoch.
    taken_unix_ns: u64,
    /// From then until this flowcar follows.
    pub(super) unfollowed_ns: u64,
    connections: u64,
    /// Polls until all connections that were not seen count as closed.
    polls: u8,
}

impl Restore {
    /// Restores a checkpoint, to be settled after so many polls. This flowcar follows since `since` (nanoseconds since the Unix epoch).
    pub(super) fn begin(
        table: &mut Table,
        checkpoint: &Checkpoint,
        here: &KernelInstance,
        polls: u8,
        since: u64,
    ) -> Self {
        table.adoption_mut().restore(&checkpoint.reported);
        let mut this = Self {
            taken_unix_ns: checkpoint.taken_unix_ns,
            unfollowed_ns: since.saturating_sub(checkpoint.taken_unix_ns),
            connections: table.adoption().restored(),
            polls,
        };
        if checkpoint.instance != *here {
            tracing::warn!(
                "the checkpoint is of another network namespace or of an earlier boot: all its connections are lost"
            );
            this.settle(table);
        }
        this
    }

    /// A poll is over, and the closes that came by then are taken in.
    pub(super) fn poll_finished(&mut self, table: &mut Table) {
        match self.polls {
            0 => {}
            1 => self.settle(table),
            _ => self.polls -= 1,
        }
    }

    /// Connections that were not seen closed while unfollowed. Logs it, once.
    pub(super) fn settle(&mut self, table: &mut Table) {
        if std::mem::take(&mut self.polls) == 0 {
            return;
        }
        let ended = table.adoption_mut().settle_restored();
        let last_report = Timestamp::from_nanosecond(self.taken_unix_ns.into())
            .map_or_else(|_| "unknown".to_owned(), |time| time.to_string());
        tracing::info!(
            last_report,
            unfollowed_s = self.unfollowed_ns as f64 / 1e9,
            taken_over = self
                .connections
                .saturating_sub(ended.lost + ended.lost_before),
            ended_unseen = ended.lost,
            lost_before = ended.lost_before,
            "restored the checkpoint of the previous flowcar"
        );
    }
}

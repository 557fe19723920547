//! The records of the kernel programs, for whoever takes them in: where no programs are attached, there are none.

use flowcar_shared::counter::COUNTERS;

use super::{ebpf::EbpfSource, turn::Turn};

/// The records of the kernel programs, and the programs' own counts.
pub struct Records {
    /// `None` where no programs are attached.
    pub(super) programs: Option<EbpfSource>,
}

// === impl Records ===

impl Records {
    /// Whether programs send any.
    pub const fn are_sent(&self) -> bool {
        self.programs.is_some()
    }

    /// Whether records of attempts show if they are of flowcar's network namespace.
    pub fn show_netns(&self) -> bool {
        self.programs.as_ref().is_some_and(EbpfSource::knows_netns)
    }

    /// Whether DNS messages are among them.
    pub fn have_names(&self) -> bool {
        let programs = self.programs.as_ref();
        programs.is_some_and(EbpfSource::observes_names)
    }

    /// Hands over the records that wait, for one turn. Gives whether more may wait: with little CPU time, more records may come than are
    /// taken in.
    pub fn drain(&mut self, turn: Turn, take: impl FnMut(&[u8])) -> bool {
        match &mut self.programs {
            Some(programs) => programs.drain(turn, take),
            None => false,
        }
    }

    /// The kernel's own counts so far, by [`flowcar_shared::counter::Counter::index`]; all 0 without the programs.
    pub fn counters(&self) -> [u64; COUNTERS] {
        let programs = self.programs.as_ref();
        programs.map_or([0; COUNTERS], EbpfSource::kernel_counters)
    }
}

//! The rights of the process: what is needed to load and attach programs is given away once they are attached.
//!
//! What is attached stays attached, maps can be read and written and the ring buffer drained without any of them
//! (kernel/bpf/syscall.c asks for rights where objects are made, not where a descriptor is used), and sockets are
//! looked at without any from the start. So nothing that comes from the network is ever read with a right; but for one,
//! on old kernels, which ask for it wherever maps are used, and one where packet programs are to be attached again.

use std::collections::HashSet;

use caps::{CapSet, Capability};
use nix::sys::prctl;

/// The sets that are emptied, or left with what is kept. Whoever lacks CAP_SETPCAP cannot narrow the bounding set; with
/// no_new_privs nothing can be gained from it.
const SETS: [(CapSet, bool); 4] = [
    (CapSet::Ambient, false),
    (CapSet::Effective, true),
    (CapSet::Permitted, true),
    (CapSet::Inheritable, false),
];

/// Why rights are still there.
#[derive(Debug, thiserror::Error)]
pub enum RightsError {
    /// The kernel refused.
    #[error("cannot give capabilities away: {0}")]
    Capabilities(#[from] caps::errors::CapsError),
    /// The kernel refused.
    #[error("cannot set no_new_privs: {0}")]
    NoNewPrivileges(#[from] nix::Error),
    /// It did not refuse, and they are there all the same.
    #[error("capabilities that were given away are still in the {set:?} set: {left}")]
    Left {
        /// Which set.
        set: CapSet,
        /// What is in it.
        left: String,
    },
}

/// Gives every capability but those that are kept (each with why) away, for this thread and all that it will start, and checks that they are gone. To
/// be called before there are other threads: each has its own (capabilities(7)).
///
/// # Errors
/// [`RightsError`]. The process has then more rights than it should have.
pub fn give_away(kept: &[(Capability, &str)]) -> Result<(), RightsError> {
    prctl::set_no_new_privs()?;
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for capability in caps::read(None, CapSet::Bounding)? {
            caps::drop(None, CapSet::Bounding, capability)?;
        }
    }
    let left_in = |may_keep: bool| {
        kept.iter()
            .filter(|_| may_keep)
            .map(|(capability, _)| *capability)
            .collect::<HashSet<_>>()
    };
    for (set, may_keep) in SETS {
        caps::set(None, set, &left_in(may_keep))?;
    }
    for (set, may_keep) in SETS {
        let left = caps::read(None, set)?;
        if left != left_in(may_keep) {
            let mut left: Vec<_> = left.iter().map(ToString::to_string).collect();
            left.sort();
            let left = left.join(", ");
            return Err(RightsError::Left { set, left });
        }
    }
    Ok(())
}

/// Says which are left.
pub fn log_kept(kept: &[(Capability, &str)]) {
    for (capability, why) in kept {
        tracing::warn!("{capability} is kept: {why}");
    }
    if kept.is_empty() {
        tracing::info!("all capabilities are given away; none is needed to go on");
    } else {
        tracing::info!("all other capabilities are given away");
    }
}

/// Does something while no capability is in effect. They stay permitted, and are in effect again afterwards.
pub fn without<T>(work: impl FnOnce() -> T) -> T {
    let effective = caps::read(None, CapSet::Effective).unwrap_or_default();
    if effective.is_empty() || caps::clear(None, CapSet::Effective).is_err() {
        return work();
    }
    let done = work();
    if let Err(error) = caps::set(None, CapSet::Effective, &effective) {
        tracing::warn!(%error, "capabilities that are permitted cannot be put in effect again");
    }
    done
}

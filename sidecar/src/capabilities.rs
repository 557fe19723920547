//! The capabilities of the process: those to load and attach programs are dropped once the programs are attached.
//!
//! Without capabilities programs stay attached, maps can be read and written and the ring buffer drained
//! (kernel/bpf/syscall.c checks capabilities where objects are created, not where a descriptor is used), and socket dumps never
//! need one. So no data from the network is read with a capability, with two exceptions: one capability is kept on old kernels,
//! which check it wherever maps are used, and one where packet programs are to be attached again.

use std::collections::HashSet;

use caps::{CapSet, Capability};
use nix::sys::prctl;

/// The sets that are emptied but for the kept capabilities. Without CAP_SETPCAP the bounding set cannot be narrowed; with
/// no_new_privs nothing can be gained from it.
const SETS: [(CapSet, bool); 4] = [
    (CapSet::Ambient, false),
    (CapSet::Effective, true),
    (CapSet::Permitted, true),
    (CapSet::Inheritable, false),
];

/// Why capabilities were not dropped.
#[derive(Debug, thiserror::Error)]
pub enum CapabilityError {
    /// The kernel refused.
    #[error("cannot drop capabilities: {0}")]
    Capabilities(#[from] caps::errors::CapsError),
    /// The kernel refused.
    #[error("cannot set no_new_privs: {0}")]
    NoNewPrivileges(#[from] nix::Error),
    /// The kernel did not refuse, and the capabilities are still there.
    #[error("capabilities that were dropped are still in the {set:?} set: {left}")]
    Remaining {
        /// The set.
        set: CapSet,
        /// The capabilities in it.
        left: String,
    },
}

/// Drops every capability except those that are kept (each with a reason), for this thread and all that it will start, and checks
/// that they are dropped. To be called before there are other threads: each has its own (capabilities(7)).
///
/// # Errors
/// [`CapabilityError`]. The process then has more capabilities than it should have.
pub fn drop_all(kept: &[(Capability, &str)]) -> Result<(), CapabilityError> {
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
            return Err(CapabilityError::Remaining { set, left });
        }
    }
    Ok(())
}

/// Logs which are kept.
pub fn log_kept(kept: &[(Capability, &str)]) {
    for (capability, why) in kept {
        tracing::warn!("{capability} is kept: {why}");
    }
    if kept.is_empty() {
        tracing::info!("all capabilities are dropped; none is needed any more");
    } else {
        tracing::info!("all other capabilities are dropped");
    }
}

/// Runs a closure while no capability is effective. They stay permitted, and are effective again afterwards.
pub fn without<T>(work: impl FnOnce() -> T) -> T {
    let effective = caps::read(None, CapSet::Effective).unwrap_or_default();
    if effective.is_empty() || caps::clear(None, CapSet::Effective).is_err() {
        return work();
    }
    let done = work();
    if let Err(error) = caps::set(None, CapSet::Effective, &effective) {
        tracing::warn!(%error, "permitted capabilities cannot be made effective again");
    }
    done
}

use std::io;

use crate::place;

/// A link that could not be made, or that stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A TUN device could not be made or configured.
    #[error(
        "make TUN device {name} in namespace {netns}: {why}; run as root on a kernel with CONFIG_TUN"
    )]
    Device {
        /// The device.
        name: String,
        /// Where it was to be.
        netns: String,
        /// The operating system's error.
        why: io::Error,
    },
    /// The emulator's thread, timer or descriptors could not be made.
    #[error("start the link emulator: {0}; is the process out of file descriptors or threads?")]
    Start(io::Error),
    /// The emulator stopped; nothing passes the link any more.
    #[error("the link emulator stopped: {0}; was its device taken down or deleted?")]
    Stopped(String),
    /// A namespace could not be entered or configured.
    #[error(transparent)]
    Place(#[from] place::Error),
    /// nft refused the address translation rules.
    #[error(
        "set up address translation with nft: {0}; it needs nft and a kernel with nftables NAT"
    )]
    Nat(String),
}

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

use super::{
    bpf::{BPF_PROG_ATTACH, BPF_PROG_DETACH, Instruction, attachment, load, lookup, make_array},
    cgroup::Cgroup,
    error::Error,
};

/// Another program's `sock_ops` hook on a cgroup. When a connection begins, or is established, it sets callback flags of its own,
/// as it is usually written: without reading those that others have set. It counts the callbacks that it gets.
/// Detached on drop.
#[derive(Debug)]
pub struct Neighbour {
    program: OwnedFd,
    counts: OwnedFd,
    cgroup: File,
}

/// How it lets others attach to the same cgroup and to those below (include/uapi/linux/bpf.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// No others, here and below.
    Exclusive = 0,
    /// One below takes its place there.
    Override = 1,
    /// All of them run.
    Multi = 2,
}

/// Callbacks that a program asks for once a connection is established, or before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callbacks {
    /// None, whoever else wants them
    None,
    /// `BPF_SOCK_OPS_STATE_CB_FLAG`
    State,
    /// `BPF_SOCK_OPS_RTT_CB_FLAG`
    Rtt,
    /// `BPF_SOCK_OPS_RTT_CB_FLAG`, when the SYN of a client is about to go, too
    RttBefore,
}

/// Another program for packets that are sent from a cgroup, which lets all of them pass and allows no other program here or below.
/// Detached on drop.
#[derive(Debug)]
pub struct ExclusivePacketFilter {
    program: OwnedFd,
    cgroup: File,
}

const BPF_PROG_TYPE_CGROUP_SKB: u32 = 8;
const BPF_CGROUP_INET_EGRESS: u32 = 1;
const BPF_PROG_TYPE_SOCK_OPS: u32 = 13;
const BPF_CGROUP_SOCK_OPS: u32 = 3;
/// More than there are kinds of callbacks.
const KINDS: u32 = 32;

// === impl Callbacks ===

impl Callbacks {
    const fn flags(self) -> i32 {
        match self {
            Self::None => 0,
            Self::State => 4,
            Self::Rtt | Self::RttBefore => 8,
        }
    }

    /// The first of the callbacks up to 5 (`..PASSIVE_ESTABLISHED_CB`) in which it asks: 4 is `..ACTIVE_ESTABLISHED_CB`, 3
    /// `BPF_SOCK_OPS_TCP_CONNECT_CB`.
    const fn first(self) -> i32 {
        match self {
            Self::None | Self::State | Self::Rtt => 4,
            Self::RttBefore => 3,
        }
    }
}

// === impl Neighbour ===

impl Neighbour {
    /// Attaches it.
    ///
    /// # Errors
    /// Not root, or another program does not allow it.
    pub fn attach(cgroup: &Cgroup, sharing: Sharing, callbacks: Callbacks) -> Result<Self, Error> {
        let attach = || -> io::Result<Self> {
            let counts = make_array(8, KINDS)?;
            let program = program(counts.as_raw_fd(), callbacks);
            let program = load(BPF_PROG_TYPE_SOCK_OPS, 0, &program)?;
            let cgroup = File::open(cgroup.path())?;
            let neighbour = Self {
                program,
                counts,
                cgroup,
            };
            neighbour.attachment(BPF_PROG_ATTACH, sharing as u32)?;
            Ok(neighbour)
        };
        attach().map_err(Error::at("attach another program", "run as root"))
    }

    /// How many callbacks of a kind (`BPF_SOCK_OPS_*_CB`) it got.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn count(&self, kind: u32) -> Result<u64, Error> {
        let mut value = 0_u64;
        lookup(&self.counts, &kind, (&raw mut value).cast())
            .map_err(Error::at("read a neighbour's counts", "run as root"))?;
        Ok(value)
    }

    fn attachment(&self, command: libc::c_int, flags: u32) -> io::Result<()> {
        let (cgroup, program) = (&self.cgroup, &self.program);
        attachment(command, cgroup, program, BPF_CGROUP_SOCK_OPS, flags)
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        if let Err(error) = self.attachment(BPF_PROG_DETACH, 0) {
            eprintln!("a neighbour's program stays attached: {error}");
        }
    }
}

// === impl ExclusivePacketFilter ===

impl ExclusivePacketFilter {
    /// Attaches it.
    ///
    /// # Errors
    /// Not root, or another program does not allow it.
    pub fn attach(cgroup: &Cgroup) -> Result<Self, Error> {
        let attach = || -> io::Result<Self> {
            let pass = [
                Instruction::new(0xb7, 0, 0, 0, 1), // r0 = 1
                Instruction::new(0x95, 0, 0, 0, 0), // exit
            ];
            let filter = Self {
                program: load(BPF_PROG_TYPE_CGROUP_SKB, BPF_CGROUP_INET_EGRESS, &pass)?,
                cgroup: File::open(cgroup.path())?,
            };
            filter.attachment(BPF_PROG_ATTACH)?;
            Ok(filter)
        };
        attach().map_err(Error::at("attach a packet filter", "run as root"))
    }

    fn attachment(&self, command: libc::c_int) -> io::Result<()> {
        let exclusive = Sharing::Exclusive as u32;
        let (cgroup, program) = (&self.cgroup, &self.program);
        attachment(command, cgroup, program, BPF_CGROUP_INET_EGRESS, exclusive)
    }
}

impl Drop for ExclusivePacketFilter {
    fn drop(&mut self) {
        if let Err(error) = self.attachment(BPF_PROG_DETACH) {
            eprintln!("a packet filter stays attached: {error}");
        }
    }
}

/// `counts[op] += 1`; if op is one of those in which it asks, set the flags; return 1.
fn program(counts: RawFd, callbacks: Callbacks) -> Vec<Instruction> {
    let i = Instruction::new;
    vec![
        i(0xbf, 6, 1, 0, 0),      // r6 = r1
        i(0x61, 7, 1, 0, 0),      // r7 = ctx->op
        i(0x63, 10, 7, -4, 0),    // *(u32 *)(r10 - 4) = r7
        i(0xbf, 2, 10, 0, 0),     // r2 = r10
        i(0x07, 2, 0, 0, -4),     // r2 -= 4
        i(0x18, 1, 1, 0, counts), // r1 = the map, in two instructions
        i(0x00, 0, 0, 0, 0),
        i(0x85, 0, 0, 0, 1),                 // r0 = bpf_map_lookup_elem(r1, r2)
        i(0x15, 0, 0, 2, 0),                 // if r0 == 0 skip two
        i(0xb7, 1, 0, 0, 1),                 // r1 = 1
        i(0xdb, 0, 1, 0, 0),                 // lock *(u64 *)r0 += r1
        i(0xa5, 7, 0, 4, callbacks.first()), // if r7 < first skip four
        i(0x25, 7, 0, 3, 5),                 // if r7 > 5 skip three
        i(0xbf, 1, 6, 0, 0),                 // r1 = r6
        i(0xb7, 2, 0, 0, callbacks.flags()), // r2 = flags
        i(0x85, 0, 0, 0, 59),                // bpf_sock_ops_cb_flags_set(r1, r2)
        i(0xb7, 0, 0, 0, 1),                 // r0 = 1
        i(0x95, 0, 0, 0, 0),                 // exit
    ]
}

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

use super::{
    bpf::{call, lookup, make_array, owned},
    cgroup::Cgroup,
    error::Error,
};

/// Another program's `sock_ops` hook on a cgroup. When a connection is established it sets callback flags of its own,
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

/// Callbacks that a program asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callbacks {
    /// None, whoever else wants them
    None = 0,
    /// `BPF_SOCK_OPS_STATE_CB_FLAG`
    State = 4,
    /// `BPF_SOCK_OPS_RTT_CB_FLAG`
    Rtt = 8,
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_PROG_TYPE_SOCK_OPS: u32 = 13;
const BPF_CGROUP_SOCK_OPS: u32 = 3;
/// More than there are kinds of callbacks.
const KINDS: u32 = 32;

// === impl Neighbour ===

impl Neighbour {
    /// Attaches it.
    ///
    /// # Errors
    /// Not root, or another program does not allow it.
    pub fn attach(cgroup: &Cgroup, sharing: Sharing, callbacks: Callbacks) -> Result<Self, Error> {
        let attach = || -> io::Result<Self> {
            let counts = make_array(8, KINDS)?;
            let program = load(&program(counts.as_raw_fd(), callbacks))?;
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
        // target_fd, attach_bpf_fd, attach_type, attach_flags.
        let fds = [self.cgroup.as_raw_fd(), self.program.as_raw_fd()].map(RawFd::cast_unsigned);
        let attributes = [fds[0], fds[1], BPF_CGROUP_SOCK_OPS, flags];
        call(
            command,
            attributes.as_ptr().cast(),
            size_of_val(&attributes),
        )
        .map(drop)
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        if let Err(error) = self.attachment(BPF_PROG_DETACH, 0) {
            eprintln!("a neighbour's program stays attached: {error}");
        }
    }
}

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    /// Source in the upper half.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// counts[op] += 1; if op is one of the ESTABLISHED callbacks (4 and 5), set the flags; return 1.
fn program(counts: RawFd, callbacks: Callbacks) -> Vec<Instruction> {
    let i = |code, dst: u8, src: u8, offset, immediate| Instruction {
        code,
        registers: src << 4 | dst,
        offset,
        immediate,
    };
    vec![
        i(0xbf, 6, 1, 0, 0),      // r6 = r1
        i(0x61, 7, 1, 0, 0),      // r7 = ctx->op
        i(0x63, 10, 7, -4, 0),    // *(u32 *)(r10 - 4) = r7
        i(0xbf, 2, 10, 0, 0),     // r2 = r10
        i(0x07, 2, 0, 0, -4),     // r2 -= 4
        i(0x18, 1, 1, 0, counts), // r1 = the map, in two instructions
        i(0x00, 0, 0, 0, 0),
        i(0x85, 0, 0, 0, 1),                // r0 = bpf_map_lookup_elem(r1, r2)
        i(0x15, 0, 0, 2, 0),                // if r0 == 0 skip two
        i(0xb7, 1, 0, 0, 1),                // r1 = 1
        i(0xdb, 0, 1, 0, 0),                // lock *(u64 *)r0 += r1
        i(0x15, 7, 0, 1, 4),                // if r7 == 4 skip one
        i(0x55, 7, 0, 3, 5),                // if r7 != 5 skip three
        i(0xbf, 1, 6, 0, 0),                // r1 = r6
        i(0xb7, 2, 0, 0, callbacks as i32), // r2 = flags
        i(0x85, 0, 0, 0, 59),               // bpf_sock_ops_cb_flags_set(r1, r2)
        i(0xb7, 0, 0, 0, 1),                // r0 = 1
        i(0x95, 0, 0, 0, 0),                // exit
    ]
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    /// The beginning of `union bpf_attr` for BPF_PROG_LOAD.
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
    }
    let attributes = Load {
        kind: BPF_PROG_TYPE_SOCK_OPS,
        count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr().addr() as u64,
        license: c"GPL".as_ptr().addr() as u64,
    };
    owned(call(
        BPF_PROG_LOAD,
        (&raw const attributes).cast(),
        size_of::<Load>(),
    )?)
}

//! A map of two sockets: the kernel itself moves the payload of one to the other.
//!
//! The program is four decisions long, so it is written down as instructions (include/uapi/linux/bpf.h, struct bpf_insn) and
//! given to bpf(2): a compiler for it would be a build step of its own.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;

const MAP_TYPE_SOCKMAP: u32 = 15;

/// `BPF_F_INGRESS`: into the other socket's receive queue, past TCP.
const INGRESS: i32 = 1;

/// What the kernel moves, and where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    /// What a socket receives is sent by the other one.
    Received,
    /// What is written to a socket is what the other one reads; it never becomes a TCP segment.
    Written,
}

/// The map, with its program at work.
#[derive(Debug)]
pub(super) struct SockMap {
    map: OwnedFd,
    _program: OwnedFd,
}

// === impl Redirect ===

impl Redirect {
    /// `BPF_PROG_TYPE_SK_SKB` and `BPF_PROG_TYPE_SK_MSG`.
    const fn program_type(self) -> u32 {
        match self {
            Self::Received => 14,
            Self::Written => 16,
        }
    }

    /// `BPF_SK_SKB_STREAM_VERDICT` and `BPF_SK_MSG_VERDICT`.
    const fn attach_type(self) -> u32 {
        match self {
            Self::Received => 5,
            Self::Written => 7,
        }
    }

    /// Where `local_port` is in `struct __sk_buff` and in `struct sk_msg_md`.
    const fn local_port(self) -> i16 {
        match self {
            Self::Received => 136,
            Self::Written => 64,
        }
    }

    /// `bpf_sk_redirect_map` and `bpf_msg_redirect_map`.
    const fn helper(self) -> i32 {
        match self {
            Self::Received => 52,
            Self::Written => 60,
        }
    }

    const fn flags(self) -> i32 {
        match self {
            Self::Received => 0,
            Self::Written => INGRESS,
        }
    }

    /// `return redirect(ctx, map, ctx->local_port == port_of_first ? 1 : 0, flags)`
    fn instructions(self, map: i32, port_of_first: u16) -> [u64; 8] {
        [
            // r5 = ctx->local_port
            instruction(0x61, 5, 1, self.local_port(), 0),
            // r3 = 0; if r5 == port { r3 = 1 }
            instruction(0xb7, 3, 0, 0, 0),
            instruction(0x55, 5, 0, 1, port_of_first.into()),
            instruction(0xb7, 3, 0, 0, 1),
            // r2 = map: a 64-bit load of BPF_PSEUDO_MAP_FD takes two
            instruction(0x18, 2, 1, 0, map),
            0,
            // r4 = flags; redirect(r1, r2, r3, r4); its verdict is the program's
            instruction(0xb7, 4, 0, 0, self.flags()),
            instruction(0x85, 0, 0, 0, self.helper()),
        ]
    }
}

/// Code, destination and source register, offset, immediate value.
const fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
    code as u64
        | (to as u64) << 8
        | (from as u64) << 12
        | (offset as u16 as u64) << 16
        | (value as u32 as u64) << 32
}

const EXIT: u64 = instruction(0x95, 0, 0, 0, 0);

// === impl SockMap ===

impl SockMap {
    /// Connects both: what comes from one goes to the other. The first is identified by its local port, which the second
    /// must not have.
    ///
    /// # Errors
    /// CAP_BPF or CAP_NET_ADMIN is missing, or the kernel has no sockmap.
    pub(super) fn between(
        first: &impl AsFd,
        port_of_first: u16,
        second: &impl AsFd,
        redirect: Redirect,
    ) -> io::Result<Self> {
        let map = descriptor(bpf(
            MAP_CREATE,
            &mut [u64::from(MAP_TYPE_SOCKMAP) | 4 << 32, 4 | 2 << 32, 0],
        )?);
        let program = load(redirect, &map, port_of_first)?;
        let target = map.as_raw_fd() as u32;
        let attach = [
            u64::from(target) | u64::from(program.as_raw_fd() as u32) << 32,
            u64::from(redirect.attach_type()),
        ];
        bpf(PROG_ATTACH, &mut attach.clone())?;
        let made = Self {
            map,
            _program: program,
        };
        made.put(0, first)?;
        made.put(1, second)?;
        Ok(made)
    }

    fn put(&self, key: u32, socket: &impl AsFd) -> io::Result<()> {
        let value = socket.as_fd().as_raw_fd() as u32;
        let (key, value) = (&raw const key, &raw const value);
        let map = self.map.as_raw_fd() as u32;
        bpf(
            MAP_UPDATE_ELEM,
            &mut [map.into(), key as u64, value as u64, 0],
        )?;
        Ok(())
    }
}

fn load(redirect: Redirect, map: &OwnedFd, port_of_first: u16) -> io::Result<OwnedFd> {
    let mut instructions = redirect
        .instructions(map.as_raw_fd(), port_of_first)
        .to_vec();
    instructions.push(EXIT);
    let licence = c"Apache-2.0";
    // Type and count, instructions, licence; no log, no name.
    let mut attributes = [
        u64::from(redirect.program_type()) | (instructions.len() as u64) << 32,
        instructions.as_ptr() as u64,
        licence.as_ptr() as u64,
        0,
        0,
        0,
    ];
    Ok(descriptor(bpf(PROG_LOAD, &mut attributes)?))
}

/// bpf(2) with a `union bpf_attr` of these words.
fn bpf(command: libc::c_int, attributes: &mut [u64]) -> io::Result<i32> {
    // SAFETY: the words, and what those among them that are addresses point to, outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_mut_ptr(),
            size_of_val(attributes),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        i32::try_from(result).map_err(io::Error::other)
    }
}

fn descriptor(raw: i32) -> OwnedFd {
    // SAFETY: bpf(2) has just made it for this process, and nobody else knows of it.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

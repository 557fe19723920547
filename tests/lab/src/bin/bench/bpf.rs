//! bpf(2), raw, because no library makes a program without an object file. Structures and numbers are those of
//! include/uapi/linux/bpf.h.

use std::{
    io,
    mem::offset_of,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

const PROG_LOAD: libc::c_long = 5;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const LINK_CREATE: libc::c_long = 28;
const ENABLE_STATS: libc::c_long = 32;

/// What the kernel keeps of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProgramInfo {
    /// Instructions that the verifier went through on all paths; absent before Linux 5.16.
    pub(crate) verified_insns: Option<u32>,
    /// Bytes of the translated program.
    pub(crate) translated_bytes: u32,
    /// Bytes of the machine code; 0 without a compiler in the kernel.
    pub(crate) jited_bytes: u32,
    /// Nanoseconds in it while the kernel counted.
    pub(crate) run_time_ns: u64,
    /// Its calls meanwhile.
    pub(crate) run_count: u64,
}

#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instructions: u32,
    instructions_at: u64,
    license_at: u64,
    log_level: u32,
    log_size: u32,
    log_at: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach: u32,
}

#[repr(C)]
struct Link {
    program: u32,
    target: u32,
    attach: u32,
    flags: u32,
}

#[repr(C)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

#[repr(C)]
struct InfoOf {
    descriptor: u32,
    length: u32,
    info_at: u64,
}

/// The head of `struct bpf_prog_info`, of which the kernel fills as much as it has.
#[repr(C)]
#[derive(Default)]
struct Info {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_bytes: u32,
    translated_bytes: u32,
    /// From `jited_prog_insns` to `prog_tags`: pointers and lengths of what is not asked for.
    not_asked: [u64; 21],
    run_time_ns: u64,
    run_count: u64,
    recursion_misses: u64,
    verified_insns: u32,
}

/// Bytes up to the last field: what follows is padding, which the kernel of another version may take for a field.
const INFO_LENGTH: usize = offset_of!(Info, verified_insns) + size_of::<u32>();

/// Loads a program that returns 1 and does nothing else.
pub(crate) fn load_empty(program_type: u32, attach_type: u32) -> io::Result<OwnedFd> {
    // r0 = 1; exit. struct bpf_insn: code, registers, offset, and in the upper half the constant.
    const INSTRUCTIONS: [u64; 2] = [0x1_0000_00b7, 0x95];
    open(
        PROG_LOAD,
        &Load {
            kind: program_type,
            instructions: INSTRUCTIONS.len() as u32,
            instructions_at: INSTRUCTIONS.as_ptr() as u64,
            license_at: c"Apache-2.0".as_ptr() as u64,
            name: *b"bench_empty\0\0\0\0\0",
            expected_attach: attach_type,
            ..Load::default()
        },
    )
}

/// Attaches a program, behind what is attached already, until the link is closed.
pub(crate) fn link(
    program: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    open(
        LINK_CREATE,
        &Link {
            program: number(program),
            target: number(target),
            attach: attach_type,
            flags: 0,
        },
    )
}

/// The kernel counts programs' calls and time until the descriptor is closed (Linux 5.8); then it does as before, which is why
/// `kernel.bpf_stats_enabled` is not touched.
pub(crate) fn enable_stats() -> io::Result<OwnedFd> {
    const RUN_TIME: u32 = 0;
    open(ENABLE_STATS, &RUN_TIME)
}

/// What the kernel keeps of the program with this id. It asks for CAP_SYS_ADMIN.
pub(crate) fn program_info(id: u32) -> io::Result<ProgramInfo> {
    let by_id = ById {
        id,
        next_id: 0,
        open_flags: 0,
    };
    let program = open(PROG_GET_FD_BY_ID, &by_id)?;
    let mut info = Info::default();
    call(
        OBJ_GET_INFO_BY_FD,
        &InfoOf {
            descriptor: number(program.as_fd()),
            length: INFO_LENGTH as u32,
            info_at: std::ptr::from_mut(&mut info) as u64,
        },
    )?;
    Ok(ProgramInfo {
        verified_insns: (info.verified_insns > 0).then_some(info.verified_insns),
        translated_bytes: info.translated_bytes,
        jited_bytes: info.jited_bytes,
        run_time_ns: info.run_time_ns,
        run_count: info.run_count,
    })
}

fn number(descriptor: BorrowedFd<'_>) -> u32 {
    descriptor.as_raw_fd().cast_unsigned()
}

fn open<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    let descriptor = call(command, attributes)?;
    // SAFETY: the kernel has just given this descriptor to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn call<T>(command: libc::c_long, attributes: &T) -> io::Result<i32> {
    // SAFETY: the kernel reads as many bytes as the call gives, and what they point to lives through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    match i32::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offsets of include/uapi/linux/bpf.h.
    #[test]
    fn info_is_laid_out_as_in_the_kernels_header() {
        assert_eq!(offset_of!(Info, translated_bytes), 20);
        assert_eq!(offset_of!(Info, run_time_ns), 192);
        assert_eq!(offset_of!(Info, verified_insns), 216);
        assert_eq!(INFO_LENGTH, 220);
    }
}

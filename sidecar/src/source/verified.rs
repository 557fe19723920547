//! How large the programs are: in their object, and as the kernel's verifier took them.

use std::collections::BTreeMap;

use aya::programs::{Program, ProgramError};

use super::{
    attach_error::AttachError,
    programs::{OBJECT, Options, own_netns, prepare},
};

/// The object of the programs, an ELF file; empty where there was no toolchain for it.
pub const fn object() -> &'static [u8] {
    OBJECT
}

/// What the kernel counted of a program when it took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Instructions that the verifier followed, each as often as it did; since Linux 5.16.
    pub verified: Option<u32>,
    /// Instructions that are left of the program: without those that are never reached with these options, and with those that the
    /// kernel adds.
    pub translated: Option<u32>,
}

/// Has the kernel check every program, also those that are for other kernels or that these options do not need. Gives by name what it
/// counted, or why it refuses the program.
///
/// # Errors
/// As [`super::load_programs`]; a refused program is none.
pub fn verify(
    options: Options,
) -> Result<BTreeMap<String, Result<Verified, AttachError>>, AttachError> {
    let mut programs = prepare(options, own_netns())?;
    let all = programs.programs_mut();
    let verified = |program: &mut Program| {
        let info = load(program).and_then(|()| program.info());
        let info = info.map_err(|error| AttachError::of("load its program", error))?;
        Ok(Verified {
            verified: info.verified_instruction_count(),
            translated: info.size_translated().map(|bytes| bytes / INSTRUCTION),
        })
    };
    Ok(all
        .map(|(name, program)| (name.to_owned(), verified(program)))
        .collect())
}

/// Bytes of `struct bpf_insn`.
const INSTRUCTION: u32 = 8;

fn load(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::SockOps(program) => program.load(),
        Program::CgroupSkb(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        _ => unreachable!("sidecar-ebpf has no programs of other types"),
    }
}

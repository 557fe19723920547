use std::{fs::File, io, os::fd::OwnedFd};

use super::{
    bpf::{BPF_PROG_ATTACH, BPF_PROG_DETACH, Instruction, attachment, load},
    cgroup::Cgroup,
    error::Error,
};

/// Another program's hook at packets that leave a cgroup, which lets all of them pass, and allows no other program beside it. Detached on
/// drop.
#[derive(Debug)]
pub struct PacketHook {
    program: OwnedFd,
    cgroup: File,
}

const BPF_PROG_TYPE_CGROUP_SKB: u32 = 8;
const BPF_CGROUP_INET_EGRESS: u32 = 1;

// === impl PacketHook ===

impl PacketHook {
    /// Attaches it.
    ///
    /// # Errors
    /// Not root.
    pub fn attach_alone(cgroup: &Cgroup) -> Result<Self, Error> {
        let attach = || -> io::Result<Self> {
            let program = [
                Instruction::new(0xb7, 0, 0, 0, 1), // r0 = 1
                Instruction::new(0x95, 0, 0, 0, 0), // exit
            ];
            let kind = BPF_PROG_TYPE_CGROUP_SKB;
            let program = load(kind, BPF_CGROUP_INET_EGRESS, &program)?;
            let cgroup = File::open(cgroup.path())?;
            attachment(
                BPF_PROG_ATTACH,
                &cgroup,
                &program,
                BPF_CGROUP_INET_EGRESS,
                0,
            )?;
            Ok(Self { program, cgroup })
        };
        attach().map_err(Error::at("attach a packet hook", "run as root"))
    }
}

impl Drop for PacketHook {
    fn drop(&mut self) {
        let Self { program, cgroup } = self;
        let attach = BPF_CGROUP_INET_EGRESS;
        if let Err(error) = attachment(BPF_PROG_DETACH, cgroup, program, attach, 0) {
            eprintln!("a packet hook stays attached: {error}");
        }
    }
}

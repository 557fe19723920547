//! Why bpf(2) is refused to a process that holds the capabilities for it. The kernel's answer is the same for most
//! reasons; which one it is follows from the process's confinement, and from two calls that change nothing.

use std::{
    fmt, io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use crate::{
    confinement::{Confinement, Seccomp, Surroundings},
    files::NO_DESCRIPTOR,
};

/// Why the eBPF source is refused. Its name, in logs and in `flowcar check`, is one word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The kernel lacks something, or its verifier refuses the program.
    Kernel,
    /// A capability is missing.
    Capability,
    /// A user namespace, in which capabilities do not count for bpf(2).
    UserNamespace,
    /// A seccomp filter answers instead of the kernel.
    Seccomp,
    /// SELinux, with the context of the process.
    Selinux(String),
    /// An AppArmor profile.
    AppArmor(String),
    /// RLIMIT_MEMLOCK in bytes, against which maps count before Linux 5.11.
    Memlock(u64),
    /// Another program on the cgroup or above it, attached so that it allows no others.
    Exclusive,
    /// There is no cgroup2 to attach to.
    CgroupV1,
    /// The cgroup cannot be opened.
    Cgroup,
    /// The node's cgroup tree could be written to.
    WritableTree,
    /// The process, or the machine, has no file descriptor left.
    Descriptors,
    /// This binary holds no programs.
    Build,
    /// None of the known causes was seen.
    Unknown,
}

/// The answer to a call without effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The call reaches bpf(2).
    Reached,
    /// The call fails with this error, or is not allowed.
    Refused(i32),
}

// === impl Cause ===

impl Cause {
    /// Why a map cannot be made or a program cannot be loaded, with all capabilities that it takes.
    pub fn of_refusal() -> Self {
        judge(&Surroundings::read(), unknown_command(), small_map())
    }

    /// Why a program cannot be attached, once it could be loaded.
    pub const fn of_refused_attachment() -> Self {
        Self::Exclusive
    }

    /// One word.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Capability => "capability",
            Self::UserNamespace => "user_namespace",
            Self::Seccomp => "seccomp",
            Self::Selinux(_) => "selinux",
            Self::AppArmor(_) => "apparmor",
            Self::Memlock(_) => "memlock",
            Self::Exclusive => "exclusive_program",
            Self::CgroupV1 => "cgroup_v1",
            Self::Cgroup => "cgroup",
            Self::WritableTree => "writable_cgroup_tree",
            Self::Descriptors => "descriptors",
            Self::Build => "build",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Cause {
    /// The cause and its remedy.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel => f.write_str("this kernel cannot do it"),
            Self::Capability => f.write_str("a capability is missing"),
            Self::UserNamespace => f.write_str(
                "this is a user namespace, in which no capability counts for bpf(2) (Kubernetes: hostUsers must not be false)",
            ),
            Self::Seccomp => f.write_str(
                "a seccomp filter denies bpf(2) (Kubernetes: seccompProfile RuntimeDefault allows it to those with CAP_BPF)",
            ),
            Self::Selinux(context) => write!(
                f,
                "SELinux denies it to {context}: allow that domain the class bpf (map_create, map_read, map_write, prog_load, prog_run)"
            ),
            Self::AppArmor(profile) => write!(
                f,
                "the AppArmor profile {profile} denies it: allow it `capability bpf` and `capability net_admin`"
            ),
            Self::Memlock(limit) => write!(
                f,
                "before Linux 5.11 maps count against RLIMIT_MEMLOCK, which is {limit} bytes here: raise it for the container runtime (LimitMEMLOCK=infinity), or use a newer kernel"
            ),
            Self::Exclusive => f.write_str(
                "another program is attached to the cgroup or to one above it in a way that allows no others (see `bpftool cgroup tree`); its owner must attach it with BPF_F_ALLOW_MULTI or by a link",
            ),
            Self::CgroupV1 => f.write_str(
                "no cgroup2 is mounted, and programs attach to cgroup2 only: boot the node with systemd.unified_cgroup_hierarchy=1",
            ),
            Self::Cgroup => f.write_str("the cgroup cannot be opened"),
            Self::WritableTree => f.write_str(
                "the node's cgroup tree is mounted so that flowcar could write to it (Kubernetes: readOnly with recursiveReadOnly)",
            ),
            Self::Descriptors => f.write_str(NO_DESCRIPTOR),
            Self::Build => f.write_str("this flowcar was built without its programs"),
            Self::Unknown => f.write_str(
                "neither a user namespace, a seccomp filter, SELinux, AppArmor nor RLIMIT_MEMLOCK is seen to be why",
            ),
        }
    }
}

/// From the process's confinement, and from the answers to two calls: one with an unknown command, one that makes a map of a few
/// bytes.
fn judge(around: &Surroundings, unknown: Answer, small_map: Answer) -> Cause {
    if around.user_namespace {
        return Cause::UserNamespace;
    }
    if unknown != Answer::Reached && around.seccomp != Seccomp::Off {
        return Cause::Seccomp;
    }
    if unknown == Answer::Refused(libc::ENOSYS) {
        return Cause::Kernel;
    }
    if let (Answer::Reached, Some(limit)) = (small_map, around.memlock) {
        return Cause::Memlock(limit);
    }
    match &around.confinement {
        Confinement::Selinux(context) if around.selinux_enforcing != Some(false) => {
            Cause::Selinux(context.clone())
        }
        Confinement::AppArmor(profile) => Cause::AppArmor(profile.clone()),
        _ => Cause::Unknown,
    }
}

/// A filter answers what the kernel would not: it may call bpf(2) unknown.
pub(super) fn seccomp_answers() -> bool {
    judge(&Surroundings::read(), unknown_command(), Answer::Refused(0)) == Cause::Seccomp
}

/// bpf(2) with a command that no kernel knows. A process that may call it gets EINVAL (kernel/bpf/syscall.c, __sys_bpf); no security
/// module is called for an unknown command.
pub(crate) fn unknown_command() -> Answer {
    const UNKNOWN: libc::c_int = libc::c_int::MAX;
    match bpf(UNKNOWN, &[0_u32; 4]) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Answer::Reached,
        Err(error) => Answer::Refused(error.raw_os_error().unwrap_or(0)),
        Ok(_) => Answer::Reached,
    }
}

/// Whether [`create_small_map`] succeeds.
fn small_map() -> Answer {
    match create_small_map() {
        Ok(_) => Answer::Reached,
        Err(error) => Answer::Refused(error.raw_os_error().unwrap_or(0)),
    }
}

/// An array of one u32.
pub(super) fn create_small_map() -> io::Result<OwnedFd> {
    const BPF_MAP_CREATE: libc::c_int = 0;
    const BPF_MAP_TYPE_ARRAY: u32 = 2;
    // The beginning of `union bpf_attr`: map_type, key_size, value_size, max_entries.
    let fd = bpf(BPF_MAP_CREATE, &[BPF_MAP_TYPE_ARRAY, 4, 4, 1])?;
    // SAFETY: a descriptor that bpf(2) just made, and that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Reads the first element of a map of u32s.
pub(super) fn read_first(map: BorrowedFd<'_>) -> io::Result<u32> {
    const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
    let (key, mut value) = (0_u32, 0_u32);
    let address = |pointer: *const u32| pointer.expose_provenance() as u64;
    // map_fd and padding, key, value, flags.
    let map = u64::from(map.as_raw_fd().cast_unsigned());
    let attributes = [map, address(&raw const key), address(&raw mut value), 0];
    bpf(BPF_MAP_LOOKUP_ELEM, &attributes)?;
    Ok(value)
}

/// The caller vouches for what the attributes of `command` point to.
fn bpf<T>(command: libc::c_int, attributes: &[T; 4]) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads the attributes, which live through the call, and nothing past them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_ptr(),
            size_of_val(attributes),
        )
    };
    match libc::c_int::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPERM: Answer = Answer::Refused(libc::EPERM);

    fn around() -> Surroundings {
        Surroundings {
            memlock: Some(65536),
            ..Surroundings::default()
        }
    }

    #[test]
    fn user_namespace_is_the_first_cause() {
        let around = Surroundings {
            user_namespace: true,
            seccomp: Seccomp::Filtered,
            ..around()
        };
        assert_eq!(judge(&around, EPERM, EPERM), Cause::UserNamespace);
    }

    /// RuntimeDefault is a filter, too, and lets bpf(2) through.
    #[test]
    fn seccomp_is_the_cause_only_where_it_refuses() {
        let filtered = Surroundings {
            seccomp: Seccomp::Filtered,
            ..around()
        };
        assert_eq!(judge(&filtered, EPERM, EPERM), Cause::Seccomp);
        let unknown = Answer::Refused(libc::ENOSYS);
        assert_eq!(judge(&filtered, unknown, unknown), Cause::Seccomp);
        assert_eq!(judge(&around(), unknown, unknown), Cause::Kernel);
        let through = judge(&filtered, Answer::Reached, Answer::Reached);
        assert_eq!(through, Cause::Memlock(65536));
    }

    #[test]
    fn memlock_is_the_cause_where_a_small_map_can_be_made() {
        assert_eq!(
            judge(&around(), Answer::Reached, Answer::Reached),
            Cause::Memlock(65536)
        );
        let unlimited = Surroundings::default();
        assert_eq!(
            judge(&unlimited, Answer::Reached, Answer::Reached),
            Cause::Unknown
        );
    }

    #[test]
    fn security_modules_are_named() {
        let context = "u:r:container_t:s0".to_owned();
        let mut around = around();
        around.confinement = Confinement::Selinux(context.clone());
        assert_eq!(
            judge(&around, Answer::Reached, EPERM),
            Cause::Selinux(context)
        );
        around.selinux_enforcing = Some(false);
        assert_eq!(judge(&around, Answer::Reached, EPERM), Cause::Unknown);
        around.confinement = Confinement::AppArmor("tight".into());
        assert_eq!(
            judge(&around, Answer::Reached, EPERM),
            Cause::AppArmor("tight".into())
        );
    }
}

use std::{io, os::unix::process::CommandExt, panic, process::Command, thread};

use caps::Capability;

use super::error::Error;

/// Takes capabilities away from a command.
///
/// A container's entry process that runs as root has exactly the capabilities of its bounding set: execve
/// of uid 0 gives `permitted = inheritable | bounding` (capabilities(7), "Capabilities and execution of
/// programs by root"). So the bounding set is reduced to the requested capabilities, inheritable and ambient are
/// emptied, and no_new_privs is set, as runc does for a container with `drop: [ALL]`, `add: [..]`,
/// `allowPrivilegeEscalation: false`. Ambient capabilities would give the same sets to another uid, which
/// Kubernetes cannot.
pub trait OnlyCaps {
    /// Makes the command run as uid 0 with exactly these capabilities. Call it after everything that needs
    /// others (joining a cgroup or a namespace).
    fn with_only_caps(&mut self, kept: &[Capability]) -> &mut Self;

    /// Makes the command run as `nobody` (uid and gid 65534, no other groups), without any capability and
    /// without a way to get one. Call it last, as [`OnlyCaps::with_only_caps`].
    fn unprivileged(&mut self) -> &mut Self;
}

// === impl OnlyCaps ===

impl OnlyCaps for Command {
    fn with_only_caps(&mut self, kept: &[Capability]) -> &mut Self {
        let kept = mask(kept);
        // SAFETY: between fork and exec the closure makes system calls only, on values of its own.
        unsafe { self.pre_exec(move || limit_next_exec(kept)) }
    }

    fn unprivileged(&mut self) -> &mut Self {
        // SAFETY: between fork and exec the closure makes system calls only, on values of its own.
        unsafe {
            self.pre_exec(|| {
                limit_next_exec(0)?;
                become_nobody()
            })
        }
    }
}

/// Runs `work` on a thread that has exactly these capabilities, permitted and effective; threads it starts
/// inherit them. To load BPF programs in the test's own process as a sidecar may. A panic in `work` goes
/// on in the caller.
///
/// # Errors
/// The calling thread lacks one of the capabilities, or no thread can be started.
pub fn with_only_caps<T: Send>(
    kept: &[Capability],
    work: impl FnOnce() -> T + Send,
) -> Result<T, Error> {
    let kept = mask(kept);
    on_limited_thread(|| set_capabilities(kept), work)
}

/// The same as `nobody` (uid and gid 65534, no other groups), as which an application may run beside flowcar: without
/// capabilities, or with some of them.
///
/// # Errors
/// As [`with_only_caps`].
pub fn as_nobody<T: Send>(
    kept: &[Capability],
    work: impl FnOnce() -> T + Send,
) -> Result<T, Error> {
    let kept = mask(kept);
    let change = || {
        // SAFETY: PR_SET_KEEPCAPS takes numbers. Another user's thread would lose all capabilities.
        check(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) })?;
        become_nobody()?;
        set_capabilities(kept)
    };
    on_limited_thread(change, work)
}

/// Runs `work` on a thread whose credentials `change` has changed.
fn on_limited_thread<T: Send>(
    change: impl FnOnce() -> io::Result<()> + Send,
    work: impl FnOnce() -> T + Send,
) -> Result<T, Error> {
    let result = thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, move || -> io::Result<T> {
            clear_ambient()?;
            change()?;
            Ok(work())
        })?;
        thread
            .join()
            .unwrap_or_else(|panic| panic::resume_unwind(panic))
    });
    result.map_err(Error::at("limit a thread's capabilities", "run as root"))
}

fn mask(capabilities: &[Capability]) -> u64 {
    capabilities
        .iter()
        .fold(0, |mask, capability| mask | capability.bitmask())
}

/// Leaves permitted and effective as they are: execve computes them anew.
fn limit_next_exec(kept: u64) -> io::Result<()> {
    for capability in 0..64 {
        // SAFETY: PR_CAPBSET_DROP takes a number.
        let dropped = kept & (1 << capability) != 0
            || unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability as libc::c_ulong, 0, 0, 0) }
                == 0;
        if !dropped {
            let error = io::Error::last_os_error();
            // EINVAL: past the last capability that this kernel knows.
            if error.raw_os_error() != Some(libc::EINVAL) {
                return Err(error);
            }
            break;
        }
    }
    clear_ambient()?;
    clear_inheritable()?;
    // SAFETY: PR_SET_NO_NEW_PRIVS takes numbers.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
}

fn become_nobody() -> io::Result<()> {
    const NOBODY: libc::uid_t = 65534;
    // SAFETY: system calls on numbers, and on an empty list of groups. They are made directly because the C
    // library's wrappers change every thread of the process, with a lock that may be held at the fork.
    unsafe {
        check(libc::syscall(
            libc::SYS_setgroups,
            0,
            std::ptr::null::<libc::gid_t>(),
        ))?;
        check(libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY))?;
        check(libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY))
    }
}

fn clear_ambient() -> io::Result<()> {
    // SAFETY: PR_CAP_AMBIENT_CLEAR_ALL takes numbers.
    check(unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        )
    })
}

/// `struct __user_cap_header_struct` of linux/capability.h.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`; version 3 takes two, for the low and the high 32 bits.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`.
const VERSION_3: u32 = 0x2008_0522;

fn clear_inheritable() -> io::Result<()> {
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut data = [Data::default(); 2];
    // SAFETY: both point to values of the kernel's layout that live through the call.
    let got = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, &raw mut data) };
    check(got)?;
    for half in &mut data {
        half.inheritable = 0;
    }
    capset(header, &data)
}

fn set_capabilities(kept: u64) -> io::Result<()> {
    let half = |shift: u32| Data {
        effective: (kept >> shift) as u32,
        permitted: (kept >> shift) as u32,
        inheritable: 0,
    };
    capset(
        Header {
            version: VERSION_3,
            pid: 0,
        },
        &[half(0), half(32)],
    )
}

fn capset(mut header: Header, data: &[Data; 2]) -> io::Result<()> {
    // SAFETY: both point to values of the kernel's layout that live through the call.
    let set = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
    check(set)
}

fn check(returned: impl Into<libc::c_long>) -> io::Result<()> {
    if returned.into() < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

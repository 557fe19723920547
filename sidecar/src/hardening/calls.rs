//! The system calls after programs are attached: of tokio, rustls, the resolvers of glibc and musl, and flowcar.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, SeccompCmpArgLen as Width, SeccompCmpOp as Is, SeccompCondition, SeccompRule,
};

use super::Needs;

type Calls = BTreeMap<i64, Vec<SeccompRule>>;

/// Commands of bpf(2) (include/uapi/linux/bpf.h): maps are read and written. No program is loaded, no map is created, nothing is pinned.
const BPF_COMMANDS: [u64; 2] = [
    1, // BPF_MAP_LOOKUP_ELEM
    2, // BPF_MAP_UPDATE_ELEM
];

/// Those that attach the loaded programs again.
const BPF_ATTACH: [u64; 2] = [
    8,  // BPF_PROG_ATTACH, where there is no link
    28, // BPF_LINK_CREATE
];

/// Requests of ioctl(2): is it a terminal, how wide is it, do not wait, how much is there, an interface's number. By
/// include/uapi/asm-generic/ioctls.h and include/uapi/linux/sockios.h: the C libraries disagree about their type.
const IOCTLS: [u64; 5] = [
    0x5401, // TCGETS
    0x5413, // TIOCGWINSZ
    0x5421, // FIONBIO
    0x541b, // FIONREAD
    0x8933, // SIOCGIFINDEX
];

/// Calls with any arguments.
#[rustfmt::skip]
const ANY: &[libc::c_long] = &[
    // Memory.
    libc::SYS_brk, libc::SYS_mmap, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_mprotect, libc::SYS_madvise, libc::SYS_membarrier,
    // Threads, time, signals of its own.
    libc::SYS_futex, libc::SYS_set_robust_list, libc::SYS_get_robust_list, libc::SYS_rseq, libc::SYS_set_tid_address,
    libc::SYS_sched_yield, libc::SYS_sched_getaffinity, libc::SYS_getcpu, libc::SYS_exit, libc::SYS_exit_group,
    libc::SYS_restart_syscall, libc::SYS_nanosleep, libc::SYS_clock_nanosleep, libc::SYS_clock_gettime,
    libc::SYS_clock_getres, libc::SYS_gettimeofday, libc::SYS_getrandom, libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn,
    // The process's identity.
    libc::SYS_getpid, libc::SYS_gettid, libc::SYS_getppid, libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid,
    libc::SYS_getegid, libc::SYS_getrusage, libc::SYS_uname, libc::SYS_sysinfo, libc::SYS_capget, libc::SYS_getcwd,
    // Files. Landlock decides which may be written.
    libc::SYS_openat, libc::SYS_close, libc::SYS_read, libc::SYS_write, libc::SYS_readv, libc::SYS_writev, libc::SYS_pread64,
    libc::SYS_lseek, libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_statfs, libc::SYS_fstatfs,
    libc::SYS_readlinkat, libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_getdents64, libc::SYS_fcntl,
    libc::SYS_dup, libc::SYS_dup3, libc::SYS_unlinkat, libc::SYS_renameat, libc::SYS_renameat2,
    // Waiting.
    libc::SYS_ppoll, libc::SYS_pselect6, libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2, libc::SYS_timerfd_create, libc::SYS_timerfd_settime, libc::SYS_eventfd2, libc::SYS_pipe2, libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch, libc::SYS_inotify_rm_watch,
    // Sockets; of which families, see below.
    libc::SYS_connect, libc::SYS_bind, libc::SYS_listen, libc::SYS_accept4, libc::SYS_accept, libc::SYS_getsockname,
    libc::SYS_getpeername, libc::SYS_getsockopt, libc::SYS_setsockopt, libc::SYS_sendto, libc::SYS_recvfrom,
    libc::SYS_sendmsg, libc::SYS_recvmsg, libc::SYS_sendmmsg, libc::SYS_recvmmsg, libc::SYS_shutdown,
];

/// Calls that kernels of newer processors do not have.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const OLDER: &[libc::c_long] = &[
    libc::SYS_open, libc::SYS_stat, libc::SYS_lstat, libc::SYS_access, libc::SYS_readlink, libc::SYS_poll, libc::SYS_select,
    libc::SYS_epoll_wait, libc::SYS_dup2, libc::SYS_time, libc::SYS_unlink, libc::SYS_rmdir,
    libc::SYS_rename, libc::SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[libc::c_long] = &[];

/// Calls to wait for a child and to signal it.
const CHILD: &[libc::c_long] = &[
    libc::SYS_kill,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
];

/// Calls that flowcar never makes from here on: other programs, other processes, other namespaces, the kernel itself.
#[rustfmt::skip]
const HOSTILE: &[libc::c_long] = &[
    libc::SYS_execve, libc::SYS_execveat, libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd, libc::SYS_kcmp, libc::SYS_unshare, libc::SYS_setns, libc::SYS_mount, libc::SYS_umount2,
    libc::SYS_move_mount, libc::SYS_open_tree, libc::SYS_fsopen, libc::SYS_fsconfig, libc::SYS_fsmount, libc::SYS_fspick,
    libc::SYS_pivot_root, libc::SYS_chroot, libc::SYS_init_module, libc::SYS_finit_module, libc::SYS_delete_module,
    libc::SYS_kexec_load, libc::SYS_reboot, libc::SYS_swapon, libc::SYS_swapoff, libc::SYS_perf_event_open,
    libc::SYS_userfaultfd, libc::SYS_io_uring_setup, libc::SYS_add_key, libc::SYS_request_key, libc::SYS_keyctl,
    libc::SYS_open_by_handle_at, libc::SYS_setuid, libc::SYS_setgid, libc::SYS_setresuid, libc::SYS_setresgid,
    libc::SYS_capset,
];

pub(super) fn hostile() -> Calls {
    HOSTILE.iter().map(|call| (*call, Vec::new())).collect()
}

pub(super) fn unknown() -> Calls {
    Calls::from([(libc::SYS_clone3, Vec::new())])
}

pub(super) fn needed(needs: &Needs<'_>) -> Result<Calls, BackendError> {
    let of_child = if needs.child { CHILD } else { &[] };
    let attach: &[u64] = if needs.attaches { &BPF_ATTACH } else { &[] };
    let any = ANY.iter().chain(OLDER).chain(of_child);
    let mut calls: Calls = any.map(|call| (*call, Vec::new())).collect();
    // The filter before this one answers.
    calls.insert(libc::SYS_clone3, Vec::new());
    calls.insert(libc::SYS_bpf, one_of(0, &[&BPF_COMMANDS, attach].concat())?);
    calls.insert(libc::SYS_ioctl, one_of(1, &IOCTLS)?);
    // The name of a thread, and of memory (PR_SET_VMA).
    calls.insert(
        libc::SYS_prctl,
        one_of(0, &[libc::PR_SET_NAME as u64, 0x5356_4d41])?,
    );
    // An abort, of itself only.
    calls.insert(libc::SYS_tgkill, one_of(0, &[std::process::id().into()])?);
    // Limits are read, not set.
    let nothing = SeccompCondition::new(2, Width::Qword, Is::Eq, 0)?;
    calls.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![nothing])?]);
    // Threads of its own, and no process.
    let thread = libc::CLONE_THREAD as u64;
    let thread = SeccompCondition::new(0, Width::Qword, Is::MaskedEq(thread), thread)?;
    calls.insert(libc::SYS_clone, vec![SeccompRule::new(vec![thread])?]);
    calls.insert(libc::SYS_socketpair, one_of(0, &[libc::AF_UNIX as u64])?);
    calls.insert(libc::SYS_socket, sockets()?);
    Ok(calls)
}

/// Receivers and resolvers (AF_UNIX, AF_INET, AF_INET6), the kernel's socket and interface tables (AF_NETLINK).
fn sockets() -> Result<Vec<SeccompRule>, BackendError> {
    let is = |argument, value: libc::c_int| {
        SeccompCondition::new(argument, Width::Dword, Is::Eq, value as u64)
    };
    let mut rules = one_of(
        0,
        &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6].map(|f| f as u64),
    )?;
    for protocol in [libc::NETLINK_SOCK_DIAG, libc::NETLINK_ROUTE] {
        rules.push(SeccompRule::new(vec![
            is(0, libc::AF_NETLINK)?,
            is(2, protocol)?,
        ])?);
    }
    Ok(rules)
}

/// An argument has one of these values.
fn one_of(argument: u8, values: &[u64]) -> Result<Vec<SeccompRule>, BackendError> {
    let rule = |value: &u64| {
        SeccompRule::new(vec![SeccompCondition::new(
            argument,
            Width::Dword,
            Is::Eq,
            *value,
        )?])
    };
    values.iter().map(rule).collect()
}

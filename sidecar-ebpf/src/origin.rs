//! Whose a socket is: the cgroup and the process that called `connect()` or `listen()`.
//!
//! Only in the context of a system call is the current task the caller. Of a server's socket, which comes out of an interrupt, its listener
//! is known: `TCP_LISTEN_CB` where callbacks may ask for the current task (6.10), and before that the post_bind hooks (4.17; on a cgroup),
//! which see every bound socket. The helpers are those of all hooks of sockets since 5.7.

use core::arch::asm;

use aya_ebpf::{
    bindings::{bpf_pidns_info, bpf_sock},
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_netns_cookie,
        bpf_get_ns_current_pid_tgid, bpf_get_socket_cookie,
    },
    macros::{cgroup_sock, map},
    maps::Array,
    programs::SockContext,
};
use flowcar_shared::{
    counter::Counter,
    origin::{CALLER, CLOSED_LISTENER, LISTENER, OriginRecord},
    record::AF_INET,
};

use crate::{
    ctx::{Ctx, TCP, now},
    maps::{self, FORCE_WAKEUP, NO_WAKEUP, RECORDS, count},
    verifier::put,
};

/// Who calls.
#[derive(Clone, Copy)]
pub(crate) struct Origin {
    /// The id of its cgroup.
    pub(crate) cgroup: u64,
    /// The process, in the initial PID namespace.
    pub(crate) tgid: u32,
}

/// A process that called `connect()`.
#[repr(C)]
struct Caller {
    tgid: u32,
    /// When it was reported, in units of 2^20 ns.
    reported: u32,
}

/// How many [`CALLERS`] there are.
const CALLER_COUNT: u32 = 4096;

/// Processes that called `connect()`, by the lower bits of their numbers: 32 KiB. One entry where they are not reported.
#[map]
static CALLERS: Array<Caller> = Array::with_max_entries(CALLER_COUNT, 0);

const _: () = assert!(CALLER_COUNT.is_power_of_two());

/// A socket was bound to an IPv4 address. Always answers 1: it stays so.
#[cgroup_sock(post_bind4)]
pub(crate) fn flowcar_post_bind4(context: SockContext) -> i32 {
    bound::<false>(context.sock);
    1
}

/// A socket was bound to an IPv6 address. Always answers 1.
#[cgroup_sock(post_bind6)]
pub(crate) fn flowcar_post_bind6(context: SockContext) -> i32 {
    bound::<true>(context.sock);
    1
}

// === impl Origin ===

impl Origin {
    /// The caller, in the context of its system call; zeros where userspace does not want to know.
    #[inline(always)]
    pub(crate) fn current() -> Self {
        if !maps::reports_origins() {
            return Self { cgroup: 0, tgid: 0 };
        }
        Self {
            // SAFETY: a helper without arguments.
            cgroup: unsafe { bpf_get_current_cgroup_id() },
            tgid: (bpf_get_current_pid_tgid() >> 32) as u32,
        }
    }

    /// A process calls `connect()`. Reports one that was not seen lately at once: what it is called can be read only while it runs. Two
    /// processes of one entry that take turns are reported a thousand times a second at most. `OWN`: with their numbers in userspace's PID
    /// namespace.
    #[inline(always)]
    pub(crate) fn called<const OWN: bool>(self, now: u64) {
        if !maps::reports_callers() {
            return;
        }
        let key = self.tgid & (CALLER_COUNT - 1);
        let caller = maps::element(&raw const CALLERS, &key).cast::<Caller>();
        if caller.is_null() {
            return;
        }
        // SAFETY: an element of the array; words that are stored as a whole.
        let (tgid, reported) = unsafe {
            (
                (&raw const (*caller).tgid).read_volatile(),
                (&raw const (*caller).reported).read_volatile(),
            )
        };
        let time = (now >> 20) as u32;
        if tgid != self.tgid && reported != time {
            put! { caller,
                tgid: self.tgid,
                reported: time,
            }
            report_caller::<OWN>(self.cgroup, self.tgid, now);
        }
    }
}

#[cold]
#[inline(never)]
fn report_caller<const OWN: bool>(cgroup: u64, tgid: u32, now: u64) {
    let origin = Origin { cgroup, tgid };
    let own_tgid = if OWN { own_tgid() } else { 0 };
    report_without_address(CALLER, 0, origin, own_tgid, now, FORCE_WAKEUP);
}

/// The current process in userspace's PID namespace; 0 where it is of another one, or userspace does not ask. Kernels that tell callbacks
/// who calls have the helper (6.10). Programs that others load must not have it, not even unreachably: without CAP_PERFMON verifiers check
/// that, too.
#[inline(always)]
fn own_tgid() -> u32 {
    let (device, inode) = maps::userspace_pidns();
    if inode == 0 {
        return 0;
    }
    let mut found = bpf_pidns_info { pid: 0, tgid: 0 };
    // SAFETY: the helper writes as many bytes as it is given, and zeros where the namespace is another one.
    unsafe {
        bpf_get_ns_current_pid_tgid(
            device,
            inode,
            &raw mut found,
            size_of::<bpf_pidns_info>() as u32,
        )
    };
    found.tgid
}

/// The application closes a listener (`sock_release`): another one may take its address.
#[cold]
#[inline(never)]
pub(crate) fn stops_listening(sock: *mut bpf_sock) {
    if maps::reports_origins() {
        // SAFETY: the helper takes the context.
        let cookie = unsafe { bpf_get_socket_cookie(sock.cast()) };
        let nobody = Origin { cgroup: 0, tgid: 0 };
        report_without_address(CLOSED_LISTENER, cookie, nobody, 0, now(), NO_WAKEUP);
    }
}

#[inline(always)]
fn report_without_address(
    kind: u8,
    cookie: u64,
    origin: Origin,
    own_tgid: u32,
    now: u64,
    wake: u64,
) {
    let Some(mut entry) = RECORDS.reserve::<OriginRecord>(0) else {
        return count(Counter::OriginDropped);
    };
    let record = entry.as_mut_ptr();
    put! { record,
        address[0]: 0,
        address[1]: 0,
        address[2]: 0,
        address[3]: 0,
    }
    let nowhere = Socket {
        cookie,
        netns: 0,
        port: 0,
    };
    fill(record, kind, nowhere, origin, own_tgid, now);
    entry.submit(wake);
}

/// What of a socket is reported beside its address.
struct Socket {
    cookie: u64,
    /// The cookie of its network namespace.
    netns: u64,
    port: u16,
}

/// Writes all of a record but its address, which is read in another way by each kind of program.
#[inline(always)]
fn fill(
    record: *mut OriginRecord,
    kind: u8,
    socket: Socket,
    origin: Origin,
    own_tgid: u32,
    now: u64,
) {
    put! { record,
        cookie: socket.cookie,
        at_ns: now,
        cgroup_id: origin.cgroup,
        netns: socket.netns,
        tgid: origin.tgid,
        own_tgid: own_tgid,
        port: socket.port,
        kind: kind,
    }
}

/// A socket starts to listen (`BPF_SOCK_OPS_TCP_LISTEN_CB`, since 4.19).
#[cold]
#[inline(never)]
pub(crate) fn listening(ctx: Ctx) {
    let socket = Socket {
        cookie: ctx.cookie(),
        netns: ctx.netns_cookie(),
        port: ctx.local_port() as u16,
    };
    let (origin, own_tgid, now) = (Origin::current(), own_tgid(), now());
    let Some(mut entry) = RECORDS.reserve::<OriginRecord>(0) else {
        return count(Counter::OriginDropped);
    };
    let record = entry.as_mut_ptr();
    if ctx.family() == AF_INET {
        put! { record,
            address[0]: 0,
            address[1]: 0,
            address[2]: MAPPED,
            address[3]: ctx.local_ip4(),
        }
        // As in `Ctx::addresses`.
        // SAFETY: no instruction at all.
        unsafe { asm!("", options(nostack)) };
    } else {
        put! { record,
            address[0]: ctx.local_ip6::<0>(),
            address[1]: ctx.local_ip6::<1>(),
            address[2]: ctx.local_ip6::<2>(),
            address[3]: ctx.local_ip6::<3>(),
        }
    }
    fill(record, LISTENER, socket, origin, own_tgid, now);
    entry.submit(wake());
}

/// A record of a socket wakes userspace only where it reads names of processes, which is possible only while they run.
#[inline(always)]
fn wake() -> u64 {
    if maps::reports_callers() {
        FORCE_WAKEUP
    } else {
        NO_WAKEUP
    }
}

/// `::ffff:0:0`, the third word.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

#[inline(always)]
fn bound<const V6: bool>(sock: *mut bpf_sock) {
    macro_rules! field {
        ($($field:tt)*) => {
            // SAFETY: the verifier has proven the context pointer; the field is UAPI. One load for each, as in `Ctx`.
            unsafe { (&raw const (*sock).$($field)*).read_volatile() }
        };
    }
    let (protocol, port) = (field!(protocol), field!(src_port));
    if protocol != TCP || port == 0 {
        return;
    }
    let socket = Socket {
        // SAFETY: the helper takes the context.
        cookie: unsafe { bpf_get_socket_cookie(sock.cast()) },
        // SAFETY: as above.
        netns: unsafe { bpf_get_netns_cookie(sock.cast()) },
        port: port as u16,
    };
    let (origin, now) = (Origin::current(), now());
    let Some(mut entry) = RECORDS.reserve::<OriginRecord>(0) else {
        return count(Counter::OriginDropped);
    };
    let record = entry.as_mut_ptr();
    let words = if V6 {
        (
            field!(src_ip6[0]),
            field!(src_ip6[1]),
            field!(src_ip6[2]),
            field!(src_ip6[3]),
        )
    } else {
        (0, 0, MAPPED, field!(src_ip4))
    };
    put! { record,
        address[0]: words.0,
        address[1]: words.1,
        address[2]: words.2,
        address[3]: words.3,
    }
    // Kernels that have the helper report listeners by the callback.
    fill(record, LISTENER, socket, origin, 0, now);
    entry.submit(wake());
}

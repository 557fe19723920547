use std::{
    fs::File,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
};

use super::{
    bpf::{BPF_PROG_ATTACH, BPF_PROG_DETACH, Instruction, attachment, load},
    cgroup::Cgroup,
    error::Error,
};

/// Another program's hook at `connect()` on a cgroup. Detached on drop.
#[derive(Debug)]
pub struct ConnectHook {
    program: OwnedFd,
    cgroup: File,
    attach: u32,
}

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtConnect {
    /// Who asks for the first address gets the second one, as with a socket load balancer.
    Rewrite(SocketAddr, SocketAddr),
    /// Who asks for this port gets EPERM, as with a network policy.
    Refuse(u16),
}

const BPF_PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
const BPF_CGROUP_INET4_CONNECT: u32 = 10;
const BPF_CGROUP_INET6_CONNECT: u32 = 11;

/// Others are attached beside it and below it.
const BPF_F_ALLOW_MULTI: u32 = 2;
/// It runs before those of the cgroups below it (newer kernels).
const BPF_F_PREORDER: u32 = 64;

/// Offsets in `struct bpf_sock_addr`.
const USER_IP4: i16 = 4;
const USER_IP6: i16 = 8;
const USER_PORT: i16 = 24;

// === impl ConnectHook ===

impl ConnectHook {
    /// Attaches it for IPv4, or for IPv6 and v4-mapped addresses.
    ///
    /// # Errors
    /// Not root.
    pub fn attach(cgroup: &Cgroup, v6: bool, what: AtConnect) -> Result<Self, Error> {
        Self::attach_with(cgroup, v6, what, BPF_F_ALLOW_MULTI)
            .map_err(Error::at("attach a connect hook", "run as root"))
    }

    /// The same, to run before the hooks of the cgroups below. `None` where this kernel has no such order.
    ///
    /// # Errors
    /// Not root.
    pub fn attach_first(cgroup: &Cgroup, v6: bool, what: AtConnect) -> Result<Option<Self>, Error> {
        match Self::attach_with(cgroup, v6, what, BPF_F_ALLOW_MULTI | BPF_F_PREORDER) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(None),
            result => result
                .map(Some)
                .map_err(Error::at("attach a connect hook", "run as root")),
        }
    }

    fn attach_with(cgroup: &Cgroup, v6: bool, what: AtConnect, flags: u32) -> io::Result<Self> {
        let attach = if v6 {
            BPF_CGROUP_INET6_CONNECT
        } else {
            BPF_CGROUP_INET4_CONNECT
        };
        let program = load(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, attach, &program(v6, what))?;
        let cgroup = File::open(cgroup.path())?;
        attachment(BPF_PROG_ATTACH, &cgroup, &program, attach, flags)?;
        Ok(Self {
            program,
            cgroup,
            attach,
        })
    }
}

impl Drop for ConnectHook {
    fn drop(&mut self) {
        let Self {
            program,
            cgroup,
            attach,
        } = self;
        if let Err(error) = attachment(BPF_PROG_DETACH, cgroup, program, *attach, 0) {
            eprintln!("a connect hook stays attached: {error}");
        }
    }
}

fn program(v6: bool, what: AtConnect) -> Vec<Instruction> {
    let i = Instruction::new;
    let load_word = |offset| i(0x61, 2, 1, offset, 0);
    let set_word = |offset, value: u32| {
        [
            i(0xb4, 2, 0, 0, value.cast_signed()), // w2 = value
            i(0x63, 1, 2, offset, 0),              // *(u32 *)(r1 + offset) = r2
        ]
    };
    let port = |of: u16| u32::from(of.to_be());
    let mut program = vec![i(0xb7, 0, 0, 0, 1)]; // r0 = 1
    match what {
        AtConnect::Refuse(refused) => program.extend([
            load_word(USER_PORT),
            i(0x56, 2, 0, 1, port(refused).cast_signed()), // if w2 != port skip one
            i(0xb7, 0, 0, 0, 0),                           // r0 = 0
        ]),
        AtConnect::Rewrite(from, to) => {
            let words = |of: SocketAddr| {
                let mut words = words(of.ip(), v6);
                words.push((USER_PORT, port(of.port())));
                words
            };
            let (from, to) = (words(from), words(to));
            let changes: Vec<_> = to
                .into_iter()
                .flat_map(|(at, to)| set_word(at, to))
                .collect();
            for (number, (at, word)) in from.iter().enumerate() {
                let left = 2 * (from.len() - number - 1) + changes.len();
                let skip = i16::try_from(left).expect("a short program");
                program.extend([
                    load_word(*at),
                    i(0x56, 2, 0, skip, word.cast_signed()), // if w2 != word skip the rest
                ]);
            }
            program.extend(changes);
        }
    }
    program.push(i(0x95, 0, 0, 0, 0)); // exit
    program
}

/// The words of an address, with their offsets.
fn words(ip: IpAddr, v6: bool) -> Vec<(i16, u32)> {
    let ip = match (ip, v6) {
        (IpAddr::V4(ip), false) => return vec![(USER_IP4, u32::from_ne_bytes(ip.octets()))],
        (IpAddr::V4(ip), true) => ip.to_ipv6_mapped(),
        (IpAddr::V6(ip), _) => ip,
    };
    let octets = ip.octets();
    let (words, _) = octets.as_chunks::<4>();
    let offsets = (USER_IP6..).step_by(4);
    offsets
        .zip(words.iter().map(|word| u32::from_ne_bytes(*word)))
        .collect()
}

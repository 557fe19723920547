use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

const NODE: &str = "/dev/net/tun";

nix::ioctl_write_ptr_bad!(
    tun_set_iff,
    nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
    libc::ifreq
);

/// A TUN device, non-blocking. It goes away with this descriptor.
#[derive(Debug)]
pub(super) struct Tun(File);

// === impl Tun ===

impl Tun {
    /// Makes a device in the calling thread's network namespace: IP packets without a header of its own
    /// (IFF_NO_PI), and no offloads.
    pub(super) fn open(name: &str) -> io::Result<Self> {
        make_node()?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(NODE)?;
        // SAFETY: ifreq is plain data, for which zero is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // The last byte stays zero.
        for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1]
            .iter_mut()
            .zip(name.bytes())
        {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: the request outlives the call, and the kernel writes no more than its size.
        unsafe { tun_set_iff(file.as_raw_fd(), &raw const request) }?;
        Ok(Self(file))
    }

    /// Takes the next packet that the namespace sent; `None` when there is none now.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match (&self.0).read(buffer) {
            Ok(length) => Ok(Some(length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Hands a packet to the namespace; its kernel has dealt with it when this returns.
    pub(super) fn send(&self, packet: &[u8]) -> io::Result<()> {
        (&self.0).write(packet).map(|_| ())
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Minimal roots and initial ramdisks have the driver but not the node (major 10, minor 200, from the
/// kernel's admin-guide/devices).
fn make_node() -> io::Result<()> {
    if Path::new(NODE).exists() {
        return Ok(());
    }
    std::fs::create_dir_all("/dev/net")?;
    match mknod(
        NODE,
        SFlag::S_IFCHR,
        Mode::from_bits_truncate(0o600),
        makedev(10, 200),
    ) {
        Ok(()) | Err(nix::Error::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

//! The names under which probes are answered.

use std::{
    collections::BTreeSet,
    fs, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _, net::SocketAddr},
    },
    path::Path,
};

use nix::sys::prctl;
use uuid::Uuid;

use crate::cgroup::{self, CgroupError};

/// The beginning of the name of a process that answers under a name with a suffix.
const PROCESS: &str = "flowcar-";

/// Characters of a suffix: with [`PROCESS`] they are the 15 that a process's name may have (prctl(2), PR_SET_NAME), and 10^10
/// possibilities.
const LENGTH: usize = 7;

/// A name.
#[derive(Clone, Debug)]
pub(super) struct Name(String);

/// Distinguishes a name from the one that is taken. It is drawn when it is needed, so no process can have taken it before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Suffix(String);

// === impl Name ===

impl Name {
    /// The name for a flowcar in this container, or for the one here that follows this cgroup. An abstract name has at most 107
    /// bytes (unix(7)), and a path may have more, so its hash is used.
    pub(super) fn of(cgroup: Option<&Path>) -> io::Result<Self> {
        let id = container()?;
        Ok(Self(match cgroup {
            Some(path) => format!("flowcar.{id}.{}", hash_of(path)),
            None => format!("flowcar.{id}"),
        }))
    }

    /// The names that flowcars listen under, in the kernel's table of Unix sockets (/proc/net/unix, proc_net(5)): of those that follow this
    /// cgroup, or of those of any container.
    pub(super) fn in_table(sockets: &str, cgroup: Option<&Path>) -> impl Iterator<Item = String> {
        let hash = cgroup.map(hash_of);
        let names = sockets.lines().filter_map(move |line| {
            let mut columns = line.split_ascii_whitespace().skip(3);
            // __SO_ACCEPTCON (include/uapi/linux/net.h): it listens.
            let listens = columns.next()? == "00010000";
            let name = columns.nth(3)?.strip_prefix("@flowcar.")?;
            let of = name.split('.').nth(1);
            let wanted = match &hash {
                Some(hash) => of == Some(hash.as_str()),
                // The other names, with a suffix or without, are shorter than a hash.
                None => of.is_none_or(|part| part.len() == LENGTH),
            };
            (listens && wanted).then(|| format!("flowcar.{name}"))
        });
        names.collect::<BTreeSet<_>>().into_iter()
    }

    pub(super) fn address(&self, suffix: Option<&Suffix>) -> io::Result<SocketAddr> {
        SocketAddr::from_abstract_name(self.text(suffix))
    }

    /// The name without the NUL in front of it.
    pub(super) fn text(&self, suffix: Option<&Suffix>) -> String {
        let Self(name) = self;
        match suffix {
            Some(Suffix(suffix)) => format!("{name}.{suffix}"),
            None => name.clone(),
        }
    }
}

/// What distinguishes this container from others of its network namespace: its cgroup's directory or, where no cgroup2 is mounted, its
/// mount namespace.
fn container() -> io::Result<String> {
    let inode = |path: &Path| Ok::<_, io::Error>(fs::metadata(path)?.ino());
    match cgroup::own_cgroup() {
        Ok(own) => Ok(inode(&own)?.to_string()),
        Err(CgroupError::NotMounted) => {
            let mounts = inode(Path::new("/proc/self/ns/mnt"))?;
            Ok(format!("m{mounts}"))
        }
        Err(error) => Err(io::Error::other(error)),
    }
}

fn hash_of(cgroup: &Path) -> String {
    let hash = Uuid::new_v5(&Uuid::NAMESPACE_URL, cgroup.as_os_str().as_bytes());
    hash.simple().to_string()
}

// === impl Suffix ===

impl Suffix {
    /// Draws one, and puts it into the name of this process: every process in the PID namespace may read that, and no other may
    /// set it.
    pub(super) fn take() -> io::Result<Self> {
        let text: String = std::iter::repeat_with(fastrand::alphanumeric)
            .take(LENGTH)
            .collect();
        let name = std::ffi::CString::new(format!("{PROCESS}{text}"))?;
        prctl::set_name(&name)?;
        Ok(Self(text))
    }

    /// The suffix in the name of a process.
    pub(super) fn of_process(name: &str) -> Option<Self> {
        let text = name.trim_end().strip_prefix(PROCESS)?;
        let whole = text.len() == LENGTH && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        whole.then(|| Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_the_kernels_table() {
        let hash = hash_of(Path::new("/sys/fs/cgroup/web"));
        let table = format!(
            "Num       RefCount Protocol Flags    Type St Inode Path\n\
             0000000000000000: 00000002 00000000 00010000 0001 01  1001 @flowcar.77\n\
             0000000000000000: 00000003 00000000 00000000 0001 03  1002 @flowcar.78\n\
             0000000000000000: 00000002 00000000 00010000 0001 01  1003 @flowcar.79.a1B2c3D\n\
             0000000000000000: 00000002 00000000 00010000 0001 01  1004 @flowcar.77.{hash}\n\
             0000000000000000: 00000002 00000000 00010000 0001 01  1005 /run/flowcar.sock\n\
             0000000000000000: 00000002 00000000 00010000 0001 01  1006\n"
        );
        let found = |cgroup: Option<&str>| -> Vec<String> {
            Name::in_table(&table, cgroup.map(Path::new)).collect()
        };
        assert_eq!(found(None), ["flowcar.77", "flowcar.79.a1B2c3D"]);
        let web = found(Some("/sys/fs/cgroup/web"));
        assert_eq!(web, [format!("flowcar.77.{hash}")]);
        assert!(found(Some("/sys/fs/cgroup/db")).is_empty());
    }

    #[test]
    fn suffix_is_read_from_process_name() {
        let read = Suffix::of_process("flowcar-a1B2c3D\n");
        assert_eq!(read, Some(Suffix("a1B2c3D".to_owned())));
        for other in [
            "flowcar",
            "flowcar-",
            "flowcar-a1B2c3",
            "flowcar-a1/2c3D",
            "x-a1B2c3D",
        ] {
            assert_eq!(Suffix::of_process(other), None, "{other}");
        }
    }
}

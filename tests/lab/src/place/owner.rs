use std::{fmt, fs, io, os::unix::fs::MetadataExt, path::Path, process, str::FromStr};

/// The process that a fixture belongs to, so that a later run can distinguish a leftover from a fixture in use.
///
/// A process id alone is reused; with the start time (clock ticks since boot) it names one process. The
/// pid namespace identifies a run in another container, whose processes cannot be checked from here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Owner {
    pid_namespace: u64,
    pid: u32,
    started: u64,
}

// === impl Owner ===

impl Owner {
    pub(super) fn current() -> io::Result<Self> {
        Ok(Self {
            pid_namespace: own_pid_namespace()?,
            pid: process::id(),
            started: start_time(process::id())?,
        })
    }

    /// True only where it is certain that nobody uses the fixture any more.
    pub(super) fn is_dead(&self) -> bool {
        let here = own_pid_namespace().is_ok_and(|namespace| namespace == self.pid_namespace);
        let runs = start_time(self.pid).is_ok_and(|started| started == self.started);
        here && !runs
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.pid_namespace, self.pid, self.started)
    }
}

impl FromStr for Owner {
    type Err = ();

    /// Reads the owner back from the start of what follows the fixture's prefix.
    fn from_str(name: &str) -> Result<Self, ()> {
        let mut parts = name.split('-');
        let mut next = || parts.next().and_then(|part| part.parse().ok()).ok_or(());
        Ok(Self {
            pid_namespace: next()?,
            pid: next()?.try_into().map_err(|_| ())?,
            started: next()?,
        })
    }
}

fn own_pid_namespace() -> io::Result<u64> {
    Ok(fs::metadata("/proc/self/ns/pid")?.ino())
}

/// Field 22 of `/proc/PID/stat` (proc_pid_stat(5)), counted from behind the command, which may hold spaces.
fn start_time(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"))?;
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(19))
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "no start time in /proc/PID/stat",
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_round_trips_through_its_name_and_detects_death() {
        let me = Owner::current().unwrap();
        assert_eq!(format!("{me}-7-some-name").parse(), Ok(me));
        assert!(!me.is_dead());

        let mut child = process::Command::new("true").spawn().unwrap();
        let its = Owner {
            pid: child.id(),
            started: start_time(child.id()).unwrap(),
            ..me
        };
        child.wait().unwrap();
        assert!(its.is_dead());
        assert!(
            !Owner {
                pid_namespace: 1,
                ..its
            }
            .is_dead(),
            "another pid namespace is unknown"
        );
        assert!(
            Owner {
                started: me.started + 1,
                ..me
            }
            .is_dead(),
            "a reused process id is another process"
        );
        assert_eq!("no-owner".parse::<Owner>(), Err(()));
    }
}

//! A tool that runs.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use flowcar_lab::{place::Netns, usage};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use tempfile::NamedTempFile;

use super::Peer;
use crate::{figures, hooks};

/// How long a tool may take until its programs are loaded.
const LOADS_WITHIN: Duration = Duration::from_secs(20);

/// Its programs are all there once none came for so long: it attaches them at the end.
const LOADED_SINCE: Duration = Duration::from_secs(1);

/// How long it may take to end after SIGTERM.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// Between two readings of its state.
const PAUSE: Duration = Duration::from_millis(50);

const TRACEFS: &str = "/sys/kernel/tracing";

/// Flows that are read and thrown away, so that no receiver's cost is among the figures.
const NETOBSERV_PIPELINE: &str = r#"{"pipeline":[{"name":"out","follows":"preset-ingester"}],"parameters":[{"name":"out","write":{"type":"none"}}]}"#;

/// It is killed on drop, and by the kernel when the thread that started it ends.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
}

// === impl Running ===

impl Running {
    /// Starts it beside the connections of a network namespace, and waits until its programs are loaded. What it is goes to `peer`.
    ///
    /// # Errors
    /// The reason for which it does not run here.
    pub(super) fn start(tool: &Peer, netns: &Netns, peer: &mut figures::Peer) -> io::Result<Self> {
        let (mut usual, package) = match tool {
            Peer::Tcplife => (Command::new("tcplife"), Some("libbpf-tools")),
            Peer::Tcprtt => (Command::new("tcprtt"), Some("libbpf-tools")),
            Peer::Netobserv { at } => (netobserv(at.as_deref()), None),
        };
        let (started, log) = Self::try_start(tool, &mut usual, netns);
        peer.version = version(package, &log);
        let refused = match started {
            Ok(running) => return Ok(running),
            Err(error) => error,
        };
        // Where it finds a kernel of before 5.14, the agent loads no program for round-trip times, which it does not use by default.
        if let Peer::Netobserv { at } = tool
            && log.contains("fentry")
        {
            let mut older = netobserv(at.as_deref());
            // SAFETY: between fork and exec the closure makes one system call.
            unsafe { older.pre_exec(hide_version) };
            if let (Ok(running), _) = Self::try_start(tool, &mut older, netns) {
                let note = "started with the kernel's version hidden (setarch --uname-2.6): this kernel refuses its program for round-trip times, which it loads and by default does not attach";
                peer.note = Some(note.to_owned());
                return Ok(running);
            }
        }
        Err(refused)
    }

    /// Starts it, and gives what it logged until its programs were loaded or it had ended.
    fn try_start(tool: &Peer, command: &mut Command, netns: &Netns) -> (io::Result<Self>, String) {
        let log = match NamedTempFile::new() {
            Ok(log) => log,
            Err(error) => return (Err(error), String::new()),
        };
        let started = Self::spawn(command, netns, log.as_file())
            .and_then(|mut running| running.wait_loaded(log.path()).map(|()| running))
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => {
                    io::Error::new(error.kind(), format!("not installed: {}", install(tool)))
                }
                _ => error,
            });
        let log = fs::read_to_string(log.path()).unwrap_or_default();
        (started, log)
    }

    fn spawn(command: &mut Command, netns: &Netns, log: &File) -> io::Result<Self> {
        netns.enter(command)?;
        // SAFETY: between fork and exec the closure makes system calls only; the paths are static and short.
        unsafe { command.pre_exec(prepare) };
        let child = command
            .stdin(Stdio::null())
            // What a table on a terminal costs is no part of this.
            .stdout(Stdio::null())
            .stderr(log.try_clone()?)
            .spawn()?;
        Ok(Self { child })
    }

    fn wait_loaded(&mut self, log: &Path) -> io::Result<()> {
        let started = Instant::now();
        let (mut programs, mut since) = (Default::default(), started);
        while started.elapsed() < LOADS_WITHIN {
            thread::sleep(PAUSE);
            if let Some(status) = self.child.try_wait()? {
                let log = fs::read_to_string(log)?;
                return Err(io::Error::other(format!("{status}: {}", reason(&log))));
            }
            let now = hooks::program_ids(self.id())?;
            if now != programs {
                (programs, since) = (now, Instant::now());
            }
            if !programs.is_empty() && since.elapsed() > LOADED_SINCE {
                return Ok(());
            }
        }
        Err(io::Error::other("it loaded no program in time"))
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn cpu(&self) -> io::Result<Duration> {
        usage::cpu(self.id())
    }

    pub(super) fn rss(&self) -> io::Result<u64> {
        usage::rss(self.id())
    }

    /// Ends it, so that it can remove what it made.
    pub(super) fn stop(mut self) -> io::Result<()> {
        kill(Pid::from_raw(self.id().cast_signed()), Signal::SIGTERM)?;
        let asked = Instant::now();
        while self.child.try_wait()?.is_none() && asked.elapsed() < ENDS_WITHIN {
            thread::sleep(PAUSE);
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn netobserv(at: Option<&Path>) -> Command {
    let mut command = Command::new(at.unwrap_or(Path::new("netobserv-ebpf-agent")));
    command
        .env("EXPORT", "direct-flp")
        .env("FLP_CONFIG", NETOBSERV_PIPELINE)
        .env("AGENT_IP", "127.0.0.1")
        .env("INTERFACES", "lo")
        // By default it leaves loopback out, and an empty list is none given.
        .env("EXCLUDE_INTERFACES", "none");
    command
}

fn install(tool: &Peer) -> &'static str {
    match tool {
        Peer::Tcplife | Peer::Tcprtt => "apt-get install libbpf-tools",
        Peer::Netobserv { .. } => {
            "build https://github.com/netobserv/netobserv-ebpf-agent (go build -mod=vendor -o netobserv-ebpf-agent ./cmd) and pass --netobserv FILE"
        }
    }
}

/// That of its package, or what it logs of itself.
fn version(package: Option<&str>, log: &str) -> Option<String> {
    let Some(package) = package else {
        let (_, version) = log.split_once("[build version: ")?;
        return version.split([',', ']']).next().map(str::to_owned);
    };
    let asked = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Version}", package])
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let version = String::from_utf8(asked.stdout).ok()?;
    (!version.is_empty()).then_some(version)
}

/// The last line that a tool logged.
fn reason(log: &str) -> &str {
    let mut lines = log.lines().filter(|line| line.contains("libbpf: prog"));
    let last = lines.next_back().or(log.lines().next_back());
    last.unwrap_or("it logged nothing")
}

/// As part of the child: it ends with this program, and sees tracepoints.
fn prepare() -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // In a mount namespace of its own, so that the machine is as it was.
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    // Where it fails, the tool reports what it needs.
    let _ = mount(
        Some("tracefs"),
        TRACEFS,
        Some("tracefs"),
        MsFlags::empty(),
        none,
    );
    Ok(())
}

fn hide_version() -> io::Result<()> {
    // SAFETY: it changes what uname(2) reports to this process, and nothing in memory.
    match unsafe { libc::personality(libc::UNAME26 as libc::c_ulong) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_what_libbpf_could_not_attach() {
        let log = "libbpf: prog 'tcp_rcv': failed to auto-attach: -2\nfailed to attach BPF programs: -2\n";
        assert_eq!(
            reason(log),
            "libbpf: prog 'tcp_rcv': failed to auto-attach: -2"
        );
        assert_eq!(reason("level=fatal msg=x\n"), "level=fatal msg=x");
        assert_eq!(reason(""), "it logged nothing");
    }

    #[test]
    fn a_version_is_what_the_agent_logs() {
        let log =
            r#"msg="starting NetObserv eBPF Agent [build version: v1.12.0, build date: unknown]""#;
        assert_eq!(version(None, log).as_deref(), Some("v1.12.0"));
        assert_eq!(version(None, ""), None);
    }
}

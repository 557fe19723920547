//! The product itself, `flowcar export`, started beside a cgroup.

use std::{
    env,
    io::{self, BufRead, BufReader},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::Pid,
};

use crate::{
    flowcar::{CAPABILITIES, by_descriptor},
    place::OnlyCaps,
    usage,
};

/// Words of the line that it logs once it is attached.
const ATTACHED: &str = "following its TCP flows";

/// How long it may take to attach: 50 ms are usual, the rest is for a busy machine.
const ATTACHES_WITHIN: Duration = Duration::from_secs(30);

/// Its settings are the variables with these prefixes; those of its starter are not passed on.
const SETTINGS: [&str; 2] = ["OTEL_", "FLOWCAR_"];

/// A running `flowcar export` with [`CAPABILITIES`] alone, as in a pod: for who holds more, CAP_PERFMON above all, the verifier
/// leaves out barriers against speculation, which cost time. It is killed on drop, and by the kernel when the thread that started it ends.
///
/// It is in the cgroup and the network namespace of its starter, not in the followed ones, so its own flows are
/// not among those that it follows.
#[derive(Debug)]
pub struct Sidecar {
    child: Child,
    log: Receiver<String>,
    attached_after: Duration,
}

/// How it exited.
#[derive(Debug)]
pub struct Stopped {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it logged after it had attached.
    pub log: Vec<String>,
}

// === impl Sidecar ===

impl Sidecar {
    /// Starts it with these settings (no others reach it) and waits until it is attached to the cgroup.
    ///
    /// # Errors
    /// It cannot be started, exits, or does not attach; the message has what it logged.
    pub fn follow<'a>(
        cgroup: &Path,
        settings: impl IntoIterator<Item = (&'a str, String)>,
    ) -> io::Result<Self> {
        Self::follow_with(cgroup, settings, |_| Ok(()))
    }

    /// The same; `prepare` changes the command before it loses capabilities.
    ///
    /// # Errors
    /// As [`Sidecar::follow`], and those of `prepare`.
    pub fn follow_with<'a>(
        cgroup: &Path,
        settings: impl IntoIterator<Item = (&'a str, String)>,
        prepare: impl FnOnce(&mut Command) -> io::Result<()>,
    ) -> io::Result<Self> {
        let (_open, mut command) = by_descriptor()?;
        for (name, _) in env::vars_os() {
            if SETTINGS
                .iter()
                .any(|prefix| name.to_string_lossy().starts_with(prefix))
            {
                command.env_remove(name);
            }
        }
        prepare(&mut command)?;
        command
            .arg("export")
            .arg("--cgroup")
            .arg(cgroup)
            .envs(settings)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .with_only_caps(&CAPABILITIES);
        // SAFETY: between fork and exec the closure makes one system call.
        unsafe { command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)) };
        let started = Instant::now();
        let mut child = command.spawn()?;
        let stderr = child
            .stderr
            .take()
            .ok_or_else(|| io::Error::other("a child without the pipe that was asked for"))?;
        let (to, log) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if to.send(line).is_err() {
                    return;
                }
            }
        });
        let mut sidecar = Self {
            child,
            log,
            attached_after: Duration::ZERO,
        };
        sidecar.attached_after = sidecar.wait_attached(started)?;
        Ok(sidecar)
    }

    fn wait_attached(&self, started: Instant) -> io::Result<Duration> {
        let mut seen = String::new();
        loop {
            let left = ATTACHES_WITHIN.saturating_sub(started.elapsed());
            match self.log.recv_timeout(left) {
                Ok(line) if line.contains(ATTACHED) => return Ok(started.elapsed()),
                Ok(line) => seen = format!("{seen}{line}\n"),
                Err(_) => {
                    return Err(io::Error::other(format!(
                        "flowcar export did not attach:\n{seen}"
                    )));
                }
            }
        }
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How long it took from its start until it logged that it is attached.
    pub fn attached_after(&self) -> Duration {
        self.attached_after
    }

    /// CPU time that it has used.
    ///
    /// # Errors
    /// It has exited.
    pub fn cpu(&self) -> io::Result<Duration> {
        usage::cpu(self.id())
    }

    /// Its resident memory, bytes.
    ///
    /// # Errors
    /// It has exited.
    pub fn rss(&self) -> io::Result<u64> {
        usage::rss(self.id())
    }

    /// The part of its resident memory that belongs to no file, bytes: heap and stacks.
    ///
    /// # Errors
    /// It has exited.
    pub fn anonymous(&self) -> io::Result<u64> {
        usage::anonymous(self.id())
    }

    /// Stops it as a container runtime does, by SIGTERM, and waits until it has sent its last export.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn stop(mut self) -> io::Result<Stopped> {
        kill(self.pid(), Signal::SIGTERM)?;
        let status = self.child.wait()?;
        Ok(Stopped {
            status,
            log: self.log.iter().collect(),
        })
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // It may have exited.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

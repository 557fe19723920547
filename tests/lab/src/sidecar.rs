//! The product itself, `flowcar export`, started beside a cgroup.

use std::{
    io,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::sys::{prctl, signal::Signal};

use crate::{
    exporting::Exporting,
    flowcar::{CAPABILITIES, by_descriptor},
    place::OnlyCaps,
    usage,
};

/// Words of the line that it logs once it is attached.
const ATTACHED: &str = "following its TCP flows";

/// How long it may take to attach: 50 ms are usual, the rest is for a busy machine.
const ATTACHES_WITHIN: Duration = Duration::from_secs(30);

/// A running `flowcar export` with [`CAPABILITIES`] alone, as in a pod: for who holds more, CAP_PERFMON above all, the verifier
/// leaves out barriers against speculation, which cost time. It is killed on drop, and by the kernel when the thread that started it ends.
///
/// It is in the cgroup and the network namespace of its starter, not in the followed ones, so its own flows are
/// not among those that it follows.
#[derive(Debug)]
pub struct Sidecar {
    export: Exporting,
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
        prepare(&mut command)?;
        command
            .arg("export")
            .arg("--cgroup")
            .arg(cgroup)
            .envs(settings)
            .stdin(Stdio::null())
            .with_only_caps(&CAPABILITIES);
        // SAFETY: between fork and exec the closure makes one system call.
        unsafe { command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)) };
        let started = Instant::now();
        let export = Exporting::try_start(&mut command)?;
        export.log().find(ATTACHED, ATTACHES_WITHIN, |_| ())?;
        Ok(Self {
            export,
            attached_after: started.elapsed(),
        })
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.export.id()
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
        self.export.signal(Signal::SIGTERM)?;
        let status = self.export.exit()?;
        Ok(Stopped {
            status,
            log: self.export.log().rest(),
        })
    }
}

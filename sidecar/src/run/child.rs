//! The command: its standard streams are flowcar's, signals are passed on, its status is returned.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    os::unix::process::ExitStatusExt as _,
    process::ExitStatus,
    time::Duration,
};

use nix::{
    sys::{
        resource::{UsageWho, getrusage},
        signal::{Signal, kill},
        time::TimeValLike as _,
    },
    unistd::Pid,
};
use tokio::process::Command;

use super::cgroup::CommandCgroup;
use crate::{
    exit::{self, Failure},
    hardening::CoreLimit,
    signals::Signals,
};

/// The signals that are passed on.
const PASSED_ON: [Signal; 6] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// The time that remains to a flowcar that was asked to stop.
const LAST: Duration = Duration::from_secs(5);

/// The running command.
pub(super) struct Child {
    process: tokio::process::Child,
    signals: Signals,
    /// Whether a signal came that ends processes.
    is_stopped: bool,
}

impl Child {
    /// Starts the command in the cgroup: it joins before it becomes the command, so that no flow is missed.
    pub(super) fn spawn(command: &[OsString], cgroup: &CommandCgroup) -> Result<Self, Failure> {
        let software = |error: io::Error| {
            Failure::new(
                exit::SOFTWARE,
                format_args!("cannot start the command: {error}"),
            )
        };
        let mut members = cgroup.members().map_err(software)?;
        let signals = Signals::receive(&PASSED_ON).map_err(software)?;
        let mut process = Command::new(&command[0]);
        process.args(&command[1..]);
        let core = CoreLimit::at_start();
        let mask = signals.mask_before();
        let before_exec = move || {
            mask.thread_set_mask()?;
            if let Some(limit) = core {
                limit.restore()?;
            }
            members.write_all(b"0")
        };
        // SAFETY: between fork and exec only rt_sigprocmask(2) and setrlimit(2) are called, and write(2) on a descriptor that
        // was opened before.
        unsafe { process.pre_exec(before_exec) };
        let process = process
            .spawn()
            .map_err(|error| not_started(&command[0], &error))?;
        Ok(Self {
            process,
            signals,
            is_stopped: false,
        })
    }

    /// CPU time of the command once it has ended, and of those of its processes that were waited for.
    pub(super) fn cpu_time() -> Duration {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN);
        let used = usage.map_or(0, |of| {
            (of.user_time() + of.system_time()).num_microseconds()
        });
        Duration::from_micros(used.try_into().unwrap_or_default())
    }

    /// Its number.
    pub(super) fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// Passes signals on until the command has ended; gives its status, 128 and the signal's number if one killed it.
    pub(super) async fn ended(&mut self) -> Result<u8, Failure> {
        loop {
            tokio::select! {
                status = self.process.wait() => {
                    return status.map(exit_status).map_err(|error| {
                        Failure::new(exit::SOFTWARE, format_args!("cannot wait for the command: {error}"))
                    });
                }
                received = self.signals.next() => {
                    self.is_stopped |= ends(received.signal);
                    if received.is_alone {
                        self.pass_on(received.signal);
                    }
                }
            }
        }
    }

    /// How long whoever started flowcar waits for what is left to do after the command: until a signal, and a moment after one came before.
    pub(super) async fn patience(&mut self) {
        if self.is_stopped {
            return tokio::time::sleep(LAST).await;
        }
        while !ends(self.signals.next().await.signal) {}
    }

    fn pass_on(&self, signal: Signal) {
        if let Some(pid) = self.process.id()
            && let Err(error) = kill(Pid::from_raw(pid.cast_signed()), signal)
        {
            // flowcar has no capability left to signal a command that changed its user.
            tracing::warn!(%error, signal = signal.as_str(), "the signal was not passed on to the command");
        }
    }
}

const fn ends(signal: Signal) -> bool {
    !matches!(signal, Signal::SIGUSR1 | Signal::SIGUSR2)
}

fn exit_status(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => 128 + signal as u8,
        (None, None) => exit::SOFTWARE,
    }
}

fn not_started(command: &OsString, error: &io::Error) -> Failure {
    let command = command.display();
    match error.kind() {
        io::ErrorKind::NotFound => Failure::new(
            exit::NOT_FOUND,
            format_args!("{command}: not found; is it in PATH?"),
        ),
        _ => Failure::new(
            exit::NOT_EXECUTABLE,
            format_args!("{command}: cannot be executed: {error}"),
        ),
    }
}

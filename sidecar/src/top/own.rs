//! A follower of top's own, where no flowcar runs: `flowcar export` that exports nothing, as a child process. So what follows has the same
//! rights, bounds and confinement as ever, and the screen needs none of them.

use std::{
    env,
    io::{self, Read as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use nix::{
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::Pid,
};

use crate::{
    clock,
    control::{NoAnswer, Running},
    exit::{self, Failure},
};

/// How long it may take to attach.
const WITHIN: Duration = Duration::from_secs(10);

/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// The child process. It ends with this value.
pub(super) struct Own(Child);

impl Own {
    /// Starts it if nobody answers.
    ///
    /// # Errors
    /// [`Failure`]: whoever answers is no flowcar that can be asked, or flows cannot be followed here.
    pub(super) fn unless_running(
        running: &Running,
        cgroup: Option<&Path>,
    ) -> Result<Option<Self>, Failure> {
        match running.peers() {
            Ok(_) => Ok(None),
            Err(NoAnswer::Nobody(_)) => Self::start(running, cgroup).map(Some),
            Err(error) => Err(Failure::new(exit::UNAVAILABLE, error)),
        }
    }

    fn start(running: &Running, cgroup: Option<&Path>) -> Result<Self, Failure> {
        let mut own = spawn(cgroup).map_err(|error| {
            Failure::new(
                exit::SOFTWARE,
                format_args!("cannot start a follower: {error}"),
            )
        })?;
        let deadline = clock::now() + WITHIN;
        loop {
            match running.peers() {
                Ok(_) => return Ok(own),
                Err(_) if own.has_ended() => return Err(own.failure()),
                Err(error) if clock::now() > deadline => {
                    return Err(Failure::new(exit::UNAVAILABLE, error));
                }
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }

    /// Why it ended, in its own words.
    fn failure(mut self) -> Failure {
        let mut log = String::new();
        let stderr = self.0.stderr.take();
        let _ = stderr.map(|mut stderr| stderr.read_to_string(&mut log));
        let last = log.lines().rev().find(|line| line.starts_with("flowcar: "));
        let why = last.map_or(log.as_str(), |line| &line["flowcar: ".len()..]);
        Failure::new(
            exit::UNAVAILABLE,
            format_args!(
                "no flowcar export runs here, and flows cannot be followed by top itself: {}",
                why.trim()
            ),
        )
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

fn spawn(cgroup: Option<&Path>) -> io::Result<Own> {
    let mut command = Command::new(env::current_exe()?);
    command.arg("export");
    match cgroup {
        Some(path) => {
            command.arg("--cgroup").arg(path);
        }
        // The network namespace, for which no cgroup and no right is needed.
        None if env::var_os("FLOWCAR_SOURCE").is_none() => {
            command.env("FLOWCAR_SOURCE", "inet_diag");
        }
        None => {}
    }
    command
        .env("OTEL_SDK_DISABLED", "true")
        .env("OTEL_METRIC_EXPORT_INTERVAL", "1000")
        .env_remove("FLOWCAR_STATE_DIR")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    if env::var_os("FLOWCAR_EXCHANGE").is_none() {
        command.env("FLOWCAR_EXCHANGE", "on");
    }
    // SAFETY: prctl(2) is async-signal-safe, and nothing is allocated between fork and exec.
    unsafe {
        command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGTERM)?));
    }
    command.spawn().map(Own)
}

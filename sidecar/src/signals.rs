//! Signals: which ones this process was started to ignore, and, for a process that passes signals on, who sent each.

use std::{fs, io};

use nix::{
    sys::{
        signal::{SigSet, SigmaskHow, Signal},
        signalfd::{SfdFlags, SignalFd, siginfo},
    },
    unistd::{Pid, getpgrp, getpid, getppid, getsid},
};
use tokio::io::{Interest, unix::AsyncFd};

/// Whether this process was started with a signal ignored, as nohup(1) and a shell's background jobs have it: a mask in
/// /proc/self/status, from bit 0 for signal 1 (proc_pid_status(5)).
pub fn is_ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (signal as i32 - 1)) != 0)
}

/// A signal to this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Which one.
    pub signal: Signal,
    /// Whether this process alone has it. A terminal sends a signal to all processes in its foreground, this one's child among them.
    pub is_alone: bool,
}

/// Signals with their senders (signalfd(2)). Handlers of the standard runtime do not have the sender.
#[derive(Debug)]
pub struct Signals {
    descriptor: AsyncFd<SignalFd>,
    /// The mask that a child has to have.
    before: SigSet,
    place: Place,
}

/// Where this process stands among others.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    leads_session: bool,
    /// The parent, if it sends what it gets to this process' whole group.
    signals_group: Option<u32>,
}

// === impl Signals ===

impl Signals {
    /// Receives these, but for those that were ignored when this process started: they stay ignored, of its children, too. To be called
    /// before another thread is started, and in a runtime.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub fn receive(signals: &[Signal]) -> io::Result<Self> {
        let mut wanted = SigSet::empty();
        let kept = signals.iter().filter(|signal| !is_ignored(**signal));
        kept.for_each(|signal| wanted.add(*signal));
        // One that is neither blocked nor caught would end the process.
        let before = wanted.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let descriptor = SignalFd::with_flags(&wanted, flags)?;
        // SAFETY: it owns its descriptor, and the AsyncFd owns it for as long as it is registered.
        let descriptor =
            unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?;
        Ok(Self {
            descriptor,
            before,
            place: Place::of_this(),
        })
    }

    /// The mask of signals before, which a child has to set.
    pub const fn mask_before(&self) -> SigSet {
        self.before
    }

    /// The next one.
    pub async fn next(&self) -> Received {
        loop {
            let Ok(mut ready) = self.descriptor.readable().await else {
                return std::future::pending().await;
            };
            let read = ready.try_io(|descriptor| {
                let signal = descriptor.get_ref().read_signal()?;
                signal.ok_or_else(|| io::ErrorKind::WouldBlock.into())
            });
            if let Ok(Ok(info)) = read
                && let Some(received) = received(&info, self.place)
            {
                return received;
            }
        }
    }
}

// === impl Place ===

impl Place {
    fn of_this() -> Self {
        let parent = getppid();
        let name = fs::read_to_string(format!("/proc/{parent}/comm")).unwrap_or_default();
        // sudo relays a terminal's signals by killpg(3) to the group that its command leads, if that has a terminal of its own (`use_pty`);
        // timeout signals its own group behind the command, unless it is in the foreground.
        let signals_group = match name.trim_end() {
            "sudo" => getpgrp() == getpid(),
            "timeout" => getpgrp() == parent && !is_in_foreground(parent),
            _ => false,
        };
        Self {
            leads_session: getsid(None) == Ok(getpid()),
            signals_group: signals_group.then_some(parent.as_raw().cast_unsigned()),
        }
    }
}

/// Whether this timeout(1) has `--foreground` among the arguments before those of its command.
fn is_in_foreground(timeout: Pid) -> bool {
    let arguments = fs::read_to_string(format!("/proc/{timeout}/cmdline")).unwrap_or_default();
    let own = std::env::args().next().unwrap_or_default();
    let mut options = arguments
        .split('\0')
        .take_while(|argument| *argument != own);
    options.any(|option| option == "-f" || option.starts_with("--f"))
}

/// What arrived. A process's signal has a code of 0 or below (`SI_FROMUSER`, include/linux/signal.h).
fn received(info: &siginfo, place: Place) -> Option<Received> {
    let signal = Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok()?;
    let is_process = info.ssi_code <= 0;
    // A second one of these often means to end at once.
    let is_group = is_process
        && matches!(signal, Signal::SIGINT | Signal::SIGQUIT)
        && place.signals_group == Some(info.ssi_pid);
    // Of a terminal that closes only the session's leader has it (`__tty_hangup()`, drivers/tty/tty_io.c).
    let is_hangup = signal == Signal::SIGHUP && place.leads_session;
    let is_alone = is_process && !is_group || is_hangup;
    Some(Received { signal, is_alone })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signal_of_a_terminal_is_the_childs_too() {
        let below = Place::default();
        let leader = Place {
            leads_session: true,
            ..below
        };
        let of_sudo = Place {
            signals_group: Some(7),
            ..below
        };
        let of_other = Place {
            signals_group: Some(8),
            ..below
        };
        for (signal, code, place, is_alone) in [
            (Signal::SIGINT, libc::SI_USER, below, true),
            (Signal::SIGINT, libc::SI_TKILL, below, true),
            (Signal::SIGTERM, libc::SI_QUEUE, below, true),
            (Signal::SIGINT, libc::SI_KERNEL, below, false),
            (Signal::SIGINT, libc::SI_KERNEL, leader, false),
            (Signal::SIGHUP, libc::SI_KERNEL, below, false),
            (Signal::SIGHUP, libc::SI_KERNEL, leader, true),
            (Signal::SIGINT, libc::SI_USER, of_sudo, false),
            (Signal::SIGQUIT, libc::SI_USER, of_sudo, false),
            (Signal::SIGTERM, libc::SI_USER, of_sudo, true),
            (Signal::SIGINT, libc::SI_USER, of_other, true),
        ] {
            // SAFETY: it has numbers only.
            let mut info: siginfo = unsafe { std::mem::zeroed() };
            (info.ssi_signo, info.ssi_code, info.ssi_pid) = (signal as u32, code, 7);
            let expected = Some(Received { signal, is_alone });
            assert_eq!(
                received(&info, place),
                expected,
                "{signal} {code} {place:?}"
            );
        }
    }
}

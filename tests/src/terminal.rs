//! A terminal for a program that draws on one: a pseudo-terminal (pty(7)) and what its screen shows by a decoder of its own.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    num::NonZero,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::{fs::OpenOptionsExt as _, process::CommandExt as _},
    },
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    fcntl::OFlag,
    poll::{PollFd, PollFlags, poll},
    pty::{Winsize, grantpt, posix_openpt, ptsname_r, unlockpt},
    sys::signal::{SigHandler, Signal, signal},
};

/// The longest wait for a screen, on a busy machine.
const WITHIN: Duration = Duration::from_secs(60);

/// The pause between two looks at the screen.
const PAUSE: Duration = Duration::from_millis(50);

/// A program that runs on a terminal. It is killed on drop.
pub struct Terminal {
    keyboard: Option<File>,
    child: Child,
    screen: Arc<Mutex<Drawn>>,
    reader: Option<JoinHandle<()>>,
    is_closed: Arc<AtomicBool>,
}

/// Which standard streams of a program are its terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streams {
    /// The input and the output.
    Screen,
    /// All three, as of a shell.
    All,
    /// The error alone: the caller of the program redirected the others.
    Error,
}

/// What a program has written to its terminal.
struct Drawn {
    screen: vt100::Parser,
    bytes: Vec<u8>,
}

impl Terminal {
    /// Starts a program on a terminal of so many columns and rows.
    ///
    /// # Errors
    /// There is no pseudo-terminal, or the program cannot be started.
    pub fn start(command: &mut Command, columns: u16, rows: u16) -> io::Result<Self> {
        Self::start_on(command, Streams::Screen, columns, rows)
    }

    /// The same where these streams are the terminal. `TERM` is xterm's unless the command has another one.
    ///
    /// # Errors
    /// As of [`Terminal::start`].
    pub fn start_on(
        command: &mut Command,
        streams: Streams,
        columns: u16,
        rows: u16,
    ) -> io::Result<Self> {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let (master, slave) = open(&size)?;
        let (keyboard, mut output) = (master.try_clone()?, master);
        if command.get_envs().all(|(name, _)| name != "TERM") {
            command.env("TERM", "xterm-256color");
        }
        if streams != Streams::Error {
            command.stdin(slave.try_clone()?).stdout(slave.try_clone()?);
        }
        if streams != Streams::Screen {
            command.stderr(slave.try_clone()?);
        }
        drop(slave);
        reset_signals(command);
        let child = command.spawn();
        // It has the last open descriptors of the program's side.
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let screen = Arc::new(Mutex::new(Drawn {
            screen: vt100::Parser::new(non_zero(rows)?, non_zero(columns)?, 0),
            bytes: Vec::new(),
        }));
        let drawn = Arc::clone(&screen);
        let is_closed = Arc::new(AtomicBool::new(false));
        let closed = Arc::clone(&is_closed);
        let reader = thread::spawn(move || {
            let mut bytes = [0; 4096];
            loop {
                let mut ready = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
                let pause = u16::try_from(PAUSE.as_millis()).unwrap_or(u16::MAX);
                let is_ready = poll(&mut ready, pause).is_ok_and(|ready| ready > 0);
                if closed.load(Ordering::Relaxed) {
                    break;
                }
                if !is_ready {
                    continue;
                }
                // EIO once the program's side is closed.
                let Ok(count @ 1..) = output.read(&mut bytes) else {
                    break;
                };
                let mut drawn = drawn.lock().unwrap_or_else(PoisonError::into_inner);
                drawn.screen.process(&bytes[..count]);
                drawn.bytes.extend_from_slice(&bytes[..count]);
            }
        });
        Ok(Self {
            keyboard: Some(keyboard),
            child: child?,
            screen,
            reader: Some(reader),
            is_closed,
        })
    }

    /// Types keys.
    ///
    /// # Panics
    /// The terminal is closed.
    pub fn press(&mut self, keys: &str) {
        let keyboard = self.keyboard.as_mut().unwrap();
        keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Closes the terminal under the program, as a window or a connection does that is closed. No signal comes of it, as the terminal
    /// controls no process.
    pub fn close(&mut self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.reader.take().map(JoinHandle::join);
        self.keyboard = None;
    }

    /// What is on the screen.
    pub fn text(&self) -> String {
        self.of_screen(|screen| screen.contents())
    }

    /// The rows of the screen without blanks at their ends. [`Self::text`] joins those that one line was wrapped into.
    pub fn rows(&self) -> Vec<String> {
        self.of_screen(|screen| {
            let (_, columns) = screen.size();
            let rows = screen.rows(0, columns.get());
            rows.map(|row| row.trim_end().to_owned()).collect()
        })
    }

    /// All that was written to it.
    pub fn bytes(&self) -> Vec<u8> {
        let drawn = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        drawn.bytes.clone()
    }

    /// Whether it shows another screen than the one that it was started on.
    pub fn is_full_screen(&self) -> bool {
        self.of_screen(vt100::Screen::alternate_screen)
    }

    /// Waits until the screen shows this.
    ///
    /// # Panics
    /// It does not in time.
    #[track_caller]
    pub fn until(&self, what: &str, shows: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + WITHIN;
        loop {
            let text = self.text();
            if shows(&text) {
                return text;
            }
            assert!(Instant::now() < deadline, "{what} never came:\n{text}");
            thread::sleep(PAUSE);
        }
    }

    /// Waits for the program's end.
    ///
    /// # Panics
    /// It does not end in time.
    #[track_caller]
    pub fn finish(&mut self) -> ExitStatus {
        let deadline = Instant::now() + WITHIN;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "it never ended:\n{}",
                self.text()
            );
            thread::sleep(PAUSE);
        };
        self.reader.take().map(JoinHandle::join);
        status
    }

    /// The program's process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn of_screen<T>(&self, of: impl FnOnce(&vt100::Screen) -> T) -> T {
        let drawn = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        of(drawn.screen.screen())
    }
}

/// Both sides of a new terminal. No program inherits the first: it would keep the terminal open.
/// A shell on a terminal ignores no signal for its commands, whatever whoever started the tests does: a background job has SIGINT ignored, and
/// what nohup(1) starts SIGHUP.
fn reset_signals(command: &mut Command) {
    let defaults = || {
        for of in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
            // SAFETY: it installs no handler.
            unsafe { signal(of, SigHandler::SigDfl) }?;
        }
        Ok(())
    };
    // SAFETY: signal(2) is async-signal-safe.
    unsafe { command.pre_exec(defaults) };
}

fn open(size: &Winsize) -> io::Result<(File, File)> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = posix_openpt(flags)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname_r(&master)?;
    let slave = File::options()
        .read(true)
        .write(true)
        .custom_flags(OFlag::O_NOCTTY.bits())
        .open(name)?;
    // SAFETY: the request reads a struct winsize during the call.
    let result = unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSWINSZ, size) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((File::from(OwnedFd::from(master)), slave))
}

fn non_zero(size: u16) -> io::Result<NonZero<u16>> {
    NonZero::new(size).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Either may have happened already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

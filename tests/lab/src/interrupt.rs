//! SIGINT and SIGTERM for programs that hold cgroups: everything is removed before they exit.

use std::{
    fs, io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use tokio::signal::unix::{SignalKind, signal};

use crate::place::Cgroup;

/// Catches both signals for as long as the process lives.
///
/// The first one kills the processes of the named cgroups, so that whoever waits for those processes
/// gets an error, returns, and drops what it holds. Nothing is torn down from within a signal handler.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    caught: AtomicBool,
    cgroups: Mutex<Vec<PathBuf>>,
}

// === impl Interrupt ===

impl Interrupt {
    /// From here on the signals no longer end the process.
    ///
    /// # Errors
    /// No thread can be started, or no handler set.
    pub fn catch() -> io::Result<Self> {
        let interrupt = Self(Arc::default());
        let shared = Arc::clone(&interrupt.0);
        let (ready, is_ready) = mpsc::channel();
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || watch(&shared, &ready))?;
        is_ready
            .recv()
            .map_err(|_| io::Error::other("the thread that waits for signals ended"))??;
        Ok(interrupt)
    }

    /// Names a cgroup whose processes a signal kills.
    ///
    /// # Errors
    /// As [`Interrupt::check`].
    pub fn kills(&self, cgroup: &Cgroup) -> io::Result<()> {
        self.0.lock().push(cgroup.path().to_owned());
        self.check()
    }

    /// Whether a signal came.
    pub fn caught(&self) -> bool {
        self.0.caught.load(Ordering::SeqCst)
    }

    /// To be called between the steps of a long work.
    ///
    /// # Errors
    /// [`io::ErrorKind::Interrupted`]: a signal came.
    pub fn check(&self) -> io::Result<()> {
        match self.caught() {
            true => Err(io::ErrorKind::Interrupted.into()),
            false => Ok(()),
        }
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<PathBuf>> {
        self.cgroups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn interrupt(&self) {
        self.caught.store(true, Ordering::SeqCst);
        for cgroup in self.lock().iter() {
            // It may be removed already. Before 5.14 there is no such file; then the owner's drop does it.
            let _ = fs::write(cgroup.join("cgroup.kill"), "1");
        }
    }
}

fn watch(shared: &Shared, ready: &mpsc::Sender<io::Result<()>>) {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return drop(ready.send(Err(error))),
    };
    runtime.block_on(async {
        let handlers =
            signal(SignalKind::interrupt()).and_then(|i| Ok((i, signal(SignalKind::terminate())?)));
        let (mut interrupt, mut terminate) = match handlers {
            Ok(handlers) => handlers,
            Err(error) => return drop(ready.send(Err(error))),
        };
        drop(ready.send(Ok(())));
        loop {
            tokio::select! {
                _ = interrupt.recv() => shared.interrupt(),
                _ = terminate.recv() => shared.interrupt(),
            }
        }
    });
}

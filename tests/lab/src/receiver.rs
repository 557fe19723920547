//! An OTLP receiver in this process, for programs that show what flowcar sends.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::mpsc::{self, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use flowcar::sink::{Received, Sink};
use tokio::sync::oneshot;

/// Takes OTLP on loopback, in the namespace of whoever starts it, until it is dropped.
#[derive(Debug)]
pub struct Receiver {
    grpc: SocketAddr,
    received: mpsc::Receiver<Received>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

// === impl Receiver ===

impl Receiver {
    /// Listens on free ports.
    ///
    /// # Errors
    /// It cannot listen, or not start its thread.
    pub fn start() -> io::Result<Self> {
        let (to, received) = mpsc::channel();
        let (listening, is_listening) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("receiver".to_owned())
            .spawn(move || serve(&to, &listening, stopped))?;
        let grpc = is_listening
            .recv()
            .map_err(|_| io::Error::other("the receiver's thread ended"))??;
        Ok(Self {
            grpc,
            received,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// The value of `OTEL_EXPORTER_OTLP_ENDPOINT`, for gRPC.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// The next export, if one comes in time.
    ///
    /// # Errors
    /// The receiver broke.
    pub fn next(&self, within: Duration) -> io::Result<Option<Received>> {
        match self.received.recv_timeout(within) {
            Ok(export) => Ok(Some(export)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the receiver broke")),
        }
    }

    /// Passes on every export until `enough` holds, and returns whether it held in time.
    ///
    /// # Errors
    /// The receiver broke.
    pub fn until(
        &self,
        within: Duration,
        mut enough: impl FnMut(Received) -> bool,
    ) -> io::Result<bool> {
        let deadline = Instant::now() + within;
        while let Some(export) = self.next(deadline.saturating_duration_since(Instant::now()))? {
            if enough(export) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Ends it, and takes all that it had answered.
    pub fn rest(&mut self) -> Vec<Received> {
        self.end();
        self.received.try_iter().collect()
    }

    fn end(&mut self) {
        // Either may fail only when the thread has panicked, which has been printed.
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.end();
    }
}

fn serve(
    to: &mpsc::Sender<Received>,
    listening: &mpsc::Sender<io::Result<SocketAddr>>,
    stopped: oneshot::Receiver<()>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return drop(listening.send(Err(error))),
    };
    runtime.block_on(async {
        let any = (Ipv4Addr::LOCALHOST, 0).into();
        let (sink, mut received) = match Sink::start(any, any).await {
            Ok(started) => started,
            Err(error) => return drop(listening.send(Err(error))),
        };
        drop(listening.send(Ok(sink.grpc())));
        tokio::pin!(stopped);
        loop {
            tokio::select! {
                biased;
                Some(export) = received.recv() => drop(to.send(export)),
                _ = &mut stopped => return,
            }
        }
    });
}

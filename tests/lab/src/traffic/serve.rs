use std::{
    ffi::OsString,
    fmt, io,
    net::SocketAddr,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use clap::Args;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time,
};

use super::{
    kernel_tls,
    options::{CommandLine, SocketOptions},
    protocol::{HEADER, Header, Then},
    report::{ConnectionReport, Failure, Phase, Role, Stopwatch},
    socket,
    tcp_info::TcpInfo,
};

/// Bytes read or written at once.
const CHUNK: usize = 32 * 1024;

static ZEROS: [u8; CHUNK] = [0; CHUNK];

/// How often a server that is to reset checks whether its response is acknowledged.
const ACKNOWLEDGED: Duration = Duration::from_millis(1);

/// How to serve.
#[derive(Clone, Debug, Args)]
pub struct ServePlan {
    /// Where to listen; port 0 takes any free one, and the address :: takes IPv4 too
    #[arg(long, default_value = "[::]:0")]
    pub listen: SocketAddr,
    /// Threads, each with a listening socket of its own on the same port (SO_REUSEPORT) if more than one
    #[arg(long, default_value_t = 1)]
    pub workers: usize,
    /// Connections that may wait to be accepted, for each worker
    #[arg(long, default_value_t = 4096)]
    pub backlog: i32,
    /// Socket options.
    #[command(flatten)]
    pub socket: SocketOptions,
}

/// A server that answers requests until it is dropped; then its connections are closed at once.
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    workers: Vec<JoinHandle<()>>,
}

type OnReport = Arc<dyn Fn(ConnectionReport) + Send + Sync>;

// === impl ServePlan ===

impl ServePlan {
    /// One worker at this address, everything else as usual.
    pub fn at(listen: SocketAddr) -> Self {
        Self {
            listen,
            workers: 1,
            backlog: 4096,
            socket: SocketOptions::default(),
        }
    }

    /// The arguments of `traffic serve` that read as this plan.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        CommandLine::default()
            .option("--listen", self.listen)
            .option("--workers", self.workers)
            .option("--backlog", self.backlog)
            .and(self.socket.arguments())
            .into_arguments()
    }
}

// === impl Server ===

impl Server {
    /// Listens, in the network namespace of the calling thread, and serves on threads of its own.
    /// `on_report` is called with each closed connection.
    ///
    /// # Errors
    /// The address is in use or not here.
    pub fn start(
        plan: &ServePlan,
        on_report: impl Fn(ConnectionReport) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        socket::raise_open_files()?;
        let shared = plan.workers > 1;
        let first = socket::listening(plan.listen, shared, plan.backlog, plan.socket)?;
        let address = first
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::other("a TCP socket without an IP address"))?;
        let mut listeners = vec![first];
        for _ in 1..plan.workers {
            listeners.push(socket::listening(
                address,
                shared,
                plan.backlog,
                plan.socket,
            )?);
        }
        let (stop, stopped) = watch::channel(false);
        let on_report: OnReport = Arc::new(on_report);
        let mut server = Self {
            address,
            stop,
            workers: Vec::new(),
        };
        for listener in listeners {
            listener.set_nonblocking(true)?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let accepting = Accepting {
                kernel_tls: plan.socket.kernel_tls,
                on_report: Arc::clone(&on_report),
            };
            let stopped = stopped.clone();
            let serve = move || runtime.block_on(accept(listener.into(), stopped, accepting));
            server.workers.push(
                thread::Builder::new()
                    .name("serve".to_owned())
                    .spawn(serve)?,
            );
        }
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        for worker in self.workers.drain(..) {
            // A panic there has written its message already.
            let _ = worker.join();
        }
    }
}

/// What serves an accepted connection.
#[derive(Clone)]
struct Accepting {
    kernel_tls: bool,
    on_report: OnReport,
}

async fn accept(
    listener: std::net::TcpListener,
    mut stopped: watch::Receiver<bool>,
    accepting: Accepting,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return eprintln!("serve: {error}"),
    };
    // Dropped on return, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = stopped.changed() => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(accepting.clone().serve(stream, peer));
                }
                // The connection died in the queue, or descriptors ran out: those that are open go on.
                Err(error) => eprintln!("serve: accept: {error}"),
            },
        }
    }
}

// === impl Accepting ===

impl Accepting {
    async fn serve(self, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        if self.kernel_tls {
            kernel_tls::start(&stream)?;
        }
        (self.on_report)(Connection::new(peer)?.serve(stream).await);
        Ok(())
    }
}

/// One connection in work.
struct Connection {
    peer: SocketAddr,
    sent: u64,
    received: u64,
    exchanges: u64,
    watch: Stopwatch,
    info: Option<TcpInfo>,
}

// === impl Connection ===

impl Connection {
    fn new(peer: SocketAddr) -> io::Result<Self> {
        Ok(Self {
            peer,
            sent: 0,
            received: 0,
            exchanges: 0,
            watch: Stopwatch::new()?,
            info: None,
        })
    }

    async fn serve(mut self, mut stream: TcpStream) -> ConnectionReport {
        let local = stream.local_addr().ok();
        let failure = self.answer(&mut stream).await.err();
        if self.info.is_none() {
            self.info = TcpInfo::of(&stream).ok();
        }
        drop(stream);
        ConnectionReport {
            role: Role::Server,
            local,
            peer: self.peer,
            sent: self.sent,
            received: self.received,
            exchanges: self.exchanges,
            connect_ns: None,
            exchange: self.watch.percentiles(),
            close: None,
            failure: failure.map(|error| Failure::new(Phase::Exchange, &error)),
            tcp_info: self.info,
        }
    }

    /// Answers requests until the last one, or the end of the stream.
    async fn answer(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        while let Some(header) = self.read_header(stream).await? {
            if header.stall.is_zero() {
                self.read(stream, header.request).await?;
            } else {
                self.read(stream, header.request / 2).await?;
                time::sleep(header.stall).await;
                self.read(stream, header.request - header.request / 2)
                    .await?;
            }
            let asked = Instant::now();
            if !header.delay.is_zero() {
                time::sleep(header.delay).await;
            }
            self.watch.record(asked.elapsed());
            self.write(stream, header.response).await?;
            self.exchanges += 1;
            match header.then {
                Then::Continue => {}
                Then::CloseOwnSide => stream.shutdown().await?,
                Then::Close => break,
                Then::Reset => return self.reset(stream).await,
            }
        }
        Ok(())
    }

    /// `None` when the client has closed instead.
    async fn read_header(&mut self, stream: &mut TcpStream) -> io::Result<Option<Header>> {
        let mut bytes = [0; HEADER];
        let mut filled = 0;
        while filled < HEADER {
            let read = stream.read(&mut bytes[filled..]).await?;
            match (read, filled) {
                (0, 0) => return Ok(None),
                (0, _) => return Err(io::ErrorKind::UnexpectedEof.into()),
                _ => filled += read,
            }
            self.received += read as u64;
        }
        Ok(Some(Header::decode(&bytes)))
    }

    async fn read(&mut self, stream: &TcpStream, mut left: u64) -> io::Result<()> {
        while left > 0 {
            let read = read_some(stream, left).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= read;
            self.received += read;
        }
        Ok(())
    }

    async fn write(&mut self, stream: &mut TcpStream, mut left: u64) -> io::Result<()> {
        while left > 0 {
            let most = left.min(CHUNK as u64) as usize;
            let written = stream.write(&ZEROS[..most]).await?;
            left -= written as u64;
            self.sent += written as u64;
        }
        Ok(())
    }

    /// A reset takes back what is not acknowledged, so it waits for that.
    async fn reset(&mut self, stream: &TcpStream) -> io::Result<()> {
        loop {
            let info = TcpInfo::of(stream)?;
            if info.unacked == 0 && info.notsent_bytes == 0 {
                self.info = Some(info);
                return socket::reset_on_close(SockRef::from(stream));
            }
            time::sleep(ACKNOWLEDGED).await;
        }
    }
}

/// Reads at most `most` bytes and forgets them. The buffer is on the stack only while there is something to
/// read, so that an idle connection has none.
async fn read_some(stream: &TcpStream, most: u64) -> io::Result<u64> {
    loop {
        stream.readable().await?;
        let mut chunk = [0; CHUNK];
        let most = most.min(CHUNK as u64) as usize;
        match stream.try_read(&mut chunk[..most]) {
            Ok(read) => return Ok(read as u64),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

//! One connection, over loopback or to another pod, and every way in which it can close.

use std::{
    io::{self, BufRead, Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, FromRawFd, IntoRawFd},
    thread,
    time::Duration,
};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use socket2::{SockRef, TcpKeepalive};

use super::namespaces::{ClientPod, Namespaces};

/// What each end sends before anything happens.
pub(super) const FIRST: usize = 100;

/// What the server sends after the client's FIN, where it does.
const ANSWER: usize = 1_000;

/// What a close_notify takes.
const NOTIFY: usize = 31;

/// Longer than any timer here, also on an emulated machine, whose slow round trips make retransmission timers long.
const PATIENCE: Duration = Duration::from_secs(150);

/// How a connection closes, once each end has sent 100 bytes. "Cut" means that no segment arrives any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Way {
    /// Cut; both ends probe with keepalive.
    Keepalive,
    /// The same, and TCP_USER_TIMEOUT ends it before the probes are used up.
    KeepaliveUserTimeout,
    /// Cut; the client sends more, and its TCP_USER_TIMEOUT passes. The server probes.
    UserTimeout,
    /// Cut; the client sends more until its retries are used up. The server probes.
    Retransmission,
    /// The server does not read, so that its window is shut, until the client's TCP_USER_TIMEOUT passes. Then it closes.
    ZeroWindowUserTimeout,
    /// The server does not read, then cut: the client's window probes are used up. The server probes.
    ZeroWindowCut,
    /// The client sends its FIN, the server answers, then cut; both ends probe.
    HalfClosedKeepalive,
    /// Cut; the client closes, so that its FIN is sent again until its retries are used up. The server probes.
    OrphanInFinWait1,
    /// The client closes; cut; the server closes, and its FIN is sent again until its retries are used up.
    OrphanInLastAck,
    /// The client closes; the server goes on. The client's FIN_WAIT2 ends by its timer; then the server closes.
    FinWait2Timer,
    /// The client sends more and its FIN, the server answers, and closes with the rest unread: a RST.
    HalfClosedThenUnread,
    /// The client sends its FIN, the server answers and resets.
    HalfClosedThenReset,
    /// The client sends its FIN, and the server resets without an answer.
    HalfClosedThenResetInSilence,
    /// The client sends its FIN, the server answers and closes.
    HalfClosedInOrder,
    /// The client sends its FIN, and the server closes without an answer.
    HalfClosedInSilence,
    /// The client sends its FIN and closes; the server answers nothing and closes later.
    HalfClosedThenClosed,
    /// The server closes; the client sends more to what the server's socket left, as a close_notify of TLS, and is answered by a RST.
    ClosedThenNotified,
    /// The server closes, and the client resets.
    ClosedThenReset,
    /// The server sends its FIN, and the client answers and resets.
    ServerHalfClosedThenReset,
    /// The server sends its FIN, and the client resets without an answer.
    ServerHalfClosedThenResetInSilence,
    /// The client resets (SO_LINGER of 0).
    ResetByClient,
    /// The server resets.
    ResetByServer,
    /// The client closes with something unread.
    UnreadByClient,
    /// The server resets, and the client holds its socket for a while.
    HeldAfterReset,
    /// The client sends its FIN, the server answers and closes, and the client holds its socket for a while before it reads.
    HeldAfterAnswer,
    /// The client disconnects its socket (connect(2) with AF_UNSPEC).
    Disconnected,
    /// Cut; the server resets; then not cut any more: the client's probe is answered by a RST.
    ProbeAnsweredByReset,
    /// Cut; both close; then not cut any more: their FINs cross, so that both ends pass through CLOSING.
    ClosedAtOnce,
    /// The client closes with TCP_LINGER2 of -1, so that its socket is removed once its FIN is acknowledged. Then the server
    /// closes, and is answered by a RST.
    ClosedWithoutFinWait2,
    /// An operator destroys the client's socket (`ss -K`).
    ClientDestroyed,
    /// An operator destroys the server's socket.
    ServerDestroyed,
    /// The client sends its FIN, the server answers, and an operator destroys the client's socket.
    HalfClosedThenClientDestroyed,
    /// The client sends its FIN, and an operator destroys the server's socket.
    HalfClosedThenServerDestroyed,
    /// Cut; an operator destroys the client's socket. The server probes.
    ClientDestroyedInSilence,
    /// The server answers and closes, and the client resets.
    AnsweredThenReset,
    /// The client shuts both directions down (shutdown(2) with SHUT_RDWR). The server answers all the same, and is answered by a RST.
    ShutDownThenAnswered,
    /// Cut; the client closes while the machine may have no more orphans (`net.ipv4.tcp_max_orphans`, which the test has set before).
    /// The server probes.
    TooManyOrphans,
}

/// The ends, and what their sockets counted of payload: by `tcp_info` where an application cannot know it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ended {
    /// The client's address.
    pub client: SocketAddr,
    /// The server's.
    pub server: SocketAddr,
    /// Payload of the client's that the server acknowledged.
    pub from_client: u64,
    /// Payload of the server's that the client acknowledged.
    pub from_server: u64,
}

/// A connection, and how it closes.
#[derive(Clone, Debug, Args)]
pub struct ClosePlan {
    /// How it closes.
    pub way: Way,
    /// The server's address; loopback by default.
    #[arg(long, default_value_t = Ipv4Addr::LOCALHOST.into())]
    pub at: IpAddr,
    /// Where the client is, if it is not where the server is.
    #[command(flatten)]
    pub client: Option<ClientPod>,
}

/// Makes the connection, calls `opened`, waits for a line on standard input, and closes it.
///
/// # Errors
/// A system call fails that should not, or the kernel does not end the connection in time.
pub fn end(plan: &ClosePlan, opened: impl FnOnce() -> io::Result<()>) -> io::Result<Ended> {
    let mut pair = Pair::open(plan)?;
    opened()?;
    io::stdin().lock().read_line(&mut String::new())?;
    let (client, server) = (pair.client.local_addr()?, pair.server.local_addr()?);
    let (from_client, from_server) = pair.end(plan.way)?;
    Ok(Ended {
        client,
        server,
        from_client,
        from_server,
    })
}

struct Pair {
    client: TcpStream,
    server: TcpStream,
    namespaces: Namespaces,
}

impl Pair {
    fn open(plan: &ClosePlan) -> io::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::new(plan.at, 0))?;
        if matches!(plan.way, Way::ZeroWindowUserTimeout | Way::ZeroWindowCut) {
            SockRef::from(&listener).set_recv_buffer_size(4096)?;
        }
        // The server's socket is where its listener was made.
        let namespaces = Namespaces::with_client_in(plan.client.as_ref())?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        let (server, _) = listener.accept()?;
        let mut this = Self {
            client,
            server,
            namespaces,
        };
        for socket in [&this.client, &this.server] {
            socket.set_nodelay(true)?;
            socket.set_read_timeout(Some(PATIENCE))?;
        }
        give(&mut this.client, &mut this.server, FIRST)?;
        give(&mut this.server, &mut this.client, FIRST)?;
        Ok(this)
    }

    fn end(&mut self, way: Way) -> io::Result<(u64, u64)> {
        let Self {
            client,
            server,
            namespaces,
        } = self;
        let at = server.local_addr()?;
        let cut = |at, is_cut| namespaces.cut(at, is_cut);
        let first = FIRST as u64;
        let (more, answer) = (2 * first, first + ANSWER as u64);
        match way {
            Way::Keepalive => {
                probe(client, 2)?;
                probe(server, 2)?;
                cut(at, true)?;
                dies(client)?;
                dies(server)?;
                Ok((first, first))
            }
            Way::KeepaliveUserTimeout => {
                for socket in [&*client, &*server] {
                    probe(socket, 20)?;
                    user_timeout(socket)?;
                }
                cut(at, true)?;
                dies(client)?;
                dies(server)?;
                Ok((first, first))
            }
            Way::UserTimeout | Way::Retransmission => {
                if way == Way::UserTimeout {
                    user_timeout(client)?;
                }
                probe(server, 2)?;
                cut(at, true)?;
                client.write_all(&[0; FIRST])?;
                dies(client)?;
                dies(server)?;
                Ok((first, first))
            }
            Way::ZeroWindowUserTimeout | Way::ZeroWindowCut => self.zero_window(way),
            Way::HalfClosedKeepalive => {
                client.shutdown(Shutdown::Write)?;
                give(server, client, ANSWER)?;
                probe(client, 2)?;
                probe(server, 2)?;
                cut(at, true)?;
                dies(client)?;
                dies_by_write(server)?;
                Ok((first, answer))
            }
            Way::OrphanInFinWait1 => {
                probe(server, 2)?;
                cut(at, true)?;
                close(client)?;
                dies(server)?;
                // Until the orphan's retries are used up.
                thread::sleep(Duration::from_secs(4));
                Ok((first, first))
            }
            Way::OrphanInLastAck => {
                close(client)?;
                reads_end(server)?;
                acknowledge(server)?;
                cut(at, true)?;
                close(server)?;
                thread::sleep(Duration::from_secs(4));
                Ok((first, first))
            }
            Way::FinWait2Timer => {
                // The socket itself waits for what is past a minute, its TIME_WAIT socket for the rest.
                set(client, libc::IPPROTO_TCP, libc::TCP_LINGER2, 62)?;
                close(client)?;
                reads_end(server)?;
                // Later than the socket's two seconds, and before its TIME_WAIT socket has waited two more.
                thread::sleep(Duration::from_secs(3));
                close(server)?;
                Ok((first, first))
            }
            Way::HalfClosedThenUnread => {
                client.write_all(&[0; FIRST])?;
                client.shutdown(Shutdown::Write)?;
                // Until it has come, so that the answer acknowledges it.
                server.peek(&mut [0])?;
                give(server, client, ANSWER)?;
                close(server)?;
                dies(client)?;
                Ok((more, answer))
            }
            Way::HalfClosedThenReset | Way::HalfClosedThenResetInSilence => {
                client.shutdown(Shutdown::Write)?;
                let answers = way == Way::HalfClosedThenReset;
                if answers {
                    give(server, client, ANSWER)?;
                }
                reset(server)?;
                dies(client)?;
                Ok((first, if answers { answer } else { first }))
            }
            Way::HalfClosedInOrder | Way::HalfClosedInSilence => {
                client.shutdown(Shutdown::Write)?;
                reads_end(server)?;
                let answers = way == Way::HalfClosedInOrder;
                if answers {
                    give(server, client, ANSWER)?;
                }
                close(server)?;
                reads_end(client)?;
                Ok((first, if answers { answer } else { first }))
            }
            Way::HalfClosedThenClosed => {
                client.shutdown(Shutdown::Write)?;
                reads_end(server)?;
                close(client)?;
                thread::sleep(Duration::from_millis(300));
                close(server)?;
                Ok((first, first))
            }
            Way::ClosedThenNotified => {
                close(server)?;
                reads_end(client)?;
                client.write_all(&[0; NOTIFY])?;
                dies_by_write(client)?;
                Ok((first, first))
            }
            Way::ClosedThenReset => {
                close(server)?;
                reads_end(client)?;
                acknowledge(client)?;
                reset(client)?;
                Ok((first, first))
            }
            Way::ServerHalfClosedThenReset | Way::ServerHalfClosedThenResetInSilence => {
                server.shutdown(Shutdown::Write)?;
                reads_end(client)?;
                let answers = way == Way::ServerHalfClosedThenReset;
                if answers {
                    give(client, server, ANSWER)?;
                }
                reset(client)?;
                dies(server)?;
                Ok((if answers { answer } else { first }, first))
            }
            Way::ResetByClient => {
                reset(client)?;
                dies(server)?;
                Ok((first, first))
            }
            Way::ResetByServer => {
                reset(server)?;
                dies(client)?;
                Ok((first, first))
            }
            Way::UnreadByClient => {
                server.write_all(&[0; FIRST])?;
                client.peek(&mut [0])?;
                close(client)?;
                dies(server)?;
                Ok((first, more))
            }
            Way::HeldAfterReset => {
                reset(server)?;
                dies(client)?;
                io::stdin().lock().read_line(&mut String::new())?;
                Ok((first, first))
            }
            Way::HeldAfterAnswer => {
                client.shutdown(Shutdown::Write)?;
                reads_end(server)?;
                server.write_all(&[0; ANSWER])?;
                close(server)?;
                io::stdin().lock().read_line(&mut String::new())?;
                client.read_exact(&mut [0; ANSWER])?;
                Ok((first, answer))
            }
            Way::Disconnected => {
                disconnect(client)?;
                dies(server)?;
                Ok((first, first))
            }
            Way::ClosedAtOnce => {
                // However long the rules take: else the FINs' retries would be used up before they may cross.
                for socket in [&*client, &*server] {
                    SockRef::from(socket).set_tcp_user_timeout(Some(PATIENCE))?;
                }
                cut(at, true)?;
                close(client)?;
                close(server)?;
                cut(at, false)?;
                // Until the second FINs, which are not long in coming, have crossed and are acknowledged.
                thread::sleep(Duration::from_secs(3));
                Ok((first, first))
            }
            Way::ClosedWithoutFinWait2 => {
                set(client, libc::IPPROTO_TCP, libc::TCP_LINGER2, -1)?;
                close(client)?;
                reads_end(server)?;
                thread::sleep(Duration::from_millis(300));
                close(server)?;
                Ok((first, first))
            }
            Way::ClientDestroyed => {
                namespaces.destroy_client(client)?;
                dies(server)?;
                Ok((first, first))
            }
            Way::ServerDestroyed => {
                namespaces.destroy_server(server)?;
                dies(client)?;
                Ok((first, first))
            }
            Way::HalfClosedThenClientDestroyed => {
                client.shutdown(Shutdown::Write)?;
                give(server, client, ANSWER)?;
                namespaces.destroy_client(client)?;
                dies_by_write(server)?;
                Ok((first, answer))
            }
            Way::HalfClosedThenServerDestroyed => {
                client.shutdown(Shutdown::Write)?;
                reads_end(server)?;
                namespaces.destroy_server(server)?;
                dies(client)?;
                Ok((first, first))
            }
            Way::ClientDestroyedInSilence => {
                probe(server, 2)?;
                cut(at, true)?;
                namespaces.destroy_client(client)?;
                dies(server)?;
                Ok((first, first))
            }
            Way::AnsweredThenReset => {
                give(client, server, FIRST)?;
                server.write_all(&[0; ANSWER])?;
                close(server)?;
                client.read_exact(&mut [0; ANSWER])?;
                reads_end(client)?;
                acknowledge(client)?;
                reset(client)?;
                Ok((more, answer))
            }
            Way::ShutDownThenAnswered => {
                client.shutdown(Shutdown::Both)?;
                reads_end(server)?;
                server.write_all(&[0; NOTIFY])?;
                dies_by_write(server)?;
                Ok((first, first))
            }
            Way::TooManyOrphans => {
                probe(server, 2)?;
                // Else its FIN is acknowledged at once, and it is an orphan no more.
                cut(at, true)?;
                close(client)?;
                dies(server)?;
                Ok((first, first))
            }
            Way::ProbeAnsweredByReset => {
                probe(client, 9)?;
                cut(at, true)?;
                reset(server)?;
                cut(at, false)?;
                dies(client)?;
                Ok((first, first))
            }
        }
    }

    fn zero_window(&mut self, way: Way) -> io::Result<(u64, u64)> {
        let Self {
            client,
            server,
            namespaces,
        } = self;
        let at = server.local_addr()?;
        client.set_nonblocking(true)?;
        // Until neither buffer takes more.
        let mut idle = 0;
        while idle < 5 {
            match client.write(&[0; 4096]) {
                Ok(_) => idle = 0,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    idle += 1;
                    thread::sleep(Duration::from_millis(50));
                }
                Err(error) => return Err(error),
            }
        }
        client.set_nonblocking(false)?;
        if way == Way::ZeroWindowCut {
            probe(server, 2)?;
            namespaces.cut(at, true)?;
        } else {
            user_timeout(client)?;
        }
        dies(client)?;
        let acknowledged = acknowledged(client)?;
        if way == Way::ZeroWindowCut {
            dies_by_write(server)?;
        } else {
            close(server)?;
        }
        Ok((acknowledged, FIRST as u64))
    }
}

pub(super) fn give(from: &mut TcpStream, to: &mut TcpStream, bytes: usize) -> io::Result<()> {
    from.write_all(&vec![0; bytes])?;
    to.read_exact(&mut vec![0; bytes])?;
    // Over a link the acknowledgement comes after the other application has read. Bytes that a reset overtakes are not counted as sent.
    while unacknowledged(from)? > 0 {
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Bytes sent and not acknowledged (tcp(7), SIOCOUTQ).
fn unacknowledged(socket: &TcpStream) -> io::Result<libc::c_int> {
    let mut bytes = 0;
    // SAFETY: the request writes one integer.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 {
        Ok(bytes)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Reads until the kernel reports that the connection is dead.
fn dies(socket: &mut TcpStream) -> io::Result<()> {
    match socket.read(&mut [0; 4096]) {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Ok(()),
        other => Err(io::Error::other(format!("it did not die: {other:?}"))),
    }
}

/// The same of one whose peer has closed, or that has something to read: the error waits behind both.
fn dies_by_write(socket: &TcpStream) -> io::Result<()> {
    let began = std::time::Instant::now();
    while began.elapsed() < PATIENCE {
        if SockRef::from(socket).take_error()?.is_some() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Err(io::Error::other("it did not die"))
}

fn reads_end(socket: &mut TcpStream) -> io::Result<()> {
    match socket.read(&mut [0; 1])? {
        0 => Ok(()),
        _ => Err(io::Error::other("there was something to read")),
    }
}

/// Closes the descriptor now, and puts an unconnected socket there.
fn close(socket: &mut TcpStream) -> io::Result<()> {
    let none = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    // SAFETY: the descriptor is moved over.
    let none = unsafe { TcpStream::from_raw_fd(none.into_raw_fd()) };
    drop(std::mem::replace(socket, none));
    Ok(())
}

pub(super) fn reset(socket: &mut TcpStream) -> io::Result<()> {
    SockRef::from(&*socket).set_linger(Some(Duration::ZERO))?;
    close(socket)
}

/// Probes after an idle second, and every second.
pub(super) fn probe(socket: &TcpStream, probes: u32) -> io::Result<()> {
    let second = Duration::from_secs(1);
    let keepalive = TcpKeepalive::new().with_time(second).with_interval(second);
    SockRef::from(socket).set_tcp_keepalive(&keepalive.with_retries(probes))
}

/// Acknowledges the peer's FIN now: that may wait for what the socket sends next, and a RST overtakes it (net/ipv4/tcp_input.c, tcp_fin).
fn acknowledge(socket: &TcpStream) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_QUICKACK, 1)
}

fn user_timeout(socket: &TcpStream) -> io::Result<()> {
    SockRef::from(socket).set_tcp_user_timeout(Some(Duration::from_millis(2_000)))
}

fn set(socket: &TcpStream, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the kernel reads an int of the given size during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    check(result)
}

fn disconnect(socket: &TcpStream) -> io::Result<()> {
    let address = libc::sockaddr {
        sa_family: libc::AF_UNSPEC as libc::sa_family_t,
        sa_data: [0; 14],
    };
    let length = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: the kernel reads the address during the call.
    check(unsafe { libc::connect(socket.as_raw_fd(), &raw const address, length) })
}

/// `tcpi_bytes_acked` (include/uapi/linux/tcp.h), without the SYN.
fn acknowledged(socket: &TcpStream) -> io::Result<u64> {
    const AT: usize = 120;
    let mut info = [0_u8; AT + 8];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, all of them within `info`.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    })?;
    let bytes = *info[AT..].first_chunk().expect("eight bytes");
    Ok(u64::from_ne_bytes(bytes) - 1)
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

//! One connection, over loopback or to another pod, and every way in which it can close.

mod acts;
mod way;

use std::{
    io::{self, BufRead, Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use clap::Args;
use serde::{Deserialize, Serialize};
use socket2::SockRef;

use self::acts::{
    PATIENCE, acknowledge, acknowledged, close, dies, dies_by_write, disconnect, reads_end, set,
    user_timeout,
};
pub(super) use self::acts::{give, probe, reset};
pub use self::way::Way;
use super::namespaces::{ClientPod, Namespaces};

/// What each end sends before anything happens.
pub(super) const FIRST: usize = 100;

/// What the server sends after the client's FIN, where it does.
const ANSWER: usize = 1_000;

/// What a close_notify takes.
const NOTIFY: usize = 31;

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

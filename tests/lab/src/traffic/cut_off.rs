//! Connections whose peer closes first and that are reset afterwards.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use socket2::SockRef;

use super::socket::reset_on_close;

/// How the client goes on after it has read the server's FIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CutOff {
    /// It sends 31 bytes to the server's closed socket, as a close_notify of TLS, and waits for the RST.
    Notify,
    /// It sends them and closes at once.
    NotifyAndClose,
    /// It closes with SO_LINGER 0.
    Abort,
    /// The server had closed its direction only; it sends what the server closes on without reading.
    Unread,
    /// The server had closed its direction only; the client closes with SO_LINGER 0.
    AbortHalfClosed,
    /// It sends nothing, and closes: no RST.
    InOrder,
    /// Before the server closes and before any payload, the client closes with SO_LINGER 0, as a health check.
    Probe,
    /// The same of a server that speaks first: the client closes with the server's greeting unread.
    ProbeOfGreeter,
}

/// Both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutOffReport {
    /// The client's address.
    pub client: SocketAddr,
    /// The server's address.
    pub server: SocketAddr,
}

/// Payload of the client and of the server.
const REQUEST: usize = 100;
const RESPONSE: usize = 1000;

/// Payload of a server that speaks first.
pub const GREETING: usize = 40;

/// Makes one connection over loopback and closes it.
///
/// # Errors
/// The sockets fail otherwise than by the RST that is asked for.
pub fn cut_off(how: CutOff) -> io::Result<CutOffReport> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    let report = CutOffReport {
        client: client.local_addr()?,
        server: client.peer_addr()?,
    };
    if matches!(how, CutOff::Probe | CutOff::ProbeOfGreeter) {
        if how == CutOff::ProbeOfGreeter {
            server.write_all(&[2; GREETING])?;
            // Until it has come.
            client.peek(&mut [0])?;
        } else {
            reset_on_close(SockRef::from(&client))?;
        }
        drop(client);
        // Until the RST has arrived.
        return match server.read(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(report),
            other => Err(io::Error::other(format!("no RST came: {other:?}"))),
        };
    }
    client.write_all(&[1; REQUEST])?;
    server.read_exact(&mut [0; REQUEST])?;
    server.write_all(&[2; RESPONSE])?;
    let half_closed = if matches!(how, CutOff::Unread | CutOff::AbortHalfClosed) {
        server.shutdown(Shutdown::Write)?;
        Some(server)
    } else {
        drop(server);
        None
    };
    let mut response = Vec::new();
    client.read_to_end(&mut response)?;
    if response.len() != RESPONSE {
        return Err(io::Error::other("the response was cut short"));
    }
    match how {
        CutOff::InOrder | CutOff::Probe | CutOff::ProbeOfGreeter => {}
        CutOff::Abort => reset_on_close(SockRef::from(&client))?,
        CutOff::NotifyAndClose => client.write_all(&[3; 31])?,
        CutOff::Notify => {
            client.write_all(&[3; 31])?;
            until_reset(&client)?;
        }
        CutOff::Unread => {
            client.write_all(&[3; 31])?;
            if let Some(server) = half_closed {
                // Until it has come.
                server.peek(&mut [0])?;
            }
            until_reset(&client)?;
        }
        CutOff::AbortHalfClosed => {
            reset_on_close(SockRef::from(&client))?;
            drop(client);
            if let Some(server) = half_closed {
                until_reset(&server)?;
            }
        }
    }
    Ok(report)
}

/// Waits until the peer's RST has ended the socket: EPIPE, where the peer had closed (net/ipv4/tcp_input.c, tcp_reset).
fn until_reset(socket: &TcpStream) -> io::Result<()> {
    for _ in 0..10_000 {
        match socket.take_error()? {
            Some(_) => return Ok(()),
            None => thread::sleep(Duration::from_millis(1)),
        }
    }
    Err(io::Error::other("no RST came"))
}

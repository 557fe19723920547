//! Connections whose payload the kernel moves from socket to socket (sockmap), as proxies and service meshes have it done.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    thread,
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use serde::{Deserialize, Serialize};

use super::{
    call::Caller,
    call_plan::CallPlan,
    report::ConnectionReport,
    sockmap::{Redirect, SockMap},
};

/// What was redirected from socket to socket past TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bypassed {
    /// The writer's port.
    pub port: u16,
    /// Bytes that one end of a connection wrote and the other one read.
    pub bytes: u64,
}

/// Makes one connection by the plan through a proxy of its own on loopback: what the proxy's two sockets receive is sent on
/// by the kernel. The report is the client's.
///
/// # Errors
/// It cannot connect, or a sockmap is refused.
pub fn splice(plan: &CallPlan) -> io::Result<ConnectionReport> {
    let (client, accepted) = loopback()?;
    let upstream = TcpStream::connect(plan.target)?;
    let port = accepted.local_addr()?.port();
    let spliced = SockMap::between(&accepted, port, &upstream, Redirect::Received)?;
    let mut caller = Caller::over(plan, client)?;
    thread::scope(|scope| {
        let there = scope.spawn(|| hand_on_the_end(&accepted, &upstream));
        let back = scope.spawn(|| hand_on_the_end(&upstream, &accepted));
        let exchanged = caller.all_exchanges();
        let report = caller.finish(exchanged);
        for direction in [there, back] {
            direction
                .join()
                .map_err(|_| io::Error::other("a thread panicked"))??;
        }
        drop(spliced);
        Ok(report)
    })
}

/// Writes so many bytes to one end of a connection over loopback and reads them from the other, while a sockmap redirects them
/// before they become segments.
///
/// # Errors
/// A sockmap is refused.
pub fn bypass(bytes: u64) -> io::Result<Bypassed> {
    let (mut writer, mut reader) = loopback()?;
    let port = writer.local_addr()?.port();
    let bypassed = SockMap::between(&writer, port, &reader, Redirect::Written)?;
    let read = thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut chunk = [0; 4096];
            let mut left = bytes;
            while left > 0 {
                match reader.read(&mut chunk)? {
                    0 => break,
                    read => left = left.saturating_sub(read as u64),
                }
            }
            Ok(bytes - left)
        });
        let written = io::copy(&mut io::repeat(0).take(bytes), &mut writer);
        let read = reading
            .join()
            .map_err(|_| io::Error::other("a thread panicked"))?;
        written.and(read)
    })?;
    writer.flush()?;
    drop(bypassed);
    Ok(Bypassed { port, bytes: read })
}

/// A sockmap does not pass on the FIN of a direction. The FIN cannot be read either where the kernel takes what it has
/// redirected for unread, so it is waited for.
fn hand_on_the_end(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(from, EpollEvent::new(EpollFlags::EPOLLRDHUP, 0))?;
    let mut events = [EpollEvent::empty()];
    while epoll.wait(&mut events, EpollTimeout::NONE)? == 0 {}
    to.shutdown(Shutdown::Write)
}

/// Both ends of a connection.
fn loopback() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (accepted, _) = listener.accept()?;
    Ok((client, accepted))
}

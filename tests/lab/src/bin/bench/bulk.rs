//! Bulk: megabytes one way on one connection.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use flowcar_lab::traffic::TcpInfo;
use serde::{Deserialize, Serialize};

/// What is counted as one: a megabyte.
const MEGABYTE: usize = 1_000_000;

/// Bytes of one read or write.
const CHUNK: usize = 50_000;

/// The client asks for so many megabytes before the first has come, so that the server never waits.
const AHEAD: usize = 4;

/// Which way the payload goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Way {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// What was moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    /// Megabytes (of 1,000,000 bytes).
    pub(crate) megabytes: u64,
    /// Segments that carried payload, as TCP counts them.
    pub(crate) segments: u64,
}

// === impl Way ===

impl Way {
    const fn byte(self) -> u8 {
        match self {
            Self::Up => b'u',
            Self::Down => b'd',
        }
    }

    /// Moves payload for this long, as the client. It ends when the server has closed, too.
    pub(crate) fn move_for(self, server: SocketAddr, duration: Duration) -> io::Result<Moved> {
        let ends = Instant::now() + duration;
        let mut stream = TcpStream::connect(server)?;
        stream.write_all(&[self.byte()])?;
        let mut moved = Moved::default();
        match self {
            // At least one, also where connecting took all of the time.
            Self::Up => loop {
                send(&mut stream)?;
                moved.megabytes += 1;
                if Instant::now() >= ends {
                    break;
                }
            },
            Self::Down => {
                stream.write_all(&[b'd'; AHEAD - 1])?;
                let mut asked = AHEAD as u64;
                while moved.megabytes < asked {
                    receive(&mut stream)?;
                    moved.megabytes += 1;
                    if Instant::now() < ends {
                        stream.write_all(b"d")?;
                        asked += 1;
                    }
                }
            }
        }
        stream.shutdown(Shutdown::Write)?;
        stream.read_exact(&mut [0; 1]).or_else(at_the_end)?;
        let info = TcpInfo::of(&stream)?;
        moved.segments = match self {
            Self::Up => info.data_segs_out.into(),
            Self::Down => info.data_segs_in.into(),
        };
        Ok(moved)
    }
}

/// The server: one connection after the other.
pub(crate) fn serve(listener: &TcpListener) {
    for stream in listener.incoming() {
        // The client sees every failure, too, and reports it.
        let _ = stream.and_then(serve_one);
    }
}

fn serve_one(mut stream: TcpStream) -> io::Result<()> {
    let mut first = [0];
    stream.read_exact(&mut first)?;
    if first == [Way::Up.byte()] {
        let mut payload = vec![0; CHUNK];
        while stream.read(&mut payload)? > 0 {}
        return Ok(());
    }
    loop {
        send(&mut stream)?;
        if stream.read(&mut first)? == 0 {
            return Ok(());
        }
    }
}

fn send(stream: &mut TcpStream) -> io::Result<()> {
    static ZEROS: [u8; CHUNK] = [0; CHUNK];
    (0..MEGABYTE / CHUNK).try_for_each(|_| stream.write_all(&ZEROS))
}

fn receive(stream: &mut TcpStream) -> io::Result<()> {
    let mut payload = [0; CHUNK];
    (0..MEGABYTE / CHUNK).try_for_each(|_| stream.read_exact(&mut payload))
}

fn at_the_end(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Ok(()),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, thread};

    use super::*;

    #[test]
    fn both_ways_move_whole_megabytes() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let server = listener.local_addr().unwrap();
        thread::spawn(move || serve(&listener));
        for way in [Way::Up, Way::Down] {
            let moved = way.move_for(server, Duration::from_millis(5)).unwrap();
            assert!(moved.megabytes > 0, "{way:?}: {moved:?}");
            assert!(moved.segments > moved.megabytes, "{way:?}: {moved:?}");
        }
    }
}

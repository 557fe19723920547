//! The states of a network namespace's connections, as the kernel's own table has them, by their numbers
//! (include/net/tcp_states.h).

use std::fs;

use crate::place::TestPod;

/// `TCP_FIN_WAIT2`
pub const FIN_WAIT2: u8 = 5;
/// `TCP_TIME_WAIT`
pub const TIME_WAIT: u8 = 6;
/// `TCP_CLOSE_WAIT`
pub const CLOSE_WAIT: u8 = 8;

/// How many connections of IPv4 with this port are in this state.
///
/// # Panics
/// The kernel's table cannot be read.
pub fn count(pod: &TestPod, port: u16, state: u8) -> usize {
    let table = pod
        .netns()
        .run(|| fs::read_to_string("/proc/thread-self/net/tcp"));
    let table = table.unwrap().unwrap();
    let (port, state) = (format!(":{port:04X}"), format!("{state:02X}"));
    let is_one = |line: &&str| {
        // number, local address, remote address, state
        let columns: Vec<_> = line.split_whitespace().collect();
        columns[3] == state && (columns[1].ends_with(&port) || columns[2].ends_with(&port))
    };
    table.lines().skip(1).filter(is_one).count()
}

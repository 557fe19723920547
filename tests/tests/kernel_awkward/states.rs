//! The states of a network namespace's connections, as the kernel's own table has them.

use std::fs;

use flowcar_tests::place::Place;

/// States by their numbers (include/net/tcp_states.h).
pub(crate) const FIN_WAIT2: u8 = 5;
pub(crate) const TIME_WAIT: u8 = 6;
pub(crate) const CLOSE_WAIT: u8 = 8;

/// How many connections of IPv4 with this port are in this state.
pub(crate) fn count(place: &Place, port: u16, state: u8) -> usize {
    let table = place
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

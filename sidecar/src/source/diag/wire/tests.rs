use proptest::prelude::*;

use super::*;

/// What the kernel (6.18) sent of one end of a connection over loopback: 100 bytes sent, 50 received, cgroup 1.
fn established() -> Vec<u8> {
    let mut info = [0_u8; 280];
    let mut put = |at: usize, bytes: &[u8]| info[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[1]);
    put(68, &28_u32.to_ne_bytes());
    put(120, &101_u64.to_ne_bytes());
    put(128, &50_u64.to_ne_bytes());
    put(136, &4_u32.to_ne_bytes());
    put(140, &3_u32.to_ne_bytes());
    put(148, &12_u32.to_ne_bytes());
    put(152, &1_u32.to_ne_bytes());
    put(156, &1_u32.to_ne_bytes());
    put(192, &2_u32.to_ne_bytes());
    put(200, &100_u64.to_ne_bytes());
    let mut body = vec![2, 1, 0, 0];
    body.extend(40_000_u16.to_be_bytes());
    body.extend(80_u16.to_be_bytes());
    for address in [[127, 0, 0, 1], [127, 0, 0, 2]] {
        body.extend(address);
        body.extend([0; 12]);
    }
    for word in [0_u32, 7, 1, 0, 0, 0, 65_534, 4711] {
        body.extend(word.to_ne_bytes());
    }
    attribute(&mut body, INET_DIAG_INFO, &info);
    attribute(&mut body, 8, &[0]);
    attribute(&mut body, INET_DIAG_CGROUP_ID, &1_u64.to_ne_bytes());
    message(SOCK_DIAG_BY_FAMILY, &body)
}

fn attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.extend((4 + value.len() as u16).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

fn message(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = (16 + body.len() as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(2_u16.to_ne_bytes());
    bytes.extend(9_u32.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn all(bytes: &[u8]) -> Vec<(u32, Message)> {
    let mut messages = Vec::new();
    parse(bytes, |sequence, message| {
        messages.push((sequence, message))
    });
    messages
}

#[test]
fn a_socket_is_read_field_by_field() {
    let mut bytes = established();
    bytes.extend(message(NLMSG_DONE, &[0; 4]));
    let [(9, Message::Socket(observed)), (9, Message::Done)] = &all(&bytes)[..] else {
        panic!("{:?}", all(&bytes));
    };
    assert_eq!(observed.cookie, 1 << 32 | 7);
    assert_eq!(observed.local, "127.0.0.1:40000".parse().unwrap());
    assert_eq!(observed.peer, "127.0.0.2:80".parse().unwrap());
    assert_eq!(
        (observed.state, observed.cgroup),
        (State::Established, Some(1))
    );
    let info = observed.info.unwrap();
    assert_eq!(
        (info.bytes_acked, info.bytes_sent, info.bytes_received),
        (101, 100, 50)
    );
    assert_eq!(
        (info.segs_out, info.segs_in, info.rtt_us, info.min_rtt_us),
        (4, 3, 28, 12)
    );
    assert_eq!(observed.role(), flowcar_shared::record::Role::Client);
}

/// `struct inet_diag_req` behind the header.
#[test]
fn a_request_for_both_families_has_states_and_extensions() {
    let bytes = dump_both(&StateFlags::LISTEN, 7);
    assert_eq!(bytes.len(), 76);
    assert_eq!(bytes[..4], 76_u32.to_ne_bytes());
    assert_eq!(bytes[4..6], TCPDIAG_GETSOCK.to_ne_bytes());
    assert_eq!(bytes[8..12], 7_u32.to_ne_bytes());
    assert_eq!(bytes[16..20], [0, 0, 0, 0x42]);
    assert_eq!(bytes[20..68], [0; 48]);
    assert_eq!(bytes[68..], [1_u32 << 10, 0].map(u32::to_ne_bytes).concat());
}

#[test]
fn a_refusal_names_its_errno() {
    let body = (-libc::ENOENT).to_ne_bytes();
    let messages = all(&message(NLMSG_ERROR, &body));
    assert_eq!(messages, [(9, Message::Refused(libc::ENOENT))]);
}

#[test]
fn a_kernel_whose_tcp_info_is_too_short_is_not_misread() {
    let mut body = established()[16..16 + 72].to_vec();
    attribute(&mut body, INET_DIAG_INFO, &[0; tcp_info::LEAST - 1]);
    let messages = all(&message(SOCK_DIAG_BY_FAMILY, &body));
    assert_eq!(messages, [(9, Message::Malformed)]);
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        all(&bytes);
        let framed = message(SOCK_DIAG_BY_FAMILY, &bytes);
        prop_assert_eq!(all(&framed).len(), 1);
    }

    /// Cut anywhere, or with any byte changed, a message is read or refused, and nothing behind its end is.
    #[test]
    fn damaged_messages_are_read_or_refused(cut in 0_usize..400, at in 0_usize..400, byte in any::<u8>()) {
        let mut bytes = established();
        let length = bytes.len();
        bytes[at % length] = byte;
        all(&bytes);
        bytes.truncate(cut % length);
        all(&bytes);
    }
}

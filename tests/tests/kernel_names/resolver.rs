//! A resolver in the pod's network and outside its cgroup, which answers by UDP and TCP.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use flowcar_tests::place::TestPod;

use super::wire::{A, AAAA, Data, Message};

/// The resolvers' addresses.
pub(crate) const RESOLVER4: &str = "127.18.53.1:53";
pub(crate) const RESOLVER6: &str = "[fd99:18::53]:53";
/// The same resolver behind a destination NAT, which leaves the port as it is, or not.
pub(crate) const NAT_TO_53: &str = "127.18.53.10:53";
pub(crate) const NAT_TO_OTHER: &str = "127.18.53.11:53";
pub(crate) const NAT6_TO_OTHER: &str = "[fd99:18::5300]:53";
const OTHER: &str = "127.18.53.1:5300";
const OTHER6: &str = "[fd99:18::53]:5300";
/// Nobody asks this one.
const STRANGER: &str = "127.18.53.2:53";

/// An address of the pod.
pub(crate) fn address(number: u8) -> IpAddr {
    IpAddr::from([127, 18, 0, number])
}

/// An IPv6 address that was just added cannot be bound to until the kernel's work queue has had a turn (net/ipv6/addrconf.c,
/// addrconf_dad_work).
fn once_it_is_there<T>(bind: impl Fn() -> io::Result<T>) -> T {
    const TRIES: u32 = 1_000;
    for _ in 0..TRIES {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                thread::sleep(Duration::from_millis(10));
            }
            bound => return bound.unwrap(),
        }
    }
    panic!("the address stays tentative");
}

/// Starts it on both addresses.
pub(crate) fn start(pod: &TestPod) {
    let bind = |at: &str| {
        let udp = once_it_is_there(|| UdpSocket::bind(at));
        (udp, once_it_is_there(|| TcpListener::bind(at)))
    };
    let listening = pod.netns().run(|| {
        let stranger = UdpSocket::bind(STRANGER).unwrap();
        [RESOLVER4, RESOLVER6, OTHER, OTHER6].map(|at| (bind(at), stranger.try_clone().unwrap()))
    });
    for ((udp, tcp), stranger) in listening.unwrap() {
        thread::spawn(move || serve_udp(&udp, &stranger));
        thread::spawn(move || {
            for stream in tcp.incoming() {
                thread::spawn(|| serve_tcp(stream.unwrap()));
            }
        });
    }
}

/// Has the pod's own network namespace translate, as kube-proxy's does for a pod in the host's network, and that of a container in one of
/// Docker's networks.
pub(crate) fn translate(pod: &TestPod) {
    for (family, from, to) in [
        ("ip", NAT_TO_53, RESOLVER4),
        ("ip", NAT_TO_OTHER, OTHER),
        ("ip6", NAT6_TO_OTHER, OTHER6),
    ] {
        let from: SocketAddr = from.parse().unwrap();
        let rule = |by| format!("{family} daddr {} {by} dport 53 dnat to {to};", from.ip());
        let rules = format!(
            "table {family} translate {{ chain output {{ type nat hook output priority -100; {} {} }}; }}",
            rule("udp"),
            rule("tcp"),
        );
        let mut nft = pod.netns().command("nft").unwrap();
        assert!(nft.arg(rules).status().unwrap().success());
    }
}

fn serve_udp(socket: &UdpSocket, stranger: &UdpSocket) {
    let mut bytes = [0; 4_096];
    while let Ok((length, from)) = socket.recv_from(&mut bytes) {
        let asked = Message::read(&bytes[..length]);
        let answer = answer(&asked);
        let other = |number| {
            let mut other = answer.clone();
            let owner = other.name.clone();
            other.records = vec![(owner, 300, Data::Address(address(number)))];
            other
        };
        let send = |bytes: &[u8]| assert_eq!(socket.send_to(bytes, from).unwrap(), bytes.len());
        match asked.name.as_str() {
            "wrong-id.example" => send(
                &Message {
                    id: asked.id ^ 1,
                    ..answer
                }
                .bytes(),
            ),
            "wrong-name.example" => send(
                &Message {
                    name: "another.example".to_owned(),
                    ..answer
                }
                .bytes(),
            ),
            "wrong-type.example" => send(&Message { kind: 16, ..answer }.bytes()),
            "stranger.example" => {
                answer_of_stranger(stranger, from, &other(40).bytes());
                send(&answer.bytes());
            }
            "twice.example" => {
                send(&answer.bytes());
                send(&other(41).bytes());
            }
            "cut.example" => send(&answer.bytes()[..40]),
            "long.example" => send(
                &Message {
                    is_truncated: true,
                    records: Vec::new(),
                    ..answer
                }
                .bytes(),
            ),
            "circle.example" => {
                let mut circle = Message {
                    records: Vec::new(),
                    ..answer
                }
                .bytes();
                // One record, whose name is a pointer to itself.
                circle[7] = 1;
                let at = circle.len() as u8;
                circle.extend([0xc0, at, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 127, 18, 0, 42]);
                send(&circle);
            }
            _ => send(&answer.bytes()),
        }
    }
}

/// A socket that is connected does not take it.
fn answer_of_stranger(stranger: &UdpSocket, to: SocketAddr, bytes: &[u8]) {
    if to.is_ipv4() {
        let _ = stranger.send_to(bytes, to);
    }
}

fn serve_tcp(mut stream: TcpStream) {
    let mut length = [0; 2];
    while stream.read_exact(&mut length).is_ok() {
        let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut bytes).unwrap();
        let answer = answer(&Message::read(&bytes)).bytes();
        let framed = [&(answer.len() as u16).to_be_bytes()[..], &answer].concat();
        // In two segments, as they may come.
        let (first, second) = framed.split_at(framed.len() / 2);
        stream.set_nodelay(true).unwrap();
        stream.write_all(first).unwrap();
        stream.write_all(second).unwrap();
    }
}

/// What the zone has of a name.
fn answer(asked: &Message) -> Message {
    let name = asked.name.to_ascii_lowercase();
    let of = |owner: &str, ttl, number| (owner.to_owned(), ttl, Data::Address(address(number)));
    let alias = |owner: &str, to: &str| (owner.to_owned(), 300, Data::Alias(to.to_owned()));
    let v6: IpAddr = "fd99:18::1".parse().unwrap();
    let records = match name.as_str() {
        "v6.example" if asked.kind == AAAA => vec![(name.clone(), 300, Data::Address(v6))],
        _ if asked.kind != A => Vec::new(),
        "one.example" | "edns.example" => vec![of(&name, 300, if asked.has_edns { 8 } else { 1 })],
        "many.example" => (2..5).map(|number| of(&name, 300, number)).collect(),
        "www.example" => vec![
            alias(&name, "edge.cdn.example"),
            alias("edge.cdn.example", "x.cdn.example"),
            of("x.cdn.example", 300, 5),
            // Nobody asked for it.
            of("stranger.cdn.example", 300, 43),
        ],
        "left.example" | "right.example" => vec![of(&name, 300, 6)],
        "short.example" => vec![of(&name, 5, 7)],
        "long.example" => {
            let others = (60..250).map(|number| of(&name, 300, number));
            others.chain([of(&name, 300, 9)]).collect()
        }
        "wrong-id.example" | "wrong-name.example" | "wrong-type.example" => {
            vec![of(&name, 300, 44)]
        }
        "stranger.example" => vec![of(&name, 300, 45)],
        "twice.example" => vec![of(&name, 300, 46)],
        "cut.example" => vec![of(&name, 300, 47)],
        // `wN.example` has the address 127.18.0.N.
        _ => {
            let digits = name.trim_start_matches('w').trim_end_matches(".example");
            let number = digits.parse().ok();
            number
                .map(|number| of(&name, 300, number))
                .into_iter()
                .collect()
        }
    };
    let owned = records.into_iter().map(|(owner, ttl, data)| {
        let owner = if owner == name {
            asked.name.clone()
        } else {
            owner
        };
        (owner, ttl, data)
    });
    Message {
        records: owned.collect(),
        is_answer: true,
        ..asked.clone()
    }
}

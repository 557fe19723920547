//! Names of peers in less room than they need.

use std::net::SocketAddr;

/// What stands for the part that is left out.
const GAP: &str = "..";

/// A peer with its port in at most so many characters. The port stays, and of an address both ends: the first part shows the network,
/// the last one the host. Of a name the beginning stays.
pub fn peer(text: &str, room: usize) -> String {
    let length = text.chars().count();
    if length <= room {
        return text.to_owned();
    }
    let kept = room.saturating_sub(GAP.len());
    let tail = match text.rfind(':') {
        _ if text.parse::<SocketAddr>().is_ok() => kept - kept * 6 / 19,
        Some(port) => text[port..].chars().count().min(kept / 2),
        None => 0,
    };
    let head = text.chars().take(kept - tail);
    let tail = text.chars().skip(length - tail);
    head.chain(GAP.chars()).chain(tail).take(room).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_and_both_ends_of_an_address_stay() {
        for (text, room, expected) in [
            ("10.0.0.1:80", 11, "10.0.0.1:80"),
            (
                "[2001:db8:1:2:3:4:5678:5679]:54321",
                21,
                "[2001:..8:5679]:54321",
            ),
            (
                "[2001:db8:1:2:3:4:5678:5679]:54321",
                24,
                "[2001:..5678:5679]:54321",
            ),
            ("10.244.133.17:54321", 17, "10.2..33.17:54321"),
            (
                "orders.shop.svc.cluster.local:5432",
                24,
                "orders.shop.svc.c..:5432",
            ),
            ("2001:db8:1:2::/64:443", 18, "2001:db8:1:2..:443"),
            ("10.128.0.0/10 of :8080", 16, "10.128.0...:8080"),
            ("orders", 5, "ord.."),
            ("orders", 1, "."),
            ("orders:1", 0, ""),
        ] {
            let cut = peer(text, room);
            assert!(cut.chars().count() <= room, "{cut}");
            assert_eq!(cut, expected, "{text} in {room}");
        }
    }

    #[test]
    fn hosts_of_one_network_stay_different() {
        for room in [16, 21, 24] {
            let of = |host: &str| peer(&format!("[2001:db8:1:2:3:4:5:{host}]:443"), room);
            assert_ne!(of("17"), of("18"), "{room}");
        }
    }
}

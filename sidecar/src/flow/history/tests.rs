//! Final counts as Linux 6.18 told them over loopback, each end beside what its application did: the client sent 100 bytes
//! and received 50.

use super::*;

const CLIENT: (u64, u64) = (100, 50);
const SERVER: (u64, u64) = (50, 100);

/// The news of an end.
struct News {
    unread: u32,
    unacknowledged: u32,
    acked: u64,
    received: u64,
    sent: u64,
    delivered: u32,
}

impl News {
    fn sight(&self) -> Sight {
        let info = TcpInfo {
            state: State::Closed as u8,
            bytes_acked: self.acked,
            bytes_received: self.received,
            bytes_sent: self.sent,
            delivered: self.delivered,
            data_segs_out: 1,
            last_data_recv_ms: 20,
            segs_out: 4,
            segs_in: 4,
            ..TcpInfo::default()
        };
        Sight {
            cookie: 1,
            local: "127.0.0.1:40000".parse().unwrap(),
            peer: "127.0.0.1:80".parse().unwrap(),
            interface: 0,
            state: State::Closed,
            unread: self.unread,
            unacknowledged: self.unacknowledged,
            cgroup: None,
            drops: None,
            info: Some(info),
        }
    }

    fn end(&self, history: History, found: Afterlife) -> Ending {
        self.end_beside(history, found, None)
    }

    fn end_beside(&self, history: History, found: Afterlife, peers_payload: Option<u64>) -> Ending {
        let sight = self.sight();
        let told = Told {
            sight,
            found,
            peers_payload,
        };
        history.end(&told, &sight.info.unwrap(), &Answers::default())
    }
}

const fn told(unread: u32, acked: u64, received: u64, sent: u64, delivered: u32) -> News {
    News {
        unread,
        unacknowledged: 0,
        acked,
        received,
        sent,
        delivered,
    }
}

#[track_caller]
fn assert_end(ending: Ending, role: Role, end: End, payload: (u64, u64), exact: bool) {
    let volume = ending.volume;
    assert_eq!(
        (
            ending.role,
            ending.outcome,
            (volume.bytes_sent, volume.bytes_received),
            ending.exact
        ),
        (role, Outcome::Closed(end), payload, exact)
    );
}

/// No look before the end, as of most short connections.
#[test]
fn unseen_connections_end_as_they_did() {
    let none = History::none();
    use Afterlife::{FinWait2, Listener, Nothing, TimeWait};
    // The client closed, and the server's FIN came with the acknowledgement of its own, or later.
    let client = told(1, 102, 51, 100, 3).end(none, TimeWait);
    assert_end(client, Role::Client, End::LocalFin, CLIENT, true);
    let client = told(0, 102, 50, 100, 3).end(none, FinWait2);
    assert_end(client, Role::Client, End::LocalFin, CLIENT, true);
    // The client closed its direction only, and read up to the server's FIN: right, and no proof of it.
    let client = told(0, 102, 51, 100, 3).end(none, TimeWait);
    assert_end(client, Role::Client, End::LocalFin, CLIENT, false);
    // The other end's count settles it, either way.
    let client = told(0, 102, 51, 100, 3).end_beside(none, TimeWait, Some(50));
    assert_end(client, Role::Client, End::LocalFin, CLIENT, true);
    let client = told(0, 102, 50, 100, 3).end_beside(none, TimeWait, Some(50));
    assert_end(client, Role::Client, End::LocalFin, CLIENT, true);
    // The server closed first, and second.
    let server = told(1, 51, 101, 50, 3).end(none, TimeWait);
    assert_end(server, Role::Server, End::LocalFin, SERVER, true);
    let server = told(0, 51, 101, 50, 3).end(none, Listener);
    assert_end(server, Role::Server, End::PeerFin, SERVER, true);
    let client = told(0, 102, 51, 100, 3).end(none, Nothing);
    assert_end(client, Role::Client, End::PeerFin, CLIENT, true);
    // Without a listener any more, by the packets delivered: SYN-ACK, data, FIN.
    let server = told(0, 51, 101, 50, 3).end(none, Nothing);
    assert_end(server, Role::Server, End::PeerFin, SERVER, true);
}

#[test]
fn resets_are_resets_and_what_the_peers_fin_would_change_is_named() {
    // The server was reset by its peer.
    let server = told(0, 50, 100, 50, 2).end(History::none(), Afterlife::Listener);
    assert_end(server, Role::Server, End::Reset, SERVER, false);
    // The client closed with 10 bytes unread; seen as a client before.
    let client = History::of_role(Role::Client);
    let ending = told(10, 101, 60, 100, 2).end(client, Afterlife::Nothing);
    assert_end(ending, Role::Client, End::Reset, (100, 60), false);
    // The same, never seen: a client's SYN or a server's FIN? It is not said.
    let ending = told(10, 101, 60, 100, 2).end(History::none(), Afterlife::Nothing);
    assert_end(ending, Role::Unknown, End::Unknown, (100, 60), false);
}

/// The client's FIN was acknowledged and 50 bytes came; nothing is left of the socket.
#[test]
fn a_half_closed_end_that_was_cut_off_is_not_taken_for_the_peers_close() {
    let news = told(0, 102, 50, 100, 3);
    let mut sight = news.sight();
    let mut end = |history: History, last_data_recv_ms, peers_payload| {
        let info = sight.info.as_mut().unwrap();
        info.last_data_recv_ms = last_data_recv_ms;
        let told = Told {
            sight,
            found: Afterlife::Nothing,
            peers_payload,
        };
        history.end(&told, &sight.info.unwrap(), &Answers::default())
    };
    // It went right after the payload, so no acknowledgement of a FIN ended it for certain.
    let ending = end(History::none(), 0, None);
    assert_end(ending, Role::Client, End::Unknown, CLIENT, false);
    // The other end sent as much, and so no FIN came.
    let ending = end(History::none(), 20, Some(50));
    assert_end(ending, Role::Client, End::Reset, CLIENT, true);
    // A look saw it half-closed.
    let mut seen = History::of_role(Role::Client);
    let mut living = news.sight();
    living.info.as_mut().unwrap().state = State::FinWait2 as u8;
    seen.see(&living, &living.info.unwrap());
    let ending = end(seen, 20, None);
    assert_end(ending, Role::Client, End::Reset, CLIENT, true);
}

/// Probes that nothing answered: by the look before, and by the kernel's count of connections given up.
#[test]
fn timers_that_give_up_are_told_from_resets() {
    let mut news = told(0, 101, 50, 100, 2).sight();
    let info = news.info.as_mut().unwrap();
    info.probes = 1;
    let info = *info;
    let mut seen = History::of_role(Role::Client);
    seen.see(&news, &info);
    let end = |segs_in, timer| {
        let info = TcpInfo { segs_in, ..info };
        let told = Told {
            sight: Sight {
                info: Some(info),
                ..news
            },
            found: Afterlife::Nothing,
            peers_payload: None,
        };
        let answers = Answers {
            timer,
            ..Answers::default()
        };
        seen.end(&told, &info, &answers).outcome
    };
    let (same, more) = (info.segs_in, info.segs_in + 1);
    for (segs_in, timer, is) in [
        (same, Timer::Unknown, End::Timeout),
        (same, Timer::Expired, End::Timeout),
        (same, Timer::NotExpired, End::Reset),
        (more, Timer::Unknown, End::Unknown),
        (more, Timer::Expired, End::Timeout),
        (more, Timer::NotExpired, End::Reset),
    ] {
        assert_eq!(
            end(segs_in, timer),
            Outcome::Closed(is),
            "{segs_in} {timer:?}"
        );
    }
}

#[test]
fn data_in_flight_at_a_reset_is_not_counted_as_acknowledged() {
    let mut told = told(0, 61, 50, 100, 1);
    told.unacknowledged = 40;
    let ending = told.end(History::of_role(Role::Client), Afterlife::Nothing);
    assert_end(ending, Role::Client, End::Reset, (60, 50), false);
}

#[test]
fn roles_follow_from_the_counts_of_the_living() {
    let live = |acked, sent, unacknowledged, notsent, state: State| {
        let mut sight = told(0, acked, 0, sent, 0).sight();
        let info = sight.info.as_mut().unwrap();
        (info.state, info.notsent) = (state as u8, notsent);
        (sight.state, sight.unacknowledged) = (state, unacknowledged);
        sight.role()
    };
    assert_eq!(live(101, 100, 0, 0, State::Established), Role::Client);
    assert_eq!(live(100, 100, 0, 0, State::Established), Role::Server);
    // With 40 bytes in flight and 7 not sent yet.
    assert_eq!(live(61, 100, 47, 7, State::Established), Role::Client);
    assert_eq!(live(60, 100, 47, 7, State::CloseWait), Role::Server);
    // Our FIN acknowledged, in flight, and waiting behind data.
    assert_eq!(live(102, 100, 0, 0, State::FinWait2), Role::Client);
    assert_eq!(live(100, 100, 1, 0, State::LastAck), Role::Server);
    assert_eq!(live(61, 100, 48, 8, State::FinWait1), Role::Client);
    // Figures of two moments say nothing.
    assert_eq!(live(50, 100, 0, 0, State::Established), Role::Unknown);
    assert_eq!(live(0, 0, 1, 0, State::SynSent), Role::Client);
}

/// The state is read before the counts: a FIN in between is acknowledged, and no SYN.
#[test]
fn a_fin_in_the_middle_of_a_look_is_no_syn() {
    let closing = |state: State, unacknowledged, acked, again| {
        let mut sight = told(0, acked, 100, 50, 3).sight();
        let info = sight.info.as_mut().unwrap();
        (info.state, info.total_retrans) = (state as u8, again);
        (sight.state, sight.unacknowledged) = (state, unacknowledged);
        sight.role()
    };
    assert_eq!(closing(State::CloseWait, 0, 51, 0), Role::Server);
    assert_eq!(closing(State::CloseWait, 0, 52, 0), Role::Client);
    // In flight when that was read, and acknowledged when the counts were.
    assert_eq!(closing(State::LastAck, 1, 51, 0), Role::Server);
    assert_eq!(closing(State::FinWait1, 1, 52, 0), Role::Client);
    assert_eq!(closing(State::LastAck, 1, 51, 1), Role::Unknown);
}

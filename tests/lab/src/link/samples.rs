//! What one end of a connection can measure from the segments that it sends and receives.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use super::packet::TcpSummary;

/// A segment as one end sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// When it was sent or received, on any one clock.
    pub(super) at: Duration,
    /// Whether this end sent it.
    pub(super) ours: bool,
    pub(super) tcp: TcpSummary,
}

/// For each acknowledgement that acknowledges something new, the time since the oldest segment that it covers was
/// sent; only of segments that are `timed`, and none that were sent more than once (RFC 6298, 3).
pub(super) fn round_trips(events: &[Seen], timed: impl Fn(&TcpSummary) -> bool) -> Vec<Duration> {
    let mut flows: HashMap<(SocketAddr, SocketAddr), VecDeque<Outstanding>> = HashMap::new();
    let mut samples = Vec::new();
    for Seen { at, ours, tcp } in events {
        if *ours {
            if timed(tcp) {
                let flow = flows.entry((tcp.source, tcp.destination)).or_default();
                send(flow, tcp, *at);
            }
        } else if tcp.ack_flag
            && let Some(flow) = flows.get_mut(&(tcp.destination, tcp.source))
            && let Some(sent) = acknowledge(flow, tcp.ack)
        {
            samples.push(*at - sent);
        }
    }
    samples
}

/// For each connection that this end opened, the time from its first SYN to the first SYN-ACK.
pub(super) fn handshakes(events: &[Seen]) -> Vec<Duration> {
    let mut opening: HashMap<(SocketAddr, SocketAddr), Duration> = HashMap::new();
    let mut samples = Vec::new();
    for Seen { at, ours, tcp } in events {
        if *ours && tcp.is_syn() {
            opening.entry((tcp.source, tcp.destination)).or_insert(*at);
        } else if !*ours && tcp.is_syn_ack() {
            let first = opening.remove(&(tcp.destination, tcp.source));
            samples.extend(first.map(|sent| *at - sent));
        }
    }
    samples
}

/// A sender's segment that is not acknowledged yet.
struct Outstanding {
    end: u32,
    sent: Duration,
    again: bool,
}

/// A segment that ends no later than one sent before was sent again, and whatever it covers with it.
fn send(flow: &mut VecDeque<Outstanding>, tcp: &TcpSummary, at: Duration) {
    let newest = flow.back().map(|segment| segment.end);
    if newest.is_none_or(|newest| is_after(tcp.end_seq(), newest)) {
        flow.push_back(Outstanding {
            end: tcp.end_seq(),
            sent: at,
            again: false,
        });
    }
    for segment in flow.iter_mut() {
        let covered = is_after(segment.end, tcp.seq) && !is_after(segment.end, tcp.end_seq());
        segment.again |= covered && segment.sent != at;
    }
}

/// When the oldest of the segments was sent that this acknowledges and that was sent once.
fn acknowledge(flow: &mut VecDeque<Outstanding>, ack: u32) -> Option<Duration> {
    let mut oldest = None;
    while let Some(segment) = flow.front()
        && !is_after(segment.end, ack)
    {
        if !segment.again {
            oldest = oldest.or(Some(segment.sent));
        }
        flow.pop_front();
    }
    oldest
}

/// Sequence numbers compare around the wrap (RFC 9293, 3.4).
fn is_after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) as i32 > 0
}

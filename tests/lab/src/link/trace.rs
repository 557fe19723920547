use std::time::Duration;

use super::{
    packet::TcpSummary,
    record::{Direction, Fate, PacketRecord},
    samples::{self, Seen},
};

/// What the link did, packet by packet, in the order in which packets entered.
#[derive(Clone, Debug)]
pub struct Trace {
    /// One for each packet and for each copy that the link made.
    pub records: Vec<PacketRecord>,
    /// Packets past the log's limit, of which there is no record. Not zero: nothing below is complete.
    pub unrecorded: u64,
}

/// The value that a share `quantile` (0 to 1) of the values does not exceed: the smallest such value, which
/// is one of them. Zero for no values.
pub fn percentile(values: &[Duration], quantile: f64) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (quantile * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

/// The longest way of a segment between the socket, where the kernel measures, and the device, where it is captured: for round trips
/// of some ten microseconds it is more than a bucket.
const TO_THE_DEVICE: Duration = Duration::from_micros(100);

/// Asserts that a figure of flowcar's is in the same bucket as what was carried, or in the next one: exponential histograms of
/// scale 3 have buckets `(base^index, base^(index + 1)]` with base 2^(1/8) (opentelemetry-proto, metrics.proto,
/// `ExponentialHistogramDataPoint`).
///
/// # Panics
/// It is not.
#[track_caller]
pub fn within_a_bucket(what: &str, found_s: f64, carried: Duration) {
    within_buckets(what, found_s, [carried, carried + TO_THE_DEVICE]);
}

/// Whether it is: for figures that a busy machine may change between the socket and the device, so that they are measured again.
pub fn is_within_a_bucket(what: &str, found_s: f64, carried: Duration) -> bool {
    are_near(what, found_s, [carried, carried + TO_THE_DEVICE]).is_ok()
}

/// The same for a figure between two others, in either order: what the application measured and what was carried. A segment
/// that comes while the application holds the socket waits for it (`sk_add_backlog`, net/core/sock.c), on a busy machine for
/// milliseconds.
///
/// # Panics
/// It is not.
#[track_caller]
pub fn within_buckets(what: &str, found_s: f64, bounds: [Duration; 2]) {
    if let Err(text) = are_near(what, found_s, bounds) {
        panic!("{text}");
    }
}

fn are_near(what: &str, found_s: f64, mut bounds: [Duration; 2]) -> Result<(), String> {
    // A figure on a bucket's bound belongs to either.
    let bucket = |seconds: f64, aside: f64| (seconds.log2() * 8.0 + aside).ceil() as i32;
    bounds.sort_unstable();
    let [least_s, most_s] = bounds.map(|bound| bound.as_secs_f64());
    let text = format!("{what}: {found_s} s, measured elsewhere as {least_s} to {most_s} s");
    println!("{text}");
    let found = bucket(found_s, 1e-9) >= bucket(least_s, 0.0) - 1
        && bucket(found_s, -1e-9) <= bucket(most_s, 0.0) + 1;
    if found { Ok(()) } else { Err(text) }
}

// === impl Trace ===

impl Trace {
    /// Only the packets of connections with this port at either end.
    pub fn of_port(&self, port: u16) -> Self {
        let of_port = |record: &&PacketRecord| record.is(|tcp| tcp.has_port(port));
        Self {
            records: self.records.iter().filter(of_port).copied().collect(),
            unrecorded: self.unrecorded,
        }
    }

    /// The packets that went this way, without the copies that the link made.
    pub fn sent(&self, direction: Direction) -> impl Iterator<Item = &PacketRecord> {
        self.records
            .iter()
            .filter(move |record| record.direction == direction && !record.copy)
    }

    /// How many TCP segments that went this way, as the sender sent them, satisfy `test`.
    pub fn count(&self, direction: Direction, test: impl Fn(&TcpSummary) -> bool) -> usize {
        self.sent(direction)
            .filter(|record| record.is(&test))
            .count()
    }

    /// How many of these were dropped.
    pub fn dropped(&self, direction: Direction, test: impl Fn(&TcpSummary) -> bool) -> usize {
        self.sent(direction)
            .filter(|record| record.fate == Fate::Dropped && record.is(&test))
            .count()
    }

    /// Retransmitted segments of one connection in this direction: those that begin before the highest sequence number sent.
    pub fn sent_again(&self, direction: Direction) -> u64 {
        let mut again = 0;
        let mut newest: Option<u32> = None;
        for tcp in self.sent(direction).filter_map(|record| record.tcp) {
            let takes_room = tcp.end_seq() != tcp.seq;
            if !takes_room {
                continue;
            }
            let is_new =
                newest.is_none_or(|newest| tcp.seq.wrapping_sub(newest).cast_signed() >= 0);
            again += u64::from(!is_new);
            newest = Some(match newest {
                Some(newest) if newest.wrapping_sub(tcp.end_seq()).cast_signed() > 0 => newest,
                _ => tcp.end_seq(),
            });
        }
        again
    }

    /// How many packets have this fate, both directions, copies included.
    pub fn fates(&self, fate: Fate) -> usize {
        self.records
            .iter()
            .filter(|record| record.fate == fate)
            .count()
    }

    /// How many copies the link made.
    pub fn copies(&self) -> usize {
        self.records.iter().filter(|record| record.copy).count()
    }

    /// The delay that each packet which arrived truly had.
    pub fn delays(&self, direction: Direction) -> Vec<Duration> {
        let arrived = self
            .records
            .iter()
            .filter(|record| record.direction == direction);
        arrived.filter_map(PacketRecord::delay).collect()
    }

    /// The round trips of payload sent in this direction, as its sender's kernel can measure them: for each
    /// acknowledgement that arrived and acknowledged something new, the time since the oldest segment that
    /// it covers was sent. As RFC 6298 and the kernel do, nothing is taken from segments that were sent
    /// more than once.
    pub fn round_trips(&self, direction: Direction) -> Vec<Duration> {
        samples::round_trips(&self.seen_from(direction), TcpSummary::is_data)
    }

    /// For each connection opened in this direction: the time from its first SYN entering to the first
    /// SYN-ACK arriving, as the client waits for it.
    pub fn handshakes(&self, direction: Direction) -> Vec<Duration> {
        samples::handshakes(&self.seen_from(direction))
    }

    /// What the sender of this direction sees, in its order of time: its own segments as they enter, the
    /// other's as they arrive.
    fn seen_from(&self, direction: Direction) -> Vec<Seen> {
        let seen = |record: &PacketRecord| {
            let ours = record.direction == direction;
            let at = match ours {
                true => (!record.copy).then_some(record.entered),
                false => record.left,
            };
            Some(Seen {
                at: at?,
                ours,
                tcp: record.tcp?,
            })
        };
        let mut events: Vec<_> = self.records.iter().filter_map(seen).collect();
        events.sort_by_key(|seen| seen.at);
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn record(
        direction: Direction,
        entered: u32,
        left: Option<u32>,
        tcp: TcpSummary,
    ) -> PacketRecord {
        PacketRecord {
            direction,
            entered: MS * entered,
            left: left.map(|left| MS * left),
            length: 0,
            tcp: Some(tcp),
            fate: if left.is_some() {
                Fate::Delivered
            } else {
                Fate::Dropped
            },
            copy: false,
        }
    }

    fn tcp(direction: Direction, seq: u32, payload: u32, ack: u32) -> TcpSummary {
        let ends = [
            "10.0.0.1:1000".parse().unwrap(),
            "10.0.0.2:80".parse().unwrap(),
        ];
        TcpSummary {
            source: ends[direction.origin()],
            destination: ends[direction.target()],
            seq,
            ack,
            window: 0,
            payload,
            syn: false,
            ack_flag: true,
            fin: false,
            rst: false,
        }
    }

    fn trace(records: Vec<PacketRecord>) -> Trace {
        Trace {
            records,
            unrecorded: 0,
        }
    }

    use Direction::{AtoB, BtoA};

    #[test]
    fn a_bucket_is_nine_percent_wide() {
        within_a_bucket("the same", 0.020, MS * 20);
        within_a_bucket("the next", 0.0215, MS * 20);
        // 2^(-45/8) s and 2^(-44/8) s are bounds.
        within_a_bucket("a bound", 2_f64.powf(-44.0 / 8.0), MS * 20);
        let far = std::panic::catch_unwind(|| within_a_bucket("far", 0.0245, MS * 20));
        assert!(far.is_err());
        within_buckets("between", 0.030, [MS * 40, MS * 20]);
        let far = std::panic::catch_unwind(|| within_buckets("far", 0.049, [MS * 40, MS * 20]));
        assert!(far.is_err());
    }

    #[test]
    fn percentiles_are_measured_values() {
        let values = [MS * 3, MS, MS * 2, MS * 4];
        assert_eq!(percentile(&values, 0.5), MS * 2);
        assert_eq!(percentile(&values, 0.99), MS * 4);
        assert_eq!(percentile(&values, 0.0), MS);
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
    }

    #[test]
    fn a_round_trip_starts_at_the_oldest_segment_acknowledged_across_the_wrap() {
        let start = u32::MAX - 50;
        let trace = trace(vec![
            record(AtoB, 0, Some(10), tcp(AtoB, start, 100, 1)),
            record(
                AtoB,
                4,
                Some(14),
                tcp(AtoB, start.wrapping_add(100), 100, 1),
            ),
            record(BtoA, 15, Some(25), tcp(BtoA, 1, 0, start.wrapping_add(200))),
            record(BtoA, 16, Some(26), tcp(BtoA, 1, 0, start.wrapping_add(200))),
        ]);
        assert_eq!(trace.round_trips(AtoB), [MS * 25]);
        assert!(trace.round_trips(BtoA).is_empty());
        assert_eq!(trace.delays(AtoB), [MS * 10; 2]);
    }

    #[test]
    fn retransmitted_segment_gives_no_round_trip() {
        let trace = trace(vec![
            record(AtoB, 0, None, tcp(AtoB, 1, 100, 1)),
            record(AtoB, 1, Some(11), tcp(AtoB, 101, 100, 1)),
            record(AtoB, 30, Some(40), tcp(AtoB, 1, 100, 1)),
            record(BtoA, 40, Some(50), tcp(BtoA, 1, 0, 201)),
        ]);
        assert_eq!(
            trace.round_trips(AtoB),
            [MS * 49],
            "of the second segment, which was sent once"
        );
        assert_eq!(trace.dropped(AtoB, TcpSummary::is_data), 1);
        assert_eq!(trace.count(AtoB, TcpSummary::is_data), 3);
    }

    #[test]
    fn a_handshake_starts_at_the_first_syn() {
        let syn = TcpSummary {
            syn: true,
            ack_flag: false,
            ..tcp(AtoB, 9, 0, 0)
        };
        let syn_ack = TcpSummary {
            syn: true,
            ..tcp(BtoA, 5, 0, 10)
        };
        let trace = trace(vec![
            record(AtoB, 0, None, syn),
            record(AtoB, 1000, Some(1010), syn),
            record(BtoA, 1010, Some(1020), syn_ack),
        ]);
        assert_eq!(trace.handshakes(AtoB), [MS * 1020]);
    }
}

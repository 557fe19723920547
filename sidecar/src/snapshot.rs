//! What all flows come to at one time: the cumulative state of every series and of flowcar itself,
//! ready for an encoder. Pure data.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    flow::{Books, End, Failure, Lost, Retransmits, Role, RttKind, handover::Leaving},
    histogram::Histogram,
};

/// Which of the peer's addresses a series is named by (`network.peer.address`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    /// By none (`FLOWCAR_PEER=none`).
    Unnamed,
    /// By an address, or by a prefix in CIDR notation.
    Named(String),
}

/// `network.type`: what is on the wire, so v4-mapped sockets are IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NetworkType {
    /// `ipv4`
    Ipv4,
    /// `ipv6`
    Ipv6,
}

/// The attributes that make a series.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SeriesKey {
    /// Flows alike in all of these.
    Flows {
        /// `network.tcp.handshake.role`
        role: Role,
        /// `network.type`
        network: NetworkType,
        /// `network.peer.address`
        peer: Peer,
        /// `server.port`, unless ports are left out.
        server_port: Option<u16>,
    },
    /// What came past the bound of series (`otel.metric.overflow`).
    Overflow,
}

/// Cumulative figures of one series.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// `flowcar.tcp.connections.opened`
    pub opened: u64,
    /// The same of connections that the flowcar before this one told of (`flowcar.inherited`)
    pub inherited: u64,
    /// `flowcar.tcp.connections.closed` by `flowcar.end`
    pub closed: BTreeMap<End, u64>,
    /// `flowcar.tcp.connections.failed` by `error.type`
    pub failed: BTreeMap<Failure, u64>,
    /// `flowcar.tcp.connections.live`: open now
    pub live: u64,
    /// `flowcar.tcp.io`, transmit
    pub bytes_sent: u64,
    /// `flowcar.tcp.io`, receive
    pub bytes_received: u64,
    /// `flowcar.tcp.segments`, transmit
    pub segments_sent: u64,
    /// `flowcar.tcp.segments`, receive
    pub segments_received: u64,
    /// `flowcar.tcp.retransmits` by `flowcar.cause`
    pub retransmits: Retransmits,
    /// `flowcar.tcp.limited.duration` by the peer's window, microseconds
    pub receive_window_limited_us: u64,
    /// `flowcar.tcp.limited.duration` by the send buffer, microseconds
    pub send_buffer_limited_us: u64,
    /// `flowcar.tcp.connect.duration`; by `error.type` where it failed
    pub connect: BTreeMap<Option<Failure>, Histogram>,
    /// `flowcar.tcp.rtt` by `flowcar.rtt.kind`
    pub rtt: BTreeMap<RttKind, Histogram>,
    /// `flowcar.tcp.exchange.duration`
    pub exchange: Histogram,
    /// `flowcar.tcp.connection.duration` by `flowcar.end`
    pub duration: BTreeMap<End, Histogram>,
}

/// Connections that no series has, so that the books hold over all points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unseen {
    /// `flowcar.tcp.connections.opened`: lost before anything was told of them
    pub opened: u64,
    /// The same of connections that the flowcar before this one told of: lost to the restart
    pub inherited: u64,
    /// `flowcar.tcp.connections.live`, less than nothing for those that series still have and that are lost; only once news
    /// of ends was ever lost
    pub live: Option<i64>,
}

impl Unseen {
    /// Ends that are lost of connections that series have as living, at most.
    pub fn unheard(&self) -> u64 {
        self.live.map_or(0, |live| live.min(0).unsigned_abs())
    }
}

/// What listening sockets of one port came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listener {
    /// `flowcar.tcp.listener.drops`: cumulative
    pub drops: u64,
    /// `flowcar.tcp.listener.queue`: connections that waited to be accepted at the last look
    pub waiting: u64,
    /// `flowcar.tcp.listener.queue.limit`: how many may wait
    pub limit: u64,
}

/// flowcar's own figures (`flowcar.self.*`), cumulative but for the gauges.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Own {
    /// Records decoded, by kind's name.
    pub records: BTreeMap<&'static str, u64>,
    /// Records that the kernel could not deliver, by kind's name; open and sample records are made good by later ones.
    pub records_dropped: BTreeMap<&'static str, u64>,
    /// Records that did not decode.
    pub records_malformed: u64,
    /// Flows in the table now.
    pub table_flows: u64,
    /// Records and looks that found the table full.
    pub table_unlisted: u64,
    /// TCP sockets of the network namespace at the last dump, by whether they are followed.
    pub sockets: BTreeMap<&'static str, u64>,
    /// Sockets whose end was told and not whether they were of the followed cgroup.
    pub sockets_unscoped: u64,
    /// Sockets found at the start that may be older than flowcar, and are not followed.
    pub sockets_unadopted: u64,
    /// Flows whose payload counts are not exact to the byte.
    pub flows_inexact: u64,
    /// How long dumps of the sockets took.
    pub dump_duration: Histogram,
    /// From the last report of the flowcar before this one to this one's first sight, nanoseconds.
    pub unfollowed_ns: u64,
    /// Series now.
    pub series: u64,
    /// Exports by (signal, outcome): `metrics|traces`, `success|failure|partial|...`.
    pub exports: BTreeMap<(&'static str, &'static str), u64>,
    /// Points and spans that a receiver took, by signal.
    pub exported: BTreeMap<&'static str, u64>,
    /// Items that a receiver refused (`partial_success`), by signal.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Items that a receiver refused for their size though each was sent alone, by signal.
    pub too_large: BTreeMap<&'static str, u64>,
    /// Spans that were not sent, by reason.
    pub spans_dropped: BTreeMap<&'static str, u64>,
    /// Spans waiting to be sent now.
    pub span_queue: u64,
    /// Spans that may wait, at most.
    pub span_queue_capacity: u64,
    /// Memory that they take, bytes.
    pub span_queue_bytes: u64,
    /// How long exports took, by (signal, outcome).
    pub export_duration: BTreeMap<(&'static str, &'static str), Histogram>,
    /// Log lines that standard error did not take.
    pub log_lines_dropped: u64,
    /// CPU seconds used by this process.
    pub cpu_s: f64,
    /// Resident set size now, bytes.
    pub rss_bytes: u64,
}

/// One report.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Since when figures count, nanoseconds since the Unix epoch.
    pub start_unix_ns: u64,
    /// As of when they stand, nanoseconds since the Unix epoch.
    pub at_unix_ns: u64,
    /// Every series.
    pub series: BTreeMap<SeriesKey, Series>,
    /// What is in no series.
    pub unseen: Unseen,
    /// What to leave for the flowcar after this one, once this report is taken; nothing where that is not asked for.
    pub left: Option<Arc<Leaving>>,
    /// Connections by what cost them (`flowcar.tcp.connections.lost`).
    pub lost: BTreeMap<Lost, u64>,
    /// Listening sockets by port; without one, those of which ports are not told.
    pub listeners: BTreeMap<Option<u16>, Listener>,
    /// The books over all series.
    pub books: Books,
    /// flowcar itself.
    pub own: Own,
}

impl Snapshot {
    /// What is not accounted for: of all points, connections opened less those closed, live and lost; or of the books over the kernel's
    /// count; or those that live and no series has, though each that lives is in one once it was heard of. Not 0 is a defect.
    pub fn unbalanced(&self) -> i64 {
        let sum = |of: fn(&Series) -> u64| self.series.values().map(of).sum::<u64>();
        let opened =
            sum(|of| of.opened + of.inherited) + self.unseen.opened + self.unseen.inherited;
        let closed = sum(|of| of.closed.values().sum());
        let lost: u64 = self.lost.values().sum();
        let unseen = self.unseen.live.unwrap_or(0);
        let points = opened as i64 - (closed + lost + sum(|of| of.live)) as i64 - unseen;
        let books = &self.books;
        let kernel = books.opened as i64 - (books.closed + books.live + books.lost_total()) as i64;
        [points, kernel, unseen.max(0)]
            .into_iter()
            .find(|difference| *difference != 0)
            .unwrap_or(0)
    }
}

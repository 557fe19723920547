//! The sum of all flows at one time: the cumulative state of every series and of flowcar itself,
//! ready for an encoder. Pure data.

mod containers;

use std::{collections::BTreeMap, net::IpAddr};

pub use self::containers::{
    ContainerCounter, ContainerFigures, ContainerLevel, PressureResource, Stall,
};
pub use crate::flow::Listener;
use crate::{
    flow::{
        Books, ContainerId, CountedClose, Failure, Lost, Name, Role, RttKind, SeriesId, Volume,
    },
    histogram::Histogram,
};

/// How a series names the peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    /// Nothing.
    Unnamed,
    /// Its address (`network.peer.address`).
    Address(IpAddr),
    /// The address that a client asked for (`server.address`).
    Asked(IpAddr),
    /// The name that a client asked for (`server.address`).
    Name(Name),
    /// The network it lies in, in CIDR notation (`flowcar.peer.prefix`).
    Prefix(String),
}

/// The attributes that make a series.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SeriesKey {
    /// Flows alike in all of these.
    Flows {
        /// `container.id`, of the resource; `None` where it is not known, or there is none.
        container: Option<ContainerId>,
        /// `network.tcp.handshake.role`
        role: Role,
        /// The peer's part.
        peer: Peer,
        /// `server.port`, unless ports are left out or the role is unknown.
        server_port: Option<u16>,
    },
    /// Flows over the limit of series (`otel.metric.overflow`).
    Overflow,
}

impl SeriesKey {
    /// The container whose resource the series belongs to; `None` of those under the pod's.
    pub const fn container(&self) -> Option<&ContainerId> {
        match self {
            Self::Flows { container, .. } => container.as_ref(),
            Self::Overflow => None,
        }
    }
}

/// Cumulative figures of one series.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// What its flows name it by.
    pub id: SeriesId,
    /// Time of the first report that had it, nanoseconds since the Unix epoch: a series that was dropped begins anew.
    pub since_unix_ns: u64,
    /// `flowcar.tcp.connection.opened`
    pub opened: u64,
    /// `flowcar.tcp.connection.adopted` by `startup`
    pub adopted_at_startup: u64,
    /// The same by `restart`
    pub adopted_at_restart: u64,
    /// `flowcar.tcp.connection.closed` by `flowcar.tcp.close.reason` and `error.type`
    pub closed: BTreeMap<CountedClose, u64>,
    /// `flowcar.tcp.connection.failed` by `error.type`
    pub failed: BTreeMap<Failure, u64>,
    /// `flowcar.tcp.connection.live`: open now
    pub live: u64,
    /// `flowcar.tcp.io`, `flowcar.tcp.segments`, and `flowcar.tcp.retransmits` by `flowcar.tcp.retransmit.type`
    pub volume: Volume,
    /// `flowcar.tcp.limited.time` by the peer's window, microseconds
    pub receive_window_limited_us: u64,
    /// `flowcar.tcp.limited.time` by the send buffer, microseconds
    pub send_buffer_limited_us: u64,
    /// `flowcar.tcp.connect.duration`; by `error.type` where it failed
    pub connect: BTreeMap<Option<Failure>, Histogram>,
    /// `flowcar.tcp.rtt` by `flowcar.tcp.rtt.kind`
    pub rtt: BTreeMap<RttKind, Histogram>,
    /// `flowcar.tcp.exchange.duration`
    pub exchange: Histogram,
    /// `flowcar.tcp.connection.duration` by `flowcar.tcp.close.reason` and `error.type`
    pub duration: BTreeMap<CountedClose, Histogram>,
}

impl Series {
    /// Connections opened or adopted.
    pub const fn began(&self) -> u64 {
        self.opened + self.adopted_at_startup + self.adopted_at_restart
    }
}

/// Connections that no series has (`flowcar.tcp.unattributed`), so that the books hold over all points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnattributedCounts {
    /// `flowcar.tcp.connection.opened`: lost before anything was known of them
    pub opened: u64,
    /// `flowcar.tcp.connection.adopted` by `restart`: lost to the restart
    pub adopted_at_restart: u64,
    /// Lost closes of unknown connections: these are live in series, or their open records wait in the ring.
    pub pending: u64,
    /// Those of them that are reported as lost: they are live in series, and each series loses its share.
    pub dead: u64,
}

/// Connections of series that were dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DroppedSeries {
    /// Opened or adopted.
    pub began: u64,
    /// Closed.
    pub closed: u64,
}

/// flowcar's metrics of itself (`flowcar.self.*`), cumulative but for the gauges.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SelfMetrics {
    /// Records decoded, by kind's name.
    pub records: BTreeMap<&'static str, u64>,
    /// Records that the kernel could not deliver, by kind's name; later records have what open and sample records had.
    pub records_dropped: BTreeMap<&'static str, u64>,
    /// Records that did not decode.
    pub records_malformed: u64,
    /// Flows in the table now.
    pub table_flows: u64,
    /// Records and polled sockets that found the table full.
    pub table_over_capacity: u64,
    /// TCP sockets of the network namespace at the last dump, by whether they are followed.
    pub sockets: BTreeMap<&'static str, u64>,
    /// Closed sockets of which it is unknown whether they were in the followed cgroup.
    pub sockets_unscoped: u64,
    /// Sockets found at the start that may be older than flowcar, and are not followed.
    pub sockets_unadopted: u64,
    /// Flows whose payload counts are not exact to the byte.
    pub flows_inexact: u64,
    /// How long dumps of the sockets took.
    pub dump_duration: Histogram,
    /// From the last report of the previous flowcar to this one's start, nanoseconds.
    pub unfollowed_ns: u64,
    /// Series now.
    pub series: u64,
    /// Exports by (signal, outcome): `metrics|traces|logs`, `success|failure|partial|...`.
    pub exports: BTreeMap<(&'static str, &'static str), u64>,
    /// Points, spans and log records that a receiver took, by signal.
    pub exported: BTreeMap<&'static str, u64>,
    /// Items that a receiver refused (`partial_success`), by signal.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Items that a receiver refused for their size though each was sent alone, by signal.
    pub too_large: BTreeMap<&'static str, u64>,
    /// Spans that were not sent, by reason.
    pub spans_dropped: BTreeMap<&'static str, u64>,
    /// Log records that were not sent, by reason.
    pub logs_dropped: BTreeMap<&'static str, u64>,
    /// Spans waiting to be sent now.
    pub span_queue: ItemQueue,
    /// Log records waiting to be sent now.
    pub log_queue: ItemQueue,
    /// How long exports took, by (signal, outcome).
    pub export_duration: BTreeMap<(&'static str, &'static str), Histogram>,
    /// Log lines that standard error did not take.
    pub log_lines_dropped: u64,
    /// DNS messages that were not used, or not as a whole, by reason.
    pub dns_dropped: BTreeMap<&'static str, u64>,
    /// Clients' flows without a name of their server, by reason.
    pub unnamed: BTreeMap<&'static str, u64>,
    /// Time of the newest report that the receiver acknowledged as a whole, nanoseconds since the Unix epoch; where none is sent, the
    /// greatest time.
    pub taken_unix_ns: u64,
    /// Flows whose container is not known, by reason.
    pub unresolved_containers: BTreeMap<&'static str, u64>,
    /// Files of containers' cgroups that were not understood.
    pub malformed_statistics: u64,
    /// CPU seconds used by this process.
    pub cpu_s: f64,
    /// Resident set size now, bytes.
    pub rss_bytes: u64,
}

/// Spans or log records that wait to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ItemQueue {
    /// How many wait or are in flight.
    pub items: u64,
    /// How many may, at most.
    pub capacity: u64,
    /// Memory that they take, bytes.
    pub bytes: u64,
}

/// One report.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Since when figures count, nanoseconds since the Unix epoch.
    pub start_unix_ns: u64,
    /// As of when they count, nanoseconds since the Unix epoch.
    pub at_unix_ns: u64,
    /// Every series.
    pub series: BTreeMap<SeriesKey, Series>,
    /// Connections of series that were dropped.
    pub dropped: DroppedSeries,
    /// Connections in no series.
    pub unattributed: UnattributedCounts,
    /// Lost connections by reason (`flowcar.tcp.connection.lost`).
    pub lost: BTreeMap<Lost, u64>,
    /// Listening sockets by port; under `None` those that are reported together.
    pub listeners: BTreeMap<Option<u16>, Listener>,
    /// Containers by their ids; under `None` the followed cgroup where that is a container's.
    pub containers: BTreeMap<Option<ContainerId>, ContainerFigures>,
    /// The books over all series.
    pub books: Books,
    /// flowcar itself.
    pub self_metrics: SelfMetrics,
}

impl Snapshot {
    /// Connections not accounted for: opened or adopted less closed, live and lost, over all points; or the same over the books with
    /// the kernel's count. Any value but 0 is a defect.
    pub fn unbalanced(&self) -> i64 {
        let sum = |of: fn(&Series) -> u64| self.series.values().map(of).sum::<u64>();
        let unattributed = &self.unattributed;
        let began = sum(Series::began) + unattributed.opened + unattributed.adopted_at_restart;
        let began = began + self.dropped.began;
        let closed = sum(|of| of.closed.values().sum()) + self.dropped.closed;
        let lost: u64 = self.lost.values().sum();
        let points = began as i64 - (closed + lost + sum(|of| of.live)) as i64;
        let books = &self.books;
        let kernel = books.opened as i64 - (books.closed + books.live + books.lost_total()) as i64;
        [points, kernel]
            .into_iter()
            .find(|difference| *difference != 0)
            .unwrap_or(0)
    }
}

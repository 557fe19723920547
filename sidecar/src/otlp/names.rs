//! The one table of what flowcar's telemetry is called.
//!
//! Names of OpenTelemetry's semantic conventions ([`SCHEMA_URL`]) where they exist; ours begin with `flowcar.`.

/// The version of OpenTelemetry's semantic conventions that the conventional names are from.
pub const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.39.0";

/// Name of the instrumentation scope.
pub const SCOPE: &str = "flowcar";

/// Version of the instrumentation scope.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What kind of figure a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A distribution.
    Histogram,
    /// A sum that only grows.
    Counter,
    /// A sum that grows and shrinks.
    UpDownCounter,
    /// A value that cannot be summed.
    Gauge,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Its unit, in UCUM.
    pub unit: &'static str,
    /// What it is.
    pub description: &'static str,
    /// The attributes that its points have besides those of their series.
    pub attributes: &'static [&'static str],
}

/// Attributes.
pub mod attribute {
    /// `tcp`
    pub const TRANSPORT: &str = "network.transport";
    /// `ipv4` or `ipv6`
    pub const NETWORK_TYPE: &str = "network.type";
    /// `client`, `server` or `unknown`: which end of the handshake this end was.
    pub const ROLE: &str = "network.tcp.handshake.role";
    /// The peer's address, or its prefix.
    pub const PEER_ADDRESS: &str = "network.peer.address";
    /// The peer's port; on spans only.
    pub const PEER_PORT: &str = "network.peer.port";
    /// This end's address; on spans only.
    pub const LOCAL_ADDRESS: &str = "network.local.address";
    /// This end's port; on spans only.
    pub const LOCAL_PORT: &str = "network.local.port";
    /// The server's address; on spans only.
    pub const SERVER_ADDRESS: &str = "server.address";
    /// The server's port.
    pub const SERVER_PORT: &str = "server.port";
    /// The client's address; on spans only.
    pub const CLIENT_ADDRESS: &str = "client.address";
    /// The client's port; on spans only.
    pub const CLIENT_PORT: &str = "client.port";
    /// `transmit` or `receive`
    pub const DIRECTION: &str = "network.io.direction";
    /// `true` on the series of what came past the bound of series.
    pub const OVERFLOW: &str = "otel.metric.overflow";
    /// Why it failed: values and remedies in docs/attributes.md, as of all attributes with a list of values.
    pub const ERROR_TYPE: &str = "error.type";
    /// How a connection ended; on spans of attempts, too.
    pub const END: &str = "flowcar.end";
    /// The bound or fault that cost the connection.
    pub const LOST: &str = "flowcar.lost";
    /// `syn`, `synack`, `fast`, `timeout`, `tail_loss_probe` or `unknown`
    pub const CAUSE: &str = "flowcar.cause";
    /// `measured`, or `smoothed` (all that kernels before 6.10 tell, and inet_diag: one value a dump)
    pub const RTT_KIND: &str = "flowcar.rtt.kind";
    /// `true` on spans of connections whose handshake was not seen: they begin where they were first seen.
    pub const ADOPTED: &str = "flowcar.adopted";
    /// `true` on connections that the flowcar before this one told of as open: without these each is counted once over all
    /// restarts.
    pub const INHERITED: &str = "flowcar.inherited";
    /// `open`, `sample` or `close` by eBPF; `look` (a socket in a dump) or `end` (of a socket) by inet_diag
    pub const RECORD_KIND: &str = "flowcar.record.kind";
    /// `receive_window` or `send_buffer`: what held the sender back
    pub const LIMIT: &str = "flowcar.limit";
    /// `followed` or `other`: whether it is of the followed cgroup
    pub const SOCKETS: &str = "flowcar.sockets";
    /// `metrics` or `traces`
    pub const SIGNAL: &str = "flowcar.signal";
    /// `success`, `partial`, `failure` (may work later) or `refused` (will not)
    pub const OUTCOME: &str = "flowcar.outcome";
    /// Why it was dropped.
    pub const REASON: &str = "flowcar.reason";
    /// `true` where a RST came or went after the peer's FIN: the connection had been closed by then, and it is no failure; on spans
    /// only.
    pub const RESET_AFTER_FIN: &str = "flowcar.tcp.reset_after_fin";
    /// How likely the span was to be sent, 0 to 1: it stands for 1/probability connections; on spans only.
    pub const SAMPLE_PROBABILITY: &str = "flowcar.sample.probability";
    /// Payload bytes acknowledged by the peer; on spans only.
    pub const BYTES_SENT: &str = "flowcar.tcp.bytes.sent";
    /// Payload bytes received in order; on spans only.
    pub const BYTES_RECEIVED: &str = "flowcar.tcp.bytes.received";
    /// Segments sent; on spans only.
    pub const SEGMENTS_SENT: &str = "flowcar.tcp.segments.sent";
    /// Segments received; on spans only.
    pub const SEGMENTS_RECEIVED: &str = "flowcar.tcp.segments.received";
    /// Segments sent again; on spans only.
    pub const RETRANSMITS: &str = "flowcar.tcp.retransmits";
    /// Seconds held back by the peer's window; on spans only.
    pub const RECEIVE_WINDOW_LIMITED: &str = "flowcar.tcp.limited.receive_window";
    /// Seconds held back by the send buffer; on spans only.
    pub const SEND_BUFFER_LIMITED: &str = "flowcar.tcp.limited.send_buffer";
    /// The newest delivery rate, bytes a second; on spans only.
    pub const DELIVERY_RATE: &str = "flowcar.tcp.delivery_rate";
    /// Seconds from SYN to established, or to failure; on spans only.
    pub const CONNECT_DURATION: &str = "flowcar.tcp.connect.duration";
    /// The least RTT, seconds; on spans only.
    pub const RTT_MIN: &str = "flowcar.tcp.rtt.min";
    /// The median RTT, seconds; on spans only.
    pub const RTT_P50: &str = "flowcar.tcp.rtt.p50";
    /// The 99th percentile of the RTT, seconds; on spans only.
    pub const RTT_P99: &str = "flowcar.tcp.rtt.p99";
    /// Turns from request to response; on spans only.
    pub const EXCHANGES: &str = "flowcar.tcp.exchanges";
    /// Their median, seconds; on spans only.
    pub const EXCHANGE_P50: &str = "flowcar.tcp.exchange.p50";
    /// Their 99th percentile, seconds; on spans only.
    pub const EXCHANGE_P99: &str = "flowcar.tcp.exchange.p99";
}

macro_rules! metrics {
    ($($id:ident = $kind:ident $name:literal $unit:literal [$($attribute:ident),*] $description:literal;)*) => {
        $(
            #[doc = $description]
            pub const $id: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                unit: $unit,
                description: $description,
                attributes: &[$(attribute::$attribute),*],
            };
        )*

        /// Every metric.
        pub const METRICS: &[Metric] = &[$($id),*];
    };
}

metrics! {
    CONNECT = Histogram "flowcar.tcp.connect.duration" "s" [ERROR_TYPE]
        "Client: from SYN sent to established, or to failure.";
    RTT = Histogram "flowcar.tcp.rtt" "s" [RTT_KIND]
        "Round trip time as the kernel measures it, one sample for each round trip; where only looks tell, one smoothed value for each.";
    EXCHANGE = Histogram "flowcar.tcp.exchange.duration" "s" []
        "From the last byte of a request to the first byte of its response, seen from this end.";
    DURATION = Histogram "flowcar.tcp.connection.duration" "s" [END]
        "From established to closed, where both were seen.";
    OPENED = Counter "flowcar.tcp.connections.opened" "{connection}" [INHERITED]
        "Connections established, or found open; as inherited, those that the flowcar before a restart had counted already.";
    CLOSED = Counter "flowcar.tcp.connections.closed" "{connection}" [END]
        "Connections closed, by how.";
    FAILED = Counter "flowcar.tcp.connections.failed" "{connection}" [ERROR_TYPE]
        "Attempts that were never established, by why.";
    LOST = Counter "flowcar.tcp.connections.lost" "{connection}" [LOST]
        "Connections of which the end is not known, by what cost it.";
    LIVE = UpDownCounter "flowcar.tcp.connections.live" "{connection}" []
        "Connections open now.";
    IO = Counter "flowcar.tcp.io" "By" [DIRECTION]
        "Payload acknowledged by the peer, or received in order.";
    SEGMENTS = Counter "flowcar.tcp.segments" "{segment}" [DIRECTION]
        "Segments, pure ACKs and retransmissions included.";
    RETRANSMITS = Counter "flowcar.tcp.retransmits" "{segment}" [CAUSE]
        "Segments sent again, by cause.";
    LIMITED = Counter "flowcar.tcp.limited.duration" "s" [LIMIT]
        "Time that data to send was held back, as of the last look at each socket.";
    LISTENER_DROPS = Counter "flowcar.tcp.listener.drops" "{segment}" []
        "Segments that listening sockets dropped, by the kernel's count at the socket: SYNs that find the accept queue full, last ACKs of handshakes that do (each counts twice), and SYNs sent again during a handshake.";
    LISTENER_QUEUE = UpDownCounter "flowcar.tcp.listener.queue" "{connection}" []
        "Connections that wait to be accepted, as of the last look.";
    LISTENER_LIMIT = UpDownCounter "flowcar.tcp.listener.queue.limit" "{connection}" []
        "How many may wait: the listener's backlog.";
    OWN_RECORDS = Counter "flowcar.self.records" "{record}" [RECORD_KIND]
        "Kernel records decoded, and sockets looked at.";
    OWN_RECORDS_DROPPED = Counter "flowcar.self.records.dropped" "{record}" [RECORD_KIND]
        "Kernel records that found no room; later records make open and sample good.";
    OWN_RECORDS_MALFORMED = Counter "flowcar.self.records.malformed" "{record}" []
        "Kernel records that did not decode.";
    OWN_TABLE = UpDownCounter "flowcar.self.table.flows" "{flow}" []
        "Flows in the table.";
    OWN_TABLE_FULL = Counter "flowcar.self.table.full" "{record}" []
        "Records and looks that found the table full; such flows count when they close.";
    OWN_SOCKETS = UpDownCounter "flowcar.self.sockets" "{socket}" [SOCKETS]
        "Connections of the network namespace at the last dump.";
    OWN_UNSCOPED = Counter "flowcar.self.sockets.unscoped" "{socket}" []
        "Sockets that lived and ended between two dumps and may have been of the followed cgroup or not.";
    OWN_UNADOPTED = Counter "flowcar.self.sockets.unadopted" "{socket}" []
        "Connections found at the start that may be older than flowcar and are not followed, because the ring buffer overran.";
    OWN_INEXACT = Counter "flowcar.self.flows.inexact" "{flow}" []
        "Flows whose payload counts may be off by the peer's FIN, or are those of the last look before a reset.";
    OWN_DUMP_DURATION = Histogram "flowcar.self.dump.duration" "s" []
        "How long dumps of the sockets took.";
    OWN_UNFOLLOWED = Counter "flowcar.self.unfollowed.duration" "s" []
        "Time in which no program was attached: between the last report that a receiver took of the flowcar before a restart and this one's attaching, and, at most, while they were detached by somebody else.";
    OWN_LOG_DROPPED = Counter "flowcar.self.log.dropped" "{line}" []
        "Log lines that were lost because standard error took nothing: its reader is slow or gone, or its disk is full.";
    OWN_SERIES = UpDownCounter "flowcar.self.series" "{series}" []
        "Series held.";
    OWN_UNBALANCED = Gauge "flowcar.self.books.unbalanced" "{connection}" []
        "Connections that are not accounted for, by all points or by the kernel's count: not 0 is a defect.";
    OWN_EXPORTS = Counter "flowcar.self.exports" "{export}" [SIGNAL, OUTCOME]
        "Exports, by how they ended.";
    OWN_EXPORT_DURATION = Histogram "otel.sdk.exporter.operation.duration" "s" [SIGNAL, ERROR_TYPE]
        "How long exports took, answered or not.";
    OWN_REJECTED = Counter "flowcar.self.rejected" "{item}" [SIGNAL]
        "Points and spans that a receiver refused in an export that it took.";
    OWN_SPANS_DROPPED = Counter "flowcar.self.spans.dropped" "{span}" [REASON]
        "Spans not sent.";
    OWN_SPAN_QUEUE = UpDownCounter "otel.sdk.processor.span.queue.size" "{span}" []
        "Spans waiting to be sent.";
    OWN_SPAN_QUEUE_CAPACITY = UpDownCounter "otel.sdk.processor.span.queue.capacity" "{span}" []
        "Spans that may wait, at most.";
    OWN_SPAN_QUEUE_BYTES = UpDownCounter "flowcar.self.spans.queued.memory" "By" []
        "Memory that spans take that wait.";
    OWN_EXPORTED_SPANS = Counter "otel.sdk.exporter.span.exported" "{span}" [ERROR_TYPE]
        "Spans that the receiver took; as rejected, those that it did not of an export that it took; as too_large, those that it refused alone for their size.";
    OWN_EXPORTED_POINTS = Counter "otel.sdk.exporter.metric_data_point.exported" "{data_point}" [ERROR_TYPE]
        "Points that the receiver took; as rejected, those that it did not of an export that it took; as too_large, those that it refused alone for their size.";
    OWN_CPU = Counter "flowcar.self.cpu.time" "s" []
        "CPU time used.";
    OWN_RSS = UpDownCounter "flowcar.self.memory.rss" "By" []
        "Resident memory.";
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Histogram => "histogram",
            Self::Counter => "counter",
            Self::UpDownCounter => "up-down counter",
            Self::Gauge => "gauge",
        }
    }
}

/// The table of metrics in Markdown.
pub fn markdown() -> String {
    let head = "| metric | kind | unit | what | attributes |\n|---|---|---|---|---|\n".to_owned();
    let rows = METRICS.iter().map(|metric| {
        let attributes: Vec<_> = metric
            .attributes
            .iter()
            .map(|name| format!("`{name}`"))
            .collect();
        let Metric {
            name,
            unit,
            description,
            ..
        } = metric;
        let (kind, attributes) = (metric.kind.name(), attributes.join(", "));
        format!("| `{name}` | {kind} | `{unit}` | {description} | {attributes} |\n")
    });
    std::iter::once(head).chain(rows).collect()
}

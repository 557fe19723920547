//! The one table of what flowcar's telemetry is called.
//!
//! Names of OpenTelemetry's semantic conventions ([`SCHEMA_URL`]) where they exist; ours begin with `flowcar.`.

mod schema;

pub use schema::yaml;

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

/// What kind of value an attribute has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// A text; where it has a list of values, that is in `values.rs`.
    Text,
    /// A whole number.
    Int,
    /// A number.
    Double,
    /// `true`, or absent.
    Boolean,
}

macro_rules! attributes {
    ($($id:ident = $kind:ident $name:literal $description:literal;)*) => {
        /// Attributes.
        pub mod attribute {
            $(
                #[doc = $description]
                pub const $id: &str = $name;
            )*
        }

        /// Every attribute: its name, the kind of its value, and what it is.
        pub const ATTRIBUTES: &[(&str, ValueKind, &str)] = &[
            $(($name, ValueKind::$kind, $description)),*
        ];
    };
}

attributes! {
    TRANSPORT = Text "network.transport"
        "`tcp`";
    NETWORK_TYPE = Text "network.type"
        "`ipv4` or `ipv6`";
    ROLE = Text "network.tcp.handshake.role"
        "`client`, `server` or `unknown`: which end of the handshake this end was.";
    PEER_ADDRESS = Text "network.peer.address"
        "The peer's address.";
    PEER_PREFIX = Text "flowcar.peer.prefix"
        "The network that the peer lies in, in CIDR notation (`FLOWCAR_PEER=prefix`); on metrics only.";
    PEER_PORT = Int "network.peer.port"
        "The peer's port; on spans only.";
    LOCAL_ADDRESS = Text "network.local.address"
        "This end's address; on spans only.";
    LOCAL_PORT = Int "network.local.port"
        "This end's port; on spans only.";
    SERVER_ADDRESS = Text "server.address"
        "The server's address; on spans only.";
    SERVER_PORT = Int "server.port"
        "The server's port.";
    CLIENT_ADDRESS = Text "client.address"
        "The client's address; on spans only.";
    CLIENT_PORT = Int "client.port"
        "The client's port; on spans only.";
    DIRECTION = Text "network.io.direction"
        "`transmit` or `receive`";
    OVERFLOW = Boolean "otel.metric.overflow"
        "`true` on the series of what came past the bound of series.";
    ERROR_TYPE = Text "error.type"
        "Why it failed: values and remedies in docs/attributes.md, as of all attributes with a list of values.";
    END = Text "flowcar.tcp.close.reason"
        "How a connection that was established ended.";
    LOST = Text "flowcar.tcp.lost.reason"
        "The bound or fault that cost the connection.";
    CAUSE = Text "flowcar.tcp.retransmit.type"
        "`syn`, `synack`, `fast`, `timeout`, `tail_loss_probe` or `unknown`";
    RTT_KIND = Text "flowcar.tcp.rtt.kind"
        "`measured`, or `smoothed` (all that kernels before 6.10 tell, and inet_diag: one value a dump)";
    ADOPTED_BY = Text "flowcar.tcp.adopted.by"
        "`startup` or `restart`, of a connection that was open before flowcar followed: its span begins where it was first seen.";
    UNATTRIBUTED = Boolean "flowcar.tcp.unattributed"
        "`true` on what is of no series, because nothing but its loss is known.";
    INTERIM = Boolean "flowcar.tcp.is_interim"
        "`true` on a span for a part of the life of a connection that is still open; on spans only.";
    INTERIM_BYTES_SENT = Int "flowcar.tcp.interim.bytes.sent"
        "Payload bytes acknowledged in that part; on spans only.";
    INTERIM_BYTES_RECEIVED = Int "flowcar.tcp.interim.bytes.received"
        "Payload bytes received in that part; on spans only.";
    INTERIM_SEGMENTS_SENT = Int "flowcar.tcp.interim.segments.sent"
        "Segments sent in that part; on spans only.";
    INTERIM_SEGMENTS_RECEIVED = Int "flowcar.tcp.interim.segments.received"
        "Segments received in that part; on spans only.";
    INTERIM_RETRANSMITS = Int "flowcar.tcp.interim.retransmits"
        "Segments sent again in that part; on spans only.";
    OPEN = Boolean "flowcar.tcp.open"
        "`true` on the span of a connection that was still open when flowcar ended; on spans only.";
    SOURCE = Text "flowcar.source"
        "`ebpf` (and inet_diag beside it) or `inet_diag` alone: where flows are learnt of; of the instrumentation scope.";
    RECORD_KIND = Text "flowcar.self.record.kind"
        "`open`, `sample` or `close` by eBPF; `look` (a socket in a dump) or `end` (of a socket) by inet_diag";
    LIMIT = Text "flowcar.tcp.limited.by"
        "`receive_window` or `send_buffer`: what held the sender back";
    SOCKETS = Text "flowcar.self.socket.scope"
        "`followed` or `other`: whether it is of the followed cgroup";
    COMPONENT_TYPE = Text "otel.component.type"
        "The kind of exporter or processor.";
    COMPONENT_NAME = Text "otel.component.name"
        "Which of its kind.";
    REASON = Text "flowcar.self.drop.reason"
        "Why it was dropped.";
    RESET_AFTER_FIN = Boolean "flowcar.tcp.reset_after_fin"
        "`true` where a RST came or went after the peer's FIN: the connection had been closed by then, and it is no failure; on spans only.";
    SAMPLE_PROBABILITY = Double "flowcar.sample.probability"
        "How likely the span was to be sent, less than 1: it stands for 1/probability connections; on spans only.";
    BYTES_SENT = Int "flowcar.tcp.bytes.sent"
        "Payload bytes acknowledged by the peer; on spans only.";
    BYTES_RECEIVED = Int "flowcar.tcp.bytes.received"
        "Payload bytes received in order; on spans only.";
    SEGMENTS_SENT = Int "flowcar.tcp.segments.sent"
        "Segments sent; on spans only.";
    SEGMENTS_RECEIVED = Int "flowcar.tcp.segments.received"
        "Segments received; on spans only.";
    RETRANSMITS = Int "flowcar.tcp.retransmits"
        "Segments sent again; on spans only.";
    RECEIVE_WINDOW_LIMITED = Double "flowcar.tcp.limited.receive_window"
        "Seconds held back by the peer's window; on spans only.";
    SEND_BUFFER_LIMITED = Double "flowcar.tcp.limited.send_buffer"
        "Seconds held back by the send buffer; on spans only.";
    DELIVERY_RATE = Int "flowcar.tcp.delivery_rate"
        "The newest delivery rate, bytes a second; on spans only.";
    CONNECT_DURATION = Double "flowcar.tcp.connect.duration"
        "Seconds from SYN to established, or to failure; on spans only.";
    RTT_MIN = Double "flowcar.tcp.rtt.min"
        "The least RTT, seconds; on spans only.";
    RTT_P50 = Double "flowcar.tcp.rtt.p50"
        "The median RTT, seconds; on spans only.";
    RTT_P99 = Double "flowcar.tcp.rtt.p99"
        "The 99th percentile of the RTT, seconds; on spans only.";
    EXCHANGES = Int "flowcar.tcp.exchanges"
        "Turns from request to response; on spans only.";
    EXCHANGE_P50 = Double "flowcar.tcp.exchange.p50"
        "Their median, seconds; on spans only.";
    EXCHANGE_P99 = Double "flowcar.tcp.exchange.p99"
        "Their 99th percentile, seconds; on spans only.";
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
    DURATION = Histogram "flowcar.tcp.connection.duration" "s" [END, ERROR_TYPE]
        "From established to closed, where both were seen.";
    OPENED = Counter "flowcar.tcp.connection.opened" "{connection}" [UNATTRIBUTED]
        "Connections established since flowcar follows.";
    ADOPTED = Counter "flowcar.tcp.connection.adopted" "{connection}" [ADOPTED_BY, UNATTRIBUTED]
        "Connections that were open before flowcar followed. With those opened they are all: opened + adopted = closed + live + lost.";
    CLOSED = Counter "flowcar.tcp.connection.closed" "{connection}" [END, ERROR_TYPE]
        "Connections closed, by how; with error.type where they were cut off.";
    FAILED = Counter "flowcar.tcp.connection.failed" "{connection}" [ERROR_TYPE]
        "Attempts that were never established, by why.";
    LOST = Counter "flowcar.tcp.connection.lost" "{connection}" [LOST]
        "Connections of which the end is not known, by what cost it.";
    LIVE = UpDownCounter "flowcar.tcp.connection.live" "{connection}" []
        "Connections open now.";
    IO = Counter "flowcar.tcp.io" "By" [DIRECTION]
        "Payload acknowledged by the peer, or received in order.";
    SEGMENTS = Counter "flowcar.tcp.segments" "{segment}" [DIRECTION]
        "Segments, pure ACKs and retransmissions included.";
    RETRANSMITS = Counter "flowcar.tcp.retransmits" "{segment}" [CAUSE]
        "Segments sent again, by cause.";
    LIMITED = Counter "flowcar.tcp.limited.time" "s" [LIMIT]
        "Time that data to send was held back, as of the last look at each socket.";
    LISTENER_DROPS = Counter "flowcar.tcp.listener.drops" "{drop}" []
        "What listening sockets dropped, by the kernel's count at the socket: SYNs that find the accept queue full, last ACKs of handshakes that do (each counts twice), and SYNs sent again during a handshake.";
    LISTENER_QUEUE = UpDownCounter "flowcar.tcp.listener.queue.size" "{connection}" []
        "Connections that wait to be accepted, as of the last look.";
    LISTENER_LIMIT = UpDownCounter "flowcar.tcp.listener.queue.capacity" "{connection}" []
        "How many may wait: the listener's backlog.";
    OWN_RECORDS = Counter "flowcar.self.record.decoded" "{record}" [RECORD_KIND]
        "Kernel records decoded, and sockets looked at.";
    OWN_RECORDS_DROPPED = Counter "flowcar.self.record.dropped" "{record}" [RECORD_KIND]
        "Kernel records that found no room; later records make open and sample good.";
    OWN_RECORDS_MALFORMED = Counter "flowcar.self.record.malformed" "{record}" []
        "Kernel records that did not decode.";
    OWN_TABLE = UpDownCounter "flowcar.self.flow.count" "{flow}" []
        "Flows in the table.";
    OWN_TABLE_FULL = Counter "flowcar.self.flow.rejected" "{record}" []
        "Records and looks that found the table full; such flows count when they close.";
    OWN_SOCKETS = UpDownCounter "flowcar.self.socket.count" "{socket}" [SOCKETS]
        "Connections of the network namespace at the last dump.";
    OWN_UNSCOPED = Counter "flowcar.self.socket.unscoped" "{socket}" []
        "Sockets that lived and ended between two dumps and may have been of the followed cgroup or not.";
    OWN_UNADOPTED = Counter "flowcar.self.socket.unadopted" "{socket}" []
        "Connections found at the start that may be older than flowcar and are not followed, because the ring buffer overran.";
    OWN_INEXACT = Counter "flowcar.self.flow.inexact" "{flow}" []
        "Flows whose payload counts may be off by the peer's FIN, or are those of the last look before a reset.";
    OWN_DUMP_DURATION = Histogram "flowcar.self.socket_dump.duration" "s" []
        "How long dumps of the sockets took.";
    OWN_UNFOLLOWED = Counter "flowcar.self.unfollowed.time" "s" []
        "Time in which no program was attached: between the last report that a receiver took of the flowcar before a restart and this one's attaching, and, at most, while they were detached by somebody else.";
    OWN_LOG_DROPPED = Counter "flowcar.self.log.dropped" "{line}" []
        "Log lines that were lost because standard error took nothing: its reader is slow or gone, or its disk is full.";
    OWN_SERIES = UpDownCounter "flowcar.self.series.count" "{series}" []
        "Series held.";
    OWN_UNBALANCED = Gauge "flowcar.self.books.unbalanced" "{connection}" []
        "Connections that are not accounted for, by all points or by the kernel's count: not 0 is a defect.";
    OWN_EXPORT_DURATION = Histogram "otel.sdk.exporter.operation.duration" "s" [COMPONENT_TYPE, COMPONENT_NAME, ERROR_TYPE]
        "How long exports took, answered or not.";
    OWN_SPANS_DROPPED = Counter "flowcar.self.span.dropped" "{span}" [REASON]
        "Spans not sent.";
    OWN_SPAN_QUEUE = UpDownCounter "otel.sdk.processor.span.queue.size" "{span}" [COMPONENT_TYPE, COMPONENT_NAME]
        "Spans waiting to be sent.";
    OWN_SPAN_QUEUE_CAPACITY = UpDownCounter "otel.sdk.processor.span.queue.capacity" "{span}" [COMPONENT_TYPE, COMPONENT_NAME]
        "Spans that may wait, at most.";
    OWN_SPAN_QUEUE_BYTES = UpDownCounter "flowcar.self.span.queue.memory" "By" []
        "Memory that spans take that wait.";
    OWN_EXPORTED_SPANS = Counter "otel.sdk.exporter.span.exported" "{span}" [COMPONENT_TYPE, COMPONENT_NAME, ERROR_TYPE]
        "Spans that the receiver took; as rejected, those that it did not of an export that it took; as too_large, those that it refused alone for their size.";
    OWN_EXPORTED_POINTS = Counter "otel.sdk.exporter.metric_data_point.exported" "{data_point}" [COMPONENT_TYPE, COMPONENT_NAME, ERROR_TYPE]
        "Points that the receiver took; as rejected, those that it did not of an export that it took; as too_large, those that it refused alone for their size.";
    OWN_CPU = Counter "process.cpu.time" "s" []
        "CPU time used.";
    OWN_RSS = UpDownCounter "process.memory.usage" "By" []
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

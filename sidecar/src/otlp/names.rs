//! The one table of the names of flowcar's telemetry.
//!
//! Names are those of OpenTelemetry's semantic conventions ([`SCHEMA_URL`]) where such exist; flowcar's own begin with `flowcar.`.

mod schema;

pub use schema::yaml;

/// The version of OpenTelemetry's semantic conventions.
pub const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.39.0";

/// Name of the instrumentation scope.
pub const SCOPE: &str = "flowcar";

/// Version of the instrumentation scope.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// An event: a log record with a name.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// Its name.
    pub name: &'static str,
    /// What has happened.
    pub description: &'static str,
}

/// The one event.
pub const FLOW_CLOSED: Event = Event {
    name: "flowcar.tcp.flow.closed",
    description: "A connection closed, or an attempt failed. The attributes are those of its span.",
};

/// The instrument of a metric.
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
        "The peer's address: on spans and log records, and on metrics with `FLOWCAR_PEER=address`.";
    PEER_PREFIX = Text "flowcar.peer.prefix"
        "The peer's network in CIDR notation (`FLOWCAR_PEER=prefix`); on metrics only.";
    PEER_PORT = Int "network.peer.port"
        "The peer's port; on spans and log records only.";
    LOCAL_ADDRESS = Text "network.local.address"
        "This end's address; on spans and log records only.";
    LOCAL_PORT = Int "network.local.port"
        "This end's port; on spans and log records only.";
    SERVER_ADDRESS = Text "server.address"
        "The server: of a client the name that its application asked a resolver for, where one is known; else the address that it asked for in connect(), where eBPF sees the call; else the peer's. On metrics of clients only.";
    SERVER_PORT = Int "server.port"
        "The server's port; of a client that which was asked for, as `server.address`.";
    CLIENT_ADDRESS = Text "client.address"
        "The client's address; on spans and log records only.";
    CLIENT_PORT = Int "client.port"
        "The client's port; on spans and log records only.";
    PROCESS_PID = Int "process.pid"
        "The process that called connect(), or listen() of a server's listener, by its number in the initial PID namespace; on spans and log records only.";
    PROCESS_NAME = Text "process.executable.name"
        "What that process is called (/proc/PID/comm), where flowcar's /proc shows it; on spans and log records only.";
    DIRECTION = Text "network.io.direction"
        "`transmit` or `receive`";
    OVERFLOW = Boolean "otel.metric.overflow"
        "`true` on the series that sums all connections past `FLOWCAR_SERIES_LIMIT`.";
    ERROR_TYPE = Text "error.type"
        "Why it failed. docs/attributes.md lists values and remedies.";
    CLOSE_REASON = Text "flowcar.tcp.close.reason"
        "How an established connection closed.";
    LOST_REASON = Text "flowcar.tcp.lost.reason"
        "Why the close of the connection is unknown.";
    RETRANSMIT_TYPE = Text "flowcar.tcp.retransmit.type"
        "`syn`, `synack`, `fast`, `timeout`, `tail_loss_probe` or `unknown`";
    RTT_KIND = Text "flowcar.tcp.rtt.kind"
        "`measured`, or `smoothed` (all that kernels before 6.10 and inet_diag give)";
    ADOPTED_BY = Text "flowcar.tcp.adopted.by"
        "`startup` or `restart`, of a connection that was open before flowcar followed it: its span begins when it was first seen.";
    UNATTRIBUTED = Boolean "flowcar.tcp.unattributed"
        "`true` on connections that belong to no series, because nothing but their loss is known.";
    INTERIM = Boolean "flowcar.tcp.is_interim"
        "`true` on a span for one interval of a connection that is still open; on spans only.";
    INTERIM_BYTES_SENT = Int "flowcar.tcp.interim.bytes.sent"
        "Payload bytes acknowledged in that interval; on spans only.";
    INTERIM_BYTES_RECEIVED = Int "flowcar.tcp.interim.bytes.received"
        "Payload bytes received in that interval; on spans only.";
    INTERIM_SEGMENTS_SENT = Int "flowcar.tcp.interim.segments.sent"
        "Segments sent in that interval; on spans only.";
    INTERIM_SEGMENTS_RECEIVED = Int "flowcar.tcp.interim.segments.received"
        "Segments received in that interval; on spans only.";
    INTERIM_RETRANSMITS = Int "flowcar.tcp.interim.retransmits"
        "Segments sent again in that interval; on spans only.";
    OPEN = Boolean "flowcar.tcp.open"
        "`true` on the span of a connection that was still open when flowcar ended; on spans only.";
    SOURCE = Text "flowcar.source"
        "`ebpf` (and inet_diag beside it) or `inet_diag` alone: where flowcar reads connections; on the instrumentation scope.";
    RECORD_KIND = Text "flowcar.self.record.kind"
        "The kind of the record.";
    LIMITED_BY = Text "flowcar.tcp.limited.by"
        "`receive_window` or `send_buffer`: what held the sender back";
    SOCKET_SCOPE = Text "flowcar.self.socket.scope"
        "`followed` or `other`: whether the socket is in the followed cgroup";
    COMPONENT_TYPE = Text "otel.component.type"
        "The kind of exporter or processor.";
    COMPONENT_NAME = Text "otel.component.name"
        "The name of the exporter or processor.";
    DNS_REASON = Text "flowcar.self.dns.reason"
        "Why the DNS message was not used, or not as a whole.";
    UNNAMED_REASON = Text "flowcar.self.unnamed.reason"
        "Why a client's flow has no name of its server.";
    CONTAINER_REASON = Text "flowcar.self.container.reason"
        "Why the container of a flow is not known.";
    CPU_MODE = Text "cpu.mode"
        "`user` or `system`: the mode that the CPU time was used in.";
    DISK_IO_DIRECTION = Text "disk.io.direction"
        "`read` or `write`";
    FAULT_TYPE = Text "system.paging.fault.type"
        "`minor` or `major`";
    PRESSURE_RESOURCE = Text "flowcar.container.pressure.resource"
        "`cpu`, `memory` or `io`: what the container's tasks waited for.";
    PRESSURE_STALL = Text "flowcar.container.pressure.stall"
        "`some` or `full`: whether one task waited, or all that were not idle.";
    DROP_REASON = Text "flowcar.self.drop.reason"
        "Why the span or the log record was dropped.";
    RESET_AFTER_FIN = Boolean "flowcar.tcp.reset_after_fin"
        "`true` if a RST was sent or received after the peer's FIN: the connection was closed by then, so this is no failure; on spans and log records only.";
    SAMPLE_PROBABILITY = Double "flowcar.sample.probability"
        "The probability with which the span or the log record was sampled, less than 1: it stands for 1/probability connections.";
    BYTES_SENT = Int "flowcar.tcp.bytes.sent"
        "Payload bytes acknowledged by the peer; on spans and log records only.";
    BYTES_RECEIVED = Int "flowcar.tcp.bytes.received"
        "Payload bytes received in order; on spans and log records only.";
    SEGMENTS_SENT = Int "flowcar.tcp.segments.sent"
        "Segments sent; on spans and log records only.";
    SEGMENTS_RECEIVED = Int "flowcar.tcp.segments.received"
        "Segments received; on spans and log records only.";
    RETRANSMITS = Int "flowcar.tcp.retransmits"
        "Segments sent again; on spans and log records only.";
    RECEIVE_WINDOW_LIMITED = Double "flowcar.tcp.limited.receive_window"
        "Seconds held back by the peer's window; on spans and log records only.";
    SEND_BUFFER_LIMITED = Double "flowcar.tcp.limited.send_buffer"
        "Seconds held back by the send buffer; on spans and log records only.";
    DELIVERY_RATE = Int "flowcar.tcp.delivery_rate"
        "The latest delivery rate, bytes per second; on spans and log records only.";
    CONNECT_DURATION = Double "flowcar.tcp.connect.duration"
        "Seconds from SYN to established or to failure; on spans and log records only.";
    RTT_MIN = Double "flowcar.tcp.rtt.min"
        "The minimum RTT, seconds; on spans and log records only.";
    RTT_P50 = Double "flowcar.tcp.rtt.p50"
        "The median RTT, seconds; on spans and log records only.";
    RTT_P99 = Double "flowcar.tcp.rtt.p99"
        "The 99th percentile of the RTT, seconds; on spans and log records only.";
    EXCHANGES = Int "flowcar.tcp.exchanges"
        "Exchanges of a request and its response; on spans and log records only.";
    EXCHANGE_P50 = Double "flowcar.tcp.exchange.p50"
        "The median duration of the exchanges, seconds; on spans and log records only.";
    EXCHANGE_P99 = Double "flowcar.tcp.exchange.p99"
        "The 99th percentile of the duration of the exchanges, seconds; on spans and log records only.";
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
        "Client: time from SYN sent to established or to failure.";
    RTT = Histogram "flowcar.tcp.rtt" "s" [RTT_KIND]
        "Round trip time as the kernel measures it: one sample for each round trip, or, without eBPF, one smoothed value for each socket dump.";
    EXCHANGE = Histogram "flowcar.tcp.exchange.duration" "s" []
        "Time from the last byte of a request to the first byte of its response, seen from this end.";
    DURATION = Histogram "flowcar.tcp.connection.duration" "s" [CLOSE_REASON, ERROR_TYPE]
        "Time from established to closed, where both were seen.";
    OPENED = Counter "flowcar.tcp.connection.opened" "{connection}" [UNATTRIBUTED]
        "Connections established while flowcar followed.";
    ADOPTED = Counter "flowcar.tcp.connection.adopted" "{connection}" [ADOPTED_BY, UNATTRIBUTED]
        "Connections that were open before flowcar followed them. In every report opened + adopted = closed + live + lost.";
    CLOSED = Counter "flowcar.tcp.connection.closed" "{connection}" [CLOSE_REASON, ERROR_TYPE]
        "Connections closed, by close reason; with error.type if they were cut off, and that not by a health check.";
    FAILED = Counter "flowcar.tcp.connection.failed" "{connection}" [ERROR_TYPE]
        "Attempts that were never established, by error.type.";
    LOST = Counter "flowcar.tcp.connection.lost" "{connection}" [LOST_REASON]
        "Connections whose close is unknown, by lost reason.";
    LIVE = UpDownCounter "flowcar.tcp.connection.live" "{connection}" []
        "Connections open now.";
    IO = Counter "flowcar.tcp.io" "By" [DIRECTION]
        "Payload acknowledged by the peer, or received in order.";
    SEGMENTS = Counter "flowcar.tcp.segments" "{segment}" [DIRECTION]
        "Segments, including pure ACKs and retransmissions.";
    RETRANSMITS = Counter "flowcar.tcp.retransmits" "{segment}" [RETRANSMIT_TYPE]
        "Segments sent again, by type.";
    LIMITED = Counter "flowcar.tcp.limited.time" "s" [LIMITED_BY]
        "Time for which data to send was held back, as of the last socket dump.";
    LISTENER_DROPS = Counter "flowcar.tcp.listener.drops" "{drop}" []
        "Drops at listening sockets, as the kernel counts them at the socket: SYNs that find the accept queue full, last ACKs of handshakes that find it full (each counts twice), and SYNs sent again during a handshake.";
    LISTENER_QUEUE = UpDownCounter "flowcar.tcp.listener.queue.size" "{connection}" []
        "Connections that wait to be accepted, as of the last socket dump.";
    LISTENER_LIMIT = UpDownCounter "flowcar.tcp.listener.queue.capacity" "{connection}" []
        "Connections that may wait to be accepted: the listener's backlog.";
    CONTAINER_CPU = Counter "container.cpu.time" "s" [CPU_MODE]
        "CPU time that the container used.";
    CONTAINER_PERIODS = Counter "flowcar.container.cpu.periods" "{period}" []
        "Periods in which the container had something to run, and its CPU limit was enforced. Absent without a limit.";
    CONTAINER_THROTTLED = Counter "flowcar.container.cpu.throttled.periods" "{period}" []
        "Those of them in which the limit was used up, and the container waited. Many: the limit is too low for its bursts.";
    CONTAINER_THROTTLED_TIME = Counter "flowcar.container.cpu.throttled.time" "s" []
        "Time for which the container waited because its CPU limit was used up, summed over CPUs.";
    CONTAINER_MEMORY = UpDownCounter "container.memory.usage" "By" []
        "Memory that counts to the container, with the files that it used.";
    CONTAINER_WORKING_SET = UpDownCounter "container.memory.working_set" "By" []
        "The same without files that were not used lately, as the kubelet evicts by.";
    CONTAINER_RSS = UpDownCounter "container.memory.rss" "By" []
        "Anonymous memory of the container.";
    CONTAINER_AVAILABLE = UpDownCounter "container.memory.available" "By" []
        "The container's limit of memory less its working set. Absent without a limit.";
    CONTAINER_MEMORY_LIMIT = UpDownCounter "flowcar.container.memory.limit" "By" []
        "The container's limit of memory. Absent without one.";
    CONTAINER_FAULTS = Counter "container.memory.paging.faults" "{fault}" [FAULT_TYPE]
        "Page faults of the container. Many major ones: its memory does not hold its files.";
    CONTAINER_OOM_KILLS = Counter "flowcar.container.memory.oom_kills" "{process}" []
        "Processes of the container that the kernel killed for want of memory. A container that ends thereby is not read again.";
    CONTAINER_DISK_IO = Counter "container.disk.io" "By" [DISK_IO_DIRECTION]
        "Bytes read from and written to block devices. Files in memory and writes that wait are not among them.";
    CONTAINER_DISK_OPERATIONS = Counter "flowcar.container.disk.operations" "{operation}" [DISK_IO_DIRECTION]
        "Operations of block devices.";
    CONTAINER_PRESSURE = Counter "flowcar.container.pressure.time" "s" [PRESSURE_RESOURCE, PRESSURE_STALL]
        "Time for which tasks of the container waited for a resource (PSI). High: the container has too little of it.";
    CONTAINER_THREADS = UpDownCounter "flowcar.container.thread.count" "{thread}" []
        "Processes and threads of the container.";
    SELF_RECORDS = Counter "flowcar.self.record.decoded" "{record}" [RECORD_KIND]
        "Kernel records decoded, and sockets read from socket dumps.";
    SELF_RECORDS_DROPPED = Counter "flowcar.self.record.dropped" "{record}" [RECORD_KIND]
        "Kernel records dropped for want of room; later records make up for dropped open and sample records.";
    SELF_RECORDS_MALFORMED = Counter "flowcar.self.record.malformed" "{record}" []
        "Kernel records that did not decode.";
    SELF_DNS_DROPPED = Counter "flowcar.self.dns.dropped" "{message}" [DNS_REASON]
        "DNS messages that were not used, or not as a whole, by reason.";
    SELF_UNNAMED = Counter "flowcar.self.flow.unnamed" "{flow}" [UNNAMED_REASON]
        "Clients' flows without a name of their server, by reason: their server.address is an address.";
    SELF_CONTAINER_UNRESOLVED = Counter "flowcar.self.container.unresolved" "{flow}" [CONTAINER_REASON]
        "Flows whose container is not known, by reason: they are under the pod's resource.";
    SELF_STATISTICS_MALFORMED = Counter "flowcar.self.container.malformed" "{file}" []
        "Files of containers' cgroups that were not understood: their statistics are left out.";
    SELF_TABLE = UpDownCounter "flowcar.self.flow.count" "{flow}" []
        "Flows in the table.";
    SELF_TABLE_FULL = Counter "flowcar.self.flow.rejected" "{record}" []
        "Records and dumped sockets that found the table full; such flows are counted when they close.";
    SELF_SOCKETS = UpDownCounter "flowcar.self.socket.count" "{socket}" [SOCKET_SCOPE]
        "Connections of the network namespace at the last socket dump.";
    SELF_UNSCOPED = Counter "flowcar.self.socket.unscoped" "{socket}" []
        "Sockets that opened and closed between two socket dumps: whether they were in the followed cgroup is unknown.";
    SELF_UNADOPTED = Counter "flowcar.self.socket.unadopted" "{socket}" []
        "Connections found at the start that may be older than flowcar, and are not followed because the ring buffer overflowed.";
    SELF_INEXACT = Counter "flowcar.self.flow.inexact" "{flow}" []
        "Flows whose payload counts may be off by one byte for the peer's FIN, or are those of the last socket dump before a reset.";
    SELF_DUMP_DURATION = Histogram "flowcar.self.socket_dump.duration" "s" []
        "Duration of socket dumps.";
    SELF_UNFOLLOWED = Counter "flowcar.self.unfollowed.time" "s" []
        "Time in which no program was attached: from the last acknowledged report of the flowcar before a restart until this one attached, and, as an upper bound, while another process had detached the programs.";
    SELF_LOG_DROPPED = Counter "flowcar.self.log.dropped" "{line}" []
        "Log lines lost because standard error took nothing: its reader is slow or closed, or its disk is full.";
    SELF_SERIES = UpDownCounter "flowcar.self.series.count" "{series}" []
        "Series held.";
    SELF_UNBALANCED = Gauge "flowcar.self.books.unbalanced" "{connection}" []
        "Connections that are not accounted for, by all points or by the kernel's count: any value but 0 is a defect of flowcar.";
    SELF_EXPORT_DURATION = Histogram "otel.sdk.exporter.operation.duration" "s" [COMPONENT_TYPE, COMPONENT_NAME, ERROR_TYPE]
        "Duration of exports, answered or not.";
    SELF_SPANS_DROPPED = Counter "flowcar.self.span.dropped" "{span}" [DROP_REASON]
        "Spans dropped, by reason.";
    SELF_SPAN_QUEUE = UpDownCounter "otel.sdk.processor.span.queue.size" "{span}" [COMPONENT_TYPE, COMPONENT_NAME]
        "Spans that wait to be sent.";
    SELF_SPAN_QUEUE_CAPACITY = UpDownCounter "otel.sdk.processor.span.queue.capacity" "{span}" [COMPONENT_TYPE, COMPONENT_NAME]
        "The most spans that may wait.";
    SELF_SPAN_QUEUE_BYTES = UpDownCounter "flowcar.self.span.queue.memory" "By" []
        "Memory of the spans that wait to be sent.";
    SELF_LOG_RECORDS_DROPPED = Counter "flowcar.self.log_record.dropped" "{log_record}" [DROP_REASON]
        "Log records of connections dropped, by reason.";
    SELF_LOG_RECORD_QUEUE = UpDownCounter "otel.sdk.processor.log.queue.size" "{log_record}" [COMPONENT_TYPE, COMPONENT_NAME]
        "Log records of connections that wait to be sent.";
    SELF_LOG_RECORD_QUEUE_CAPACITY = UpDownCounter "otel.sdk.processor.log.queue.capacity" "{log_record}" [COMPONENT_TYPE, COMPONENT_NAME]
        "The most log records that may wait.";
    SELF_LOG_RECORD_QUEUE_BYTES = UpDownCounter "flowcar.self.log_record.queue.memory" "By" []
        "Memory of the log records that wait to be sent.";
    SELF_EXPORTED_SPANS = Counter "otel.sdk.exporter.span.exported" "{span}" [COMPONENT_TYPE, COMPONENT_NAME, ERROR_TYPE]
        "Spans that the receiver took. error.type=rejected: spans that it rejected from an export that it took; too_large: spans that it refused for their size, each sent alone.";
    SELF_EXPORTED_LOG_RECORDS = Counter "otel.sdk.exporter.log.exported" "{log_record}" [COMPONENT_TYPE, COMPONENT_NAME, ERROR_TYPE]
        "Log records that the receiver took. error.type=rejected: those that it rejected from an export that it took; too_large: those that it refused for their size, each sent alone.";
    SELF_EXPORTED_POINTS = Counter "otel.sdk.exporter.metric_data_point.exported" "{data_point}" [COMPONENT_TYPE, COMPONENT_NAME, ERROR_TYPE]
        "Points that the receiver took. error.type=rejected: points that it rejected from an export that it took; too_large: points that it refused for their size, each sent alone.";
    SELF_CPU = Counter "process.cpu.time" "s" []
        "CPU time used.";
    SELF_RSS = UpDownCounter "process.memory.usage" "By" []
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

//! The table of all settings: one entry for each, from which `Config` is read and docs/configuration.md is generated.

use std::{borrow::Cow, path::PathBuf, time::Duration};

use super::{
    choices::{Histograms, LogFormat, SelfMetricsLevel, SourceChoice, Temporality, TraceParent},
    headers::{self, Headers},
    parse::{self, Boolean, Exporters, choice},
    setting::{PerSignal, Row, Setting, Shown, settings},
    signal::{Compression, Protocol},
};
use crate::series::PeerLabel;

settings! {
// `OTEL_EXPORTER_OTLP_X`, and `OTEL_EXPORTER_OTLP_METRICS_X`, `_TRACES_X` and `_LOGS_X`.
per_signal {
    ENDPOINT: Option<String> {
        default: None, "none: no export; `flowcar export`: `http://localhost:4317`",
        parse: parse::text,
        shown: Url,
        meaning: "URL of the receiver, or `unix:///path` of its socket. HTTP adds `/v1/metrics`, `/v1/traces` and `/v1/logs` to its path, before a query; gRPC uses host and port only. Without a scheme (gRPC only): https",
        metrics: "URL for metrics, taken as it is",
        traces: "URL for spans, taken as it is",
        logs: "URL for log records, taken as it is",
    }
    PROTOCOL: Protocol {
        default: Protocol::Grpc, "`grpc`",
        parse: parse::protocol,
        shown: Word,
        meaning: "`grpc` or `http/protobuf`",
        metrics: "the same for metrics",
        traces: "the same for spans",
        logs: "the same for log records",
    }
    HEADERS: Option<Headers> {
        default: None, "none",
        parse: |text| headers::parse(text).map(Some),
        shown: Hidden,
        meaning: "`name=value,name=value`, values percent-encoded, sent with every request; never logged",
        metrics: "the same for metrics",
        traces: "the same for spans",
        logs: "the same for log records",
    }
    HEADERS_FILE: Option<PathBuf> {
        default: None, "none",
        parse: parse::path,
        shown: File,
        meaning: "file of more headers in that form, a line for each, at most 64 KiB; read again when it changes, for tokens that rotate",
        metrics: "the same for metrics",
        traces: "the same for spans",
        logs: "the same for log records",
    }
    TIMEOUT: Option<Duration> {
        default: Some(Duration::from_secs(10)), "`10000`",
        parse: parse::limit,
        shown: Word,
        meaning: "milliseconds for one request and its answer; 0: no limit",
        metrics: "the same for metrics",
        traces: "the same for spans",
        logs: "the same for log records",
    }
    COMPRESSION: Option<Compression> {
        default: None, "`none`",
        parse: |text| {
            let choices = [("gzip", Some(Compression::Gzip)), ("zstd", Some(Compression::Zstd)), ("none", None)];
            choice(text, &choices)
        },
        shown: Word,
        meaning: "`gzip`, `zstd` or `none`",
        metrics: "the same for metrics",
        traces: "the same for spans",
        logs: "the same for log records",
    }
    INSECURE: Boolean {
        default: Boolean::False, "`false`",
        parse: parse::boolean,
        shown: Word,
        meaning: "`true`: a gRPC endpoint without a scheme is http",
        metrics: "the same for metrics",
        traces: "the same for spans",
        logs: "the same for log records",
    }
    CERTIFICATE: Option<PathBuf> {
        default: None, "the system's authorities",
        parse: parse::path,
        shown: File,
        meaning: "PEM file of the authorities that the receiver's certificate is checked against, or of that certificate itself; read again when it changes",
        metrics: "the same for metrics",
        traces: "the same for spans",
        logs: "the same for log records",
    }
    CLIENT_CERTIFICATE: Option<PathBuf> {
        default: None, "none",
        parse: parse::path,
        shown: File,
        meaning: "PEM file of the certificate chain that flowcar shows (mTLS); read again when it changes",
        metrics: "the same for metrics",
        traces: "the same for spans",
        logs: "the same for log records",
    }
    CLIENT_KEY: Option<PathBuf> {
        default: None, "none",
        parse: parse::path,
        shown: File,
        meaning: "PEM file of that certificate's private key",
        metrics: "the same for metrics",
        traces: "the same for spans",
        logs: "the same for log records",
    }
}
others {
    OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE: Temporality {
        default: Temporality::Cumulative, "`cumulative`",
        parse: |text| choice(text, &[("cumulative", Temporality::Cumulative), ("delta", Temporality::Delta), ("lowmemory", Temporality::LowMemory)]),
        shown: Word,
        meaning: "`cumulative`, `delta`, or `lowmemory` (histograms only are deltas)",
    }
    OTEL_METRIC_EXPORT_INTERVAL: Duration {
        default: Duration::from_secs(10), "`10000`",
        parse: parse::interval,
        shown: Word,
        meaning: "milliseconds between reports; not OpenTelemetry's 60000, so that a pod's first minute is visible while it lasts",
    }
    OTEL_METRICS_EXPORTER: Exporters {
        default: Exporters::DEFAULT, "`otlp`",
        parse: |text| parse::exporters(text, Exporters::DEFAULT),
        shown: Word,
        meaning: "`otlp` or `none`; others in a list are ignored",
    }
    OTEL_TRACES_EXPORTER: Exporters {
        default: Exporters::DEFAULT, "`otlp`",
        parse: |text| parse::exporters(text, Exporters::DEFAULT),
        shown: Word,
        meaning: "`otlp` or `none`; others in a list are ignored",
    }
    OTEL_LOGS_EXPORTER: Exporters {
        default: Exporters::NONE, "`none`",
        parse: |text| parse::exporters(text, Exporters::NONE),
        shown: Word,
        meaning: "`otlp`: a log record for each connection that closed or failed, with the attributes of its span; `none`: no log records. Others in a list are ignored",
    }
    OTEL_SDK_DISABLED: Boolean {
        default: Boolean::False, "`false`",
        parse: parse::boolean,
        shown: Word,
        meaning: "`true`: nothing is exported",
    }
    OTEL_SERVICE_NAME: Option<String> {
        default: None, "the workload's name, the command's, or the unit's",
        parse: parse::text,
        shown: Hidden,
        meaning: "`service.name`",
    }
    OTEL_RESOURCE_ATTRIBUTES: Vec<(String, String)> {
        default: Vec::new(), "none",
        parse: parse::attributes,
        shown: Hidden,
        meaning: "`key=value,key=value`, values percent-encoded: more attributes of the resource; they win over those that flowcar finds. If one is malformed, all are ignored",
    }
    HTTP_PROXY: Option<String> {
        also: "http_proxy",
        default: None, "none",
        parse: parse::text,
        shown: Url,
        meaning: "proxy for receivers at `http://`: `http://user:password@proxy:3128`. OTLP by HTTP is forwarded, by gRPC tunnelled (CONNECT). Proxies that want TLS or SOCKS are refused. This and the next three also in lower case",
    }
    HTTPS_PROXY: Option<String> {
        also: "https_proxy",
        default: None, "none",
        parse: parse::text,
        shown: Url,
        meaning: "the same for receivers at `https://`, always tunnelled",
    }
    ALL_PROXY: Option<String> {
        also: "all_proxy",
        default: None, "none",
        parse: parse::text,
        shown: Url,
        meaning: "the same where the others are not set",
    }
    NO_PROXY: Option<String> {
        also: "no_proxy",
        default: None, "none",
        parse: parse::text,
        shown: Url,
        meaning: "hosts that are reached without a proxy: `name` (and every name that ends in `.name`), address, `10.0.0.0/8`, each also with `:port`, or `*`; this host always is",
    }
    FLOWCAR_SOURCE: SourceChoice {
        default: SourceChoice::Auto, "`auto`",
        parse: |text| choice(text, &[("auto", SourceChoice::Auto), ("ebpf", SourceChoice::Ebpf), ("inet_diag", SourceChoice::InetDiag)]),
        shown: Word,
        meaning: "where flowcar reads connections: `ebpf`; `inet_diag`, which needs no capability, sees no handshake and gives one RTT for each socket dump; or `auto`: `ebpf`, and `inet_diag` where eBPF is refused (`flowcar run`: `ebpf`)",
    }
    FLOWCAR_PEER: PeerLabel {
        default: PeerLabel::Auto, "`auto`",
        parse: |text| {
            // FLOWCAR_PEER_PREFIX has the lengths.
            let (v4, v6) = FLOWCAR_PEER_PREFIX.default;
            let prefix = PeerLabel::Prefix { v4, v6 };
            let choices = [("auto", PeerLabel::Auto), ("name", PeerLabel::Name), ("address", PeerLabel::Address), ("prefix", prefix), ("none", PeerLabel::None)];
            choice(text, &choices)
        },
        shown: Word,
        meaning: "the peer's attribute on metrics: `auto` (on a client's end `server.address`: the server's name, else the address that was asked for; on a server's end nothing: spans have it), `name` (the same, without addresses), `address` (always `network.peer.address`), `prefix` (`flowcar.peer.prefix`) or `none`",
    }
    FLOWCAR_PEER_PREFIX: (u8, u8) {
        default: (24, 64), "`24/64`",
        parse: parse::prefixes,
        shown: Word,
        meaning: "bits kept of IPv4 and IPv6 addresses when `FLOWCAR_PEER=prefix`",
    }
    FLOWCAR_PORTS: bool {
        default: true, "`include`",
        parse: |text| choice(text, &[("include", true), ("exclude", false)]),
        shown: Word,
        meaning: "`exclude`: metrics have no `server.port`",
    }
    FLOWCAR_SERIES_LIMIT: usize {
        default: 2000, "`2000`",
        parse: parse::count,
        shown: Word,
        meaning: "most series; the rest is summed under `otel.metric.overflow`",
    }
    FLOWCAR_SERIES_IDLE: Duration {
        default: Duration::from_secs(3_600), "`3600000`",
        parse: parse::millis_or_never,
        shown: Word,
        meaning: "milliseconds without a connection or a new value after which a series is dropped, once the receiver has all of it; it restarts from zero. 0: never",
    }
    FLOWCAR_SELF_METRICS: SelfMetricsLevel {
        default: SelfMetricsLevel::Basic, "`basic`",
        parse: |text| {
            use SelfMetricsLevel::{Basic, Detailed, None};
            choice(text, &[("basic", Basic), ("detailed", Detailed), ("none", None)])
        },
        shown: Word,
        meaning: "self metrics, sent as `service.name=flowcar`: `basic` (some ten points a minute, and counters of losses that are not 0), `detailed` (all, with each report) or `none`",
    }
    FLOWCAR_MAX_FLOWS: usize {
        default: 65_536, "`65536`",
        parse: parse::count,
        shown: Word,
        meaning: "most flows in the table, and no more than the memory limit has room for; flows beyond it are counted when they close",
    }
    FLOWCAR_RING_BYTES: u32 {
        default: 1 << 20, "`1048576`",
        parse: parse::ring_bytes,
        shown: Word,
        meaning: "size of the kernel's ring buffer, a power of two",
    }
    FLOWCAR_EXCHANGE: Option<bool> {
        default: None, "`off`; with `flowcar run` on",
        parse: |text| choice(text, &[("on", Some(true)), ("off", Some(false))]),
        shown: Word,
        meaning: "`on`: reads every packet's headers, for `flowcar.tcp.exchange.duration` and for which end sent a RST; needs the eBPF source",
    }
    FLOWCAR_DNS: bool {
        default: true, "`on`",
        parse: |text| choice(text, &[("on", true), ("off", false)]),
        shown: Word,
        meaning: "reads the DNS messages of the followed cgroup (port 53), so that clients' connections have their server's name: `server.address`; `off`: no name, and no program sees them. Needs the eBPF source",
    }
    FLOWCAR_CONTAINER: bool {
        default: true, "`on`",
        parse: |text| choice(text, &[("on", true), ("off", false)]),
        shown: Word,
        meaning: "in a pod, `flowcar export` sends metrics and spans of each container under a resource of its own, with `container.id`; `off`: all under the pod's. Needs the node's cgroup tree (`FLOWCAR_HOST_CGROUP`)",
    }
    FLOWCAR_CONTAINERS: bool {
        default: false, "`off`",
        parse: |text| choice(text, &[("on", true), ("off", false)]),
        shown: Word,
        meaning: "`on`: `flowcar export` sends statistics of each container with its reports, under the container's resource: CPU time and throttling, memory, I/O and pressure, as its cgroup counts them. Needs cgroup v2, and in a pod the node's cgroup tree (`FLOWCAR_HOST_CGROUP`)",
    }
    FLOWCAR_PROCESS: bool {
        default: true, "`on`",
        parse: |text| choice(text, &[("on", true), ("off", false)]),
        shown: Word,
        meaning: "spans and lists of connections have the process that called `connect()` or `listen()`: `process.pid`, and `process.executable.name` where `/proc` shows the process (on a host; in a PID namespace that containers share from Linux 6.10 on). Needs the eBPF source",
    }
    FLOWCAR_TRACE_PARENT: TraceParent {
        default: TraceParent::Auto, "`auto`",
        parse: |text| choice(text, &[("auto", TraceParent::Auto), ("always", TraceParent::Always), ("never", TraceParent::Never)]),
        shown: Word,
        meaning: "whether a server's span is the child of its client's: `auto` (when the peer's address is not public), `always` or `never`",
    }
    FLOWCAR_SPANS_PER_SECOND: u32 {
        default: 200, "`200`",
        parse: |text| parse::count(text).map(|count| u32::try_from(count).unwrap_or(u32::MAX)),
        shown: Word,
        meaning: "most spans sent a second, on average: of each second's spans the failed, slow and lossy ones first, then a random sample of the rest; each span has its `flowcar.sample.probability`. As many log records, chosen likewise",
    }
    FLOWCAR_SPAN_QUEUE: usize {
        default: 2048, "`2048`",
        parse: parse::count,
        shown: Word,
        meaning: "most spans that wait for the receiver, and most log records; those beyond it are dropped and counted",
    }
    FLOWCAR_SPAN_QUEUE_BYTES: usize {
        default: 8 << 20, "`8388608`",
        parse: parse::count,
        shown: Word,
        meaning: "most memory for spans that wait, in bytes, and as much for log records; for both no more than a quarter of the memory limit's room. Beyond it the oldest ordinary ones are dropped first, failed, slow and lossy ones last",
    }
    FLOWCAR_SPAN_INTERVAL: Duration {
        default: Duration::from_secs(60), "`60000`",
        parse: parse::millis_or_never,
        shown: Word,
        meaning: "milliseconds after which a connection that is still open sends an interim span; 0: none before it closes",
    }
    FLOWCAR_HISTOGRAMS: Histograms {
        default: Histograms::Exponential, "`exponential`",
        parse: |text| choice(text, &[("exponential", Histograms::Exponential), ("explicit", Histograms::Explicit)]),
        shown: Word,
        meaning: "`explicit`: for back ends without exponential histograms",
    }
    FLOWCAR_LOG: Option<String> {
        default: None, "info; `flowcar run`: warn",
        parse: |text| parse::level(text).map(|level| Some(level.to_string())),
        shown: Word,
        meaning: "`off`, `error`, `warn`, `info`, `debug` or `trace`",
    }
    FLOWCAR_LOG_FORMAT: LogFormat {
        default: LogFormat::Text, "`text`",
        parse: |text| choice(text, &[("text", LogFormat::Text), ("json", LogFormat::Json)]),
        shown: Word,
        meaning: "`text` or `json`",
    }
    FLOWCAR_SHUTDOWN_TIMEOUT: Duration {
        default: Duration::from_secs(5), "`5000`",
        parse: parse::millis,
        shown: Word,
        meaning: "milliseconds for the last exports after SIGTERM",
    }
    FLOWCAR_STATE_DIR: Option<PathBuf> {
        default: None, "none",
        parse: parse::path,
        shown: Hidden,
        meaning: "directory for the checkpoint, which `flowcar export` writes after each acknowledged report: a restart then counts nothing twice and names connections that closed meanwhile; some 50 bytes for each flow, and never more than an eighth of the free space. A link, or a file that another user wrote, is not read",
    }
    FLOWCAR_HOST_CGROUP: Cow<'static, str> {
        default: Cow::Borrowed("/run/host-cgroup"), "`/run/host-cgroup`",
        parse: |text| Ok(Cow::Owned(text.to_owned())),
        shown: Hidden,
        meaning: "where the node's cgroup tree is mounted, read-only: without `--cgroup`, `flowcar export` finds its pod's cgroup there",
    }
    FLOWCAR_POD_NAME: Option<String> {
        default: None, "",
        parse: parse::text,
        shown: Hidden,
        meaning: "`k8s.pod.name`; this and the rest are set by the injector",
    }
    FLOWCAR_POD_NAMESPACE: Option<String> {
        default: None, "",
        parse: parse::text,
        shown: Hidden,
        meaning: "`k8s.namespace.name`",
    }
    FLOWCAR_POD_UID: Option<String> {
        default: None, "",
        parse: parse::text,
        shown: Hidden,
        meaning: "`k8s.pod.uid`, and `service.instance.id`",
    }
    FLOWCAR_POD_IP: Option<String> {
        default: None, "",
        parse: parse::text,
        shown: Hidden,
        meaning: "`k8s.pod.ip`",
    }
    FLOWCAR_POD_IPS: Option<String> {
        default: None, "",
        parse: parse::text,
        shown: Hidden,
        meaning: "`flowcar.pod.ips`, if there is more than one, as in a pod with two address families",
    }
    FLOWCAR_NODE_NAME: Option<String> {
        default: None, "",
        parse: parse::text,
        shown: Hidden,
        meaning: "`k8s.node.name`",
    }
    FLOWCAR_HOST_IP: Option<String> {
        default: None, "",
        parse: parse::text,
        shown: Hidden,
        meaning: "the node's address, where the endpoint refers to it: `http://$(FLOWCAR_HOST_IP):4317`",
    }
    FLOWCAR_OWNER_KIND: Option<String> {
        default: None, "",
        parse: parse::text,
        shown: Hidden,
        meaning: "the workload's kind, which names its attribute: `Deployment` for `k8s.deployment.name`",
    }
    FLOWCAR_OWNER_NAME: Option<String> {
        default: None, "",
        parse: parse::text,
        shown: Hidden,
        meaning: "the workload's name",
    }
}
}

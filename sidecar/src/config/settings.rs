//! The table of all settings, from which docs/configuration.md is generated.

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The environment variable.
    pub name: &'static str,
    /// The default.
    pub default: &'static str,
    /// What it does.
    pub meaning: &'static str,
}

const fn setting(name: &'static str, default: &'static str, meaning: &'static str) -> Setting {
    Setting {
        name,
        default,
        meaning,
    }
}

/// Every setting. Those of `OTEL_EXPORTER_OTLP_` exist for a single signal, too, and then win.
pub const SETTINGS: &[Setting] = &[
    setting(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "none: no export; `flowcar export`: `http://localhost:4317`",
        "URL of the receiver, or `unix:///path` of its socket. HTTP adds `/v1/metrics` and `/v1/traces` to its path, before a query; gRPC uses host and port only. Without a scheme (gRPC only): https",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
        "",
        "URL for metrics, taken as it is",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "",
        "URL for spans, taken as it is",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "`grpc`",
        "`grpc` or `http/protobuf`",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
        "",
        "the same for metrics",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        "",
        "the same for spans",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_HEADERS",
        "none",
        "`name=value,name=value`, values percent-encoded, sent with every request; never logged",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
        "",
        "the same for metrics",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
        "",
        "the same for spans",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_HEADERS_FILE",
        "none",
        "file of more headers in that form, a line for each, at most 64 KiB; read again when it changes, for tokens that rotate",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_METRICS_HEADERS_FILE",
        "",
        "the same for metrics",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS_FILE",
        "",
        "the same for spans",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_TIMEOUT",
        "`10000`",
        "milliseconds for one request and its answer; 0: no limit",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT",
        "",
        "the same for metrics",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
        "",
        "the same for spans",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_COMPRESSION",
        "`none`",
        "`gzip`, `zstd` or `none`",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION",
        "",
        "the same for metrics",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
        "",
        "the same for spans",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_INSECURE",
        "`false`",
        "`true`: a gRPC endpoint without a scheme is http",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_METRICS_INSECURE",
        "",
        "the same for metrics",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_TRACES_INSECURE",
        "",
        "the same for spans",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_CERTIFICATE",
        "the system's authorities",
        "PEM file of the authorities that the receiver's certificate is checked against, or of that certificate itself; read again when it changes",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE",
        "",
        "the same for metrics",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
        "",
        "the same for spans",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
        "none",
        "PEM file of the certificate chain that flowcar shows (mTLS); read again when it changes",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE",
        "",
        "the same for metrics",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
        "",
        "the same for spans",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_CLIENT_KEY",
        "none",
        "PEM file of that certificate's private key",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY",
        "",
        "the same for metrics",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY",
        "",
        "the same for spans",
    ),
    setting(
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        "`cumulative`",
        "`cumulative`, `delta`, or `lowmemory` (histograms only are deltas)",
    ),
    setting(
        "OTEL_METRIC_EXPORT_INTERVAL",
        "`10000`",
        "milliseconds between reports; not OpenTelemetry's 60000, so that a pod's first minute is visible while it lasts",
    ),
    setting(
        "OTEL_METRICS_EXPORTER",
        "`otlp`",
        "`otlp` or `none`; others in a list are ignored",
    ),
    setting(
        "OTEL_TRACES_EXPORTER",
        "`otlp`",
        "`otlp` or `none`; others in a list are ignored",
    ),
    setting(
        "OTEL_SDK_DISABLED",
        "`false`",
        "`true`: nothing is exported",
    ),
    setting(
        "OTEL_SERVICE_NAME",
        "the workload's name, the command's, or the unit's",
        "`service.name`",
    ),
    setting(
        "OTEL_RESOURCE_ATTRIBUTES",
        "none",
        "`key=value,key=value`, values percent-encoded: more attributes of the resource; they win over those that flowcar finds. If one is malformed, all are ignored",
    ),
    setting(
        "HTTP_PROXY",
        "none",
        "proxy for receivers at `http://`: `http://user:password@proxy:3128`. OTLP by HTTP is forwarded, by gRPC tunnelled (CONNECT). Proxies that want TLS or SOCKS are refused. This and the next three also in lower case",
    ),
    setting(
        "HTTPS_PROXY",
        "none",
        "the same for receivers at `https://`, always tunnelled",
    ),
    setting("ALL_PROXY", "none", "the same where the others are not set"),
    setting(
        "NO_PROXY",
        "none",
        "hosts that are reached without a proxy: `name` (and every name that ends in `.name`), address, `10.0.0.0/8`, each also with `:port`, or `*`; this host always is",
    ),
    setting(
        "FLOWCAR_SOURCE",
        "`auto`",
        "where flowcar reads connections: `ebpf`; `inet_diag`, which needs no capability, sees no handshake and gives one RTT for each socket dump; or `auto`: `ebpf`, and `inet_diag` where eBPF is refused (`flowcar run`: `ebpf`)",
    ),
    setting(
        "FLOWCAR_PEER",
        "`auto`",
        "the peer's attribute on metrics: `auto` (on a client's end the server's address, on a server's end nothing: spans have it), `address` (always), `prefix` (`flowcar.peer.prefix`) or `none`",
    ),
    setting(
        "FLOWCAR_PEER_PREFIX",
        "`24/64`",
        "bits kept of IPv4 and IPv6 addresses when `FLOWCAR_PEER=prefix`",
    ),
    setting(
        "FLOWCAR_PORTS",
        "`include`",
        "`exclude`: metrics have no `server.port`",
    ),
    setting(
        "FLOWCAR_SERIES_LIMIT",
        "`2000`",
        "most series; the rest is summed under `otel.metric.overflow`",
    ),
    setting(
        "FLOWCAR_SERIES_IDLE",
        "`3600000`",
        "milliseconds without a connection or a new value after which a series is dropped, once the receiver has all of it; it restarts from zero. 0: never",
    ),
    setting(
        "FLOWCAR_SELF_METRICS",
        "`basic`",
        "self metrics, sent as `service.name=flowcar`: `basic` (some ten points a minute, and counters of losses that are not 0), `detailed` (all, with each report) or `none`",
    ),
    setting(
        "FLOWCAR_MAX_FLOWS",
        "`65536`",
        "most flows in the table, and no more than the memory limit has room for; flows beyond it are counted when they close",
    ),
    setting(
        "FLOWCAR_RING_BYTES",
        "`1048576`",
        "size of the kernel's ring buffer, a power of two",
    ),
    setting(
        "FLOWCAR_EXCHANGE",
        "`off`",
        "`on`: reads every packet's headers, for `flowcar.tcp.exchange.duration` and for which end sent a RST; needs the eBPF source",
    ),
    setting(
        "FLOWCAR_TRACE_PARENT",
        "`auto`",
        "whether a server's span is the child of its client's: `auto` (when the peer's address is not public), `always` or `never`",
    ),
    setting(
        "FLOWCAR_SPANS_PER_SECOND",
        "`200`",
        "most spans sent a second, on average: of each second's spans the failed, slow and lossy ones first, then a random sample of the rest; each span has its `flowcar.sample.probability`",
    ),
    setting(
        "FLOWCAR_SPAN_QUEUE",
        "`2048`",
        "most spans that wait for the receiver; spans beyond it are dropped and counted",
    ),
    setting(
        "FLOWCAR_SPAN_QUEUE_BYTES",
        "`8388608`",
        "most memory for spans that wait, in bytes; beyond it the oldest ordinary spans are dropped first, failed, slow and lossy ones last",
    ),
    setting(
        "FLOWCAR_SPAN_INTERVAL",
        "`60000`",
        "milliseconds after which a connection that is still open sends an interim span; 0: none before it closes",
    ),
    setting(
        "FLOWCAR_HISTOGRAMS",
        "`exponential`",
        "`explicit`: for back ends without exponential histograms",
    ),
    setting(
        "FLOWCAR_LOG",
        "info; `flowcar run`: warn",
        "`off`, `error`, `warn`, `info`, `debug` or `trace`",
    ),
    setting("FLOWCAR_LOG_FORMAT", "`text`", "`text` or `json`"),
    setting(
        "FLOWCAR_SHUTDOWN_TIMEOUT",
        "`5000`",
        "milliseconds for the last exports after SIGTERM",
    ),
    setting(
        "FLOWCAR_STATE_DIR",
        "none",
        "directory for the checkpoint, which `flowcar export` writes after each acknowledged report: a restart then counts nothing twice and names connections that closed meanwhile; some 50 bytes for each flow, and never more than an eighth of the free space. A link, or a file that another user wrote, is not read",
    ),
    setting(
        "FLOWCAR_HOST_CGROUP",
        "`/run/host-cgroup`",
        "where the node's cgroup tree is mounted, read-only: without `--cgroup`, `flowcar export` finds its pod's cgroup there",
    ),
    setting(
        "FLOWCAR_POD_NAME",
        "",
        "`k8s.pod.name`; this and the rest are set by the injector",
    ),
    setting("FLOWCAR_POD_NAMESPACE", "", "`k8s.namespace.name`"),
    setting(
        "FLOWCAR_POD_UID",
        "",
        "`k8s.pod.uid`, and `service.instance.id`",
    ),
    setting("FLOWCAR_POD_IP", "", "`k8s.pod.ip`"),
    setting(
        "FLOWCAR_POD_IPS",
        "",
        "`flowcar.pod.ips`, if there is more than one, as in a pod with two address families",
    ),
    setting("FLOWCAR_NODE_NAME", "", "`k8s.node.name`"),
    setting(
        "FLOWCAR_HOST_IP",
        "",
        "the node's address, where the endpoint refers to it: `http://$(FLOWCAR_HOST_IP):4317`",
    ),
    setting(
        "FLOWCAR_OWNER_KIND",
        "",
        "the workload's kind, which names its attribute: `Deployment` for `k8s.deployment.name`",
    ),
    setting("FLOWCAR_OWNER_NAME", "", "the workload's name"),
];

/// The table in Markdown.
pub fn markdown() -> String {
    let rows = SETTINGS.iter().map(|setting| {
        let Setting {
            name,
            default,
            meaning,
        } = setting;
        format!("| `{name}` | {default} | {meaning} |\n")
    });
    let head = "| variable | default | meaning |\n|---|---|---|\n".to_owned();
    std::iter::once(head).chain(rows).collect()
}

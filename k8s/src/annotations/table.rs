//! The table itself.

use super::Kind;

/// Names a row of [`TABLE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(
    missing_docs,
    reason = "each variant is documented by its row's meaning"
)]
pub enum Key {
    Inject,
    Endpoint,
    EndpointVolume,
    Protocol,
    HeadersSecret,
    CaSecret,
    CaConfigMap,
    ClientCertificateSecret,
    Compression,
    ServiceName,
    ResourceAttributes,
    Source,
    Peer,
    Ports,
    Exchange,
    Dns,
    Containers,
    Container,
    Process,
    Sampling,
    TraceParent,
    Histograms,
    LogLevel,
    LogFormat,
    CpuRequest,
    CpuLimit,
    MemoryRequest,
    MemoryLimit,
    RunAsUser,
    RunAsGroup,
    Checkpoint,
    HostNetwork,
    Image,
    Command,
}

/// One annotation: a row of [`TABLE`].
#[derive(Debug, PartialEq, Eq)]
pub struct Annotation {
    /// The row's name in code.
    pub key: Key,
    /// The whole annotation name, prefix included.
    pub name: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// What holds where the annotation is absent, in words where it is not a value.
    pub default: &'static str,
    /// One sentence.
    pub meaning: &'static str,
    /// A valid value.
    pub example: &'static str,
    /// The sidecar's environment variable that takes the value as it is.
    pub env: Option<&'static str>,
    /// Ignored, with a warning, unless the operator's configuration allows it.
    pub needs_permission: bool,
}

const fn row(
    key: Key,
    name: &'static str,
    kind: Kind,
    default: &'static str,
    example: &'static str,
    env: Option<&'static str>,
    meaning: &'static str,
) -> Annotation {
    Annotation {
        key,
        name,
        kind,
        default,
        meaning,
        example,
        env,
        needs_permission: false,
    }
}

const fn by_permission(row: Annotation) -> Annotation {
    Annotation {
        needs_permission: true,
        ..row
    }
}

/// Every annotation a user may write, in the order in which people meet them.
pub static TABLE: [Annotation; 34] = [
    row(
        Key::Inject,
        "flowcar.io/inject",
        Kind::Choice(&["enabled", "disabled"]),
        "the namespace's label `flowcar.io/inject`, else disabled",
        "enabled",
        None,
        "Whether the pod gets the sidecar. On a workload it is copied into the pod template; `disabled` on the pod always wins.",
    ),
    row(
        Key::Endpoint,
        "flowcar.io/endpoint",
        Kind::Url,
        "`http://localhost:4317`; with http/protobuf port 4318",
        "http://collector.observability:4317",
        Some("OTEL_EXPORTER_OTLP_ENDPOINT"),
        "Where the telemetry goes: the Collector's OTLP address, or `unix:///path` of its socket, which nobody on the network can read or answer for. `$(FLOWCAR_HOST_IP)` stands for the node's address, for a Collector on every node (`$(FLOWCAR_NODE_NAME)` and `$(FLOWCAR_POD_NAMESPACE)` likewise; in square brackets for IPv6). The operator may restrict it to an allow-list.",
    ),
    row(
        Key::EndpointVolume,
        "flowcar.io/endpoint-volume",
        Kind::Name,
        "the node's directory, as a hostPath volume",
        "otlp-socket",
        None,
        "The volume of the pod's own in whose root the socket of a `unix://` endpoint is. Where Pod Security forbids hostPath, it is needed.",
    ),
    row(
        Key::Protocol,
        "flowcar.io/protocol",
        Kind::Choice(&["grpc", "http/protobuf"]),
        "grpc",
        "http/protobuf",
        Some("OTEL_EXPORTER_OTLP_PROTOCOL"),
        "The OTLP transport.",
    ),
    row(
        Key::HeadersSecret,
        "flowcar.io/headers-secret",
        Kind::SecretRef,
        "none",
        "otlp-auth/headers",
        None,
        "The Secret of the pod's namespace (`name` or `name/key`, key `headers` if left out) whose value, `key1=value1,key2=value2`, is sent as OTLP headers.",
    ),
    row(
        Key::CaSecret,
        "flowcar.io/ca-secret",
        Kind::SecretRef,
        "none",
        "collector-ca/ca.crt",
        None,
        "The Secret of the pod's namespace (key `ca.crt` if left out) with the authorities that the Collector's certificate is checked against, PEM. Read again when it changes.",
    ),
    row(
        Key::CaConfigMap,
        "flowcar.io/ca-configmap",
        Kind::SecretRef,
        "none",
        "collector-ca/ca.crt",
        None,
        "The same from a ConfigMap.",
    ),
    row(
        Key::ClientCertificateSecret,
        "flowcar.io/client-certificate-secret",
        Kind::Name,
        "none",
        "shop-client-tls",
        None,
        "The Secret of type `kubernetes.io/tls` with the certificate that the sidecar shows to the Collector (mTLS). Read again when it changes.",
    ),
    row(
        Key::Compression,
        "flowcar.io/compression",
        Kind::Choice(&["none", "gzip", "zstd"]),
        "gzip",
        "zstd",
        Some("OTEL_EXPORTER_OTLP_COMPRESSION"),
        "How exports are compressed.",
    ),
    row(
        Key::ServiceName,
        "flowcar.io/service-name",
        Kind::Text { max: 255 },
        "the workload's name",
        "checkout",
        Some("OTEL_SERVICE_NAME"),
        "`service.name` on everything the sidecar sends.",
    ),
    row(
        Key::ResourceAttributes,
        "flowcar.io/resource-attributes",
        Kind::Attributes,
        "none",
        "team=payments,deployment.environment.name=staging",
        Some("OTEL_RESOURCE_ATTRIBUTES"),
        "Further resource attributes, in OpenTelemetry's `key=value,key=value` form, values percent-encoded. `k8s.*` is the pod's own identity, which no annotation changes.",
    ),
    row(
        Key::Source,
        "flowcar.io/source",
        Kind::Choice(&["auto", "ebpf", "inet_diag"]),
        "auto",
        "inet_diag",
        Some("FLOWCAR_SOURCE"),
        "Where flows are read from. `inet_diag` needs no capability; namespaces that enforce Pod Security baseline or restricted always use it.",
    ),
    row(
        Key::Peer,
        "flowcar.io/peer",
        Kind::Choice(&["auto", "name", "address", "prefix", "none"]),
        "auto",
        "prefix",
        Some("FLOWCAR_PEER"),
        "How precisely metrics name the other end of a connection: with `auto` and `name` clients' have the server's name.",
    ),
    row(
        Key::Ports,
        "flowcar.io/ports",
        Kind::Choice(&["include", "exclude"]),
        "include",
        "exclude",
        Some("FLOWCAR_PORTS"),
        "Whether metrics are by `server.port`; `exclude` makes fewer series. Spans always have it.",
    ),
    row(
        Key::Exchange,
        "flowcar.io/exchange",
        Kind::Choice(&["on", "off"]),
        "off",
        "on",
        Some("FLOWCAR_EXCHANGE"),
        "Whether flowcar reads every packet's headers, to measure request-to-response latency and to report who sent a RST.",
    ),
    row(
        Key::Dns,
        "flowcar.io/dns",
        Kind::Choice(&["on", "off"]),
        "on",
        "off",
        Some("FLOWCAR_DNS"),
        "Whether flowcar reads the pod's DNS messages, so that clients' connections have their server's name.",
    ),
    row(
        Key::Containers,
        "flowcar.io/containers",
        Kind::Choice(&["on", "off"]),
        "off",
        "on",
        Some("FLOWCAR_CONTAINERS"),
        "Whether reports have statistics of each of the pod's containers: CPU time and throttling, memory, I/O and pressure. Needs the node's cgroup tree, which the sidecar has with the eBPF source.",
    ),
    row(
        Key::Container,
        "flowcar.io/container",
        Kind::Choice(&["on", "off"]),
        "on",
        "off",
        Some("FLOWCAR_CONTAINER"),
        "Whether metrics and spans of connections are under their container's resource, with `container.id`; `off`: under the pod's.",
    ),
    row(
        Key::Process,
        "flowcar.io/process",
        Kind::Choice(&["on", "off"]),
        "on",
        "off",
        Some("FLOWCAR_PROCESS"),
        "Whether spans and lists of connections have the process that called `connect()` or `listen()`.",
    ),
    row(
        Key::Sampling,
        "flowcar.io/sampling",
        Kind::Integer {
            min: 1,
            max: 1_000_000,
        },
        "200",
        "100",
        Some("FLOWCAR_SPANS_PER_SECOND"),
        "The most spans per second, on average; metrics are complete whatever it is.",
    ),
    row(
        Key::TraceParent,
        "flowcar.io/trace-parent",
        Kind::Choice(&["auto", "always", "never"]),
        "auto",
        "always",
        Some("FLOWCAR_TRACE_PARENT"),
        "Whether a server's span names the client's as its parent; `auto` does so for private peers.",
    ),
    row(
        Key::Histograms,
        "flowcar.io/histograms",
        Kind::Choice(&["exponential", "explicit"]),
        "exponential",
        "explicit",
        Some("FLOWCAR_HISTOGRAMS"),
        "The kind of histogram, for back ends without exponential ones.",
    ),
    row(
        Key::LogLevel,
        "flowcar.io/log-level",
        Kind::Choice(&["off", "error", "warn", "info", "debug", "trace"]),
        "info",
        "debug",
        Some("FLOWCAR_LOG"),
        "How much the sidecar logs.",
    ),
    row(
        Key::LogFormat,
        "flowcar.io/log-format",
        Kind::Choice(&["text", "json"]),
        "text",
        "json",
        Some("FLOWCAR_LOG_FORMAT"),
        "The form of the sidecar's log lines.",
    ),
    row(
        Key::CpuRequest,
        "flowcar.io/cpu-request",
        Kind::Cpu,
        "10m",
        "20m",
        None,
        "The sidecar's CPU request.",
    ),
    row(
        Key::CpuLimit,
        "flowcar.io/cpu-limit",
        Kind::Cpu,
        "none; in a Guaranteed pod 100m",
        "500m",
        None,
        "The sidecar's CPU limit. A tight one makes its start slow.",
    ),
    row(
        Key::MemoryRequest,
        "flowcar.io/memory-request",
        Kind::Memory,
        "32Mi",
        "48Mi",
        None,
        "The sidecar's memory request.",
    ),
    row(
        Key::MemoryLimit,
        "flowcar.io/memory-limit",
        Kind::Memory,
        "128Mi",
        "256Mi",
        None,
        "The sidecar's memory limit.",
    ),
    row(
        Key::RunAsUser,
        "flowcar.io/run-as-user",
        Kind::Integer {
            min: 1,
            max: 2_147_483_647,
        },
        "the pod's, else the image's (65532)",
        "1000650000",
        None,
        "The user that the form without capabilities runs as. The form with eBPF is always root, with two capabilities.",
    ),
    row(
        Key::RunAsGroup,
        "flowcar.io/run-as-group",
        Kind::Integer {
            min: 1,
            max: 2_147_483_647,
        },
        "the pod's, else the image's (65532)",
        "1000650000",
        None,
        "Its group.",
    ),
    row(
        Key::Checkpoint,
        "flowcar.io/checkpoint",
        Kind::Choice(&["on", "off"]),
        "on",
        "off",
        None,
        "Whether flowcar writes a checkpoint, some 50 bytes for each connection, to the pod's own `/dev/shm`, so that a restart of the sidecar's container counts nothing twice. Never with `hostIPC`.",
    ),
    row(
        Key::HostNetwork,
        "flowcar.io/host-network",
        Kind::Choice(&["skip", "force"]),
        "skip",
        "force",
        None,
        "What to do with a pod on the host's network, which is skipped unless forced.",
    ),
    by_permission(row(
        Key::Image,
        "flowcar.io/image",
        Kind::Image,
        "the controller's `image`",
        "registry.example/flowcar:0.1.0",
        None,
        "The sidecar's image. Only where the operator allows it.",
    )),
    by_permission(row(
        Key::Command,
        "flowcar.io/command",
        Kind::Command,
        "the image's own",
        "[\"/flowcar\",\"export\"]",
        None,
        "The sidecar's command as a JSON list of strings. Only where the operator allows it.",
    )),
];

// === impl Annotation ===

impl Annotation {
    /// The row of `key`.
    ///
    /// # Panics
    /// Never: a test holds the table complete.
    #[must_use]
    pub fn of(key: Key) -> &'static Annotation {
        TABLE
            .iter()
            .find(|row| row.key == key)
            .expect("every key has a row")
    }

    /// The row with this whole annotation name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Annotation> {
        TABLE.iter().find(|row| row.name == name)
    }
}

//! The OpenTelemetry Collector: takes OTLP by gRPC and HTTP, and returns as JSON what it decoded.

use std::{sync::Arc, time::Duration};

use json_patch::merge;
use serde_json::{Value, json};

use super::{
    Net, Pair, Peer, Port, Process, Program,
    process::connects,
    sink::{Received, Sink},
};

/// The Collector, and the listener that it hands on to.
///
/// It hands on before it answers: an export that was answered with success is already in [`Collector::received`].
pub struct Collector {
    process: Process,
    ports: Arc<Ports>,
    sink: Sink,
    scheme: &'static str,
    config: Value,
}

/// How to start the Collector, where the defaults do not serve.
#[derive(Default)]
pub struct CollectorOptions {
    /// Where it runs.
    pub net: Net,
    /// Both receivers speak TLS.
    pub tls: Option<Tls>,
    /// Laid over the configuration as a merge patch (RFC 7396) at the end, for what a test needs to be different.
    pub overlay: Value,
}

/// The certificates of a TLS receiver.
pub struct Tls {
    /// The server's certificate and key.
    pub server: Pair,
    /// With this certificate (PEM), clients have to prove themselves to it.
    pub client_ca: Option<String>,
}

struct Ports {
    grpc: Port,
    http: Port,
}

// === impl Collector ===

impl Collector {
    /// Starts it on loopback with plain-text receivers.
    pub fn start() -> Self {
        Self::start_with(CollectorOptions::default())
    }

    /// Starts it with `options`.
    ///
    /// # Panics
    /// When it is not built or does not become ready.
    pub fn start_with(options: CollectorOptions) -> Self {
        let CollectorOptions { net, tls, overlay } = options;
        let ports = Arc::new(Ports {
            grpc: net.claim_port(),
            http: net.claim_port(),
        });
        let sink = Sink::start(&net);
        let program = Program::new("collector", net.clone());
        let mut config = config(&net, &ports, &sink);
        if let Some(tls) = &tls {
            let tls = write_tls(&program, tls);
            for protocol in ["grpc", "http"] {
                config["receivers"]["otlp"]["protocols"][protocol]["tls"] = tls.clone();
            }
        }
        if !overlay.is_null() {
            merge(&mut config, &overlay);
        }
        let file = program.write("config.json", config.to_string());
        let program = program.args([format!("--config=file:{}", file.display())]);
        let listens = Arc::clone(&ports);
        let process = Process::start(program, move || {
            // The receivers are the last that the Collector starts.
            connects(&net, &listens.grpc)?;
            connects(&net, &listens.http)
        });
        Self {
            process,
            ports,
            sink,
            scheme: if tls.is_some() { "https" } else { "http" },
            config,
        }
    }

    /// Lays `overlay` over the configuration as a merge patch (RFC 7396) and restarts with it on the same ports.
    pub fn reconfigure(&mut self, overlay: &Value) {
        merge(&mut self.config, overlay);
        let file = self.process.dir().join("config.json");
        std::fs::write(file, self.config.to_string()).expect("write the Collector's configuration");
        self.restart();
    }

    /// For OTEL_EXPORTER_OTLP_ENDPOINT with the protocol `grpc`.
    pub fn grpc_endpoint(&self) -> String {
        format!(
            "{}://{}",
            self.scheme,
            self.process.net().socket(&self.ports.grpc)
        )
    }

    /// For OTEL_EXPORTER_OTLP_ENDPOINT with the protocol `http/protobuf`: `/v1/metrics`, `/v1/traces` and `/v1/logs` follow.
    pub fn http_endpoint(&self) -> String {
        format!(
            "{}://{}",
            self.scheme,
            self.process.net().socket(&self.ports.http)
        )
    }

    /// All that it has understood so far.
    pub fn received(&self) -> Received {
        self.sink.received().clone()
    }

    /// The metrics exports that it has understood so far, each an `ExportMetricsServiceRequest`.
    pub fn received_metrics(&self) -> Vec<Value> {
        self.sink.received().metrics.clone()
    }

    /// The trace exports that it has understood so far, each an `ExportTraceServiceRequest`.
    pub fn received_traces(&self) -> Vec<Value> {
        self.sink.received().traces.clone()
    }

    /// Waits until `probe` returns a value for what was received.
    ///
    /// # Panics
    /// When it has not within `limit`.
    pub fn wait_for<T>(
        &self,
        what: &str,
        limit: Duration,
        probe: impl Fn(&Received) -> Option<T>,
    ) -> T {
        self.sink.wait_for(what, limit, probe)
    }
}

impl Peer for Collector {
    fn process(&self) -> &Process {
        &self.process
    }
}

fn config(net: &Net, ports: &Ports, sink: &Sink) -> Value {
    let pipeline = json!({"receivers": ["otlp"], "exporters": ["otlphttp"]});
    json!({
        "receivers": {"otlp": {"protocols": {
            "grpc": {"endpoint": net.socket(&ports.grpc)},
            "http": {"endpoint": net.socket(&ports.http)},
        }}},
        "exporters": {"otlphttp": {
            "endpoint": sink.url(),
            "encoding": "json",
            "compression": "none",
            // Nothing is kept or tried again in the Collector: its answer to a client is the listener's.
            "retry_on_failure": {"enabled": false},
            "sending_queue": {"enabled": false},
        }},
        "service": {
            // Else every Collector on the machine wants port 8888.
            "telemetry": {"metrics": {"level": "none"}},
            "pipelines": {"metrics": pipeline, "traces": pipeline, "logs": pipeline},
        },
    })
}

fn write_tls(program: &Program, tls: &Tls) -> Value {
    let mut config = json!({
        "cert_file": program.write("server.crt", &tls.server.certificate),
        "key_file": program.write("server.key", &tls.server.key),
    });
    if let Some(ca) = &tls.client_ca {
        config["client_ca_file"] = json!(program.write("client-ca.crt", ca));
    }
    config
}

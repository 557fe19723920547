//! Jaeger with memory storage: shows whether spans make traces, and parents and children make a service graph.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use super::{Client, Net, Peer, Port, Process, Program, eventually, process::connects};

/// Jaeger.
pub struct Jaeger {
    process: Process,
    client: Client,
    ports: Arc<Ports>,
}

struct Ports {
    otlp_grpc: Port,
    otlp_http: Port,
    query_http: Port,
    query_grpc: Port,
}

/// The range of the service graph around now, in both directions.
const DEPENDENCY_WINDOW: Duration = Duration::from_secs(24 * 3600);

// === impl Jaeger ===

impl Jaeger {
    /// Starts it on loopback.
    pub fn start() -> Self {
        Self::start_in(Net::loopback())
    }

    /// Starts it there.
    ///
    /// # Panics
    /// When it is not built or does not become ready.
    pub fn start_in(net: Net) -> Self {
        let ports = Arc::new(Ports {
            otlp_grpc: net.claim_port(),
            otlp_http: net.claim_port(),
            query_http: net.claim_port(),
            query_grpc: net.claim_port(),
        });
        let program = Program::new("jaeger", net.clone());
        let file = program.write("config.json", config(&net, &ports).to_string());
        let program = program.args([format!("--config=file:{}", file.display())]);
        let client = Client::new(
            net.clone(),
            format!("http://{}", net.socket(&ports.query_http)),
            None,
        );
        let (probe, listens) = (client.clone(), Arc::clone(&ports));
        let process = Process::start(program, move || {
            connects(&net, &listens.otlp_grpc)?;
            connects(&net, &listens.otlp_http)?;
            probe.finds("/api/services")
        });
        Self {
            process,
            client,
            ports,
        }
    }

    /// For OTEL_EXPORTER_OTLP_TRACES_ENDPOINT with the protocol `grpc`.
    pub fn grpc_endpoint(&self) -> String {
        format!(
            "http://{}",
            self.process.net().socket(&self.ports.otlp_grpc)
        )
    }

    /// For OTEL_EXPORTER_OTLP_ENDPOINT with the protocol `http/protobuf`: `/v1/traces` follows.
    pub fn http_endpoint(&self) -> String {
        format!(
            "http://{}",
            self.process.net().socket(&self.ports.otlp_http)
        )
    }

    /// A client for its query interface, for what has no function here.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The names of the services that have sent spans, sorted.
    pub fn services(&self) -> Vec<String> {
        let answer = self
            .ask("/api/services")
            .expect("Jaeger always has a list of services");
        let mut names: Vec<String> = serde_json::from_value(answer).expect("a list of names");
        names.sort();
        names
    }

    /// The trace with that id (32 hexadecimal digits) in Jaeger's own form: `spans`, each with `references`, `tags`
    /// and a `processID` that leads into `processes`. None while no span of it has arrived.
    pub fn trace(&self, id: &str) -> Option<Value> {
        let mut traces = self.ask(&format!("/api/traces/{id}"))?;
        traces.get_mut(0).map(Value::take)
    }

    /// The service graph: an array of `{"parent": .., "child": .., "callCount": ..}`.
    pub fn dependencies(&self) -> Vec<Value> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a time after 1970");
        let (end, lookback) = (
            (now + DEPENDENCY_WINDOW).as_millis(),
            (2 * DEPENDENCY_WINDOW).as_millis(),
        );
        let answer = self.ask(&format!(
            "/api/dependencies?endTs={end}&lookback={lookback}"
        ));
        match answer {
            Some(Value::Array(edges)) => edges,
            _ => Vec::new(),
        }
    }

    /// Waits until the trace has at least so many spans.
    ///
    /// # Panics
    /// When it has not within `limit`.
    pub fn wait_for_trace(&self, id: &str, spans: usize, limit: Duration) -> Value {
        eventually(
            &format!("trace {id} with {spans} spans in Jaeger"),
            limit,
            || {
                self.trace(id).filter(|trace| {
                    trace["spans"]
                        .as_array()
                        .is_some_and(|have| have.len() >= spans)
                })
            },
        )
    }

    /// The `data` of an answer; none for what does not exist.
    fn ask(&self, path: &str) -> Option<Value> {
        let reply = self.client.get(path).unwrap_or_else(|error| {
            panic!(
                "{}",
                self.process
                    .failure_message(&format!("does not answer: {error}"))
            )
        });
        if reply.status == 404 {
            return None;
        }
        Some(reply.success()["data"].take())
    }
}

impl Peer for Jaeger {
    fn process(&self) -> &Process {
        &self.process
    }
}

fn config(net: &Net, ports: &Ports) -> Value {
    json!({
        "extensions": {
            "jaeger_storage": {"backends": {"memory": {"memory": {"max_traces": 1_000_000}}}},
            "jaeger_query": {
                "storage": {"traces": "memory"},
                "http": {"endpoint": net.socket(&ports.query_http)},
                "grpc": {"endpoint": net.socket(&ports.query_grpc)},
            },
        },
        "receivers": {"otlp": {"protocols": {
            "grpc": {"endpoint": net.socket(&ports.otlp_grpc)},
            "http": {"endpoint": net.socket(&ports.otlp_http)},
        }}},
        "exporters": {"jaeger_storage_exporter": {"trace_storage": "memory"}},
        "service": {
            // Else every Jaeger on the machine wants port 8888.
            "telemetry": {"metrics": {"level": "none"}},
            "extensions": ["jaeger_storage", "jaeger_query"],
            "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["jaeger_storage_exporter"]}},
        },
    })
}

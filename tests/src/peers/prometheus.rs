//! Prometheus with its OTLP receiver: shows whether metrics arrive as native histograms and sums that PromQL can use.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Client, Net, Peer, Port, Process, Program, eventually};

/// Prometheus.
pub struct Prometheus {
    process: Process,
    client: Client,
    _port: Port,
}

/// How to start Prometheus, where the defaults do not serve.
#[derive(Default)]
pub struct PrometheusOptions {
    /// Where it runs.
    pub net: Net,
    /// Resource attributes that become labels, with their names as OTLP has them.
    pub promote_resource_attributes: Vec<String>,
    /// Further arguments, such as `--enable-feature=otlp-deltatocumulative`.
    pub args: Vec<String>,
    /// Laid over the configuration as a merge patch (RFC 7396) at the end, for what a test needs to be different.
    pub overlay: Value,
}

// === impl Prometheus ===

impl Prometheus {
    /// Starts it on loopback; resource attributes become labels by their names.
    pub fn start(promote_resource_attributes: &[&str]) -> Self {
        let promote = promote_resource_attributes
            .iter()
            .map(ToString::to_string)
            .collect();
        Self::start_with(PrometheusOptions {
            promote_resource_attributes: promote,
            ..Default::default()
        })
    }

    /// Starts it with `options`.
    ///
    /// # Panics
    /// When it is not built or does not become ready.
    pub fn start_with(options: PrometheusOptions) -> Self {
        let PrometheusOptions {
            net,
            promote_resource_attributes,
            args,
            overlay,
        } = options;
        let mut config =
            json!({"otlp": {"promote_resource_attributes": promote_resource_attributes}});
        if !overlay.is_null() {
            json_patch::merge(&mut config, &overlay);
        }
        let port = net.claim_port();
        let address = net.socket(&port);
        let program = Program::new("prometheus", net.clone());
        let file = program.write("prometheus.json", config.to_string());
        let data = program.dir.path().join("data");
        let program = program
            .args([
                format!("--config.file={}", file.display()),
                format!("--storage.tsdb.path={}", data.display()),
                format!("--web.listen-address={address}"),
                "--web.enable-otlp-receiver".to_owned(),
                "--log.level=debug".to_owned(),
            ])
            .args(args);
        let client = Client::new(net, format!("http://{address}"), None);
        let probe = client.clone();
        let process = Process::start(program, move || probe.finds("/-/ready"));
        Self {
            process,
            client,
            _port: port,
        }
    }

    /// For OTEL_EXPORTER_OTLP_ENDPOINT with the protocol `http/protobuf`: `/v1/metrics` follows.
    pub fn otlp_endpoint(&self) -> String {
        format!("{}/api/v1/otlp", self.client.base())
    }

    /// A client for its HTTP interface, for what has no function here.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The result of a PromQL query at this moment: an array of `{"metric": .., "value": [time, "number"]}`, or with
    /// `"histogram"` in place of `"value"`.
    ///
    /// # Panics
    /// When Prometheus cannot answer it.
    pub fn query(&self, promql: &str) -> Value {
        self.ask("/api/v1/query", &[("query", promql)])
    }

    /// The same at a time, in nanoseconds of Unix time.
    ///
    /// # Panics
    /// When Prometheus cannot answer it.
    pub fn query_at(&self, promql: &str, unix_ns: u64) -> Value {
        let time = (unix_ns as f64 / 1e9).to_string();
        self.ask("/api/v1/query", &[("query", promql), ("time", &time)])
    }

    /// The result of a PromQL query over a time: an array of `{"metric": .., "values": [[time, "number"], ..]}`.
    /// `start` and `end` in seconds of Unix time, `step` in seconds.
    ///
    /// # Panics
    /// When Prometheus cannot answer it.
    pub fn query_range(&self, promql: &str, start: f64, end: f64, step: f64) -> Value {
        let (start, end, step) = (start.to_string(), end.to_string(), step.to_string());
        self.ask(
            "/api/v1/query_range",
            &[
                ("query", promql),
                ("start", &start),
                ("end", &end),
                ("step", &step),
            ],
        )
    }

    /// The number that a PromQL query gives when it gives exactly one.
    ///
    /// # Panics
    /// When Prometheus cannot answer it.
    pub fn number(&self, promql: &str) -> Option<f64> {
        match self.query(promql).as_array()?.as_slice() {
            [one] => one["value"][1].as_str()?.parse().ok(),
            _ => None,
        }
    }

    /// Asks a PromQL query until its result satisfies `probe`.
    ///
    /// # Panics
    /// When it has not within `limit`.
    pub fn wait_for<T>(
        &self,
        promql: &str,
        limit: Duration,
        probe: impl Fn(&Value) -> Option<T>,
    ) -> T {
        eventually(
            &format!("fitting answer to `{promql}` from Prometheus"),
            limit,
            || probe(&self.query(promql)),
        )
    }

    fn ask(&self, path: &str, fields: &[(&str, &str)]) -> Value {
        let reply = self.client.post_form(path, fields).unwrap_or_else(|error| {
            panic!(
                "{}",
                self.process
                    .failure_message(&format!("does not answer: {error}"))
            )
        });
        let mut answer = reply.json();
        assert_eq!(answer["status"], "success", "{fields:?}: {answer}");
        answer["data"]["result"].take()
    }
}

impl Peer for Prometheus {
    fn process(&self) -> &Process {
        &self.process
    }
}

//! `flowcar export` in a place's network namespace and outside its cgroup, and all that it sends.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
    process::{Child, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use flowcar::sink::Received;
use flowcar_tests::{
    flowcar::{CAPABILITIES, program},
    place::{Cgroup, OnlyCaps, Place},
    receiver::Receiver,
    traffic::ConnectionReport,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use opentelemetry_proto::tonic::{
    common::v1::{KeyValue, any_value::Value},
    metrics::v1::{metric::Data, number_data_point},
    trace::v1::Span,
};

/// For a busy machine; what happens sooner is not waited for.
const WITHIN: Duration = Duration::from_secs(60);

/// How it may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// eBPF and inet_diag, with the two capabilities.
    Both,
    /// inet_diag alone, as nobody, over the whole network namespace.
    Alone,
    /// The same, over the place's cgroup.
    AloneInCgroup,
    /// As flowcar chooses, without any right.
    Auto,
}

/// A running `flowcar export`.
pub(crate) struct Watch {
    child: Child,
    log: mpsc::Receiver<String>,
    receiver: Receiver,
    seen: Seen,
    /// It is in this cgroup, not in the followed one.
    _cgroup: Cgroup,
}

/// A point of a metric: its attributes and its value.
pub(crate) type Point = (BTreeMap<String, String>, f64);

/// What it sent.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// A flow for each span of one that ended; those of its own exports are left out.
    pub(crate) flows: Vec<Flow>,
    /// The latest report: each metric's points by their attributes.
    pub(crate) metrics: BTreeMap<String, Vec<Point>>,
    /// Reports so far.
    pub(crate) reports: u64,
    /// What it logged.
    pub(crate) log: Vec<String>,
    /// `flowcar.source`
    pub(crate) source: String,
    receiver_port: u16,
}

/// One span.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

impl Watch {
    pub(crate) fn start(place: &Place, mode: Mode, settings: &[(&str, &str)]) -> Self {
        let receiver = place.netns().run(Receiver::start).unwrap().unwrap();
        let cgroup = Cgroup::new("sidecar").unwrap();
        // By an open descriptor, because nobody may not look into every folder that a build may lie in.
        let program = std::fs::File::open(program().unwrap()).unwrap();
        let by_descriptor = format!("/proc/self/fd/{}", program.as_raw_fd());
        let mut command = std::process::Command::new(by_descriptor);
        cgroup.enter(&mut command).unwrap();
        place.netns().enter(&mut command).unwrap();
        let source = match mode {
            Mode::Both => {
                command.with_only_caps(&CAPABILITIES);
                "ebpf"
            }
            Mode::Alone | Mode::AloneInCgroup => {
                command.unprivileged();
                "inet_diag"
            }
            Mode::Auto => {
                command.unprivileged();
                "auto"
            }
        };
        command.arg("export");
        if mode != Mode::Alone {
            command.arg("--cgroup").arg(place.cgroup().path());
        }
        let mut child = command
            .env("FLOWCAR_SOURCE", source)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint())
            .env("OTEL_METRIC_EXPORT_INTERVAL", "200")
            .env("FLOWCAR_SPANS_PER_SECOND", "1000000")
            .env("FLOWCAR_SPAN_QUEUE", "1000000")
            .env("FLOWCAR_SPAN_QUEUE_BYTES", "1000000000")
            .env("FLOWCAR_SPAN_INTERVAL", "0")
            .env("FLOWCAR_SHUTDOWN_TIMEOUT", "30000")
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (to, log) = mpsc::channel();
        thread::spawn(move || {
            stderr
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| to.send(line))
        });
        let receiver_port = receiver
            .endpoint()
            .rsplit(':')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let mut watch = Self {
            child,
            log,
            receiver,
            seen: Seen {
                receiver_port,
                ..Seen::default()
            },
            _cgroup: cgroup,
        };
        watch.told("following");
        watch
    }

    /// Waits until it logs this, and gives the line.
    #[track_caller]
    pub(crate) fn told(&mut self, what: &str) -> String {
        let deadline = Instant::now() + WITHIN;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.log.recv_timeout(left);
            let line =
                line.unwrap_or_else(|_| panic!("it never said {what:?}: {:?}", self.seen.log));
            self.seen.log.push(line.clone());
            if line.contains(what) {
                return line;
            }
        }
    }

    /// Takes what it sends until that is enough.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, enough: impl Fn(&Seen) -> bool) -> &Seen {
        let seen = &mut self.seen;
        let done = self.receiver.until(WITHIN, |export| {
            seen.take(export);
            enough(seen)
        });
        assert!(
            done.unwrap(),
            "{what} never came: {:?} {:#?}",
            seen.flows.len(),
            seen.metrics
        );
        &self.seen
    }

    /// Waits for so many whole reports from now on.
    pub(crate) fn reports(&mut self, count: u64) -> &Seen {
        let upto = self.seen.reports + count;
        self.until("a report", |seen| seen.reports >= upto)
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Ends it and takes all that is left.
    pub(crate) fn stop(mut self) -> Seen {
        self.signal(Signal::SIGTERM);
        let status = self.child.wait().unwrap();
        while let Some(export) = self.receiver.next(Duration::from_millis(300)).unwrap() {
            self.seen.take(export);
        }
        self.seen.log.extend(self.log.try_iter());
        assert!(status.success(), "{status}: {:?}", self.seen.log);
        std::mem::take(&mut self.seen)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Seen {
    fn take(&mut self, export: Received) {
        match export {
            Received::Traces(request) => {
                let scopes = request
                    .resource_spans
                    .into_iter()
                    .flat_map(|of| of.scope_spans);
                let flows = scopes.flat_map(|of| of.spans).map(|span| Flow::of(&span));
                let port = self.receiver_port;
                self.flows.extend(
                    flows.filter(|flow| flow.peer.port() != port && flow.local.port() != port),
                );
            }
            Received::Metrics(request) => {
                self.reports += 1;
                self.metrics.clear();
                for resource in request.resource_metrics {
                    let attributes = resource.resource.unwrap_or_default().attributes;
                    self.source = texts(&attributes)["flowcar.source"].clone();
                    for metric in resource.scope_metrics.into_iter().flat_map(|of| of.metrics) {
                        let points = match metric.data {
                            Some(Data::Sum(sum)) => sum.data_points,
                            Some(Data::Gauge(gauge)) => gauge.data_points,
                            _ => continue,
                        };
                        let points = points.into_iter().map(|point| {
                            let value = match point.value {
                                Some(number_data_point::Value::AsInt(value)) => value as f64,
                                Some(number_data_point::Value::AsDouble(value)) => value,
                                None => f64::NAN,
                            };
                            (texts(&point.attributes), value)
                        });
                        self.metrics.insert(metric.name, points.collect());
                    }
                }
                assert_eq!(self.sum("flowcar.self.books.unbalanced", &[]), 0.0);
            }
        }
    }

    /// The sum of a metric's points that have these attributes; not those of its own exports.
    pub(crate) fn sum(&self, metric: &str, with: &[(&str, &str)]) -> f64 {
        let own = self.receiver_port.to_string();
        let points = self.metrics.get(metric).into_iter().flatten();
        points
            .filter(|(attributes, _)| attributes.get("server.port") != Some(&own))
            .filter(|(attributes, _)| {
                with.iter()
                    .all(|(name, value)| attributes.get(*name).is_some_and(|is| is == value))
            })
            .map(|(_, value)| value)
            .sum()
    }

    /// The one flow of this end of this connection.
    #[track_caller]
    pub(crate) fn flow(&self, report: &ConnectionReport) -> &Flow {
        let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
        let (local, peer) = (canonical(report.local.unwrap()), canonical(report.peer));
        let mut found = self
            .flows
            .iter()
            .filter(|flow| flow.local == local && flow.peer == peer);
        let flow = found
            .next()
            .unwrap_or_else(|| panic!("no flow of {report:?}"));
        assert!(found.next().is_none(), "two flows of {report:?}");
        flow
    }
}

impl Flow {
    fn of(span: &Span) -> Self {
        let attributes = texts(&span.attributes);
        let address = |end: &str| {
            let ip: IpAddr = attributes[&format!("network.{end}.address")]
                .parse()
                .unwrap();
            SocketAddr::new(
                ip,
                attributes[&format!("network.{end}.port")].parse().unwrap(),
            )
        };
        let count = |name: &str| attributes[name].parse().unwrap();
        Self {
            local: address("local"),
            peer: address("peer"),
            sent: count("flowcar.tcp.bytes.sent"),
            received: count("flowcar.tcp.bytes.received"),
            attributes,
        }
    }

    pub(crate) fn get(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", |value| value)
    }

    pub(crate) fn role(&self) -> &str {
        self.get("network.tcp.handshake.role")
    }

    pub(crate) fn end(&self) -> &str {
        self.get("flowcar.end")
    }
}

/// Asserts that the flow has the bytes that the application sent and received.
#[track_caller]
pub(crate) fn bytes_hold(flow: &Flow, application: &ConnectionReport) {
    assert_eq!(
        (flow.sent, flow.received),
        (application.sent, application.received),
        "{flow:?} of {application:?}"
    );
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(value) => value.to_string(),
        Value::BoolValue(value) => value.to_string(),
        Value::DoubleValue(value) => value.to_string(),
        other => format!("{other:?}"),
    };
    attributes
        .iter()
        .filter_map(|pair| {
            let value = pair.value.as_ref()?.value.as_ref()?;
            Some((pair.key.clone(), text(value)))
        })
        .collect()
}

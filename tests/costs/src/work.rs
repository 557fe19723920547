//! The kinds of work, each on a flowcar that has done the same before.

use flowcar::{
    clock::Anchor,
    config::{Config, Histograms, SelfMetricsLevel, Temporality, TraceParent},
    flow::{Adopt, Flow, Monotonic, PollContext, SocketSnapshot, State, TcpInfo},
    follower::{Limits, Replay},
    host::Host,
    otlp::{
        exemplars::Exemplars,
        metrics::{self, Components, Options},
        resource::Resource,
        spans::{SpanOptions, span},
    },
};
use flowcar_shared::record::FlowRecord;
use opentelemetry_proto::{
    tonic::{collector::trace::v1::ExportTraceServiceRequest, metrics::v1::metric::Data},
    transform::{
        common::tonic::ResourceAttributesWithSchema,
        trace::tonic::group_spans_by_resource_and_scope,
    },
};
use prost::Message as _;

use crate::{
    allocator,
    records::{Short, bytes, idle, opened, sampled},
};

/// How often each kind of work is done: often enough that what maps need when they grow is a small share, as it is in use.
const TIMES: u64 = 2_000;

/// Spans of a request, as flowcar sends them.
const BATCH: usize = 500;

/// Does a kind of work. Gives how many there were of what is counted.
type Work = fn() -> u64;

/// The kinds of work by their names.
const ALL: [(&str, Work); 6] = [
    ("short_connection", short_connections),
    ("sample_record", sample_records),
    ("idle_sample_record", idle_sample_records),
    ("polled_socket", polled_sockets),
    ("span", spans),
    ("point", points),
];

pub(crate) fn names() -> Vec<&'static str> {
    ALL.iter().map(|(name, _)| *name).collect()
}

/// Does the work of this name, and prints what was counted. Gives whether there is such a work.
pub(crate) fn run(name: &str) -> bool {
    let found = ALL.iter().find(|(of, _)| *of == name);
    if let Some((_, work)) = found {
        println!("times {}", work());
    }
    found.is_some()
}

/// Does what is counted: what a profiler finds in this function, and allocations.
#[inline(never)]
fn measured<T>(work: &mut dyn FnMut() -> T) -> T {
    let before = allocator::allocations();
    let result = work();
    println!("allocations {}", allocator::allocations() - before);
    result
}

/// A follower with the default settings.
fn replay() -> Replay {
    Replay::new(&Limits::from(&config()))
}

fn config() -> Config {
    Config::from_vars([]).expect("the defaults")
}

/// Connections that open and close, of a client of eight servers: from the bytes of both records to the series and the closed flow.
fn short_connections() -> u64 {
    let mut replay = replay();
    let all: Vec<_> = (1..=2 * TIMES).map(|cookie| Short::of(cookie, 8)).collect();
    let (before, counted) = all.split_at(TIMES as usize);
    short(&mut replay, before);
    measured(&mut || short(&mut replay, counted));
    TIMES
}

/// Gives how many closed.
fn short(replay: &mut Replay, connections: &[Short]) -> usize {
    let batch = |batch: &[Short]| {
        for connection in batch {
            replay.record(connection.open());
            replay.record(connection.close());
        }
        replay.take_closed().len()
    };
    connections.chunks(BATCH).map(batch).sum()
}

/// Sample records of connections that live: each had some exchanges since the sample before.
fn sample_records() -> u64 {
    samples(|cookie| sampled(cookie, 50), |cookie| sampled(cookie, 60))
}

/// The same of connections on which nothing was exchanged since.
fn idle_sample_records() -> u64 {
    samples(idle, idle)
}

/// Sample records of connections that had one before.
fn samples(before: fn(u64) -> FlowRecord, now: fn(u64) -> FlowRecord) -> u64 {
    let mut replay = replay();
    for cookie in 1..=TIMES {
        replay.record(bytes(&opened(cookie)));
        replay.record(bytes(&before(cookie)));
    }
    let counted: Vec<_> = (1..=TIMES).map(now).collect();
    measured(&mut || {
        for record in &counted {
            replay.record(bytes(record));
        }
    });
    TIMES
}

/// Sockets of a dump, of connections that records reported: each had an exchange since the dump before.
fn polled_sockets() -> u64 {
    let mut replay = replay();
    for cookie in 1..=TIMES {
        replay.record(bytes(&opened(cookie)));
    }
    let mut dump = |number: u64, count: &mut dyn FnMut(&mut dyn FnMut())| {
        let sockets: Vec<_> = (1..=TIMES).map(|cookie| socket(cookie, number)).collect();
        let poll = PollContext {
            at: Monotonic(1_000_000_000 * number),
            dump: number,
            adopt: Adopt::Nothing,
            overruns: 0,
            lost_closes: 0,
            seed: 7,
        };
        count(&mut || {
            for socket in &sockets {
                replay.polled(socket, &poll);
            }
        });
    };
    dump(1, &mut |work| work());
    dump(2, &mut |work| measured(work));
    TIMES
}

/// The socket of [`opened`] after so many exchanges.
fn socket(cookie: u64, exchanges: u64) -> SocketSnapshot {
    SocketSnapshot {
        cookie,
        local: ([10, 0, 0, 1], 40_000).into(),
        peer: ([10, 0, 0, 2], 80).into(),
        interface: 0,
        state: State::Established,
        unread: 0,
        unacknowledged: 0,
        cgroup: Some(7),
        info: Some(TcpInfo {
            state: State::Established as u8,
            rtt_us: 150,
            min_rtt_us: 100,
            bytes_acked: 1 + 100 * exchanges,
            bytes_sent: 100 * exchanges,
            bytes_received: 1_000 * exchanges,
            segs_out: 2 + exchanges as u32,
            segs_in: 1 + exchanges as u32,
            data_segs_in: exchanges as u32,
            data_segs_out: exchanges as u32,
            delivered: 1 + exchanges as u32,
            ..TcpInfo::default()
        }),
        drops: None,
    }
}

/// Spans of closed connections, from the flow to the bytes of a request.
fn spans() -> u64 {
    let mut replay = replay();
    let all: Vec<_> = (1..=TIMES).map(|cookie| Short::of(cookie, 8)).collect();
    short_flows(&mut replay, &all, &mut |flows| drop(encoded(flows)));
    let mut closed = Vec::new();
    short_flows(&mut replay, &all, &mut |flows| {
        closed.extend_from_slice(flows)
    });
    measured(&mut || {
        closed
            .chunks(BATCH)
            .map(encoded)
            .map(|bytes| bytes.len())
            .sum::<usize>()
    });
    TIMES
}

fn short_flows(replay: &mut Replay, connections: &[Short], take: &mut dyn FnMut(&[Flow])) {
    for connection in connections {
        replay.record(connection.open());
        replay.record(connection.close());
    }
    take(&replay.take_closed());
}

/// A request of the spans of these flows.
fn encoded(flows: &[Flow]) -> Vec<u8> {
    let anchor = Anchor::new(Monotonic(0), 1 << 60);
    let options = SpanOptions {
        trace_parent: TraceParent::Auto,
        source: "ebpf".to_owned(),
    };
    let spans = flows.iter().map(|flow| span(flow, &anchor, &options));
    let resource = ResourceAttributesWithSchema::from(&resource().to_sdk());
    let request = ExportTraceServiceRequest {
        resource_spans: group_spans_by_resource_and_scope(spans.collect(), &resource),
    };
    request.encode_to_vec()
}

fn resource() -> Resource {
    Resource::new(&config(), &Host::default())
}

/// Points of a report, from the series to the bytes of a request: a client of 200 servers.
fn points() -> u64 {
    let mut replay = replay();
    let all: Vec<_> = (1..=TIMES).map(|cookie| Short::of(cookie, 200)).collect();
    short(&mut replay, &all);
    let resource = resource();
    let options = Options {
        temporality: Temporality::Cumulative,
        histograms: Histograms::Exponential,
        self_metrics: SelfMetricsLevel::Basic,
        source: "ebpf",
        components: Components::default(),
    };
    let mut request = || {
        let snapshot = replay.snapshot();
        let none = Exemplars::default();
        let request = metrics::encode(&snapshot, &resource, options, None, &none, false);
        (request.encode_to_vec(), request)
    };
    request();
    let (_, request) = measured(&mut request);
    let scopes = request
        .resource_metrics
        .iter()
        .flat_map(|of| &of.scope_metrics);
    let metrics = scopes.flat_map(|of| &of.metrics);
    metrics.filter_map(|of| of.data.as_ref()).map(count).sum()
}

/// How many points a metric has.
fn count(data: &Data) -> u64 {
    let points = match data {
        Data::Gauge(of) => of.data_points.len(),
        Data::Sum(of) => of.data_points.len(),
        Data::Histogram(of) => of.data_points.len(),
        Data::ExponentialHistogram(of) => of.data_points.len(),
        Data::Summary(of) => of.data_points.len(),
    };
    points as u64
}

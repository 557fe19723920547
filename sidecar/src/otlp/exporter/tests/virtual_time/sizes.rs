//! A receiver with a size limit of requests.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value},
    metrics::v1::Metric,
    resource::v1::Resource as ProtoResource,
};

use super::*;

/// The identity of a point within its report: its metric, the container of its resource, and its attributes.
type Id = (String, String, String);

/// The containers of series and spans in turn: some have none.
const CONTAINERS: [Option<&str>; 3] = [None, Some("c0ffee"), Some("decade")];

/// Start and end.
type Interval = (u64, u64);

/// The count, and its buckets.
type Counted = (i64, BTreeMap<i32, u64>);

/// An application with so many peers.
struct Peers(BTreeMap<SeriesKey, Series>);

impl Peers {
    fn new(count: usize) -> Self {
        let series = (0..count).map(|peer| {
            // Containers have the same peers.
            let (peer, container) = (peer / CONTAINERS.len(), CONTAINERS[peer % CONTAINERS.len()]);
            let key = SeriesKey::Flows {
                container: container.map(Into::into),
                role: Role::Client,
                peer: Peer::Prefix(format!("10.0.{}.{}", peer / 250, peer % 250)),
                server_port: Some(8080),
            };
            (key, Series::default())
        });
        Self(series.collect())
    }

    /// Each `every`-th peer gets some traffic.
    fn go_on(&mut self, step: u64, every: usize) {
        for (at, series) in self.0.values_mut().enumerate() {
            if at.is_multiple_of(every) {
                series.volume.bytes_sent += step + at as u64;
                series.opened += 1;
                *series
                    .closed
                    .entry(CloseReason::LocalFin.into())
                    .or_default() += 1;
                let rtt = series.rtt.entry(RttKind::Measured).or_default();
                rtt.record(1_000_000 * (1 + step) + at as u64);
            }
        }
    }

    fn report(&self, at: u64) -> Snapshot {
        Snapshot {
            series: self.0.clone(),
            ..snapshot(at, 0)
        }
    }
}

fn id(metric: &Metric, container: &str, attributes: &[KeyValue]) -> Id {
    let attributes = format!("{attributes:?}");
    (metric.name.clone(), container.to_owned(), attributes)
}

/// `container.id`; empty where it is absent.
fn container_of(resource: Option<&ProtoResource>) -> String {
    let mut attributes = resource.into_iter().flat_map(|of| &of.attributes);
    let id = attributes.find(|of| of.key == "container.id");
    let text = |value: &AnyValue| match &value.value {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        other => panic!("{other:?}"),
    };
    id.and_then(|id| id.value.as_ref())
        .map(text)
        .unwrap_or_default()
}

fn resource() -> Resource {
    let host = Host {
        instance: Some("host".to_owned()),
        ..Host::default()
    };
    Resource::new(&config(&[]), &host)
}

/// Every point of the pod's counters and histograms that the receiver took, by identity.
fn points(requests: &[ExportMetricsServiceRequest]) -> BTreeMap<Id, Vec<(Interval, Counted)>> {
    let mut all: BTreeMap<Id, Vec<_>> = BTreeMap::new();
    let resources = requests
        .iter()
        .flat_map(|request| &request.resource_metrics);
    let metrics = resources.flat_map(|resource| {
        let names = &resource.resource.as_ref().expect("a resource").attributes;
        assert!(names.iter().any(|name| name.key == "service.name"));
        let scope = &resource.scope_metrics[0];
        assert_eq!(scope.scope.as_ref().expect("a scope").name, "flowcar");
        let container = container_of(resource.resource.as_ref());
        scope
            .metrics
            .iter()
            .map(move |metric| (container.clone(), metric))
    });
    for (container, metric) in metrics {
        assert!(!metric.unit.is_empty() && !metric.description.is_empty());
        match metric.data.as_ref().expect("data") {
            Data::Sum(sum) if sum.is_monotonic => {
                for point in &sum.data_points {
                    let Some(Value::AsInt(value)) = point.value else {
                        continue;
                    };
                    let times = (point.start_time_unix_nano, point.time_unix_nano);
                    if times.0 == times.1 {
                        assert_eq!(value, 0, "what it begins with");
                        continue;
                    }
                    let of = all
                        .entry(id(metric, &container, &point.attributes))
                        .or_default();
                    of.push((times, (value, BTreeMap::new())));
                }
            }
            Data::ExponentialHistogram(histogram) => {
                for point in &histogram.data_points {
                    let buckets = point.positive.clone().unwrap_or_default();
                    let counts = (buckets.offset..).zip(buckets.bucket_counts);
                    let counts = counts.filter(|(_, count)| *count > 0).collect();
                    let times = (point.start_time_unix_nano, point.time_unix_nano);
                    if times.0 == times.1 {
                        assert_eq!(point.count, 0, "what it begins with");
                        continue;
                    }
                    let of = all
                        .entry(id(metric, &container, &point.attributes))
                        .or_default();
                    of.push((times, (point.count as i64, counts)));
                }
            }
            _ => {}
        }
    }
    all.retain(|(name, ..), _| name.starts_with("flowcar.tcp."));
    all
}

/// The sum of the deltas of one point: deltas of the same times are duplicates.
fn sum(deltas: &[(Interval, Counted)]) -> Counted {
    let mut distinct = BTreeMap::new();
    for (times, value) in deltas {
        let known = distinct.insert(*times, value);
        assert!(known.is_none_or(|known| known == value), "{deltas:?}");
    }
    let mut upto = 0;
    let mut all = (0, BTreeMap::new());
    for ((start, end), (count, buckets)) in distinct {
        assert!(upto <= start && start <= end, "{deltas:?}");
        upto = end;
        all.0 += count;
        for (bucket, count) in buckets {
            *all.1.entry(*bucket).or_default() += count;
        }
    }
    all
}

/// The last of cumulative values, which never shrink and never go back in time.
fn last(values: &[(Interval, Counted)]) -> Counted {
    for pair in values.windows(2) {
        assert!(
            pair[0].0.0 == pair[1].0.0 && pair[0].0.1 <= pair[1].0.1,
            "{pair:?}"
        );
        assert!(pair[0].1.0 <= pair[1].1.0, "{pair:?}");
    }
    values.last().expect("a value").1.clone()
}

/// What the receiver took of some reports, and the self metrics.
struct Outcome {
    taken: Vec<ExportMetricsServiceRequest>,
    self_metrics: SelfMetrics,
    /// How many reports were made, and the number of the last one that was acknowledged.
    reports: (u64, u64),
}

async fn reports(
    temporality: Temporality,
    (steps, most): (Vec<Step>, usize),
    peers: &mut Peers,
    counts: &[(u8, u16)],
) -> Outcome {
    let (mut scripted, taken) = Scripted::new(steps);
    scripted.most = most;
    let resource = resource();
    let options = Options {
        temporality,
        histograms: Histograms::Exponential,
        self_metrics: crate::config::SelfMetricsLevel::Detailed,
        source: "ebpf",
        components: Components::new(Some(Protocol::Grpc), Some(Protocol::Grpc), None),
    };
    let (stats, exemplars) = (ExportStats::default(), Exemplary::default());
    let lane = MetricsLane::start(scripted, resource, options, stats.clone(), exemplars);
    let mut at = 1_000;
    for (step, gap) in counts {
        peers.go_on((*step).into(), usize::from(step % 3) + 1);
        at += 1_000;
        lane.send(peers.report(at));
        tokio::time::sleep(Duration::from_millis((*gap).into())).await;
    }
    let limit = Instant::now() + Duration::from_secs(36_000);
    assert_ne!(lane.flush(limit).await, Delivery::Late);
    // Deltas that were refused permanently come with the next report that is not.
    for _ in 0..=SCRIPT {
        at += 1_000;
        lane.send(peers.report(at));
        assert_ne!(lane.flush(limit).await, Delivery::Late);
    }
    let reports = (at / 1_000 - 1, lane.progress().borrow().acknowledged);
    drop(lane);
    let taken = taken.lock().expect("no panic").clone();
    Outcome {
        taken,
        self_metrics: stats.read(),
        reports,
    }
}

/// All of an application's points at a receiver without a limit.
fn truth(peers: &Peers) -> BTreeMap<Id, Counted> {
    let resource = resource();
    let options = Options {
        temporality: Temporality::Cumulative,
        histograms: Histograms::Exponential,
        self_metrics: crate::config::SelfMetricsLevel::Detailed,
        source: "ebpf",
        components: Components::new(Some(Protocol::Grpc), Some(Protocol::Grpc), None),
    };
    let report = peers.report(1);
    let exemplars = crate::otlp::exemplars::Exemplars::default();
    let whole = crate::otlp::metrics::encode(&report, &resource, options, None, &exemplars, true);
    let all = points(&[whole]).into_iter();
    all.map(|(id, values)| (id, last(&values))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Every point arrives once and exactly, whatever the receiver's limit, and whatever else it does.
    #[test]
    fn split_reports_have_exact_sums(
        delta: bool,
        steps in vec(step(), 0..SCRIPT),
        most in 3_000usize..60_000,
        peers in 1usize..60,
        counts in vec((any::<u8>(), 0u16..20_000), 1..8),
    ) {
        let mut peers = Peers::new(peers);
        let temporality = if delta { Temporality::Delta } else { Temporality::Cumulative };
        let outcome = in_virtual_time(reports(temporality, (steps, most), &mut peers, &counts));
        prop_assert_eq!(outcome.self_metrics.too_large.get("metrics"), None);
        prop_assert_eq!(outcome.reports.0, outcome.reports.1);
        let found: BTreeMap<_, _> = points(&outcome.taken).into_iter()
            .map(|(id, values)| (id, if delta { sum(&values) } else { last(&values) }))
            .filter(|(_, value)| value.0 > 0)
            .collect();
        let mut expected = truth(&peers);
        expected.retain(|_, value| value.0 > 0);
        prop_assert_eq!(found, expected);
    }

    /// Every span and every log record is delivered under its resource or counted under its drop reason, whatever the receiver's limit.
    #[test]
    fn split_items_are_delivered_or_counted(
        most in 600usize..40_000,
        count in 1u32..900,
        logs in any::<bool>(),
    ) {
        let (delivered, self_metrics) = in_virtual_time(async {
            if logs {
                send_to_small::<ExportLogsServiceRequest>(most, count).await
            } else {
                send_to_small::<ExportTraceServiceRequest>(most, count).await
            }
        });
        let signal = if logs { Signal::Logs } else { Signal::Traces };
        let dropped = dropped(&self_metrics, signal).get("too_large").copied().unwrap_or(0);
        prop_assert_eq!(delivered + dropped, u64::from(count));
        let name = signal.name();
        prop_assert_eq!(self_metrics.exported.get(name).copied().unwrap_or(0), delivered);
        prop_assert_eq!(self_metrics.too_large.get(name).copied().unwrap_or(0), dropped);
        // An item takes some 800 bytes with its resource.
        prop_assert!(dropped == 0 || most < 1_600, "{dropped} of {count} at {most}");
    }
}

/// Sends `count` items of several containers to a receiver that takes so many bytes at once. Returns how many it got, and the self
/// metrics.
async fn send_to_small<R: FlowRequest>(most: usize, count: u32) -> (u64, SelfMetrics) {
    let (mut scripted, taken) = Scripted::<R>::new(Vec::new());
    scripted.most = most;
    let bounds = Bounds {
        items: 2_000,
        bytes: 64 << 20,
        per_second: 1_000,
    };
    let stats = ExportStats::default();
    let lane = flow_lane(scripted, bounds, &stats);
    let options = SpanOptions {
        trace_parent: crate::config::TraceParent::Never,
        source: "ebpf".to_owned(),
    };
    let container = |isn: u32| CONTAINERS[isn as usize % CONTAINERS.len()];
    for isn in 0..count {
        let flow = flow(isn);
        let container = container(isn).map(Into::into);
        lane.send(Priority::Normal, u64::from(isn), container.as_ref(), || {
            (span(&flow, &anchor(), &options), None)
        });
    }
    let deadline = Instant::now() + Duration::from_secs(3_600);
    assert_ne!(lane.flush(deadline).await, Delivery::Late);
    assert_eq!(queued(&lane), (0, 0));
    let containers: BTreeMap<_, _> = (0..count)
        .map(|isn| {
            let span_id = flow(isn).trace.span_id.to_be_bytes().to_vec();
            (span_id, container(isn).unwrap_or_default())
        })
        .collect();
    let taken = taken.lock().expect("no panic");
    for (resource, span_ids) in taken.iter().flat_map(R::resources) {
        let container = container_of(resource.as_ref());
        for span_id in span_ids {
            assert_eq!(containers[&span_id], container);
        }
    }
    let ids: BTreeSet<_> = taken.iter().flat_map(R::span_ids).collect();
    (ids.len() as u64, stats.read())
}

/// A receiver whose quota is used up, and which asks for no wait, is not flooded.
#[test]
fn receiver_refusing_all_sizes_gets_few_requests() {
    let mut peers = Peers::new(2_000);
    peers.go_on(1, 1);
    let resource = resource();
    let options = Options {
        temporality: Temporality::Delta,
        histograms: Histograms::Exponential,
        self_metrics: crate::config::SelfMetricsLevel::Detailed,
        source: "ebpf",
        components: Components::new(Some(Protocol::Grpc), Some(Protocol::Grpc), None),
    };
    in_virtual_time(async {
        let (mut scripted, taken) = Scripted::<ExportMetricsServiceRequest>::new(Vec::new());
        scripted.most = 0;
        let stats = ExportStats::default();
        let lane = MetricsLane::start(
            scripted,
            resource,
            options,
            stats.clone(),
            Exemplary::default(),
        );
        lane.send(peers.report(2_000));
        assert_ne!(lane.flush(Instant::now() + TIMEOUT).await, Delivery::Late);
        assert!(taken.lock().expect("no panic").is_empty());
        let self_metrics = stats.read();
        let asked: u64 = self_metrics.exports.values().sum();
        assert!((2..=60).contains(&asked), "{:?}", self_metrics.exports);
        assert!(
            self_metrics.too_large["metrics"] > 5_000,
            "{:?}",
            self_metrics.too_large
        );
    });
}

/// A part that cannot be split names the size; what is split is no loss. A size that is learnt again is nothing new.
#[test]
fn size_limit_is_logged_with_the_bytes_and_once() {
    for (most, is_lost, learnt) in [(0, true, 0), (10_000, false, 1), (100_000, false, 1)] {
        let lines = Lines::default();
        let _logging = lines.logging();
        let mut peers = Peers::new(500);
        let limit = (Vec::new(), most);
        let counts = [(7, 5_000); 5];
        in_virtual_time(reports(Temporality::Cumulative, limit, &mut peers, &counts));
        let text = lines.text();
        let count = |words: &str| text.matches(words).count();
        assert!(count("; smaller requests are sent") > 0, "{most}: {text}");
        let lost = [
            count("answered HTTP 413; its limit is below "),
            count("its limit, of size or of rate, is below a request of "),
        ];
        assert!(lost.iter().all(|lines| *lines < 2), "{most}: {text}");
        assert_eq!(lost != [0, 0], is_lost, "{most}: {text}");
        assert_eq!(
            count("the receiver refuses larger requests"),
            learnt,
            "{most}: {text}"
        );
        assert_eq!(count("check the receiver's log"), 0, "{most}: {text}");
    }
}

/// A learnt limit is respected: a refused size is not tried with every report.
#[test]
fn receiver_size_limit_is_learnt() {
    let mut peers = Peers::new(500);
    let counts = [(7, 10_000); 20];
    let outcome = in_virtual_time(reports(
        Temporality::Cumulative,
        (Vec::new(), 100_000),
        &mut peers,
        &counts,
    ));
    let refused = outcome.self_metrics.exports.get(&("metrics", "refused"));
    assert!((1..=6).contains(refused.expect("some")), "{refused:?}");
    let parts = outcome.self_metrics.exports[&("metrics", "success")];
    assert!(parts > 100, "{parts}");
}

/// One item that is too large costs itself and nothing else.
#[test]
fn too_large_item_is_counted_and_the_rest_arrives() {
    let mut peers = Peers::new(40);
    peers.go_on(1, 1);
    let long = SeriesKey::Flows {
        container: None,
        role: Role::Client,
        peer: Peer::Prefix("x".repeat(20_000)),
        server_port: Some(1),
    };
    let series = Series {
        volume: Volume {
            bytes_sent: 5,
            ..Volume::default()
        },
        ..Series::default()
    };
    peers.0.insert(long, series);
    for temporality in [Temporality::Cumulative, Temporality::Delta] {
        let outcome = in_virtual_time(reports(
            temporality,
            (Vec::new(), 10_000),
            &mut peers,
            &[(1, 1_000)],
        ));
        let found = points(&outcome.taken);
        let arrived = found.keys().filter(|(name, ..)| name == "flowcar.tcp.io");
        // Of all but one, and of sent bytes only: nothing was received.
        assert_eq!(arrived.count(), 40);
        assert!(outcome.self_metrics.too_large["metrics"] > 0);
        assert_eq!(outcome.reports.1, 0, "no report was taken as a whole");
    }
}

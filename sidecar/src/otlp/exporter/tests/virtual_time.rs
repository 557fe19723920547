//! The lanes against a scripted receiver, in virtual time.

use std::{
    any::TypeId,
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::any_value,
    metrics::v1::metric::Data,
    resource::v1::Resource as ProtoResource,
    trace::v1::status::StatusCode,
};
use proptest::{collection::vec, prelude::*};
use tonic::Code;

use super::*;
use crate::{
    config::{Histograms, Protocol, Temporality},
    otlp::error::{Accepted, Cause, ExportError},
    snapshot::ItemQueue,
};

mod retries;
mod sizes;

/// The receiver's action on one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Takes it and acknowledges it.
    Take,
    /// Takes all of it but one item.
    Partly,
    /// Asks for a wait of so many milliseconds, over HTTP or gRPC.
    Busy(u16, bool),
    /// Is unavailable.
    Away,
    /// Hangs before it takes it.
    HangBefore,
    /// Takes it, and its answer is lost.
    LoseAnswer,
    /// Refuses it permanently, unless it has it already, which it reports.
    Refuse,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Take),
        1 => Just(Step::Partly),
        2 => (0u16..5_000, any::<bool>()).prop_map(|(millis, grpc)| Step::Busy(millis, grpc)),
        2 => Just(Step::Away),
        1 => Just(Step::HangBefore),
        2 => Just(Step::LoseAnswer),
        1 => Just(Step::Refuse),
    ]
}

/// The receiver, and the requests that it has seen.
struct Scripted<R> {
    steps: VecDeque<Step>,
    /// The most bytes of a request that it takes.
    most: usize,
    /// Requests that were larger.
    too_large: usize,
    busy: Arc<AtomicBool>,
    left_alone_until: Instant,
    last_failure: Option<Instant>,
    taken: Taken<R>,
}

type Taken<R> = Arc<Mutex<Vec<R>>>;

/// The most steps of a script.
const SCRIPT: usize = 25;

const TIMEOUT: Duration = Duration::from_secs(10);

impl<R: Message + Default + Clone + PartialEq + 'static> Scripted<R> {
    fn new(steps: Vec<Step>) -> (Self, Taken<R>) {
        let taken = Taken::default();
        let scripted = Self {
            steps: steps.into(),
            most: usize::MAX,
            too_large: 0,
            busy: Arc::default(),
            left_alone_until: Instant::now(),
            last_failure: None,
            taken: Arc::clone(&taken),
        };
        (scripted, taken)
    }

    fn failed(&mut self, cause: Cause, asked: Option<Duration>) -> Result<Accepted, ExportError> {
        self.last_failure = Some(Instant::now());
        self.left_alone_until = Instant::now() + asked.unwrap_or_default();
        let target = config(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317")])
            .export
            .metrics
            .expect("a target");
        Err(ExportError::new(Signal::Metrics, &target, cause).after(asked))
    }

    /// Over HTTP and gRPC in turn.
    fn refuse_size(&mut self) -> Result<Accepted, ExportError> {
        let message = String::new();
        let cause = if self.too_large.is_multiple_of(2) {
            Cause::Http {
                status: 413,
                message,
            }
        } else {
            Cause::Grpc {
                code: Code::ResourceExhausted,
                message,
                retry_info: false,
            }
        };
        let outcome = self.failed(cause, None);
        // The next request is another one and need not wait.
        self.last_failure = None;
        outcome
    }

    async fn answer(&mut self, body: Bytes) -> Result<Accepted, ExportError> {
        assert!(!self.busy.swap(true, Ordering::SeqCst), "two at once");
        if body.len() > self.most {
            self.busy.store(false, Ordering::SeqCst);
            self.too_large += 1;
            return self.refuse_size();
        }
        let request = R::decode(body).expect("a request");
        assert!(
            Instant::now() >= self.left_alone_until,
            "it asked for a wait"
        );
        if let Some(failure) = self.last_failure.take() {
            // The shortest back-off, or a flush's.
            assert!(
                failure.elapsed() >= Duration::from_millis(200) || self.left_alone_until >= failure
            );
        }
        let take = |scripted: &Self| {
            scripted
                .taken
                .lock()
                .expect("no panic")
                .push(request.clone())
        };
        let outcome = match self.steps.pop_front().unwrap_or(Step::Take) {
            Step::Take => {
                take(self);
                Ok(Accepted::default())
            }
            Step::Partly => {
                take(self);
                Ok(Accepted {
                    rejected: 1,
                    message: "one was odd".to_owned(),
                })
            }
            Step::Busy(millis, grpc) => {
                let cause = if grpc {
                    Cause::Grpc {
                        code: Code::ResourceExhausted,
                        message: String::new(),
                        retry_info: true,
                    }
                } else {
                    Cause::Http {
                        status: 429,
                        message: String::new(),
                    }
                };
                self.failed(cause, Some(Duration::from_millis(millis.into())))
            }
            Step::Away => self.failed(Cause::Unreachable("away".to_owned()), None),
            Step::HangBefore => {
                tokio::time::sleep(TIMEOUT).await;
                self.failed(Cause::Timeout(TIMEOUT), None)
            }
            Step::LoseAnswer => {
                take(self);
                self.failed(Cause::Cut("away".to_owned()), None)
            }
            Step::Refuse => {
                let known = self.taken.lock().expect("no panic").contains(&request);
                let status = if known { 409 } else { 400 };
                let outcome = self.failed(
                    Cause::Http {
                        status,
                        message: String::new(),
                    },
                    None,
                );
                // The next request is another one and need not wait.
                self.last_failure = None;
                outcome
            }
        };
        self.busy.store(false, Ordering::SeqCst);
        outcome
    }
}

#[async_trait]
impl<R: Message + Default + Clone + PartialEq + 'static> Transport for Scripted<R> {
    async fn send(&mut self, request: ExportRequest) -> Result<Accepted, ExportError> {
        let is_of_spans = TypeId::of::<R>() == TypeId::of::<ExportTraceServiceRequest>();
        assert_eq!(is_of_spans, !request.spans.is_empty());
        if is_of_spans {
            let encoded = ExportTraceServiceRequest::decode(request.encoded.clone());
            let spans = request.spans.iter();
            let spans: Vec<_> = spans
                .map(|span| span.span_context.span_id().to_bytes().to_vec())
                .collect();
            let encoded = encoded.expect("a request").span_ids();
            assert_eq!(encoded, spans, "the request has these spans in this order");
        }
        self.answer(request.encoded).await
    }
}

/// A request of a lane of flows.
trait FlowRequest: Message + Default + Clone + PartialEq + 'static {
    const SIGNAL: Signal;

    /// Each resource, and the ids of the spans that its items are, or name.
    fn resources(&self) -> Vec<(Option<ProtoResource>, Vec<Vec<u8>>)>;

    /// The ids of all its items.
    fn span_ids(&self) -> Vec<Vec<u8>> {
        let resources = self.resources().into_iter();
        resources.flat_map(|(_, ids)| ids).collect()
    }
}

impl FlowRequest for ExportTraceServiceRequest {
    const SIGNAL: Signal = Signal::Traces;

    fn resources(&self) -> Vec<(Option<ProtoResource>, Vec<Vec<u8>>)> {
        let resources = self.resource_spans.iter().map(|of| {
            let spans = of.scope_spans.iter().flat_map(|scope| &scope.spans);
            let ids = spans.map(|span| span.span_id.clone());
            (of.resource.clone(), ids.collect())
        });
        resources.collect()
    }
}

impl FlowRequest for ExportLogsServiceRequest {
    const SIGNAL: Signal = Signal::Logs;

    fn resources(&self) -> Vec<(Option<ProtoResource>, Vec<Vec<u8>>)> {
        let resources = self.resource_logs.iter().map(|of| {
            let records = of.scope_logs.iter().flat_map(|scope| &scope.log_records);
            let ids = records.map(|record| record.span_id.clone());
            (of.resource.clone(), ids.collect())
        });
        resources.collect()
    }
}

/// A lane of spans or of log records to this receiver.
fn flow_lane<R: FlowRequest>(
    scripted: Scripted<R>,
    bounds: Bounds,
    stats: &ExportStats,
) -> FlowLane {
    let resource = Resource::new(&config(&[]), &Host::default());
    let exemplars = Exemplary::default();
    let stats = stats.clone();
    FlowLane::start(R::SIGNAL, scripted, &resource, bounds, stats, exemplars)
}

/// The items of a signal that were dropped, by reason.
fn dropped(self_metrics: &SelfMetrics, signal: Signal) -> &BTreeMap<&'static str, u64> {
    match signal {
        Signal::Logs => &self_metrics.logs_dropped,
        _ => &self_metrics.spans_dropped,
    }
}

/// The spans of requests.
fn all_spans(requests: &[ExportTraceServiceRequest]) -> impl Iterator<Item = &Span> {
    let resources = requests.iter().flat_map(|request| &request.resource_spans);
    resources
        .flat_map(|resource| &resource.scope_spans)
        .flat_map(|scope| &scope.spans)
}

/// Runs on a clock that advances whenever all tasks wait.
fn in_virtual_time<F: Future>(work: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(work)
}

/// Start, end and value of the counter for bytes sent, of one request; none if nothing was sent.
fn io(request: &ExportMetricsServiceRequest) -> Option<(u64, u64, i64)> {
    let metrics = &request.resource_metrics[0].scope_metrics[0].metrics;
    let io = metrics
        .iter()
        .find(|metric| metric.name == "flowcar.tcp.io")?;
    let Some(Data::Sum(sum)) = &io.data else {
        panic!("{io:?}");
    };
    let point = &sum.data_points[0];
    let (start, end) = (point.start_time_unix_nano, point.time_unix_nano);
    Some((start, end, io_sent(request)))
}

/// A lane of metrics to this receiver.
fn metrics_lane(
    scripted: Scripted<ExportMetricsServiceRequest>,
    temporality: Temporality,
) -> MetricsLane {
    let resource = Resource::new(&config(&[]), &Host::default());
    let options = Options {
        temporality,
        histograms: Histograms::Exponential,
        self_metrics: crate::config::SelfMetricsLevel::Detailed,
        source: "ebpf",
        components: Components::new(Some(Protocol::Grpc), Some(Protocol::Grpc), None),
    };
    let (stats, exemplars) = (ExportStats::default(), Exemplary::default());
    MetricsLane::start(scripted, resource, options, stats, exemplars)
}

/// Sends reports with the byte increments and intervals (ms) of `counts`, and returns what the receiver took.
async fn reports(
    temporality: Temporality,
    steps: Vec<Step>,
    counts: &[(u8, u16)],
) -> Vec<ExportMetricsServiceRequest> {
    let (scripted, taken) = Scripted::new(steps);
    let lane = metrics_lane(scripted, temporality);
    let (mut total, mut at) = (0, 1_000);
    for (bytes, gap) in counts {
        total += u64::from(*bytes);
        at += 1_000;
        lane.send(snapshot(at, total));
        tokio::time::sleep(Duration::from_millis((*gap).into())).await;
    }
    let last = Instant::now() + Duration::from_secs(3_600);
    assert_ne!(lane.flush(last).await, Delivery::Late);
    // Deltas that were refused permanently come with the next report that is not.
    for more in 1..=SCRIPT as u64 + 1 {
        lane.send(snapshot(at + more * 1_000, total));
        assert_ne!(lane.flush(last).await, Delivery::Late);
    }
    drop(lane);
    Arc::try_unwrap(taken).map_or_else(
        |taken| taken.lock().expect("no panic").clone(),
        |taken| taken.into_inner().expect("no panic"),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A receiver that recognizes points by their times has every byte once, whatever happened to the answers.
    #[test]
    fn deltas_sum_to_the_sent_bytes(
        steps in vec(step(), 0..SCRIPT),
        counts in vec((any::<u8>(), 0u16..20_000), 1..15),
    ) {
        let total: i64 = counts.iter().map(|(bytes, _)| i64::from(*bytes)).sum();
        let taken = in_virtual_time(reports(Temporality::Delta, steps, &counts));
        let mut distinct = BTreeMap::new();
        for (start, end, value) in taken.iter().filter_map(io) {
            let known = distinct.insert((start, end), value);
            prop_assert!(known.is_none_or(|known| known == value), "other points of the same times");
        }
        let mut upto = 0;
        for (start, end) in distinct.keys() {
            prop_assert!(*start >= upto, "{distinct:?} overlap");
            upto = *end;
        }
        prop_assert_eq!(distinct.values().sum::<i64>(), total);
    }

    /// Cumulative sums never go back in time or in value, and the last one is the total.
    #[test]
    fn cumulative_sums_never_decrease(
        steps in vec(step(), 0..SCRIPT),
        counts in vec((any::<u8>(), 0u16..20_000), 1..15),
    ) {
        let total: i64 = counts.iter().map(|(bytes, _)| i64::from(*bytes)).sum();
        let taken = in_virtual_time(reports(Temporality::Cumulative, steps, &counts));
        let points: Vec<_> = taken.iter().filter_map(io).collect();
        for pair in points.windows(2) {
            prop_assert!(pair[0].1 <= pair[1].1 && pair[0].2 <= pair[1].2, "{points:?}");
            prop_assert_eq!(pair[0].0, pair[1].0, "one start");
        }
        // What never counted has no point.
        prop_assert_eq!(points.last().map_or(0, |point| point.2), total);
    }

    /// Every span is delivered or counted under its drop reason, and the bounds always hold.
    #[test]
    fn every_lost_span_is_counted(
        steps in vec(step(), 0..SCRIPT),
        bursts in vec((0usize..400, 0u64..30_000), 1..12),
        spans in 1usize..600,
        kib in 8usize..600,
        per_second in 1u32..300,
        logs in any::<bool>(),
    ) {
        let answers_lost = steps.contains(&Step::LoseAnswer);
        let bounds = Bounds { items: spans, bytes: kib << 10, per_second };
        let (pushed, delivered, dropped) = in_virtual_time(async {
            if logs {
                send_bursts::<ExportLogsServiceRequest>(steps, bursts, bounds).await
            } else {
                send_bursts::<ExportTraceServiceRequest>(steps, bursts, bounds).await
            }
        });
        // What was taken without an acknowledgement may be counted as dropped, too.
        prop_assert!(delivered + dropped >= pushed, "{delivered} + {dropped} < {pushed}");
        if !answers_lost {
            prop_assert_eq!(delivered + dropped, pushed);
        }
    }
}

/// A report is acknowledged as a whole, by its number, or not at all.
#[test]
fn whole_reports_are_acknowledged() {
    in_virtual_time(async {
        let steps = [
            Step::Take,
            Step::Refuse,
            Step::LoseAnswer,
            Step::Take,
            // Points that the receiver rejects are lost with the next one, too.
            Step::Partly,
            Step::Away,
        ];
        let (scripted, _) = Scripted::new(steps.to_vec());
        let lane = metrics_lane(scripted, Temporality::Cumulative);
        let limit = Instant::now() + Duration::from_secs(3_600);
        let acknowledged = || lane.progress().borrow().acknowledged;
        for expected in [1, 1, 3, 4] {
            let number = lane.send(snapshot(lane.progress().borrow().sending + 2_000, 1));
            assert_ne!(lane.flush(limit).await, Delivery::Late);
            assert_eq!(acknowledged(), expected, "{number}");
        }
        lane.send(snapshot(6_000, 1));
        let replaced = async {
            while lane.progress().borrow().sending < 5 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        replaced.await;
        lane.send(snapshot(7_000, 1));
        assert_eq!(lane.flush(limit).await, Delivery::Taken);
        assert_eq!(acknowledged(), 6);
    });
}

/// Sends bursts of so many items, each with a pause of milliseconds behind it. Returns how many were sent, delivered and dropped.
async fn send_bursts<R: FlowRequest>(
    steps: Vec<Step>,
    bursts: Vec<(usize, u64)>,
    bounds: Bounds,
) -> (u64, u64, u64) {
    let (scripted, taken) = Scripted::<R>::new(steps);
    let stats = ExportStats::default();
    let lane = flow_lane(scripted, bounds, &stats);
    let mut isn = 0;
    let options = SpanOptions {
        trace_parent: crate::config::TraceParent::Never,
        source: "ebpf".to_owned(),
    };
    for (count, gap) in bursts {
        for _ in 0..count {
            isn += 1;
            let flow = flow(isn);
            let priority = if isn % 7 == 0 {
                Priority::High
            } else {
                Priority::Normal
            };
            lane.send(priority, flow.trace.trace_id as u64, None, || {
                (span(&flow, &anchor(), &options), None)
            });
            let ItemQueue { items, bytes, .. } = lane.queue();
            // Items in flight cannot be dropped.
            let most = bounds.items.max(queue::BATCH) as u64;
            assert!(items <= most, "{items}");
            let most = (bounds.bytes + (queue::BATCH << 12)) as u64;
            assert!(bytes <= most, "{bytes}");
        }
        tokio::time::sleep(Duration::from_millis(gap)).await;
    }
    let deadline = Instant::now() + Duration::from_secs(3_600);
    assert_ne!(lane.flush(deadline).await, Delivery::Late);
    assert_eq!(queued(&lane), (0, 0), "no byte is left in the books");
    let dropped: u64 = dropped(&stats.read(), R::SIGNAL).values().sum();
    let taken = taken.lock().expect("no panic");
    let ids: BTreeSet<_> = taken.iter().flat_map(R::span_ids).collect();
    (u64::from(isn), ids.len() as u64, dropped)
}

/// Items that wait, and their bytes.
fn queued(lane: &FlowLane) -> (u64, u64) {
    let ItemQueue { items, bytes, .. } = lane.queue();
    (items, bytes)
}

#[test]
fn sampled_spans_count_the_connections_of_a_busy_minute() {
    let (rebuilt, kept, high) = in_virtual_time(async {
        let (scripted, taken) = Scripted::<ExportTraceServiceRequest>::new(Vec::new());
        let bounds = Bounds {
            items: 10_000,
            bytes: 64 << 20,
            per_second: 50,
        };
        let lane = flow_lane(scripted, bounds, &ExportStats::default());
        let options = SpanOptions {
            trace_parent: crate::config::TraceParent::Never,
            source: "ebpf".to_owned(),
        };
        for isn in 0..60_000 {
            let mut flow = flow(isn);
            let failed = isn % 100 == 0;
            if failed {
                flow.outcome = Some(Outcome::Closed(CloseReason::ResetReceived));
            }
            let priority = if failed {
                Priority::High
            } else {
                Priority::Normal
            };
            lane.send(priority, flow.trace.trace_id as u64, None, || {
                (span(&flow, &anchor(), &options), None)
            });
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_ne!(lane.flush(Instant::now() + TIMEOUT).await, Delivery::Late);
        let taken = taken.lock().expect("no panic");
        let spans: Vec<_> = all_spans(&taken).collect();
        let probability = |span: &Span| {
            let mut found = span.attributes.iter();
            let found = found.find(|a| a.key == "flowcar.sample.probability");
            let value = found.and_then(|found| found.value.as_ref()?.value.as_ref());
            // Absent where it is 1.
            match value.unwrap_or(&any_value::Value::DoubleValue(1.0)) {
                any_value::Value::DoubleValue(probability) => *probability,
                other => panic!("{other:?}"),
            }
        };
        let failed = |span: &&&Span| {
            let status = span.status.as_ref();
            status.is_some_and(|status| status.code() == StatusCode::Error)
        };
        let rebuilt: f64 = spans.iter().map(|span| 1.0 / probability(span)).sum();
        (rebuilt, spans.len(), spans.iter().filter(failed).count())
    });
    // 1,000 connections in each of 60 seconds, of which 10 are reset.
    assert!((rebuilt - 60_000.0).abs() < 1e-3, "{rebuilt}");
    assert!(
        (3_000..=3_600).contains(&kept),
        "50 a second and a burst of 500: {kept}"
    );
    assert_eq!(high, 600, "every reset connection is there");
}

//! The controller's own metrics, in OpenMetrics text.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hdrhistogram::Histogram;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, NoLabelSet, text},
    metrics::{MetricType, counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

/// Why an Event is dropped, as a metric attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// The queue was full.
    Queue,
    /// There were too many from one source, or for one namespace.
    Rate,
    /// The object does not exist.
    Unverified,
    /// The API server refused it or did not answer.
    Refused,
}

// === impl Dropped ===

impl Dropped {
    /// The metric attribute.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Rate => "rate",
            Self::Unverified => "unverified",
            Self::Refused => "refused",
        }
    }
}

/// Upper bounds of the latency buckets, in seconds: around the 5 ms that an admission may take.
const BOUNDS: [f64; 12] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0,
];

/// Every metric of the controller.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    reviews: Family<Decision, Counter>,
    reasons: Family<Reason, Counter>,
    latency: Arc<Latency>,
    events_dropped: Family<Reason, Counter>,
    unread: Family<Reason, Counter>,
    connections_closed: Family<Reason, Counter>,
    /// Pods that opted in and have no status of flowcar's, as the detector sees them.
    pub pods_missed: Gauge,
    /// 1 while this replica holds the Lease.
    pub leader: Gauge,
    certificate_ends: Gauge<f64, AtomicU64>,
    /// Failures to renew or publish the certificates.
    pub reconcile_errors: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Decision {
    decision: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// Why flowcar closed a connection that its client held open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Its TLS handshake took too long.
    Handshake,
    /// It was idle for too long.
    Idle,
    /// It was evicted for another connection.
    NoRoom,
}

/// Latencies in microseconds, up to ten seconds at three digits.
struct Latency {
    seen: Mutex<(Histogram<u64>, f64)>,
}

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("flowcar");
        let (reviews, reasons) = (
            Family::<Decision, Counter>::default(),
            Family::<Reason, Counter>::default(),
        );
        registry.register(
            "admission_reviews",
            "Reviews answered, by decision",
            reviews.clone(),
        );
        registry.register(
            "admission_reasons",
            "Skips and invalid annotations, by reason",
            reasons.clone(),
        );
        let latency = Arc::new(Latency::new());
        registry.register_collector(Box::new(latency.clone()));
        let (events_dropped, unread, connections_closed) = (
            Family::<Reason, Counter>::default(),
            Family::<Reason, Counter>::default(),
            Family::<Reason, Counter>::default(),
        );
        registry.register(
            "events_dropped",
            "Events that were dropped, by reason",
            events_dropped.clone(),
        );
        registry.register(
            "admission_unread",
            "Requests whose body was not read to its end, by reason",
            unread.clone(),
        );
        registry.register(
            "connections_closed",
            "Connections that the controller closed while their client held them open, by reason",
            connections_closed.clone(),
        );
        let reconcile_errors = Counter::default();
        registry.register(
            "certificate_errors",
            "Failures to renew or publish the certificates",
            reconcile_errors.clone(),
        );
        let (pods_missed, leader) = (Gauge::default(), Gauge::default());
        registry.register(
            "pods_missed",
            "Pods that opted in and were not seen by the webhook",
            pods_missed.clone(),
        );
        registry.register(
            "leader",
            "1 while this replica holds the Lease",
            leader.clone(),
        );
        let certificate_ends = Gauge::default();
        let help = "Expiry of the serving certificate, as Unix time";
        registry.register_with_unit(
            "certificate_ends",
            help,
            Unit::Seconds,
            certificate_ends.clone(),
        );
        let registry = Arc::new(registry);
        Self {
            registry,
            reviews,
            reasons,
            latency,
            events_dropped,
            unread,
            connections_closed,
            pods_missed,
            leader,
            certificate_ends,
            reconcile_errors,
        }
    }
}

impl Metrics {
    /// Counts one answer.
    pub fn reviewed(&self, decision: &'static str, reasons: &[&'static str], took: Duration) {
        self.reviews.get_or_create(&Decision { decision }).inc();
        for reason in reasons {
            self.reasons.get_or_create(&Reason { reason }).inc();
        }
        self.latency.record(took);
    }

    /// Counts one dropped Event.
    pub fn event_dropped(&self, why: Dropped) {
        let reason = why.reason();
        self.events_dropped.get_or_create(&Reason { reason }).inc();
    }

    /// Counts one request whose body was not read to its end.
    pub fn unread(&self, reason: &'static str) {
        self.unread.get_or_create(&Reason { reason }).inc();
    }

    /// Counts one connection that the controller closed.
    pub fn connection_closed(&self, why: Closed) {
        let reason = match why {
            Closed::Handshake => "handshake",
            Closed::Idle => "idle",
            Closed::NoRoom => "no_room",
        };
        let counter = self.connections_closed.get_or_create(&Reason { reason });
        counter.inc();
    }

    /// Sets the expiry of the serving certificate.
    pub fn certificate(&self, ends: SystemTime) {
        self.certificate_ends.set(
            ends.duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs_f64(),
        );
    }

    /// All of it as OpenMetrics text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::new();
        text::encode(&mut out, &self.registry).expect("writing to a String cannot fail");
        out
    }
}

// === impl Latency ===

impl Latency {
    fn new() -> Self {
        let histogram =
            Histogram::new_with_bounds(1, 10_000_000, 3).expect("constant bounds are valid");
        Self {
            seen: Mutex::new((histogram, 0.0)),
        }
    }

    fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.0.saturating_record(micros.max(1));
        seen.1 += took.as_secs_f64();
    }
}

impl fmt::Debug for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Latency")
    }
}

impl Collector for Latency {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (histogram, sum) = &*seen;
        let mut below = 0;
        let mut buckets = Vec::with_capacity(BOUNDS.len() + 1);
        for bound in BOUNDS {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "bounds are small and positive"
            )]
            let upto = histogram.count_between(0, (bound * 1e6) as u64);
            buckets.push((bound, upto - below));
            below = upto;
        }
        buckets.push((f64::INFINITY, histogram.len() - below));
        let encoded = Encoded {
            sum: *sum,
            count: histogram.len(),
            buckets,
        };
        let help = "From the whole review read to its answer";
        let metric = encoder.encode_descriptor(
            "admission_duration",
            help,
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        encoded.encode(metric)
    }
}

struct Encoded {
    sum: f64,
    count: u64,
    buckets: Vec<(f64, u64)>,
}

impl EncodeMetric for Encoded {
    fn encode(
        &self,
        mut encoder: prometheus_client::encoding::MetricEncoder<'_>,
    ) -> Result<(), fmt::Error> {
        encoder.encode_histogram::<NoLabelSet>(self.sum, self.count, &self.buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Metrics;

    #[test]
    fn answers_and_their_latency_are_counted() {
        let metrics = Metrics::default();
        metrics.reviewed("injected", &[], Duration::from_micros(700));
        metrics.reviewed("skipped", &["host_network"], Duration::from_millis(3));
        metrics.reviewed("skipped", &["host_network"], Duration::from_secs(20));
        let text = metrics.render();
        for line in [
            r#"flowcar_admission_reviews_total{decision="skipped"} 2"#,
            r#"flowcar_admission_reasons_total{reason="host_network"} 2"#,
            r#"flowcar_admission_duration_seconds_bucket{le="0.0005"} 0"#,
            r#"flowcar_admission_duration_seconds_bucket{le="0.001"} 1"#,
            r#"flowcar_admission_duration_seconds_bucket{le="0.005"} 2"#,
            r#"flowcar_admission_duration_seconds_bucket{le="1.0"} 2"#,
            r#"flowcar_admission_duration_seconds_bucket{le="+Inf"} 3"#,
            "flowcar_admission_duration_seconds_count 3",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}

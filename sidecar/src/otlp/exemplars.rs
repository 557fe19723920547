//! Exemplars: for each histogram the slowest duration whose span a receiver has. Pure.

use std::collections::{BTreeMap, HashSet};

use opentelemetry_proto::tonic::metrics::v1::{Exemplar as ProtoExemplar, exemplar::Value};

use crate::{
    clock::Anchor,
    flow::{CountedClose, Failure, Flow, Outcome, RttKind, SeriesId},
    snapshot::{Series, SeriesKey},
};

/// A histogram of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// `flowcar.tcp.connect.duration`, by failure.
    Connect(Option<Failure>),
    /// `flowcar.tcp.rtt`
    Rtt(RttKind),
    /// `flowcar.tcp.exchange.duration`
    Exchange,
    /// `flowcar.tcp.connection.duration`
    Duration(CountedClose),
}

/// One duration, and its span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exemplar {
    /// The duration, nanoseconds.
    pub value_ns: u64,
    /// When the flow closed, nanoseconds since the Unix epoch.
    pub at_unix_ns: u64,
    /// The span's trace.
    pub trace_id: u128,
    /// The span.
    pub span_id: u64,
}

/// The most series with exemplars between two reports.
const MOST_SERIES: usize = 1_000;

/// The durations of a closed flow, kept until its span is delivered.
#[derive(Clone, Debug)]
pub struct Candidates {
    series: SeriesId,
    values: Vec<(Measure, Exemplar)>,
}

/// The slowest of each histogram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exemplars(BTreeMap<SeriesId, BTreeMap<Measure, Exemplar>>);

// === impl Candidates ===

impl Candidates {
    /// The slowest duration of each kind of `flow`; `None` if no series counts it.
    pub fn of(flow: &Flow, anchor: &Anchor) -> Option<Self> {
        let series = flow.series?;
        let values = measures(flow).map(|(measure, value_ns)| {
            let exemplar = Exemplar {
                value_ns,
                at_unix_ns: anchor.unix_ns(flow.seen),
                trace_id: flow.trace.trace_id,
                span_id: flow.trace.span_id,
            };
            (measure, exemplar)
        });
        Some(Self {
            series,
            values: values.collect(),
        })
    }
}

/// The longest duration of each kind of a flow.
pub fn measures(flow: &Flow) -> impl Iterator<Item = (Measure, u64)> {
    let failure = match flow.outcome {
        Some(Outcome::Failed(failure)) => Some(failure),
        _ => None,
    };
    let duration = flow
        .counted_close()
        .and_then(|end| Some((Measure::Duration(end), flow.duration_ns()?)));
    [
        flow.connect_ns()
            .map(|value| (Measure::Connect(failure), value)),
        flow.rtt
            .max_ns()
            .map(|value| (Measure::Rtt(flow.rtt_kind), value)),
        flow.exchanges
            .max_ns()
            .map(|value| (Measure::Exchange, value)),
        duration,
    ]
    .into_iter()
    .flatten()
}

// === impl Exemplars ===

impl Exemplars {
    /// Adds the durations of a delivered span.
    pub fn offer(&mut self, candidates: Candidates) {
        if self.0.len() >= MOST_SERIES && !self.0.contains_key(&candidates.series) {
            return;
        }
        let series = self.0.entry(candidates.series).or_default();
        for (measure, exemplar) in candidates.values {
            keep_slowest(series, measure, exemplar);
        }
    }

    /// Those of the series that a report has: others were dropped meanwhile.
    #[must_use]
    pub fn reported_in(mut self, series: &BTreeMap<SeriesKey, Series>) -> Self {
        let ids: HashSet<_> = series.values().map(|series| series.id).collect();
        self.0.retain(|id, _| ids.contains(id));
        self
    }

    /// Merges those of `newer`, keeping the slower of two.
    pub fn absorb(&mut self, newer: Self) {
        for (series, measures) in newer.0 {
            let values = measures.into_iter().collect();
            self.offer(Candidates { series, values });
        }
    }

    /// These, and those of `older` for histograms without one here.
    #[must_use]
    pub fn or(mut self, older: &Self) -> Self {
        for (series, measures) in &older.0 {
            if self.0.len() >= MOST_SERIES && !self.0.contains_key(series) {
                continue;
            }
            let known = self.0.entry(*series).or_default();
            for (measure, exemplar) in measures {
                known.entry(*measure).or_insert(*exemplar);
            }
        }
        self
    }

    /// These without those that name one of these spans.
    #[must_use]
    pub fn without(mut self, spans: &HashSet<u64>) -> Self {
        self.0.retain(|_, measures| {
            measures.retain(|_, exemplar| !spans.contains(&exemplar.span_id));
            !measures.is_empty()
        });
        self
    }

    /// The exemplar of one histogram.
    pub fn get(&self, series: SeriesId, measure: Measure) -> Option<&Exemplar> {
        self.0.get(&series)?.get(&measure)
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn keep_slowest(of: &mut BTreeMap<Measure, Exemplar>, measure: Measure, new: Exemplar) {
    let known = of.entry(measure).or_insert(new);
    if new.value_ns > known.value_ns {
        *known = new;
    }
}

impl From<&Exemplar> for ProtoExemplar {
    fn from(exemplar: &Exemplar) -> Self {
        Self {
            filtered_attributes: Vec::new(),
            time_unix_nano: exemplar.at_unix_ns,
            span_id: exemplar.span_id.to_be_bytes().to_vec(),
            trace_id: exemplar.trace_id.to_be_bytes().to_vec(),
            value: Some(Value::AsDouble(exemplar.value_ns as f64 / 1e9)),
        }
    }
}

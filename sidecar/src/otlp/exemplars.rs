//! Exemplars: of each histogram's durations the slowest whose span a receiver has. Pure.

use std::collections::{BTreeMap, HashSet};

use opentelemetry_proto::tonic::metrics::v1::{Exemplar as ProtoExemplar, exemplar::Value};

use crate::{
    clock::Anchor,
    flow::{End, Failure, Flow, Outcome, RttKind},
    series::{Naming, series_key},
    snapshot::{Series, SeriesKey},
};

/// Which histogram of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// `flowcar.tcp.connect.duration`, by failure.
    Connect(Option<Failure>),
    /// `flowcar.tcp.rtt`
    Rtt(RttKind),
    /// `flowcar.tcp.exchange.duration`
    Exchange,
    /// `flowcar.tcp.connection.duration`
    Duration(End),
}

/// One duration, and the span that tells more about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exemplar {
    /// The duration, nanoseconds.
    pub value_ns: u64,
    /// When the flow ended, nanoseconds since the Unix epoch.
    pub at_unix_ns: u64,
    /// The span's trace.
    pub trace_id: u128,
    /// The span.
    pub span_id: u64,
}

/// Series that exemplars are kept of between two reports, at most.
const MOST_SERIES: usize = 1_000;

/// What a flow that is over has of durations, for when its span has been delivered.
#[derive(Clone, Debug)]
pub struct Candidates {
    series: SeriesKey,
    values: Vec<(Measure, Exemplar)>,
}

/// The slowest of each histogram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exemplars(BTreeMap<SeriesKey, BTreeMap<Measure, Exemplar>>);

// === impl Candidates ===

impl Candidates {
    /// The slowest of each kind that `flow` has.
    pub fn of(flow: &Flow, naming: &Naming, anchor: &Anchor) -> Self {
        let values = measures(flow).map(|(measure, value_ns)| {
            let exemplar = Exemplar {
                value_ns,
                at_unix_ns: anchor.unix_ns(flow.seen),
                trace_id: flow.trace.trace_id,
                span_id: flow.trace.span_id,
            };
            (measure, exemplar)
        });
        Self {
            series: series_key(naming, flow),
            values: values.collect(),
        }
    }
}

/// The greatest duration of each kind that a flow has.
pub fn measures(flow: &Flow) -> impl Iterator<Item = (Measure, u64)> {
    let (failure, end) = match flow.outcome {
        Some(Outcome::Failed(failure)) => (Some(failure), None),
        Some(Outcome::Closed(end)) => (None, Some(end)),
        None => (None, None),
    };
    let duration = end.and_then(|end| Some((Measure::Duration(end), flow.duration_ns()?)));
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
    /// Takes in what a delivered span stands for.
    pub fn offer(&mut self, candidates: Candidates) {
        if self.0.len() >= MOST_SERIES && !self.0.contains_key(&candidates.series) {
            return;
        }
        let series = self.0.entry(candidates.series).or_default();
        for (measure, exemplar) in candidates.values {
            keep_slowest(series, measure, exemplar);
        }
    }

    /// The same for the series that there are: what came past their bound goes with the rest of it.
    #[must_use]
    pub fn placed(self, series: &BTreeMap<SeriesKey, Series>) -> Self {
        let mut placed = Self::default();
        for (key, measures) in self.0 {
            let key = if series.contains_key(&key) {
                key
            } else {
                SeriesKey::Overflow
            };
            let to = placed.0.entry(key).or_default();
            for (measure, exemplar) in measures {
                keep_slowest(to, measure, exemplar);
            }
        }
        placed
    }

    /// Takes in those of `newer`, the slower of two.
    pub fn absorb(&mut self, newer: Self) {
        for (series, measures) in newer.0 {
            let values = measures.into_iter().collect();
            self.offer(Candidates { series, values });
        }
    }

    /// These, and those of `older` where there is none here.
    #[must_use]
    pub fn or(mut self, older: &Self) -> Self {
        for (series, measures) in &older.0 {
            if self.0.len() >= MOST_SERIES && !self.0.contains_key(series) {
                continue;
            }
            let known = self.0.entry(series.clone()).or_default();
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
    pub fn get(&self, series: &SeriesKey, measure: Measure) -> Option<&Exemplar> {
        self.0.get(series)?.get(&measure)
    }

    /// Whether there is none.
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

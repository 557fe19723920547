//! Long-lived flows, cut into interim spans of one interval, so that they are seen before they close.

use std::collections::HashMap;

use super::{Flow, Monotonic, Retransmits, Volume, memory};

/// One interval of a flow's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterimSpan {
    /// Counts from 0 within the flow.
    pub number: u64,
    /// It begins when the connection was established, or where the previous interim span ended. For a connection that was open before
    /// flowcar followed it, at the first cut: what it carried before is in no interim span.
    pub time: SpanTime,
    /// The counts of that time.
    pub volume: Volume,
}

/// When a span begins and ends, in nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanTime {
    /// When it begins.
    pub start_unix_ns: u64,
    /// When it ends.
    pub end_unix_ns: u64,
}

/// One instant by every clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instant {
    /// The clock of flows, which stands still while the machine is suspended.
    pub monotonic: Monotonic,
    /// How long the machine was suspended since it started, in nanoseconds.
    pub suspended_ns: u64,
    /// The wall clock, in nanoseconds since the Unix epoch.
    pub unix_ns: u64,
}

/// How far each open flow has been cut. As large as the flow table.
#[derive(Debug)]
pub struct InterimSpans {
    interval_ns: u64,
    cut: HashMap<u64, Box<Cut>>,
    /// How often flows were cut.
    round: u32,
}

#[derive(Clone, Copy, Debug)]
struct Cut {
    started: Monotonic,
    spans: u32,
    /// When its flow was last there.
    round: u32,
    upto: Point,
    volume: CutVolume,
    /// How long the machine had been suspended when the flow was first seen here.
    suspended_first_ns: u64,
    clock: FlowClock,
}

/// A flow's counts, in less memory: the kernel counts the segments that one connection sends again in 32 bits.
#[derive(Clone, Copy, Debug)]
struct CutVolume {
    numbers: [u64; Volume::NUMBERS],
    sent_again: [u32; Retransmits::NUMBERS],
}

/// A time of flows, and how long the machine had been suspended by then.
#[derive(Clone, Copy, Debug)]
struct Point {
    at: Monotonic,
    suspended_ns: u64,
}

/// The wall clock of one flow. A step of the wall clock does not move it once a span was cut by it: the flow's spans keep their order, lie
/// within each other, and last as long as what they stand for. A suspend does: it is no step, and the flow outlasts it.
#[derive(Clone, Copy, Debug)]
struct FlowClock {
    /// From the time since the machine started, suspends included, to the wall clock.
    offset_ns: i64,
}

impl From<&Volume> for CutVolume {
    fn from(volume: &Volume) -> Self {
        let cut = |count| u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            numbers: volume.numbers(),
            sent_again: volume.retransmits.numbers().map(cut),
        }
    }
}

impl From<&CutVolume> for Volume {
    fn from(cut: &CutVolume) -> Self {
        let retransmits = Retransmits::of_numbers(cut.sent_again.map(u64::from));
        Self::of_numbers(cut.numbers, retransmits)
    }
}

impl Instant {
    const fn point(&self) -> Point {
        Point {
            at: self.monotonic,
            suspended_ns: self.suspended_ns,
        }
    }
}

impl FlowClock {
    const fn of(now: &Instant) -> Self {
        let since_start = now.monotonic.0 + now.suspended_ns;
        Self {
            offset_ns: now.unix_ns as i64 - since_start as i64,
        }
    }

    const fn unix_ns(self, point: Point) -> u64 {
        (point.at.0 + point.suspended_ns).saturating_add_signed(self.offset_ns)
    }
}

impl InterimSpans {
    /// Cuts after every `interval_ns` nanoseconds; 0 cuts nothing.
    pub fn every(interval_ns: u64) -> Self {
        Self {
            interval_ns,
            cut: HashMap::new(),
            round: 0,
        }
    }

    /// Whether anything is cut.
    pub const fn any(&self) -> bool {
        self.interval_ns > 0
    }

    /// The time of this flow's own span, if `each` was called with an interim span of the flow: that names this span as its parent, and
    /// lies within it. `suspended_ns`: how long the machine was suspended since it started.
    pub fn time_of_parent(&self, flow: &Flow, suspended_ns: u64) -> Option<SpanTime> {
        let known = self.cut.get(&flow.cookie);
        let cut = known.filter(|cut| cut.started == flow.started && cut.spans > 0)?;
        let unix_ns = |at, suspended_ns| cut.clock.unix_ns(Point { at, suspended_ns });
        Some(SpanTime {
            start_unix_ns: unix_ns(flow.started, cut.suspended_first_ns),
            end_unix_ns: unix_ns(flow.seen, suspended_ns).max(cut.clock.unix_ns(cut.upto)),
        })
    }

    /// Calls `each` with the interim span up to `now` of every open flow that was last cut an interval ago, unless no payload went
    /// or came in it. Flows that are not among `flows` any more are forgotten.
    pub fn cut<'a>(
        &mut self,
        flows: impl Iterator<Item = &'a Flow>,
        now: &Instant,
        mut each: impl FnMut(&Flow, &InterimSpan),
    ) {
        if self.interval_ns == 0 {
            return;
        }
        self.round = self.round.wrapping_add(1);
        let round = self.round;
        for flow in flows {
            let Some(established) = flow.established else {
                continue;
            };
            let fresh = || {
                let (at, volume) = match flow.adopted {
                    Some(_) => (now.monotonic, flow.volume),
                    None => (established, Volume::default()),
                };
                Cut {
                    started: flow.started,
                    spans: 0,
                    round,
                    upto: Point { at, ..now.point() },
                    volume: CutVolume::from(&volume),
                    suspended_first_ns: now.suspended_ns,
                    clock: FlowClock::of(now),
                }
            };
            let at = self.cut.entry(flow.cookie);
            let at = at.or_insert_with(|| Box::new(fresh()));
            if at.started != flow.started {
                **at = fresh();
            }
            at.round = round;
            if at.spans == 0 {
                at.clock = FlowClock::of(now);
            }
            if now.monotonic.since_ns(at.upto.at) >= self.interval_ns {
                let volume = flow.volume.since(&Volume::from(&at.volume));
                let is_silent = volume.is_silent();
                if !is_silent {
                    each(
                        flow,
                        &InterimSpan {
                            number: at.spans.into(),
                            time: SpanTime {
                                start_unix_ns: at.clock.unix_ns(at.upto),
                                end_unix_ns: at.clock.unix_ns(now.point()),
                            },
                            volume,
                        },
                    );
                }
                at.spans = at.spans.saturating_add(u32::from(!is_silent));
                at.upto = now.point();
                at.volume = CutVolume::from(&flow.volume);
            }
        }
        self.cut.retain(|_, cut| cut.round == round);
        memory::shrink(&mut self.cut);
    }
}

//! Long-lived flows, cut into parts of one interval, so that they are seen before they end.

use std::collections::HashMap;

use super::{Flow, Monotonic, Volume};

/// One interval of a flow's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Counts from 0 within the flow.
    pub number: u64,
    /// Where it begins: established, or where the part before it ended.
    pub from: Monotonic,
    /// Where it ends.
    pub to: Monotonic,
    /// What the kernel told of in that time.
    pub volume: Volume,
}

/// How far each living flow has been cut. As large as the flow table.
#[derive(Debug)]
pub struct Parts {
    interval_ns: u64,
    cut: HashMap<u64, Cut>,
}

#[derive(Clone, Copy, Debug)]
struct Cut {
    started: Monotonic,
    parts: u64,
    upto: Monotonic,
    volume: Volume,
}

impl Parts {
    /// Cuts after every `interval_ns` nanoseconds; 0 cuts nothing.
    pub fn every(interval_ns: u64) -> Self {
        Self {
            interval_ns,
            cut: HashMap::new(),
        }
    }

    /// Whether anything is cut.
    pub const fn any(&self) -> bool {
        self.interval_ns > 0
    }

    /// Gives `each` of the flows that live and have lived for an interval since they were last cut their part up to
    /// `now`, unless no payload went or came in it. Flows that are not among them any more are forgotten.
    pub fn cut<'a>(
        &mut self,
        flows: impl Iterator<Item = &'a Flow>,
        now: Monotonic,
        mut each: impl FnMut(&Flow, &Part),
    ) {
        if self.interval_ns == 0 {
            return;
        }
        let mut cut = HashMap::with_capacity(self.cut.len());
        for flow in flows {
            let Some(established) = flow.established else {
                continue;
            };
            let known = self
                .cut
                .get(&flow.cookie)
                .filter(|cut| cut.started == flow.started);
            let fresh = Cut {
                started: flow.started,
                parts: 0,
                upto: established,
                volume: Volume::default(),
            };
            let mut at = *known.unwrap_or(&fresh);
            if now.since_ns(at.upto) >= self.interval_ns {
                let volume = flow.volume.since(&at.volume);
                let is_silent = volume.is_silent();
                if !is_silent {
                    each(
                        flow,
                        &Part {
                            number: at.parts,
                            from: at.upto,
                            to: now,
                            volume,
                        },
                    );
                }
                at = Cut {
                    parts: at.parts + u64::from(!is_silent),
                    upto: now,
                    volume: flow.volume,
                    ..at
                };
            }
            cut.insert(flow.cookie, at);
        }
        self.cut = cut;
    }
}

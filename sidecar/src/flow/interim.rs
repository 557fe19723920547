//! Long-lived flows, cut into interim spans of one interval, so that they are seen before they close.

use std::collections::HashMap;

use super::{Flow, Monotonic, Volume};

/// One interval of a flow's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterimSpan {
    /// Counts from 0 within the flow.
    pub number: u64,
    /// Where it begins: established, or where the previous interim span ended. For a connection that was open before flowcar followed it,
    /// the first cut: what it carried before is in no interim span.
    pub from: Monotonic,
    /// Where it ends.
    pub to: Monotonic,
    /// The counts of that time.
    pub volume: Volume,
}

/// How far each open flow has been cut. As large as the flow table.
#[derive(Debug)]
pub struct InterimSpans {
    interval_ns: u64,
    cut: HashMap<u64, Cut>,
}

#[derive(Clone, Copy, Debug)]
struct Cut {
    started: Monotonic,
    spans: u64,
    upto: Monotonic,
    volume: Volume,
}

impl InterimSpans {
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

    /// Whether `each` was called with an interim span of this flow, which names the flow's own span as its parent.
    pub fn has_cut(&self, flow: &Flow) -> bool {
        let known = self.cut.get(&flow.cookie);
        known.is_some_and(|cut| cut.started == flow.started && cut.spans > 0)
    }

    /// Calls `each` with the interim span up to `now` of every open flow that was last cut an interval ago, unless no payload went
    /// or came in it. Flows that are not among `flows` any more are forgotten.
    pub fn cut<'a>(
        &mut self,
        flows: impl Iterator<Item = &'a Flow>,
        now: Monotonic,
        mut each: impl FnMut(&Flow, &InterimSpan),
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
            let (upto, volume) = match flow.adopted {
                Some(_) => (now, flow.volume),
                None => (established, Volume::default()),
            };
            let fresh = Cut {
                started: flow.started,
                spans: 0,
                upto,
                volume,
            };
            let mut at = *known.unwrap_or(&fresh);
            if now.since_ns(at.upto) >= self.interval_ns {
                let volume = flow.volume.since(&at.volume);
                let is_silent = volume.is_silent();
                if !is_silent {
                    each(
                        flow,
                        &InterimSpan {
                            number: at.spans,
                            from: at.upto,
                            to: now,
                            volume,
                        },
                    );
                }
                at = Cut {
                    spans: at.spans + u64::from(!is_silent),
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

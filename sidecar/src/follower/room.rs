//! Keeps connections and series within the memory limit.

use flowcar_shared::record::Kind;

use super::Limits;
use crate::{
    flow::{Record, Table},
    memory::Budget,
    series::SeriesSet,
};

/// Once there is no room, there is again at so many percent of the limit: else each close would let one connection in.
const AGAIN: u64 = 95;

/// Limits the memory by the budget.
#[derive(Debug)]
pub(super) struct Room {
    flows: usize,
    series: usize,
    budget: Option<Budget>,
    /// Live connections: by the books of the last report, and by the records since.
    live: u64,
    is_full: bool,
}

impl Room {
    pub(super) const fn new(limits: &Limits) -> Self {
        Self {
            flows: limits.flows,
            series: limits.naming.limit,
            budget: limits.budget,
            live: 0,
            is_full: false,
        }
    }

    /// A record has come. The next report corrects for lost ones.
    pub(super) const fn record(&mut self, record: &Record) {
        match record.kind {
            Kind::Open => self.live += 1,
            Kind::Close if record.flow.established.is_some() => {
                self.live = self.live.saturating_sub(1);
            }
            Kind::Close | Kind::Sample => {}
        }
    }

    /// So many connections are live by the books.
    pub(super) const fn counted(&mut self, live: u64) {
        self.live = live;
    }

    /// Limits the flows by the series that there are, and the series by the flows. Gives the most flows; `None` without a budget.
    pub(super) fn bound(&self, table: &mut Table, series: &mut SeriesSet) -> Option<usize> {
        let budget = self.budget?;
        let most = budget.flows(series.len());
        table.listing_mut().set_capacity(self.flows.min(most));
        series.limit(self.series.min(budget.series(table.listing().len())));
        Some(most)
    }

    /// Whether the kernel must not allocate storage for one more socket, where there may be so many flows: its storage is charged to the
    /// same limit, whether the table has room or not.
    pub(super) fn is_full(&mut self, most: usize) -> bool {
        let most = most as u64;
        let was_full = self.is_full;
        let least = if was_full { most * AGAIN / 100 } else { most };
        self.is_full = self.live >= least;
        if self.is_full && !was_full {
            tracing::warn!(
                live = self.live,
                most,
                "the memory limit has no room for more connections: some new ones are lost (flowcar.tcp.lost.reason=socket_storage); raise flowcar's memory limit"
            );
        }
        self.is_full
    }
}

//! How much of the memory limit the connections and the series take, and what is done where they would take more.

use flowcar_shared::record::Kind;

use super::Limits;
use crate::{
    flow::{Record, Table},
    memory::Budget,
    series::SeriesSet,
};

/// Once there is no room, so many of a hundred connections may live until there is again: else each that ends would let one in.
const AGAIN: u64 = 95;

/// Bounds the memory by what there is.
#[derive(Debug)]
pub(super) struct Room {
    flows: usize,
    series: usize,
    budget: Option<Budget>,
    /// Connections that live: by the books of the last report, and by the records since.
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

    /// A record has come. Those that were lost are made good with the next report.
    pub(super) const fn record(&mut self, record: &Record) {
        match record.kind {
            Kind::Open => self.live += 1,
            Kind::Close if record.flow.established.is_some() => {
                self.live = self.live.saturating_sub(1);
            }
            Kind::Close | Kind::Sample => {}
        }
    }

    /// So many connections live by the books.
    pub(super) const fn counted(&mut self, live: u64) {
        self.live = live;
    }

    /// Bounds both. Gives whether the kernel is to keep nothing beside one more socket: what it keeps is charged to the same limit,
    /// whether the table has room for it or not.
    pub(super) fn bound(&mut self, table: &mut Table, series: &mut SeriesSet) -> bool {
        let Some(budget) = self.budget else {
            return false;
        };
        let most = budget.flows(series.len());
        table.set_bound(self.flows.min(most));
        series.limit(self.series.min(budget.series(table.len())));
        let most = most as u64;
        let was_full = self.is_full;
        let least = if was_full { most * AGAIN / 100 } else { most };
        self.is_full = self.live >= least;
        if self.is_full && !was_full {
            tracing::warn!(
                live = self.live,
                most,
                "the memory limit has no room for more connections: of those that come now some are lost (flowcar.tcp.lost.reason=socket_storage); raise flowcar's memory limit"
            );
        }
        self.is_full
    }
}

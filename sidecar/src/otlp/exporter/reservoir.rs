//! A fair sample of one second's spans, of known probability. Pure.
//!
//! Of each class those with the lowest ranks stay ("bottom-k"). A rank is derived from the trace id, so it is practically
//! random, and two flowcars at the two ends of connections tend to keep the same ones without communication.
//! If k of n stay, each stands for n/k connections: the inverse probabilities of a class add up to n exactly.

use std::{cmp::Ordering, collections::BinaryHeap};

use super::priority::Priority;

/// The minimum share of the budget for spans of normal priority, as one part of this many: without any of them they could not
/// be counted.
const NORMAL_SHARE: usize = 10;

/// The spans of one second.
#[derive(Debug)]
pub(super) struct Reservoir<T> {
    budget: usize,
    /// A budget of one cannot be shared by classes: all spans are of one class.
    alike: bool,
    normal: Sample<T>,
    high: Sample<T>,
}

/// The result of an offer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offer<T> {
    /// It is kept, for now.
    Kept,
    /// It is kept in place of another.
    Replaced(T),
    /// It was rejected before it was made.
    Refused,
}

#[derive(Debug)]
struct Sample<T> {
    seen: u64,
    kept: BinaryHeap<Ranked<T>>,
}

#[derive(Debug)]
struct Ranked<T> {
    rank: u64,
    item: T,
}

// === impl Reservoir ===

impl<T> Reservoir<T> {
    pub(super) const fn new(budget: usize) -> Self {
        Self {
            budget,
            alike: budget < 2,
            normal: Sample::new(),
            high: Sample::new(),
        }
    }

    /// Offers the span that `make` makes, if it may stay.
    pub(super) fn offer(
        &mut self,
        priority: Priority,
        rank: u64,
        make: impl FnOnce() -> T,
    ) -> Offer<T> {
        if priority == Priority::Normal || self.alike {
            let most = self.budget.saturating_sub(self.high.kept.len());
            return self.normal.offer(rank, most, make);
        }
        let share = (self.budget / NORMAL_SHARE).max(1);
        let most = self.budget.saturating_sub(share);
        let offer = self.high.offer(rank, most, make);
        if matches!(offer, Offer::Kept) && self.kept() > self.budget {
            return self.normal.shed().map_or(Offer::Kept, Offer::Replaced);
        }
        offer
    }

    /// Drops one of a class for want of memory. None may replace it, or late spans would be likelier to stay than early
    /// ones.
    pub(super) fn shed(&mut self, priority: Priority) -> Option<T> {
        let shed = match priority {
            Priority::Normal => self.normal.shed(),
            Priority::High => self.high.shed(),
        }?;
        self.budget = self.kept();
        Some(shed)
    }

    /// How many are kept.
    pub(super) fn kept(&self) -> usize {
        self.normal.kept.len() + self.high.kept.len()
    }

    /// The kept spans, with their class and probability.
    pub(super) fn close(self) -> impl Iterator<Item = (Priority, f64, T)> {
        let of = |priority, sample: Sample<T>| {
            let probability = sample.kept.len() as f64 / sample.seen as f64;
            let kept = sample.kept.into_iter();
            kept.map(move |ranked| (priority, probability, ranked.item))
        };
        of(Priority::High, self.high).chain(of(Priority::Normal, self.normal))
    }
}

// === impl Sample ===

impl<T> Sample<T> {
    const fn new() -> Self {
        Self {
            seen: 0,
            kept: BinaryHeap::new(),
        }
    }

    fn offer(&mut self, rank: u64, most: usize, make: impl FnOnce() -> T) -> Offer<T> {
        self.seen += 1;
        if self.kept.len() < most {
            let item = make();
            self.kept.push(Ranked { rank, item });
            return Offer::Kept;
        }
        match self.kept.peek_mut() {
            Some(mut highest) if rank < highest.rank => {
                let item = make();
                let replaced = std::mem::replace(&mut *highest, Ranked { rank, item });
                Offer::Replaced(replaced.item)
            }
            _ => Offer::Refused,
        }
    }

    fn shed(&mut self) -> Option<T> {
        self.kept.pop().map(|ranked| ranked.item)
    }
}

// === impl Ranked ===

impl<T> PartialEq for Ranked<T> {
    fn eq(&self, other: &Self) -> bool {
        self.rank == other.rank
    }
}

impl<T> Eq for Ranked<T> {}

impl<T> PartialOrd for Ranked<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Ranked<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank.cmp(&other.rank)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const fn priority(high: bool) -> Priority {
        if high {
            Priority::High
        } else {
            Priority::Normal
        }
    }

    proptest! {
        /// For any input: the budget holds, high priority comes first, every span is kept, replaced or rejected, and the
        /// inverse probabilities add up to the number of spans.
        #[test]
        fn sample_probabilities_rebuild_the_counts(
            budget in 2usize..40,
            offers in vec((any::<bool>(), any::<u64>()), 0..400),
        ) {
            let mut window = Reservoir::new(budget);
            let mut ended_unseen = 0;
            for (high, rank) in &offers {
                match window.offer(priority(*high), *rank, || *high) {
                    Offer::Kept => {}
                    Offer::Replaced(_) | Offer::Refused => ended_unseen += 1,
                }
                prop_assert!(window.kept() <= budget);
            }
            prop_assert_eq!(window.kept() + ended_unseen, offers.len());
            let kept: Vec<_> = window.close().collect();
            for high in [true, false] {
                let came = offers.iter().filter(|offer| offer.0 == high).count();
                let of: Vec<_> = kept.iter().filter(|kept| kept.2 == high).collect();
                let rebuilt: f64 = of.iter().map(|kept| 1.0 / kept.1).sum();
                prop_assert!((rebuilt - came as f64).abs() < 1e-6, "{} of {}", rebuilt, came);
                if high {
                    let most = budget - (budget / NORMAL_SHARE).max(1);
                    prop_assert_eq!(of.len(), came.min(most));
                }
            }
        }

        /// Want of memory makes the sample smaller, and it stays fair.
        #[test]
        fn shedding_equals_a_smaller_budget(
            budget in 2usize..40,
            sheds in 1usize..10,
            ranks in vec(any::<u64>(), 50..200),
        ) {
            let mut window = Reservoir::new(budget);
            for (at, rank) in ranks.iter().enumerate() {
                window.offer(Priority::Normal, *rank, || *rank);
                if at >= 40 && at < 40 + sheds {
                    window.shed(Priority::Normal);
                }
            }
            let (mut lowest, left) = (ranks.clone(), window.kept());
            prop_assert_eq!(left, budget.saturating_sub(sheds));
            lowest.sort_unstable();
            let mut kept: Vec<_> = window.close().collect();
            kept.sort_by_key(|kept| kept.2);
            let rebuilt: f64 = kept.iter().map(|kept| 1.0 / kept.1).sum();
            prop_assert!(left == 0 || (rebuilt - ranks.len() as f64).abs() < 1e-6);
            let kept: Vec<_> = kept.into_iter().map(|kept| kept.2).collect();
            prop_assert_eq!(&kept, &lowest[..left]);
        }

        /// A smaller budget keeps a part of what a greater one keeps: two ends with unlike loads have traces in common.
        #[test]
        fn larger_budget_keeps_the_smaller_sample(
            inline_samples in 2usize..20,
            more in 20usize..40,
            ranks in vec(any::<u64>(), 0..200),
        ) {
            let kept = |budget| {
                let mut window = Reservoir::new(budget);
                for rank in &ranks {
                    window.offer(Priority::Normal, *rank, || *rank);
                }
                window.close().map(|(_, _, rank)| rank).collect::<Vec<_>>()
            };
            let (inline_samples, more) = (kept(inline_samples), kept(more));
            prop_assert!(inline_samples.iter().all(|rank| more.contains(rank)));
        }
    }
}

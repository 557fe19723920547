//! One second's spans, of which so many may be sent: a fair sample of known probability. Pure.
//!
//! Of each class those with the lowest ranks stay ("bottom-k"). A rank is drawn from the trace id, so it is as good
//! as random, and the two ends of a connection, seen by two flowcars that never talk, tend to keep the same ones.
//! As k of n stay, each stands for n/k connections: the inverse probabilities of a class add up to n exactly.

use std::{cmp::Ordering, collections::BinaryHeap};

use super::notable::Class;

/// The dull ones' share of the budget, at least, as one part of this many: without any of them they could not be
/// counted.
const DULL_SHARE: usize = 10;

/// The spans of one second.
#[derive(Debug)]
pub(super) struct Window<T> {
    budget: usize,
    /// Of a budget of one no class could have a share: all are alike.
    alike: bool,
    dull: Sample<T>,
    notable: Sample<T>,
}

/// What became of an offer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offer<T> {
    /// It stays, for now.
    Kept,
    /// It stays in place of another.
    Replaced(T),
    /// It was not even made.
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

// === impl Window ===

impl<T> Window<T> {
    pub(super) const fn new(budget: usize) -> Self {
        Self {
            budget,
            alike: budget < 2,
            dull: Sample::new(),
            notable: Sample::new(),
        }
    }

    /// Offers what `make` makes if it may stay.
    pub(super) fn offer(&mut self, class: Class, rank: u64, make: impl FnOnce() -> T) -> Offer<T> {
        if class == Class::Dull || self.alike {
            let most = self.budget.saturating_sub(self.notable.kept.len());
            return self.dull.offer(rank, most, make);
        }
        let share = (self.budget / DULL_SHARE).max(1);
        let most = self.budget.saturating_sub(share);
        let offer = self.notable.offer(rank, most, make);
        if matches!(offer, Offer::Kept) && self.kept() > self.budget {
            return self.dull.shed().map_or(Offer::Kept, Offer::Replaced);
        }
        offer
    }

    /// Gives up one of a class for want of memory. None may take its place, or those that come late would be likelier
    /// to stay than those that came early.
    pub(super) fn shed(&mut self, class: Class) -> Option<T> {
        let shed = match class {
            Class::Dull => self.dull.shed(),
            Class::Notable => self.notable.shed(),
        }?;
        self.budget = self.kept();
        Some(shed)
    }

    /// How many stay.
    pub(super) fn kept(&self) -> usize {
        self.dull.kept.len() + self.notable.kept.len()
    }

    /// Those that stay, with their class and probability.
    pub(super) fn close(self) -> impl Iterator<Item = (Class, f64, T)> {
        let of = |class, sample: Sample<T>| {
            let probability = sample.kept.len() as f64 / sample.seen as f64;
            let kept = sample.kept.into_iter();
            kept.map(move |ranked| (class, probability, ranked.item))
        };
        of(Class::Notable, self.notable).chain(of(Class::Dull, self.dull))
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

    const fn class(notable: bool) -> Class {
        if notable { Class::Notable } else { Class::Dull }
    }

    proptest! {
        /// Whatever comes: the budget holds, the notable go first, every one is kept, replaced or refused, and the
        /// inverse probabilities add up to what came.
        #[test]
        fn counts_can_be_rebuilt(
            budget in 2usize..40,
            offers in vec((any::<bool>(), any::<u64>()), 0..400),
        ) {
            let mut window = Window::new(budget);
            let mut gone = 0;
            for (notable, rank) in &offers {
                match window.offer(class(*notable), *rank, || *notable) {
                    Offer::Kept => {}
                    Offer::Replaced(_) | Offer::Refused => gone += 1,
                }
                prop_assert!(window.kept() <= budget);
            }
            prop_assert_eq!(window.kept() + gone, offers.len());
            let kept: Vec<_> = window.close().collect();
            for notable in [true, false] {
                let came = offers.iter().filter(|offer| offer.0 == notable).count();
                let of: Vec<_> = kept.iter().filter(|kept| kept.2 == notable).collect();
                let rebuilt: f64 = of.iter().map(|kept| 1.0 / kept.1).sum();
                prop_assert!((rebuilt - came as f64).abs() < 1e-6, "{} of {}", rebuilt, came);
                if notable {
                    let most = budget - (budget / DULL_SHARE).max(1);
                    prop_assert_eq!(of.len(), came.min(most));
                }
            }
        }

        /// Want of memory makes the sample smaller and no less fair.
        #[test]
        fn what_is_shed_is_as_if_it_had_never_had_room(
            budget in 2usize..40,
            sheds in 1usize..10,
            ranks in vec(any::<u64>(), 50..200),
        ) {
            let mut window = Window::new(budget);
            for (at, rank) in ranks.iter().enumerate() {
                window.offer(Class::Dull, *rank, || *rank);
                if at >= 40 && at < 40 + sheds {
                    window.shed(Class::Dull);
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
        fn what_few_keep_more_keep_as_well(
            few in 2usize..20,
            more in 20usize..40,
            ranks in vec(any::<u64>(), 0..200),
        ) {
            let kept = |budget| {
                let mut window = Window::new(budget);
                for rank in &ranks {
                    window.offer(Class::Dull, *rank, || *rank);
                }
                window.close().map(|(_, _, rank)| rank).collect::<Vec<_>>()
            };
            let (few, more) = (kept(few), kept(more));
            prop_assert!(few.iter().all(|rank| more.contains(rank)));
        }
    }
}

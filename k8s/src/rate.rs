//! How often something may happen for each key: a bucket of tokens that refills.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
};

use tokio::time::Instant;

/// Most keys that are remembered. Buckets that are full again are forgotten first.
const KEYS: usize = 1024;

/// A bound on how often.
pub(crate) struct Rate<K> {
    burst: f64,
    per_second: f64,
    buckets: Mutex<HashMap<K, (f64, Instant)>>,
}

// === impl Rate ===

impl<K: Eq + Hash> Rate<K> {
    /// So many at once, and then so many a second.
    pub(crate) fn new(burst: u32, per_second: f64) -> Self {
        Self {
            burst: f64::from(burst),
            per_second,
            buckets: Mutex::default(),
        }
    }

    /// Whether it may happen at this time.
    pub(crate) fn allows(&self, key: K, now: Instant) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let level = |(tokens, at): (f64, Instant)| {
            let refilled = now.duration_since(at).as_secs_f64() * self.per_second;
            (tokens + refilled).min(self.burst)
        };
        if buckets.len() >= KEYS && !buckets.contains_key(&key) {
            buckets.retain(|_, bucket| level(*bucket) < self.burst);
            if buckets.len() >= KEYS {
                return false;
            }
        }
        let bucket = buckets.entry(key).or_insert((self.burst, now));
        let tokens = level(*bucket);
        let allowed = tokens >= 1.0;
        *bucket = (if allowed { tokens - 1.0 } else { tokens }, now);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Instant, KEYS, Rate};

    #[test]
    fn burst_passes_and_then_the_refill() {
        let (rate, now) = (Rate::new(3, 0.5), Instant::now());
        let passed = |key, now| (0..10).filter(|_| rate.allows(key, now)).count();
        assert_eq!(passed("a", now), 3);
        assert_eq!(passed("b", now), 3, "each key has a bucket of its own");
        assert_eq!(passed("a", now + Duration::from_secs(4)), 2);
    }

    #[test]
    fn idle_keys_are_evicted_at_the_bound() {
        let (rate, now) = (Rate::new(1, 1.0), Instant::now());
        assert!((0..KEYS).all(|key| rate.allows(key, now)));
        assert!(!rate.allows(KEYS, now), "every bucket is in use");
        assert!(rate.allows(KEYS, now + Duration::from_secs(2)));
    }
}

//! Memory that a load took is given back when the load ends. Pure.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, Hash},
};

/// A map with room for so many is not worth the work.
const SMALL: usize = 1_024;

/// A map keeps room for so many times what it holds: a load that comes and goes does not move its entries again and again.
const ROOMS: usize = 4;

/// Gives back the room that a map had for many more entries than it has. It moves those that it has, so that it costs a part of what their
/// coming did.
pub(super) fn shrink<K: Eq + Hash, V, S: BuildHasher>(map: &mut HashMap<K, V, S>) {
    if map.capacity() > SMALL && map.capacity() > 2 * ROOMS * map.len() {
        map.shrink_to(2 * map.len());
    }
}

/// The same of a set.
pub(super) fn shrink_set<K: Eq + Hash, S: BuildHasher>(set: &mut HashSet<K, S>) {
    if set.capacity() > SMALL && set.capacity() > 2 * ROOMS * set.len() {
        set.shrink_to(2 * set.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn map_gives_room_back_once_most_entries_have_left() {
        let mut map: HashMap<u32, u32> = (0..100_000).map(|key| (key, 0)).collect();
        let full = map.capacity();
        map.retain(|key, _| *key < 50_000);
        shrink(&mut map);
        assert!(map.capacity() > full / 2, "it may come again");
        map.retain(|key, _| *key < 1_000);
        shrink(&mut map);
        assert!(map.capacity() < 8_000 && map.len() == 1_000);
        map.clear();
        shrink(&mut map);
        assert!(map.capacity() <= SMALL, "{}", map.capacity());
    }
}

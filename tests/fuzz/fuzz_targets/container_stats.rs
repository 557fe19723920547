//! The files of a container's cgroup: any bytes are read, or malformed and not used.

#![no_main]

use flowcar::container_stats::parse::{FILES, Reading};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((place, content)) = input.split_first() else {
        return;
    };
    let place = usize::from(*place) % FILES.len();
    let (reading, malformed) = Reading::of([(place, content)]);
    assert!(malformed.is_empty() || reading == Reading::default());
});

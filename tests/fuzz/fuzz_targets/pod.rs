//! Any JSON in a pod's place.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| flowcar_k8s::fuzz::mutation(bytes));

//! Any JSON instead of a pod.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| flowcar_k8s::fuzz::mutation(bytes));

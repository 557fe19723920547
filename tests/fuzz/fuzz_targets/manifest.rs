//! What `kubectl flowcar inject` and `uninject` make of any text.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| flowcar_k8s::fuzz::file(bytes));

//! The body of a request to the webhook.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| flowcar_k8s::fuzz::review(bytes));

//! A receiver's answer, as a success and as a refusal: decoded or reported, and never a negative count of rejected items.

#![no_main]

use std::time::SystemTime;

use flowcar::otlp::answer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, &str, &[u8])| {
    let (status, retry_after, body) = input;
    if let Ok(accepted) = answer::accepted(body) {
        assert!(accepted.rejected <= i64::MAX as u64);
    }
    let response = http::Response::builder()
        .status(status.clamp(100, 999))
        .header("retry-after", retry_after)
        .body(body.to_vec().into());
    if let Ok(response) = response {
        let (cause, _) = answer::http_failure(&response, SystemTime::UNIX_EPOCH);
        assert!(!cause.to_string().contains(|c: char| c.is_control()));
    }
});

//! What a container writes to `kubectl flowcar top`: answers with printable names, or errors.

#![no_main]

use flowcar_screen::{line::Reader, top::Once};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|lines: Vec<&[u8]>| {
    let (mut reader, mut once) = (Reader::default(), Once::default());
    for line in lines {
        match reader.read(line) {
            Ok(answer) => once.take("pod", answer),
            Err(error) => assert!(!error.to_string().contains(|c: char| c.is_control())),
        }
    }
    for line in once.lines(true) {
        assert!(!line.contains(|c: char| c.is_control()));
    }
});

use proptest::{collection::vec, prelude::*};

use super::*;

const MOST: Most = Most { flows: 20 };

fn flow() -> impl Strategy<Value = CheckpointFlow> {
    let numbers = vec(prop_oneof![2 => Just(0), 1 => any::<u64>()], NUMBERS);
    (numbers, 0..3_u64).prop_map(|(mut numbers, role)| {
        numbers[1] &= u64::from(u32::MAX);
        numbers[2] = role;
        for count in &mut numbers[3..9] {
            *count &= MOST_COUNTED - 1;
        }
        for count in &mut numbers[9..] {
            *count &= u64::from(u32::MAX);
        }
        CheckpointFlow::of_numbers(&numbers).expect("numbers within their bounds")
    })
}

fn instance() -> impl Strategy<Value = KernelInstance> {
    ("[0-9a-f-]{0,40}", any::<u64>()).prop_map(|(boot, netns)| KernelInstance { boot, netns })
}

proptest! {
    #[test]
    fn checkpoint_is_read_back(instance in instance(), taken_unix_ns: u64, lost_closes in 0..=MOST_COUNTED, flows in vec(flow(), 0..20)) {
        let reported = CheckpointFlows { lost_closes, flows };
        let bytes = encode(&instance, taken_unix_ns, &reported);
        let read = decode(&bytes, MOST).expect("flowcar's");
        prop_assert_eq!(&read, &Checkpoint { instance, taken_unix_ns, reported });
        // Truncated anywhere it is refused.
        for length in 0..bytes.len() {
            prop_assert!(decode(&bytes[..length], MOST).is_err(), "{length} of {}", bytes.len());
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused(bytes in vec(any::<u8>(), 0..200)) {
        prop_assert!(decode(&bytes, MOST).is_err());
    }

    /// Arbitrary numbers in the checkpoint's form.
    #[test]
    fn arbitrary_numbers_are_read_or_refused(flow in vec(any::<u64>(), 0..20), version in 0..4_u32) {
        let text = format!(
            r#"{{"flowcar_checkpoint":{version},"instance":{{"boot":"x","netns":1}},"taken_unix_ns":1,"reported":{{"lost_closes":1,"flows":[{flow:?}]}}}}"#
        );
        match decode(text.as_bytes(), MOST) {
            Ok(checkpoint) => {
                prop_assert_eq!(version, VERSION);
                let Checkpoint { instance, taken_unix_ns, reported } = &checkpoint;
                let again = decode(&encode(instance, *taken_unix_ns, reported), MOST).expect("flowcar's");
                prop_assert_eq!(&again, &checkpoint);
            }
            Err(Unreadable::Version(of)) => prop_assert!(of == version && of != VERSION),
            Err(Unreadable::Torn(_) | Unreadable::TooMuch) => prop_assert_eq!(version, VERSION),
        }
    }
}

#[test]
fn quiet_connection_is_written_in_few_bytes() {
    let numbers = [123_456, u32::MAX.into(), 1, 12_345, 678_901, 321, 654, 0];
    let flow = CheckpointFlow::of_numbers(&numbers).expect("within bounds");
    let text = serde_json::to_string(&flow).expect("JSON");
    assert_eq!(text, "[123456,4294967295,1,12345,678901,321,654]");
}

/// Another program may have written it: it neither takes more memory than flowcar's, nor overflows a sum.
#[test]
fn forged_checkpoint_is_refused_before_it_takes_memory() {
    let of = |lost_closes: u64, flows: &str| {
        format!(
            r#"{{"flowcar_checkpoint":{VERSION},"instance":{{"boot":"x","netns":1}},"taken_unix_ns":1,"reported":{{"lost_closes":{lost_closes},"flows":[{flows}]}}}}"#
        )
    };
    let short = "[1],".repeat(21);
    let long = format!("[{}1]", "1,".repeat(10_000));
    for (what, text) in [
        ("many flows", of(0, short.trim_end_matches(','))),
        ("many numbers", of(0, &long)),
        ("many bytes", of(0, "[1,1,1,18446744073709551615]")),
        ("many lost", of(u64::MAX, "[1,1,1]")),
    ] {
        let refused = decode(text.as_bytes(), MOST);
        assert!(
            matches!(refused, Err(Unreadable::TooMuch)),
            "{what}: {refused:?}"
        );
    }
    assert!(decode(of(3, "[1,1,1]").as_bytes(), MOST).is_ok());
}

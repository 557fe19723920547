use proptest::{collection::vec, prelude::*};

use super::*;

const MOST: Most = Most { flows: 20 };

fn left() -> impl Strategy<Value = Left> {
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
        Left::of_numbers(&numbers).expect("numbers within their bounds")
    })
}

fn place() -> impl Strategy<Value = Place> {
    ("[0-9a-f-]{0,40}", any::<u64>()).prop_map(|(boot, netns)| Place { boot, netns })
}

proptest! {
    #[test]
    fn what_is_written_is_read(place in place(), taken_unix_ns: u64, unheard in 0..=MOST_COUNTED, flows in vec(left(), 0..20)) {
        let leaving = Leaving { unheard, flows };
        let bytes = encode(&place, taken_unix_ns, &leaving);
        let read = decode(&bytes, MOST).expect("our own");
        prop_assert_eq!(&read, &Handover { place, taken_unix_ns, leaving });
        // Torn anywhere it is none.
        for length in 0..bytes.len() {
            prop_assert!(decode(&bytes[..length], MOST).is_err(), "{length} of {}", bytes.len());
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..200)) {
        prop_assert!(decode(&bytes, MOST).is_err());
    }

    /// Anything that looks like one.
    #[test]
    fn any_numbers_are_read_or_refused(flow in vec(any::<u64>(), 0..20), version in 0..4_u32) {
        let text = format!(
            r#"{{"flowcar_handover":{version},"place":{{"boot":"x","netns":1}},"taken_unix_ns":1,"leaving":{{"unheard":1,"flows":[{flow:?}]}}}}"#
        );
        match decode(text.as_bytes(), MOST) {
            Ok(handover) => {
                prop_assert_eq!(version, VERSION);
                let Handover { place, taken_unix_ns, leaving } = &handover;
                let again = decode(&encode(place, *taken_unix_ns, leaving), MOST).expect("our own");
                prop_assert_eq!(&again, &handover);
            }
            Err(Unreadable::Version(of)) => prop_assert!(of == version && of != VERSION),
            Err(Unreadable::Torn(_) | Unreadable::TooMuch) => prop_assert_eq!(version, VERSION),
        }
    }
}

#[test]
fn a_quiet_connection_takes_little_room() {
    let numbers = [123_456, u32::MAX.into(), 1, 12_345, 678_901, 321, 654, 0];
    let flow = Left::of_numbers(&numbers).expect("within bounds");
    let text = serde_json::to_string(&flow).expect("JSON");
    assert_eq!(text, "[123456,4294967295,1,12345,678901,321,654]");
}

/// Somebody else may have written it: it neither takes more memory than a flowcar's own, nor overflows a sum.
#[test]
fn a_forged_list_is_refused_before_it_takes_memory() {
    let of = |unheard: u64, flows: &str| {
        format!(
            r#"{{"flowcar_handover":{VERSION},"place":{{"boot":"x","netns":1}},"taken_unix_ns":1,"leaving":{{"unheard":{unheard},"flows":[{flows}]}}}}"#
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

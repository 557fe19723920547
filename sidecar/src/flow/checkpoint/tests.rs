use proptest::{collection::vec, prelude::*};

use super::*;

const MOST: Most = Most { flows: 20 };

prop_compose! {
    fn flow()(
        counts in vec(prop_oneof![2 => Just(0), 1 => 0..MOST_COUNTED], 6),
        narrow in vec(prop_oneof![2 => Just(0), 1 => any::<u32>()], 7),
        cookie: u64,
        role in prop_oneof![Just(Role::Unknown), Just(Role::Client), Just(Role::Server)],
        name in prop_oneof![Just(None), "[a-z0-9._*\"\\\\{-]{1,30}".prop_map(Some)],
        asked in prop_oneof![Just(None), any::<(IpAddr, u16)>().prop_map(|end| Some(end.into()))],
    ) -> CheckpointFlow {
        let narrow = |at: usize| u64::from(narrow[at]);
        CheckpointFlow {
            cookie,
            fingerprint: u32::try_from(narrow(0)).expect("one"),
            role,
            volume: Volume {
                bytes_sent: counts[0],
                bytes_received: counts[1],
                segments_sent: counts[2],
                segments_received: counts[3],
                retransmits: Retransmits {
                    unknown: narrow(1),
                    tail_loss_probe: narrow(2),
                    fast: narrow(3),
                    timeout: narrow(4),
                    syn: narrow(5),
                    synack: narrow(6),
                },
            },
            receive_window_limited_us: counts[4],
            send_buffer_limited_us: counts[5],
            name: name.map(Name::from),
            asked: asked.map(Box::new),
        }
    }
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
    fn arbitrary_numbers_are_read_or_refused(flow in vec(any::<u64>(), 0..20), version in 0..5_u32) {
        let text = format!(
            r#"{{"flowcar_checkpoint":{version},"instance":{{"boot":"x","netns":1}},"taken_unix_ns":1,"reported":{{"lost_closes":1,"names":["a.example"],"asked":["10.0.0.1:80"],"flows":[{flow:?}]}}}}"#
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

fn quiet(name: Option<&str>, asked: Option<&str>) -> CheckpointFlow {
    CheckpointFlow {
        cookie: 123_456,
        fingerprint: u32::MAX,
        role: Role::Client,
        volume: Volume {
            bytes_sent: 12_345,
            bytes_received: 678_901,
            segments_sent: 321,
            segments_received: 654,
            retransmits: Retransmits::default(),
        },
        receive_window_limited_us: 0,
        send_buffer_limited_us: 0,
        name: name.map(Name::from),
        asked: asked.map(|asked| Box::new(asked.parse().expect("an address"))),
    }
}

#[test]
fn quiet_connection_is_written_in_few_bytes() {
    let reported = CheckpointFlows {
        lost_closes: 0,
        flows: vec![
            quiet(None, None),
            quiet(Some("a.example"), None),
            quiet(Some("b.example"), Some("[::1]:80")),
            quiet(Some("a.example"), Some("[::1]:80")),
        ],
    };
    let text = serde_json::to_string(&reported).expect("JSON");
    const QUIET: &str = "123456,4294967295,1,12345,678901,321,654";
    assert_eq!(
        text,
        format!(
            r#"{{"lost_closes":0,"names":["a.example","b.example"],"asked":["[::1]:80"],"flows":[[{QUIET}],[{QUIET},1],[{QUIET},2,1],[{QUIET},1,1]]}}"#
        )
    );
}

/// Of very many names the first are kept, and no flow gets another's.
#[test]
fn names_beyond_the_bound_are_left_out() {
    let most = Most { flows: 10_000 };
    let name = |at| format!("{at}.example");
    let flows: Vec<_> = (0..5_000).map(|at| quiet(Some(&name(at)), None)).collect();
    let reported = CheckpointFlows {
        lost_closes: 0,
        flows,
    };
    let instance = KernelInstance {
        boot: String::new(),
        netns: 1,
    };
    let read = decode(&encode(&instance, 1, &reported), most).expect("flowcar's");
    for (at, flow) in read.reported.flows.iter().enumerate() {
        let kept = (at < ENDS).then(|| Name::from(name(at)));
        assert_eq!(flow.name, kept, "{at}");
    }
    // So are names that are none, and those that would make the file look larger than it is.
    let (long, longest) = ("x".repeat(LONGEST + 1), "x".repeat(LONGEST));
    let most = Most { flows: 5 };
    for (name, is_kept) in [
        (long.as_str(), false),
        (&longest, true),
        ("a\\[,.example", false),
        ("\\\"\\092.example", true),
    ] {
        let reported = CheckpointFlows {
            lost_closes: 0,
            flows: vec![quiet(Some(name), None); 5],
        };
        let bytes = encode(&instance, 1, &reported);
        assert!(bytes.len() as u64 <= most.bytes());
        let read = decode(&bytes, most).expect("flowcar's");
        let kept = is_kept.then(|| Name::from(name));
        assert_eq!(read.reported.flows[0].name, kept, "{name}");
    }
}

/// Another program may have written it: it neither takes more memory than flowcar's, nor overflows a sum.
#[test]
fn forged_checkpoint_is_refused_before_it_takes_memory() {
    let of = |lost_closes: u64, flows: &str| {
        format!(
            r#"{{"flowcar_checkpoint":{VERSION},"instance":{{"boot":"x","netns":1}},"taken_unix_ns":1,"reported":{{"lost_closes":{lost_closes},"names":["a.example"],"asked":[],"flows":[{flows}]}}}}"#
        )
    };
    let short = "[1],".repeat(21);
    let long = format!("[{}1]", "1,".repeat(10_000));
    let many = |of: &str| format!("{of},").repeat(ENDS) + of;
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
    for (flow, is_read) in [
        ("[1,1,1]", true),
        ("[1,1,1,0,0,0,0,1]", true),
        // There is no second name, and no address.
        ("[1,1,1,0,0,0,0,2]", false),
        ("[1,1,1,0,0,0,0,0,1]", false),
    ] {
        assert_eq!(
            decode(of(3, flow).as_bytes(), MOST).is_ok(),
            is_read,
            "{flow}"
        );
    }
    // More of each than flowcar writes, in a file that may be large.
    let large = Most { flows: 10_000 };
    for text in [
        of(0, "[1]").replace(r#""a.example""#, &many(r#""a.example""#)),
        of(0, "[1]").replace(
            r#""asked":[]"#,
            &format!(r#""asked":[{}]"#, many(r#""[::1]:1""#)),
        ),
    ] {
        let refused = decode(text.as_bytes(), large);
        assert!(
            matches!(&refused, Err(Unreadable::Torn(error)) if error.to_string().contains("more names")),
            "{refused:?}"
        );
    }
    for name in ["", "A.example", "a b", "a\u{7}", "b\u{fc}cher"] {
        let named = of(0, "").replace("a.example", name);
        assert!(
            matches!(decode(named.as_bytes(), MOST), Err(Unreadable::Torn(_))),
            "{named}"
        );
    }
}

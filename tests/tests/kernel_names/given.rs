//! Names by every way to ask and everything that a resolver may answer: right or absent.

use std::{net::IpAddr, thread, time::Duration};

use flowcar_tests::place::require_program;

use super::{
    Pod, assert_names, can_run,
    resolver::{NAT_TO_53, NAT_TO_OTHER, NAT6_TO_OTHER, RESOLVER4, RESOLVER6, address, translate},
    wire::{A, AAAA, query},
};

/// Ways to ask, and the resolver that is asked.
const WAYS: [(&str, &str, bool); 9] = [
    ("connected", RESOLVER4, false),
    ("connected", RESOLVER6, false),
    ("connected", RESOLVER4, true),
    ("unconnected", RESOLVER4, false),
    ("unconnected", RESOLVER6, false),
    ("unconnected", RESOLVER4, true),
    ("tcp", RESOLVER4, false),
    ("tcp", RESOLVER6, false),
    ("tcp", RESOLVER4, true),
];

#[test]
fn name_is_given_however_the_resolver_is_asked() {
    if !can_run() {
        return;
    }
    let mut pod = Pod::new("ways");
    let mut watches = ["off", "on"].map(|exchange| pod.watch(&[("FLOWCAR_EXCHANGE", exchange)]));
    let mut expected = Vec::new();
    for ((how, resolver, mapped), number) in WAYS.into_iter().zip(10..) {
        let (name, what) = (
            format!("w{number}.example"),
            format!("{how} {resolver} {mapped}"),
        );
        let mut arguments = vec!["--how", how];
        arguments.extend(mapped.then_some("--mapped"));
        assert_eq!(
            pod.ask_with(resolver, &name, A, &arguments).len(),
            1,
            "{what}"
        );
        // By a socket of IPv4, and by one of IPv6.
        for arguments in [&[][..], &["--mapped"]] {
            let ends = pod.connect(address(number), arguments);
            expected.push((ends, name.clone(), what.clone()));
        }
    }
    pod.ask_with(RESOLVER4, "v6.example", AAAA, &[]);
    let v6: IpAddr = "fd99:18::1".parse().unwrap();
    let name = "v6.example".to_owned();
    expected.push((pod.connect(v6, &[]), name, "IPv6".to_owned()));
    for watch in &mut watches {
        assert_names(watch, &expected);
    }
    // The connections to the resolver by TCP are clients', too.
    let by_tcp = WAYS.iter().filter(|(how, ..)| *how == "tcp").count();
    for watch in watches {
        let seen = watch.stop();
        assert_eq!(seen.sum("flowcar.self.record.malformed", &[]), 0.0);
        assert_eq!(seen.sum("flowcar.self.dns.dropped", &[]), 0.0);
        assert_eq!(seen.sum("flowcar.self.flow.unnamed", &[]), by_tcp as f64);
    }
}

/// Ways to ask a resolver that the pod's own network namespace translates to another address, and whether the name is known. The packets of
/// a socket that is not connected do not show whom it asked.
const TRANSLATED: [(&str, &str, bool); 8] = [
    ("connected", NAT_TO_53, true),
    ("connected", NAT_TO_OTHER, true),
    ("connected", NAT6_TO_OTHER, true),
    ("tcp", NAT_TO_53, true),
    ("tcp", NAT_TO_OTHER, true),
    ("tcp", NAT6_TO_OTHER, true),
    ("unconnected", NAT_TO_53, false),
    ("unconnected", NAT_TO_OTHER, false),
];

#[test]
fn name_is_given_where_the_resolver_is_behind_a_translation() {
    if !can_run() || !require_program("nft") {
        return;
    }
    let mut pod = Pod::new("translated");
    translate(&pod.pod);
    let mut watch = pod.watch(&[]);
    let mut expected = Vec::new();
    for ((how, resolver, is_known), number) in TRANSLATED.into_iter().zip(10..) {
        let (name, what) = (format!("w{number}.example"), format!("{how} {resolver}"));
        for arguments in [&["--how", how][..], &["--how", how, "--mapped"]] {
            let is_v6 = resolver.starts_with('[');
            if arguments.len() == 3 && is_v6 {
                continue;
            }
            let answers = pod.ask_with(resolver, &name, A, arguments);
            assert_eq!(answers.len(), 1, "{what}");
            let shown = match is_known {
                true => name.clone(),
                false => address(number).to_string(),
            };
            let what = format!("{what} {arguments:?}");
            expected.push((pod.connect(address(number), &[]), shown, what));
        }
    }
    assert_names(&mut watch, &expected);
}

/// What is asked for and answered, the address that is connected to, and the name or the reason why there is none.
const ANSWERS: [(&[&str], u8, Result<&str, &str>); 14] = [
    (&["one.example"], 1, Ok("one.example")),
    (&["many.example"], 2, Ok("many.example")),
    (&["many.example"], 4, Ok("many.example")),
    (&["WWW.Example"], 5, Ok("www.example")),
    (&[], 43, Err("never_asked")),
    (&["left.example", "right.example"], 6, Err("several_names")),
    (&[], 99, Err("never_asked")),
    (&["wrong-id.example"], 44, Err("never_asked")),
    (&["wrong-name.example"], 44, Err("never_asked")),
    (&["wrong-type.example"], 44, Err("never_asked")),
    (&["cut.example"], 47, Err("never_asked")),
    (&["circle.example"], 42, Err("never_asked")),
    (&["none.example"], 48, Err("never_asked")),
    (&["long.example"], 9, Err("never_asked")),
];

#[test]
fn name_is_right_or_absent_whatever_is_answered() {
    if !can_run() {
        return;
    }
    let mut pod = Pod::new("answers");
    let mut watch = pod.watch(&[]);
    let mut expected = Vec::new();
    let mut unnamed = std::collections::BTreeMap::<_, f64>::new();
    let mut connect = |pod: &Pod, to: u8, name: Result<&str, &'static str>, what: &str| {
        let shown = name.map_or_else(|_| address(to).to_string(), str::to_owned);
        expected.push((pod.connect(address(to), &[]), shown, what.to_owned()));
        if let Err(reason) = name {
            *unnamed.entry(reason).or_default() += 1.0;
        }
    };
    for (names, to, name) in ANSWERS {
        names.iter().for_each(|name| pod.ask(name));
        connect(&pod, to, name, &format!("{names:?}"));
    }
    // The truncated answer was followed by one by TCP.
    pod.ask_with(RESOLVER4, "long.example", A, &["--how", "tcp"]);
    connect(&pod, 9, Ok("long.example"), "by TCP after UDP");
    // From an address that was not asked, before the answer; and once more, after the answer.
    let unconnected = ["--how", "unconnected", "--answers", "2"];
    for (name, right, forged) in [("stranger.example", 45, 40), ("twice.example", 46, 41)] {
        pod.ask_with(RESOLVER4, name, A, &unconnected);
        connect(&pod, right, Ok(name), name);
        connect(&pod, forged, Err("never_asked"), name);
    }
    let mut edns = query(7, "edns.example", A);
    edns.has_edns = true;
    pod.send(RESOLVER4, &edns.bytes(), &[]);
    connect(&pod, 8, Ok("edns.example"), "EDNS");
    pod.ask("short.example");
    connect(&pod, 7, Ok("short.example"), "still valid");
    thread::sleep(Duration::from_secs(6));
    connect(&pod, 7, Err("expired"), "no longer valid");
    assert_names(&mut watch, &expected);

    let seen = watch.stop();
    for (reason, count) in unnamed {
        let with = [("flowcar.self.unnamed.reason", reason)];
        // The connection to the resolver is a client's, too.
        let by_tcp = if reason == "never_asked" { 1.0 } else { 0.0 };
        assert_eq!(
            seen.sum("flowcar.self.flow.unnamed", &with),
            count + by_tcp,
            "{reason}"
        );
    }
    let dropped = |reason| {
        seen.sum(
            "flowcar.self.dns.dropped",
            &[("flowcar.self.dns.reason", reason)],
        )
    };
    assert_eq!(dropped("malformed"), 2.0, "cut and circle");
    assert_eq!(
        dropped("unasked"),
        5.0,
        "three wrong ones, a stranger's and a second one"
    );
    assert_eq!(dropped("truncated"), 1.0);
    assert_eq!(seen.sum("flowcar.self.record.malformed", &[]), 0.0);
}

#[test]
fn series_are_by_name() {
    if !can_run() {
        return;
    }
    for (peer, label, values) in [
        (
            "auto",
            "server.address",
            &["many.example", "127.18.0.99"][..],
        ),
        ("name", "server.address", &["many.example"]),
        (
            "address",
            "network.peer.address",
            &["127.18.0.2", "127.18.0.3", "127.18.0.4", "127.18.0.99"],
        ),
        ("none", "", &[]),
    ] {
        let mut pod = Pod::new("series");
        let mut watch = pod.watch(&[("FLOWCAR_PEER", peer)]);
        pod.ask("many.example");
        for number in [2, 3, 4, 99] {
            pod.connect(address(number), &[]);
        }
        watch.until("all", |seen| {
            seen.sum("flowcar.tcp.connection.closed", &[]) >= 8.0
        });
        let seen = watch.stop();
        let client = ("network.tcp.handshake.role", "client");
        let opened = "flowcar.tcp.connection.opened";
        assert_eq!(seen.sum(opened, &[client]), 4.0, "{peer}");
        let mut found = Vec::new();
        for (attributes, _) in seen.metrics[opened]
            .iter()
            .filter(|(of, _)| of.get(client.0).is_some_and(|role| role == client.1))
        {
            let labels = ["server.address", "network.peer.address"];
            found.extend(
                labels
                    .iter()
                    .filter_map(|label| Some((*label, attributes.get(*label)?.as_str()))),
            );
        }
        found.sort_unstable();
        let mut expected: Vec<_> = values.iter().map(|value| (label, *value)).collect();
        expected.sort_unstable();
        assert_eq!(found, expected, "{peer}");
        if peer == "auto" {
            let named = [client, (label, "many.example")];
            assert_eq!(seen.sum(opened, &named), 3.0);
        }
    }
}

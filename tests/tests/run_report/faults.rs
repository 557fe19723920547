//! The page points at a fault that was made.

use std::{net::UdpSocket, thread, time::Duration};

use flowcar_tests::{
    link::{Only, Plan, When},
    place::{TestPod, require_tun},
    traffic::Pods,
};

use super::{can_run, run, serve, texts};

/// The query for the addresses of api.example (RFC 1035), in hexadecimal digits.
const QUERY: &str = "0001 0100 0001 0000 0000 0000 03617069 076578616d706c65 00 0001 0001";

/// Answers every query in the pod's network with these two addresses.
fn resolve(pod: &TestPod, addresses: [[u8; 4]; 2]) {
    let bound = pod.netns().run(|| UdpSocket::bind("127.18.53.1:53"));
    let socket = bound.unwrap().unwrap();
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query) {
            let mut answer = query[..length].to_vec();
            answer[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 2]);
            for address in addresses {
                // The name of the question, A, IN, five minutes, four bytes.
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4]);
                answer.extend(address);
            }
            socket.send_to(&answer, from).unwrap();
        }
    });
}

/// The page of each fault that one command can meet points at it.
#[test]
fn each_made_fault_is_a_problem_on_the_page() {
    if !can_run() || !require_tun() {
        return;
    }
    let here = TestPod::new("page").unwrap();
    let (server, other) = (serve(&here), serve(&here));
    let [near, resets] = [server.port(), other.port()].map(|port| format!("127.0.0.1:{port}"));
    let pods = Pods::new(Plan::rtt(Duration::from_millis(130))).unwrap();
    let far = pods.v4();
    let lossy = Pods::new(
        Plan::rtt(Duration::from_millis(5))
            .drop(Only::Data, When::Chance(0.08))
            .seed(3),
    )
    .unwrap();
    let lost = lossy.v4();
    // The server's first line is written once it listens.
    let full = "lines=$(mktemp); $traffic serve --listen 127.0.0.1:7000 --backlog 1 >$lines & server=$!; \
                until [ -s $lines ]; do sleep 0.05; done; rm $lines; kill -STOP $server; \
                call 127.0.0.1:7000 --connections 6 --concurrency 6 --timeout 1600; kill -KILL $server; true";
    resolve(&here, [[127, 18, 0, 1], [127, 18, 0, 2]]);
    let (query, port) = (QUERY.replace(' ', ""), server.port());
    let cases: [(_, _, &[(&str, &str)]); 11] = [
        (
            pods.client(),
            format!("call {far} --exchanges 20"),
            &[
                (
                    "Which peer is slow?",
                    &format!("{far}: half of its answers take"),
                ),
                ("Which peer is slow?", "It is the network"),
            ],
        ),
        (
            lossy.client(),
            format!("call {lost} --request 400000 --response 400000 --exchanges 3"),
            &[("Does the path lose packets?", &format!("To {lost} "))],
        ),
        (
            &here,
            format!("call {near} --connections 40"),
            &[(
                "Is the pool reused?",
                &format!("{near}: 40 exchanges on 40 connections. The pool is not reused"),
            )],
        ),
        (
            &here,
            format!("call {resets} --connections 5 --close reset-by-server"),
            &[("Who resets us?", &format!("{resets}: 5 reset_received"))],
        ),
        (
            &here,
            format!("call 127.0.0.1:9 --connections 3; call {near}"),
            &[(
                "What fails to connect, and why?",
                "3 of 4 attempts failed. Most of them to 127.0.0.1:9: 3 refused",
            )],
        ),
        (
            &here,
            full.to_owned(),
            &[
                (
                    "Is the accept queue full?",
                    // Two, or one more where two handshakes end at the same time.
                    " of 1 connections waited at most",
                ),
                ("How long does connecting take?", "127.0.0.1:7000"),
            ],
        ),
        (
            &here,
            format!("call {near} --exchanges 60 --delay 10; call {near} --exchanges 60 --delay 90"),
            &[(
                "Is it slower than it was?",
                &format!("{near}: half of its answers took about"),
            )],
        ),
        (
            &here,
            format!("call {near} --exchanges 20 & call {near} --exchanges 10 --delay 90; wait"),
            &[(
                "Is it one process or all of them?",
                "alone is slow: half of its answers take",
            )],
        ),
        (
            &here,
            format!(
                "call {near} --connections 4; call {near} --connections 5 --close reset-by-server"
            ),
            &[(
                "Is it one process or all of them?",
                "alone fails: 5 of its attempts and connections",
            )],
        ),
        (
            &here,
            format!(
                "$traffic ask 127.18.53.1:53 {query} >/dev/null; for _ in 1 2 3 4 5; do call 127.18.0.1:{port} --connections 9; call 127.18.0.2:{port} --connections 1; done"
            ),
            &[(
                "Is the load even?",
                &format!(
                    "api.example:{port}: 50 connections over 2 addresses. The most, 45, are to 127.18.0.1, the fewest, 5, to 127.18.0.2."
                ),
            )],
        ),
        (
            &here,
            format!("call {near} --request 90000000 --stall 1500"),
            &[("What holds it back?", &format!("{near}: "))],
        ),
    ];
    for (pod, script, expected) in cases {
        let browser = run(pod, &[], &script).open();
        let alarms = texts(&browser, "#alarms li.alarm");
        for (question, text) in expected {
            let found = alarms.iter().find(|alarm| alarm.contains(question));
            let found = found.unwrap_or_else(|| panic!("{question}: {alarms:?}"));
            assert!(found.contains(text), "{text}: {found}");
        }
    }
}

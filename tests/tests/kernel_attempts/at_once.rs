//! Attempts of all kinds that end at the same time, while ICMP errors come for others.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use flowcar_tests::watch::{Mode, Watch};

use super::{OWN4, can_run, drop_and_prohibit, pod, ways::Attempting};

const DROPPED: u16 = 7100;
const PROHIBITED: u16 = 7101;
const REFUSED: u16 = 7102;

/// Each attempt has its own reason or `_OTHER`; none has the reason of another kind.
#[test]
fn simultaneous_attempts_keep_their_own_failure_reason() {
    if !can_run() {
        return;
    }
    let pod = pod("at-once");
    drop_and_prohibit(&pod, DROPPED, PROHIBITED);
    let mut watch = Watch::start(&pod, Mode::Both, &[]);
    let at: IpAddr = OWN4.parse().unwrap();
    // ICMP errors come after a second, when the kernel sends the SYN again: while the application is in connect() they are ignored.
    let abandoned: [&[&str]; 4] = [
        &["--give-up", "shutdown", "--patience", "1000"],
        &["--give-up", "disconnect", "--patience", "1010"],
        &["--give-up", "close", "--patience", "1020"],
        &["--give-up", "shutdown", "--patience", "1030"],
    ];
    let done = AtomicBool::new(false);
    let mut expected = Vec::new();
    thread::scope(|scope| {
        // Each datagram to an unused port causes an ICMP error.
        scope.spawn(|| {
            pod.netns()
                .run(|| {
                    let socket = UdpSocket::bind((at, 0)).unwrap();
                    while !done.load(Ordering::Relaxed) {
                        // The next attempt shows the error of the last one.
                        let _ = socket.send_to(&[1], (at, 7103));
                        thread::sleep(Duration::from_millis(5));
                    }
                })
                .unwrap();
        });
        let mut running = Vec::new();
        for _ in 0..3 {
            for arguments in abandoned {
                running.push((start(&pod, at, DROPPED, arguments), DROPPED, "abandoned"));
            }
            running.push((start(&pod, at, PROHIBITED, &[]), PROHIBITED, "unreachable"));
            running.push((start(&pod, at, REFUSED, &[]), REFUSED, "refused"));
        }
        for (attempting, port, reason) in running {
            expected.push((attempting.local.port(), port, reason));
            attempting.finish();
        }
        done.store(true, Ordering::Relaxed);
    });
    let seen = watch.until("every flow", |seen| seen.flows.len() >= expected.len());
    let mut reported = 0;
    // Attempts at different ports may have the same local one.
    for (local, port, reason) in &expected {
        let flows = seen.flows.iter();
        let mut flows =
            flows.filter(|flow| (flow.local.port(), flow.peer.port()) == (*local, *port));
        let flow = flows.next().unwrap();
        let is = flow.get("error.type");
        assert!(is == *reason || is == "_OTHER", "{reason}: {flow:?}");
        reported += usize::from(is == *reason);
        // Never open.
        assert!(is != "_OTHER" || *reason != "refused", "{flow:?}");
    }
    println!("{reported} of {} reported", expected.len());
    drop(watch.stop());
}

fn start(
    pod: &flowcar_tests::place::TestPod,
    at: IpAddr,
    port: u16,
    arguments: &[&str],
) -> Attempting {
    Attempting::start(pod, SocketAddr::new(at, port), arguments)
}

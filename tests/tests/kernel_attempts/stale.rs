//! An answer to a SYN that acknowledges what was not sent, as an old connection's does: the kernel answers it by a RST, and the attempt
//! goes on.

use std::net::SocketAddrV4;

use flowcar_tests::{
    forged::{ACK, SYN, send_forged},
    watch::{Mode, Watch},
};

use super::{OWN4, can_run, filter, pod, ways::Attempting};

const PORT: u16 = 7200;

#[test]
fn answer_to_another_syn_is_no_refusal() {
    if !can_run() {
        return;
    }
    let pod = pod("stale");
    let netns = pod.netns();
    filter(&pod, "input", PORT, "drop");
    let modes = [
        (Mode::Both, "off"),
        (Mode::Both, "on"),
        (Mode::Alone, "off"),
    ];
    let mut watches = modes.map(|(mode, exchange)| {
        let settings = [
            ("FLOWCAR_EXCHANGE", exchange),
            ("OTEL_METRIC_EXPORT_INTERVAL", "1000"),
        ];
        Watch::start(&pod, mode, &settings)
    });
    let target = SocketAddrV4::new(OWN4.parse().unwrap(), PORT);
    // What the application does, its error, and the reason. Over a poll of the one without eBPF, and between two.
    let rows: [(&[&str], Option<i32>, &str); 3] = [
        (
            &["--give-up", "close", "--patience", "3000"],
            None,
            "abandoned",
        ),
        (
            &["--give-up", "close", "--patience", "300"],
            None,
            "abandoned",
        ),
        (&["--syn-retries", "1"], Some(libc::ETIMEDOUT), "timeout"),
    ];
    for (done, (arguments, errno, reason)) in rows.into_iter().enumerate() {
        let before = netns.snmp().unwrap();
        let attempting = Attempting::start(&pod, target.into(), arguments);
        let local = SocketAddrV4::new(*target.ip(), attempting.local.port());
        let sent = netns.run(|| send_forged(target, local, SYN | ACK));
        sent.unwrap().unwrap();
        let attempted = attempting.finish().unwrap();
        assert_eq!(attempted.errno, errno, "it went on: {arguments:?}");
        let counts = netns.snmp().unwrap().since(&before);
        assert_eq!(counts["Tcp.OutRsts"], 1, "it was answered by a RST");
        for (watch, (mode, _)) in watches.iter_mut().zip(modes) {
            let seen = watch.until("its flow", |seen| seen.flows.len() > done);
            let is = seen.flows[done].end();
            // Without eBPF the namespace's counts show it, or nothing does.
            let reasons = [reason, "_OTHER"];
            let allowed = if mode == Mode::Alone { 2 } else { 1 };
            assert!(reasons[..allowed].contains(&is), "{mode:?} {is}: {reason}");
        }
    }
}

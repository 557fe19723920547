//! A receiver that moves to another address under the same name.

use std::{fs, net::SocketAddr, path::Path, thread, time::Duration};

use flowcar::sink::Sink;
use flowcar_tests::{place::require_root, receiver::Receiver};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use crate::sample::{LIMIT, export, report_at};

/// Lets this thread, and those that it starts, read `hosts` as /etc/hosts.
fn with_hosts(hosts: &Path) -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some(hosts), "/etc/hosts", none, MsFlags::MS_BIND, none)
}

#[test]
fn name_is_resolved_again_after_a_broken_connection() {
    if !require_root() {
        return;
    }
    let moved = thread::spawn(|| {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let is_at = |ip: &str| fs::write(file.path(), format!("{ip} receiver.test\n"));
        is_at("127.0.0.1").expect("a written file");
        with_hosts(file.path()).expect("a mount of our own");
        let first = Receiver::start().expect("a receiver");
        let port = first.endpoint().rsplit(':').next().map(str::to_owned);
        let port: u16 = port.and_then(|port| port.parse().ok()).expect("a port");
        let settings = [("OTEL_TRACES_EXPORTER", "none")];
        export("web", &settings, async |start| {
            let exporter = start(&format!("http://receiver.test:{port}"));
            exporter.metrics(report_at(1, 1));
            // It answers from a thread of its own: this one must not wait for it.
            while first.next(Duration::ZERO).expect("a receiver").is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }

            is_at("127.0.0.3").expect("a written file");
            let there = |port| SocketAddr::from(([127, 0, 0, 3], port));
            let (_second, mut at_second) =
                Sink::start(there(port), there(0)).await.expect("a port");
            drop(first);
            exporter.metrics(report_at(2, 2));
            let taken = tokio::time::timeout(LIMIT, at_second.recv()).await;
            taken.expect("in time").expect("a report");
        });
    });
    moved.join().expect("the receiver was found again");
}

//! Whether spans match what the applications did on each connection.

use std::{thread, time::Duration};

use flowcar_tests::traffic::ConnectionReport;

use crate::{
    apps::{self, Ended},
    seen::Span,
    testbed::{Pod, Stage},
};

/// How long a span may be on its way: two seconds, and the emulated node's share.
const SPAN_DELAY: Duration = Duration::from_secs(4);

/// Within which a client's address and port are one connection's. It closes first, so they are in TIME_WAIT for 60 s
/// (include/net/tcp.h, TCP_TIMEWAIT_LEN); after that they are reused, for the kernel begins to count ports elsewhere every
/// 10 s (net/core/secure_seq.c, EPHEMERAL_PORT_SHUFFLE_PERIOD).
const ONE_USE: Duration = Duration::from_secs(30);

/// A connection at the server, and the spans of its ends.
struct Ends<'a> {
    connection: &'a Ended,
    client: Option<&'a Span>,
    server: Option<&'a Span>,
}

/// Waits until so many connections of a client have closed at the server and both ends have reported each of them, with the
/// bytes of the applications and in one trace. Returns how many they were.
#[track_caller]
pub(crate) fn reported_by_both(stage: &Stage, web: &Pod, client: &Pod, at_least: usize) -> usize {
    let connections = ended(stage, web, client, at_least);
    let spans = stage.node.wait(
        &format!("spans of {} and {}", client.name, web.name),
        || {
            let spans = stage.spans();
            let mut all = connections
                .iter()
                .map(|connection| ends(connection, &spans));
            all.all(|ends| ends.client.is_some() && ends.server.is_some())
                .then_some(spans)
        },
    );
    for connection in &connections {
        let ends = ends(connection, &spans);
        let (at_client, at_server) = (ends.client.unwrap(), ends.server.unwrap());
        assert_eq!(
            (at_client.pod(), at_server.pod()),
            (&*client.name, &*web.name)
        );
        ends.have_the_bytes();
        // Without eBPF the sequence numbers that make a trace are not known.
        if at_client.scope["flowcar.source"] == "ebpf" {
            assert_eq!(at_client.trace, at_server.trace);
            assert_eq!(at_client.id, at_server.parent);
        }
    }
    connections.len()
}

/// The same of a server whose flowcar was killed and started again, and a client that is not followed: the span of a
/// connection may be missing, of one after the other. Waits until there are so many after them.
#[track_caller]
pub(crate) fn reported_but_for_a_gap(stage: &Stage, web: &Pod, client: &Pod, after: usize) {
    let (connections, spans) = stage.node.wait("spans after a gap", || {
        let connections = apps::ended(stage, web, &client.ip);
        // For connections that have just closed.
        thread::sleep(SPAN_DELAY);
        let spans = stage.spans();
        let is_reported = |connection: &&Ended| ends(connection, &spans).server.is_some();
        let since = connections.iter().rev().take_while(is_reported).count();
        let before = connections.iter().take_while(is_reported).count();
        (since >= after && before < connections.len()).then_some((connections, spans))
    });
    let mut gap = 0..0;
    for (number, connection) in connections.iter().enumerate() {
        let ends = ends(connection, &spans);
        ends.have_the_bytes();
        if ends.server.is_none() {
            if gap.is_empty() {
                gap.start = number;
            }
            gap.end = number + 1;
        }
    }
    let reported = connections[gap.clone()]
        .iter()
        .filter(|connection| ends(connection, &spans).server.is_some());
    assert_eq!(
        reported.count(),
        0,
        "one gap: {gap:?} of {}",
        connections.len()
    );
}

/// The same of a client that is not followed.
#[track_caller]
pub(crate) fn reported_by_server(stage: &Stage, web: &Pod, client: &Pod, at_least: usize) {
    let connections = ended(stage, web, client, at_least);
    stage.node.wait(&format!("spans of {}", web.name), || {
        let spans = stage.spans();
        let mut all = connections
            .iter()
            .map(|connection| ends(connection, &spans));
        all.all(|ends| ends.server.is_some()).then_some(())
    });
    let spans = stage.spans();
    for connection in &connections {
        let ends = ends(connection, &spans);
        assert!(ends.client.is_none(), "{:#?}", ends.client);
        ends.have_the_bytes();
    }
}

fn ended(stage: &Stage, web: &Pod, client: &Pod, at_least: usize) -> Vec<Ended> {
    stage.node.wait(
        &format!("{at_least} connections of {}", client.name),
        || {
            let connections = apps::ended(stage, web, &client.ip);
            (connections.len() >= at_least).then_some(connections)
        },
    )
}

fn ends<'a>(connection: &'a Ended, spans: &'a [Span]) -> Ends<'a> {
    let peer = connection.report.peer;
    let is = |span: &&Span| {
        let text = |key: &str| span.attributes.get(key).map(String::as_str);
        text("client.port") == Some(&*peer.port().to_string())
            && text("client.address") == Some(&*peer.ip().to_string())
            && span.end.duration_since(connection.at).unsigned_abs() < ONE_USE
    };
    let one = |client: bool| {
        let mut of_end = spans
            .iter()
            .filter(is)
            .filter(|span| span.is_client() == client);
        let first = of_end.next();
        let second = of_end.next();
        assert!(second.is_none(), "reported twice: {first:#?}, {second:#?}");
        first
    };
    Ends {
        connection,
        client: one(true),
        server: one(false),
    }
}

// === impl Ends ===

impl Ends<'_> {
    /// A connection that was cut off has bytes on their way, of which the applications know nothing.
    fn have_the_bytes(&self) {
        if self.connection.report.failure.is_some() {
            return;
        }
        let ConnectionReport { sent, received, .. } = self.connection.report;
        let bytes = |span: &Span| {
            ["sent", "received"].map(|way| span.number(&format!("flowcar.tcp.bytes.{way}")))
        };
        if let Some(span) = self.server {
            assert_eq!(bytes(span), [sent, received], "{span:#?}");
        }
        if let Some(span) = self.client {
            assert_eq!(bytes(span), [received, sent], "{span:#?}");
        }
    }
}

//! What `flowcar run --format json` writes, read strictly: a field too many or too few fails.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Deserializer, de::DeserializeOwned};

use crate::traffic::ConnectionReport;

/// One flow as `flowcar run --format json` writes it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the telemetry contract is their documentation")]
pub struct FlowLine {
    pub role: String,
    pub local: Address,
    pub peer: Address,
    /// Of clients.
    pub server: Option<Address>,
    /// Of clients whose server has a name.
    pub server_name: Option<String>,
    /// Of connections whose call of `connect()` or `listen()` was seen.
    pub process: Option<ProcessLine>,
    /// Of connections of a container.
    pub container: Option<String>,
    pub opened_at: String,
    pub duration_s: f64,
    pub connect_s: Option<f64>,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub segments_sent: u64,
    pub segments_received: u64,
    pub retransmits: u64,
    pub rtt: Rtt,
    pub exchanges: Exchanges,
    #[serde(deserialize_with = "end_or_open")]
    #[serde(rename = "close_reason")]
    pub end: String,
    pub trace_id: String,
    pub span_id: String,
}

/// A connection that is still open has no close reason: it is read as `open`.
fn end_or_open<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let end = Option::<String>::deserialize(from)?;
    Ok(end.unwrap_or_else(|| "open".to_owned()))
}

/// A flow's process.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessLine {
    /// In the initial PID namespace.
    pub pid: u32,
    /// Where /proc showed it.
    pub name: Option<String>,
}

/// An end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the telemetry contract is their documentation")]
pub struct Address {
    pub address: IpAddr,
    pub port: u16,
}

/// A flow's RTT samples.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the telemetry contract is their documentation")]
pub struct Rtt {
    pub kind: String,
    pub count: u64,
    pub min_s: Option<f64>,
    pub p50_s: Option<f64>,
    pub p99_s: Option<f64>,
}

/// A flow's exchanges.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the telemetry contract is their documentation")]
pub struct Exchanges {
    pub count: u64,
    pub p50_s: Option<f64>,
    pub p99_s: Option<f64>,
}

/// How long a report's connections took.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the telemetry contract is their documentation")]
pub struct Times {
    pub connections: u64,
    pub connect: Exchanges,
    pub rtt: Exchanges,
    pub exchanges: Exchanges,
}

/// The connections and attempts of a peer.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the telemetry contract is their documentation")]
pub struct PeerLine {
    pub name: String,
    pub connections: u64,
    pub failed: u64,
    pub cut_off: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub retransmits: u64,
    pub connect: Exchanges,
    pub rtt: Exchanges,
    pub exchanges: Exchanges,
}

/// The last line's figures.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the telemetry contract is their documentation")]
pub struct Summary {
    pub opened: u64,
    pub closed: u64,
    pub live: u64,
    pub failed: u64,
    pub lost: u64,
    pub lost_by: BTreeMap<String, u64>,
    pub unscoped: Option<u64>,
    pub times: Option<Times>,
    pub peers: Vec<PeerLine>,
    pub exit_status: i32,
    pub hint: Option<String>,
}

/// All that one `flowcar run --format json` wrote.
#[derive(Clone, Debug)]
pub struct Report {
    /// One for each closed flow, and for each connection that is still open at the end.
    pub flows: Vec<FlowLine>,
    /// The last line.
    pub summary: Summary,
}

// === impl FlowLine ===

impl FlowLine {
    /// The address at this end.
    pub fn local(&self) -> SocketAddr {
        (self.local.address, self.local.port).into()
    }

    /// The address at the other end.
    pub fn peer(&self) -> SocketAddr {
        (self.peer.address, self.peer.port).into()
    }
}

// === impl Report ===

impl Report {
    /// Reads the lines: flows, then one summary, and nothing else.
    ///
    /// # Errors
    /// They violate the telemetry contract.
    ///
    /// # Panics
    /// The books do not balance.
    pub fn parse(text: &str) -> io::Result<Self> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Last {
            summary: Summary,
        }
        let mut lines: Vec<&str> = text.lines().collect();
        let last = lines
            .pop()
            .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "an empty report"))?;
        let Last { summary } = parse(last)?;
        let accounted = summary.closed + summary.live + summary.lost;
        assert_eq!(summary.opened, accounted, "{summary:?}");
        let flows = lines.into_iter().map(parse).collect::<io::Result<_>>()?;
        Ok(Self { flows, summary })
    }

    /// The flow with this port at its local end.
    ///
    /// # Panics
    /// There is none, or more than one.
    #[track_caller]
    pub fn of_local_port(&self, port: u16) -> &FlowLine {
        self.only(port, |flow| flow.local.port == port)
    }

    /// The flow with this port at the other end.
    ///
    /// # Panics
    /// There is none, or more than one.
    #[track_caller]
    pub fn of_peer_port(&self, port: u16) -> &FlowLine {
        self.only(port, |flow| flow.peer.port == port)
    }

    #[track_caller]
    fn only(&self, port: u16, test: impl Fn(&FlowLine) -> bool) -> &FlowLine {
        let mut found = self.flows.iter().filter(|flow| test(flow));
        let flow = found
            .next()
            .unwrap_or_else(|| panic!("no flow with port {port}: {self:?}"));
        assert!(found.next().is_none(), "two flows with port {port}");
        flow
    }
}

/// The flows of both ends of a connection, which have its trace id and the payload bytes that the client's application sent
/// and received.
///
/// # Panics
/// They have not, or an end is missing.
#[track_caller]
pub fn both_ends<'a>(
    client: &ConnectionReport,
    at_client: &'a Report,
    at_server: &'a Report,
) -> [&'a FlowLine; 2] {
    assert_eq!(client.failure, None);
    let port = client.local.map_or(0, |local| local.port());
    let (flow, other) = (at_client.of_local_port(port), at_server.of_peer_port(port));
    assert_eq!(flow.trace_id, other.trace_id, "{flow:?} {other:?}");
    let bytes = |flow: &FlowLine| (flow.bytes_sent, flow.bytes_received);
    assert_eq!(bytes(flow), (client.sent, client.received), "{flow:?}");
    assert_eq!(bytes(other), (client.received, client.sent), "{other:?}");
    [flow, other]
}

pub(super) fn parse<T: DeserializeOwned>(line: &str) -> io::Result<T> {
    serde_json::from_str(line)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{error}: {line}")))
}

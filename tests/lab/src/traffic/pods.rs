use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{
    call_plan::CallPlan,
    programs::{Serving, call_in},
    report::ConnectionReport,
    serve::ServePlan,
};
use crate::{
    link::{Link, Plan, PodPair},
    place::TestPod,
};

/// How long the server's end of a connection may outlive the client's. It takes a round trip; more only
/// when the last packets are lost.
const SERVER_ENDS_WITHIN: Duration = Duration::from_secs(60);

/// A client's and a server's pod, a link between them (the client is its end a), and `traffic serve` in the
/// server's, on all addresses.
#[derive(Debug)]
pub struct Pods {
    serving: Serving,
    pods: PodPair,
}

// === impl Pods ===

impl Pods {
    /// Makes all of it; the link has this plan in both directions.
    ///
    /// # Errors
    /// As [`PodPair::new`] and [`Serving::start`].
    pub fn new(plan: Plan) -> io::Result<Self> {
        Self::with(
            plan,
            &ServePlan::at((std::net::Ipv6Addr::UNSPECIFIED, 0).into()),
        )
    }

    /// As [`Pods::new`], with a server of one's own.
    ///
    /// # Errors
    /// As [`PodPair::new`] and [`Serving::start`].
    pub fn with(plan: Plan, serve: &ServePlan) -> io::Result<Self> {
        let pods = PodPair::new(plan)?;
        let serving = Serving::start(pods.server(), serve)?;
        Ok(Self { serving, pods })
    }

    /// The client's pod.
    pub fn client(&self) -> &TestPod {
        self.pods.client()
    }

    /// The server's pod.
    pub fn server(&self) -> &TestPod {
        self.pods.server()
    }

    /// The link between them.
    pub fn link(&self) -> &Link {
        self.pods.link()
    }

    /// The program in the server's pod.
    pub fn serving(&self) -> &Serving {
        &self.serving
    }

    /// The port that the server listens on.
    pub fn port(&self) -> u16 {
        self.serving.address().port()
    }

    /// The server's address over IPv4.
    pub fn v4(&self) -> SocketAddr {
        self.at(self.link().b4())
    }

    /// The server's address over IPv6.
    pub fn v6(&self) -> SocketAddr {
        self.at(self.link().b6())
    }

    /// The server's address over IPv4 by a socket of IPv6 (`::ffff:a.b.c.d`).
    pub fn v4_mapped(&self) -> SocketAddr {
        match self.link().b4() {
            IpAddr::V4(address) => self.at(address.to_ipv6_mapped().into()),
            address => self.at(address),
        }
    }

    fn at(&self, address: IpAddr) -> SocketAddr {
        (address, self.port()).into()
    }

    /// Runs `traffic call` in the client's pod, and waits for the server's reports of the same connections.
    /// Both are in the order of the connections' addresses, so that those of one connection have the
    /// same index, unless a connection was not established.
    ///
    /// # Errors
    /// A program cannot be started or fails, or the server did not see every connection close.
    pub fn call(
        &self,
        plan: &CallPlan,
    ) -> io::Result<(Vec<ConnectionReport>, Vec<ConnectionReport>)> {
        let mut clients = call_in(self.client(), plan)?;
        let accepted = clients
            .iter()
            .filter(|report| report.local.is_some())
            .count();
        let mut servers = self.serving.reports(accepted, SERVER_ENDS_WITHIN)?;
        clients.sort_by_key(|report| report.local.map(canonical));
        servers.sort_by_key(|report| canonical(report.peer));
        Ok((clients, servers))
    }
}

/// An IPv4 address as such, however its socket spells it.
fn canonical(address: SocketAddr) -> SocketAddr {
    (address.ip().to_canonical(), address.port()).into()
}

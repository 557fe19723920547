//! A client and a server in two pods on a link, each under a `flowcar run` of its own.

use std::{io, net::IpAddr};

use super::{FlowLine, Server, Summary, call_with};
use crate::{
    link::{Link, Plan, PodPair},
    place::TestPod,
    traffic::ConnectionReport,
};

/// A client's and a server's pod and a link between them (the client is its end a), with settings of both flowcars.
#[derive(Debug)]
pub struct Pair {
    settings: Vec<(&'static str, &'static str)>,
    sockets: Vec<&'static str>,
    pods: PodPair,
}

/// One connection as reported by both applications and both flowcars.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The application at the client.
    pub client: ConnectionReport,
    /// The application at the server.
    pub server: ConnectionReport,
    /// The flowcar at the client.
    pub client_flow: FlowLine,
    /// The flowcar at the server.
    pub server_flow: FlowLine,
}

/// The result of [`Pair::call`].
#[derive(Clone, Debug)]
pub struct Called {
    /// Every connection.
    pub connections: Vec<Connection>,
    /// The books of the client's flowcar.
    pub client: Summary,
    /// The books of the server's flowcar.
    pub server: Summary,
}

// === impl Connection ===

impl Connection {
    /// Asserts that both flows have the payload bytes that the applications sent and received.
    ///
    /// # Panics
    /// They have not, or an application failed.
    #[track_caller]
    pub fn bytes_are_the_applications(&self) {
        for (application, flow) in [
            (&self.client, &self.client_flow),
            (&self.server, &self.server_flow),
        ] {
            assert_eq!(application.failure, None);
            assert_eq!(
                (flow.bytes_sent, flow.bytes_received),
                (application.sent, application.received),
                "{flow:?}"
            );
        }
    }
}

// === impl Pair ===

impl Pair {
    /// Makes them; the link has this plan in both directions.
    ///
    /// # Errors
    /// As [`PodPair::new`].
    pub fn new(plan: Plan) -> io::Result<Self> {
        Ok(Self {
            settings: Vec::new(),
            sockets: Vec::new(),
            pods: PodPair::new(plan)?,
        })
    }

    /// Sets a setting of both flowcars.
    #[must_use]
    pub fn set(mut self, name: &'static str, value: &'static str) -> Self {
        self.settings.push((name, value));
        self
    }

    /// Arguments for both `traffic call` and `traffic serve`: the options of their sockets.
    #[must_use]
    pub fn sockets(mut self, arguments: &[&'static str]) -> Self {
        self.sockets.extend_from_slice(arguments);
        self
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

    /// Makes so many connections by `traffic call ARGUMENTS` to the server at `server` (an address of the
    /// link's end b), and joins the four reports of each by the client's port.
    ///
    /// # Errors
    /// A program fails.
    ///
    /// # Panics
    /// A flowcar has not exactly one flow of every connection.
    pub fn call(
        &self,
        server: IpAddr,
        connections: usize,
        arguments: &[&str],
    ) -> io::Result<Called> {
        let (settings, sockets) = (&self.settings, &self.sockets);
        let serving = Server::start_with(self.server(), settings, connections, sockets)?;
        let count = connections.to_string();
        let mut words = vec!["--connections", &count];
        words.extend_from_slice(sockets);
        words.extend_from_slice(arguments);
        let (clients, at_client) = call_with(
            self.client(),
            settings,
            (server, serving.port()).into(),
            &words,
        )?;
        let (servers, at_server) = serving.finish()?;
        assert_eq!((clients.len(), servers.len()), (connections, connections));
        assert_eq!(
            (at_client.flows.len(), at_server.flows.len()),
            (connections, connections)
        );
        let connections = clients.into_iter().map(|client| {
            let port = client
                .local
                .unwrap_or_else(|| panic!("it was never established: {client:?}"))
                .port();
            let server = servers.iter().find(|server| server.peer.port() == port);
            Connection {
                server: server
                    .unwrap_or_else(|| panic!("no server for {client:?}"))
                    .clone(),
                client_flow: at_client.of_local_port(port).clone(),
                server_flow: at_server.of_peer_port(port).clone(),
                client,
            }
        });
        Ok(Called {
            connections: connections.collect(),
            client: at_client.summary,
            server: at_server.summary,
        })
    }
}

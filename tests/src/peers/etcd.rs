//! etcd, the API server's memory.

use super::{Client, Net, Peer, Port, Process, Program};

/// One etcd member.
pub struct Etcd {
    process: Process,
    client: Client,
    _ports: [Port; 2],
}

// === impl Etcd ===

impl Etcd {
    /// Starts it on loopback.
    pub fn start() -> Self {
        Self::start_in(Net::loopback())
    }

    /// Starts it there.
    ///
    /// # Panics
    /// When it is not built or does not become ready.
    pub fn start_in(net: Net) -> Self {
        let ports = [net.claim_port(), net.claim_port()];
        let [client, peer] = ports
            .each_ref()
            .map(|port| format!("http://{}", net.socket(port)));
        let program = Program::new("etcd", net.clone());
        let data = program.dir.path().join("data");
        let program = program.args([
            "--name=test".to_owned(),
            format!("--data-dir={}", data.display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=test={peer}"),
            // A test's data need not survive the machine.
            "--unsafe-no-fsync".to_owned(),
        ]);
        let client = Client::new(net, client, None);
        let probe = client.clone();
        let process = Process::start(program, move || match probe.get("/health") {
            Ok(reply) if reply.is_ok() && reply.json()["health"] == "true" => Ok(()),
            Ok(reply) => Err(reply.text()),
            Err(error) => Err(error.to_string()),
        });
        Self {
            process,
            client,
            _ports: ports,
        }
    }

    /// The URL for clients.
    pub fn client_url(&self) -> &str {
        self.client.base()
    }
}

impl Peer for Etcd {
    fn process(&self) -> &Process {
        &self.process
    }
}

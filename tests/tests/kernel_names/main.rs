//! The name that was asked for: what a resolver of the test answers, and the names that spans and metrics have.

mod attached;
mod clients;
mod given;
mod resolver;
mod restart;
mod wire;

use std::net::{IpAddr, SocketAddr};

use flowcar_tests::{
    place::{TestPod, require_cgroup2, require_program, require_root},
    traffic::{Connecting, ServePlan, Serving, ask_in},
    watch::{Flow, Mode, Seen, Watch},
};

use self::{
    resolver::RESOLVER4,
    wire::{A, query},
};

/// A pod with a resolver in its network, and a server on all its addresses.
struct Pod {
    serving: Serving,
    pod: TestPod,
    /// The ids of queries differ.
    id: u16,
}

fn can_run() -> bool {
    require_root() && require_cgroup2() && require_program("ip")
}

impl Pod {
    fn new(name: &str) -> Self {
        let pod = TestPod::new(name).unwrap();
        for address in ["fd99:18::1/128", "fd99:18::53/128", "fd99:18::5300/128"] {
            let mut ip = pod.netns().command("ip").unwrap();
            let added = ip.args(["-6", "address", "add", address, "dev", "lo"]);
            assert!(added.status().unwrap().success(), "{address}");
        }
        resolver::start(&pod);
        let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
        Self {
            serving,
            pod,
            id: 1,
        }
    }

    fn watch(&self, settings: &[(&str, &str)]) -> Watch {
        Watch::start(&self.pod, Mode::Both, settings)
    }

    fn port(&self) -> u16 {
        self.serving.address().port()
    }

    /// Asks for the addresses of a name, by UDP.
    fn ask(&mut self, name: &str) {
        self.ask_with(RESOLVER4, name, A, &[]);
    }

    fn ask_with(
        &mut self,
        resolver: &str,
        name: &str,
        kind: u16,
        arguments: &[&str],
    ) -> Vec<Vec<u8>> {
        self.id += 2;
        self.send(resolver, &query(self.id, name, kind).bytes(), arguments)
    }

    fn send(&self, resolver: &str, message: &[u8], arguments: &[&str]) -> Vec<Vec<u8>> {
        let resolver = resolver.parse().unwrap();
        ask_in(&self.pod, resolver, message, arguments)
            .unwrap()
            .answers
    }

    /// Connects to the server at one of its addresses. Gives both ends of the socket.
    fn connect(&self, to: IpAddr, arguments: &[&str]) -> (SocketAddr, SocketAddr) {
        let target = SocketAddr::new(to, self.port());
        let connecting = Connecting::start(&self.pod, target, arguments).unwrap();
        let made = connecting.finish().unwrap().pop().unwrap();
        (made.local.unwrap(), made.peer.unwrap())
    }
}

/// The client's span of a connection.
fn client<'a>(seen: &'a Seen, ends: &(SocketAddr, SocketAddr)) -> Option<&'a Flow> {
    let mut flows = seen.flows.iter();
    flows.find(|flow| flow.role() == "client" && (flow.local, flow.peer) == *ends)
}

/// Waits for the client's span of each connection, and compares its server's address: a name, or what else is expected.
fn assert_names(watch: &mut Watch, expected: &[((SocketAddr, SocketAddr), String, String)]) {
    let seen = watch.until("all clients", |seen| {
        expected
            .iter()
            .all(|(ends, ..)| client(seen, ends).is_some())
    });
    for (ends, name, what) in expected {
        let flow = client(seen, ends).unwrap();
        assert_eq!(flow.get("server.address"), name, "{what}");
        assert_eq!(
            flow.get("network.peer.address"),
            ends.1.ip().to_string(),
            "{what}"
        );
        assert_eq!(flow.get("server.port"), ends.1.port().to_string(), "{what}");
    }
}

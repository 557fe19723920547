//! The link does what its plan says and its log tells the truth: held against the kernel's counters, the
//! application's clock and its byte counts.

use std::{
    net::{IpAddr, SocketAddr},
    sync::mpsc,
    time::Duration,
};

use flowcar_tests::{
    link::{
        Direction::{AtoB, BtoA},
        Fate, Link, MTU, Only, PacketRecord, Plan, TcpSummary, Trace, When, percentile,
    },
    place::{Netns, require_root, require_tun},
    traffic::{CallPlan, Close, ConnectionReport, FailureKind, Phase, ServePlan, Server, call},
};

const MS: Duration = Duration::from_millis(1);

/// A client's namespace (a), a server's (b) and a link.
struct Pair {
    client: Netns,
    server: Netns,
    link: Link,
    service: Server,
    served: mpsc::Receiver<ConnectionReport>,
}

impl Pair {
    fn new(plan: Plan) -> Self {
        let client = Netns::new("client").unwrap();
        let server = Netns::new("server").unwrap();
        let link = Link::between(&client, &server, plan).unwrap();
        let (ended, served) = mpsc::channel();
        let plan = ServePlan::at("[::]:0".parse().unwrap());
        let service =
            server.run(|| Server::start(&plan, move |report| ended.send(report).unwrap()));
        Self {
            client,
            server,
            link,
            service: service.unwrap().unwrap(),
            served,
        }
    }

    fn at(&self, address: IpAddr) -> SocketAddr {
        SocketAddr::new(address, self.service.port())
    }

    fn v4(&self) -> SocketAddr {
        self.at(self.link.b4())
    }

    fn v6(&self) -> SocketAddr {
        self.at(self.link.b6())
    }

    /// Calls, and gives the client's reports and as many of the server's as there were connections.
    fn call(&self, plan: &CallPlan) -> (Vec<ConnectionReport>, Vec<ConnectionReport>) {
        let mut clients = Vec::new();
        self.client
            .run(|| call(plan, |report| clients.push(report)))
            .unwrap()
            .unwrap();
        let accepted = clients
            .iter()
            .filter(|report| report.local.is_some())
            .count();
        let servers =
            (0..accepted).map(|_| self.served.recv_timeout(Duration::from_secs(30)).unwrap());
        (clients, servers.collect())
    }

    /// Calls where nothing may fail.
    fn call_well(&self, plan: &CallPlan) -> (Vec<ConnectionReport>, Vec<ConnectionReport>) {
        let (clients, servers) = self.call(plan);
        for report in clients.iter().chain(&servers) {
            assert_eq!(report.failure, None);
        }
        (clients, servers)
    }

    fn trace(&self) -> Trace {
        self.link.check().unwrap();
        let trace = self.link.trace();
        assert_eq!(trace.unrecorded, 0);
        trace
    }

    /// Packets that a device dropped before the emulator saw them: no plan asked for these.
    fn drops_of_devices(&self) -> u64 {
        let device = self.link.device();
        self.client.device_drops(&device).unwrap() + self.server.device_drops(&device).unwrap()
    }
}

fn can_run() -> bool {
    require_root() && require_tun()
}

fn us(nanoseconds: u64) -> Duration {
    Duration::from_nanos(nanoseconds)
}

/// The clock of the application, the link's log, and the kernel's smallest RTT agree with the setting.
#[test]
fn round_trips_are_those_of_the_plan() {
    if !can_run() {
        return;
    }
    for (rtt, exchanges) in [(5, 200), (20, 100), (100, 20)] {
        let rtt = MS * rtt;
        let pair = Pair::new(Plan::rtt(rtt));
        for target in [pair.v4(), pair.v6()] {
            let (clients, _) = pair.call_well(&CallPlan::to(target).exchanges(exchanges));
            let report = &clients[0];
            let trace = pair.trace();
            // The plan is the least that a packet waits; what is above it is the machine's.
            let near = |what: &str, measured: Duration| {
                println!("{rtt:?} {target}: {what} {measured:?}");
                assert!(
                    measured >= rtt && measured < rtt + MS / 2,
                    "{rtt:?} {target}: {what} {measured:?}"
                );
            };
            near("log p50", percentile(&trace.round_trips(AtoB), 0.5));
            near("application p50", us(report.exchange.p50_ns));
            near(
                "kernel min",
                Duration::from_micros(report.tcp_info.unwrap().min_rtt.into()),
            );
            near(
                "handshake in the log",
                percentile(&trace.handshakes(AtoB), 0.5),
            );
            near("connect", us(report.connect_ns.unwrap()));
            println!("one way {:?} {:?}", [0.1,0.5,0.9,0.99].map(|q| percentile(&trace.delays(BtoA), q)), [0.1,0.5,0.9,0.99].map(|q| percentile(&trace.delays(AtoB), q)));
            let one_way = percentile(&trace.delays(BtoA), 0.5);
            assert!(
                one_way >= rtt / 2 && one_way < rtt / 2 + MS / 4,
                "{one_way:?}"
            );
        }
        assert_eq!(pair.trace().fates(Fate::Dropped), 0);
        assert_eq!(pair.drops_of_devices(), 0);
    }
}

//! Two pods with a flowcar beside each, and the faults that both report.

use std::{collections::BTreeMap, path::Path};

use flowcar_tests::{
    link::{Direction, Plan, TcpSummary, Trace},
    place::{TestPod, require_cgroup2, require_root, require_tun},
    traffic::{Pods, ServePlan},
    watch::{Mode, Seen, Watch},
};

/// Segments sent again, by cause; causes without any are left out.
pub(crate) type Causes = BTreeMap<String, u64>;

/// Two pods, followed.
pub(crate) struct Reported {
    pub(crate) pods: Pods,
    client: Watch,
    server: Watch,
}

/// The reports of both ends.
pub(crate) struct Findings {
    pub(crate) client: Seen,
    pub(crate) server: Seen,
    pub(crate) trace: Trace,
}

/// Whether links can be made here.
pub(crate) fn can_run() -> bool {
    require_root() && require_cgroup2() && require_tun()
}

/// These causes, each this often.
pub(crate) fn causes<const N: usize>(counts: [(&str, u64); N]) -> Causes {
    let some = counts.into_iter().filter(|(_, count)| *count > 0);
    some.map(|(cause, count)| (cause.to_owned(), count))
        .collect()
}

/// Segments of this direction with payload, SYN or FIN that begin before the highest sequence number sent.
pub(crate) fn sent_again(trace: &Trace, direction: Direction) -> u64 {
    let mut newest: BTreeMap<_, u32> = BTreeMap::new();
    let mut again = 0;
    let segments = trace.sent(direction).filter_map(|record| record.tcp);
    for tcp in segments.filter(|tcp| tcp.end_seq() != tcp.seq && !tcp.rst) {
        let newest = newest
            .entry((tcp.source, tcp.destination))
            .or_insert(tcp.seq);
        let is_after = |a: u32, b: u32| a.wrapping_sub(b).cast_signed() > 0;
        again += u64::from(is_after(*newest, tcp.seq));
        if is_after(tcp.end_seq(), *newest) {
            *newest = tcp.end_seq();
        }
    }
    again
}

// === impl Reported ===

impl Reported {
    /// Makes them; the link has this plan in both directions.
    pub(crate) fn new(plan: Plan) -> Self {
        Self::with(plan, &ServePlan::at("[::]:0".parse().unwrap()))
    }

    /// As [`Reported::new`], with a server of one's own.
    pub(crate) fn with(plan: Plan, serve: &ServePlan) -> Self {
        let pods = Pods::with(plan, serve).unwrap();
        let reported = Self {
            client: Watch::start(pods.client(), Mode::Both, &[]),
            server: Watch::start(pods.server(), Mode::Both, &[]),
            pods,
        };
        // Delays of a busy machine must cause no retransmits: the kernel waits a second before it takes an unacknowledged segment
        // for lost, and sends no probe.
        reported.least_timeout("1000000");
        reported.probes("0");
        reported
    }

    /// Tail loss probes: 0 for none, 3 for the kernel's usual ones.
    pub(crate) fn probes(&self, value: &str) {
        self.sysctl("net.ipv4.tcp_early_retrans", value);
    }

    /// The least retransmission time-out, microseconds. Before Linux 6.11 it is 200 ms, and a namespace cannot change that.
    pub(crate) fn least_timeout(&self, us: &str) {
        const KEY: &str = "net.ipv4.tcp_rto_min_us";
        if Path::new("/proc/sys").join(KEY.replace('.', "/")).exists() {
            self.sysctl(KEY, us);
        }
    }

    pub(crate) fn sysctl(&self, key: &str, value: &str) {
        for pod in self.test_pods() {
            pod.netns().sysctl(key, value).unwrap();
        }
    }

    fn test_pods(&self) -> [&TestPod; 2] {
        [self.pods.client(), self.pods.server()]
    }

    /// Waits until each end has reported so many flows, attempts included, and no more.
    pub(crate) fn findings(mut self, client: usize, server: usize) -> Findings {
        for (watch, flows) in [(&mut self.client, client), (&mut self.server, server)] {
            watch.until("every flow", |seen| seen.flows.len() >= flows);
        }
        let (at_client, at_server) = (self.client.stop(), self.server.stop());
        assert_eq!(
            (at_client.flows.len(), at_server.flows.len()),
            (client, server)
        );
        self.pods.link().check().unwrap();
        Findings {
            client: at_client,
            server: at_server,
            trace: self.pods.link().trace(),
        }
    }
}

// === impl Findings ===

impl Findings {
    /// Asserts what was sent again and why, by each end, and that nothing else went wrong.
    #[track_caller]
    pub(crate) fn retransmits(&self, client: Causes, server: Causes) {
        let counts = (by_cause(&self.client), by_cause(&self.server));
        assert_eq!(counts, (client, server));
        for seen in [&self.client, &self.server] {
            assert_eq!(seen.sum("flowcar.tcp.connection.failed", &[]), 0.0);
            assert_eq!(seen.sum("flowcar.tcp.connection.lost", &[]), 0.0);
            let ends: Vec<_> = seen.flows.iter().map(|flow| flow.end()).collect();
            let orderly = ["local_fin", "peer_fin"];
            assert!(ends.iter().all(|end| orderly.contains(end)), "{ends:?}");
        }
        // Causes are of segments that the link has seen.
        let sum = |causes: Causes| causes.values().sum::<u64>();
        assert_eq!(
            (sum(by_cause(&self.client)), sum(by_cause(&self.server))),
            (
                sent_again(&self.trace, Direction::AtoB),
                sent_again(&self.trace, Direction::BtoA)
            )
        );
    }

    /// Segments of this direction that were dropped.
    pub(crate) fn dropped(&self, direction: Direction, test: impl Fn(&TcpSummary) -> bool) -> u64 {
        self.trace.dropped(direction, test) as u64
    }
}

/// `flowcar.tcp.retransmits`
fn by_cause(seen: &Seen) -> Causes {
    let mut causes = Causes::new();
    for (attributes, count) in seen
        .metrics
        .get("flowcar.tcp.retransmits")
        .into_iter()
        .flatten()
    {
        *causes
            .entry(attributes["flowcar.tcp.retransmit.type"].clone())
            .or_default() += *count as u64;
    }
    causes.retain(|_, count| *count > 0);
    causes
}

//! What is set up, what happens, and what is kept of it.

use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    thread,
    time::Duration,
};

use flowcar::otlp::names;
use flowcar_lab::{
    interrupt::Interrupt,
    link::{Only, Plan, When},
    place::TestPod,
    receiver::Receiver,
    sidecar::{Sidecar, Stopped},
    traffic::{CallPlan, Close, ConnectionReport, Pods, ServePlan, call_in},
};

use crate::{seen::Seen, truth::Truth};

/// `service.name` of the client's pod.
pub(crate) const SHOP: &str = "shop";
/// `service.name` of the server's pod.
pub(crate) const WEB: &str = "web";

/// The link's round trip time.
pub(crate) const RTT: Duration = Duration::from_millis(20);
const JITTER: Duration = Duration::from_micros(500);
const LOSS: f64 = 0.02;

const PORT: u16 = 8080;
/// Nothing listens here.
const CLOSED_PORT: u16 = 9090;

/// How long the last packets of the last connection may take: they may be lost, too, more than once.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// How long a program waits for one read, write or connect.
const GIVES_UP_AFTER: Duration = Duration::from_secs(30);

/// The pods, and whoever watches them.
pub(crate) struct Stage {
    // In this order they are dropped.
    sidecars: Vec<(&'static str, Sidecar)>,
    pods: Pods,
    receiver: Receiver,
    seen: Seen,
    applications: Vec<ConnectionReport>,
    seed: u64,
}

/// What is left when all is over.
pub(crate) struct Played {
    /// What came as OTLP.
    pub(crate) seen: Seen,
    /// What the link wrote down.
    pub(crate) truth: Truth,
    /// The client programs' own reports.
    pub(crate) applications: Vec<ConnectionReport>,
    /// How each flowcar ended.
    pub(crate) stopped: Vec<(&'static str, Stopped)>,
}

// === impl Stage ===

impl Stage {
    /// Makes the pods, the link and the receiver, and attaches a flowcar to each pod.
    pub(crate) fn set(seed: u64, interrupt: &Interrupt) -> io::Result<Self> {
        // Nobody sends a RST again: if it is lost, its receiver waits for ever, here as in any network.
        let lossy = Only::That(Arc::new(|tcp| !tcp.rst));
        let plan = Plan::rtt(RTT)
            .jitter(JITTER)
            .drop(lossy, When::Chance(LOSS))
            .seed(seed);
        let serve = ServePlan::at((Ipv6Addr::UNSPECIFIED, PORT).into());
        let pods = Pods::with(plan, &serve)?;
        let receiver = Receiver::start()?;
        let mut sidecars = Vec::new();
        for (service, pod, place) in [
            (SHOP, "shop-6d4cf56db6-x7k2p", pods.client()),
            (WEB, "web-7f9c4b8d5-m4qzt", pods.server()),
        ] {
            interrupt.kills(place.cgroup())?;
            sidecars.push((service, attach(service, pod, place, &receiver)?));
        }
        Ok(Self {
            sidecars,
            pods,
            receiver,
            seen: Seen::default(),
            applications: Vec::new(),
            seed,
        })
    }

    /// Lets the pods talk until every connection is over at both ends.
    pub(crate) fn act(mut self, interrupt: &Interrupt) -> io::Result<Self> {
        let client = self.pods.client();
        let plans = self.plans();
        let called: Vec<io::Result<Vec<ConnectionReport>>> = thread::scope(|scope| {
            let calls: Vec<_> = plans
                .iter()
                .map(|plan| scope.spawn(move || call_in(client, plan)))
                .collect();
            let panicked = |_| Err(io::Error::other("a thread that calls panicked"));
            calls
                .into_iter()
                .map(|call| call.join().unwrap_or_else(panicked))
                .collect()
        });
        interrupt.check()?;
        for reports in called {
            self.applications.extend(reports?);
        }
        let accepted = self
            .applications
            .iter()
            .filter(|report| report.local.is_some());
        self.pods.serving().reports(accepted.count(), ENDS_WITHIN)?;
        self.wait_until_none_lives()?;
        interrupt.check()?;
        Ok(self)
    }

    /// The applications are done, but the kernel still sees FINs to their ends, and both flowcars report that.
    fn wait_until_none_lives(&mut self) -> io::Result<()> {
        let (seen, services) = (&mut self.seen, [SHOP, WEB]);
        let over = self.receiver.until(ENDS_WITHIN, |export| {
            seen.take(export);
            services.iter().all(|service| {
                seen.pod(service).is_some_and(|pod| {
                    pod.total(names::OPENED, &[]) > 0.0 && pod.total(names::LIVE, &[]) == 0.0
                })
            })
        })?;
        match over {
            true => Ok(()),
            false => Err(io::Error::other(
                "the flowcars did not report the end of every connection within a minute",
            )),
        }
    }

    /// Ends the flowcars as a container runtime does, and takes the pods and the link away.
    pub(crate) fn strike(self) -> io::Result<Played> {
        let mut seen = self.seen;
        let mut stopped = Vec::new();
        for (service, sidecar) in self.sidecars {
            stopped.push((service, sidecar.stop()?));
        }
        // A flowcar ends when the receiver has answered its last export, so nothing is under way any more.
        while let Some(export) = self.receiver.next(Duration::ZERO)? {
            seen.take(export);
        }
        self.pods.link().check().map_err(io::Error::other)?;
        Ok(Played {
            seen,
            truth: Truth::of(&self.pods.link().trace(), PORT),
            applications: self.applications,
            stopped,
        })
    }

    /// What the client's programs do, all at once.
    fn plans(&self) -> Vec<CallPlan> {
        let (v4, v6) = (self.pods.v4(), self.pods.v6());
        let closed = SocketAddr::new(v4.ip(), CLOSED_PORT);
        let pages = CallPlan {
            exchanges: 4..=12,
            ..CallPlan::to(v4)
                .connections(8, 3)
                .sizes(200..=900, 2_000..=60_000)
        };
        let queries = CallPlan::to(v6).exchanges(120).sizes(60..=200, 100..=400);
        let downloads = CallPlan::to(v4)
            .connections(2, 2)
            .sizes(100..=100, 800_000..=1_200_000);
        let upload = CallPlan::to(v6).sizes(700_000..=700_000, 200..=200);
        let reset = CallPlan::to(v4).exchanges(3).close(Close::ResetByServer);
        let refused = CallPlan::to(closed);
        [pages, queries, downloads, upload, reset, refused]
            .into_iter()
            .map(|plan| CallPlan {
                seed: self.seed,
                timeout: Some(GIVES_UP_AFTER),
                ..plan
            })
            .collect()
    }
}

fn attach(
    service: &'static str,
    pod: &str,
    place: &TestPod,
    receiver: &Receiver,
) -> io::Result<Sidecar> {
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint()),
        // Reports come every second, so that the demo need not wait for them.
        ("OTEL_METRIC_EXPORT_INTERVAL", "1000".to_owned()),
        ("OTEL_SERVICE_NAME", service.to_owned()),
        ("FLOWCAR_EXCHANGE", "on".to_owned()),
        ("FLOWCAR_SELF_METRICS", "detailed".to_owned()),
        // FLOWCAR_POD_* say that this is a pod, in which flowcar finds the pod's cgroup by itself.
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            format!("k8s.pod.name={pod},k8s.namespace.name=demo"),
        ),
    ];
    Sidecar::follow(place.cgroup().path(), settings)
}

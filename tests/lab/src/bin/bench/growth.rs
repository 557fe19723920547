//! Connections that stay open: what flowcar and the kernel hold for each, and what flowcar does while nothing is sent.

use std::{io, thread, time::Duration};

use flowcar_lab::{
    place::{MemoryCgroup, TestPod},
    sidecar::Sidecar,
    traffic::{CallPlan, Holding, ServePlan, Serving},
};

use crate::{
    books,
    figures::{Growth, Step},
    measure::Measure,
};

/// Connections of one pair of programs, which each may open some 20,000 descriptors at most.
const AT_ONCE: u64 = 8_000;

/// Threads that open connections.
const THREADS: u64 = 4;

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Numbers of flows, upwards.
    pub(crate) flows: &'static [u64],
    /// From the last connection of a step until memory is read, by when flowcar has read all records.
    pub(crate) settle: Duration,
    /// How long CPU time is watched with `watched_at` flows.
    pub(crate) watch: Duration,
    /// The step at which it is.
    pub(crate) watched_at: u64,
}

/// Connections, and who holds them. Ended before the server.
struct Open {
    holding: Holding,
    _serving: Serving,
}

// === impl Plan ===

impl Plan {
    /// All.
    pub(crate) const FULL: Self = Self {
        flows: &[10, 100, 1_000, 10_000, 65_536],
        settle: Duration::from_secs(3),
        watch: Duration::from_secs(30),
        watched_at: 10_000,
    };

    /// What takes two seconds.
    pub(crate) const QUICK: Self = Self {
        flows: &[10, 1_000],
        settle: Duration::from_millis(300),
        watch: Duration::from_secs(1),
        watched_at: 1_000,
    };

    /// Opens the connections step by step, and closes them.
    pub(crate) fn measure(self, measure: &Measure<'_>) -> io::Result<Growth> {
        let pod = TestPod::new("bench-growth")?;
        measure.interrupt.kills(pod.cgroup())?;
        let ports = ("net.ipv4.ip_local_port_range", "1024 65535");
        pod.netns().sysctl(ports.0, ports.1)?;
        let memory = MemoryCgroup::new("bench", None)?;
        let settings = [("OTEL_EXPORTER_OTLP_ENDPOINT", measure.receiver.endpoint())];
        let sidecar =
            Sidecar::follow_with(pod.cgroup().path(), settings, |command| match &memory {
                Some(memory) => Ok(memory.enter(command)?),
                None => Ok(()),
            })?;
        let kernel = || {
            memory
                .as_ref()
                .and_then(|memory| memory.kernel_bytes().ok())
        };
        let step = |flows| {
            Ok::<_, io::Error>(Step {
                flows,
                rss_bytes: sidecar.rss()?,
                anonymous_bytes: sidecar.anonymous()?,
                kernel_bytes: kernel(),
                idle_cpu_percent: None,
            })
        };
        thread::sleep(self.settle);
        let (mut steps, mut open) = (vec![step(0)?], Vec::new());
        let mut connections = 0;
        for flows in self.flows {
            while connections < flows / 2 {
                measure.interrupt.check()?;
                let more = AT_ONCE.min(flows / 2 - connections);
                open.push(Open::start(&pod, more)?);
                connections += more;
            }
            thread::sleep(self.settle);
            let mut step = step(*flows)?;
            if *flows == self.watched_at {
                let used = sidecar.cpu()?;
                thread::sleep(self.watch);
                let used = (sidecar.cpu()? - used).as_secs_f64();
                step.idle_cpu_percent = Some(100.0 * used / self.watch.as_secs_f64());
            }
            steps.push(step);
        }
        for Open { holding, _serving } in open {
            holding.close()?;
        }
        // Memory of closed connections is given back some seconds later.
        thread::sleep(self.settle + self.watch);
        let closed = step(0)?;
        let books = books::of(&sidecar.stop()?)?;
        // Spans and reports of these are nobody's.
        while measure.receiver.next(Duration::ZERO)?.is_some() {}
        Ok(Growth {
            steps,
            closed,
            lost: books.lost,
        })
    }
}

// === impl Open ===

impl Open {
    fn start(pod: &TestPod, connections: u64) -> io::Result<Self> {
        let at = ServePlan::at(([127, 0, 0, 1], 0).into());
        let serving = Serving::start(pod, &at)?;
        let plan = CallPlan::to(serving.address()).connections(connections, THREADS);
        let holding = Holding::start(pod, &plan)?;
        if holding.open() as u64 != connections {
            let message = format!("{} of {connections} connections opened", holding.open());
            return Err(io::Error::other(message));
        }
        Ok(Self {
            holding,
            _serving: serving,
        })
    }
}

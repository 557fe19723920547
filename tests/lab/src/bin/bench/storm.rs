//! As many connections as the machine makes, one exchange on each: what is lost, and what flowcar does for them.

use std::{io, time::Duration};

use flowcar_lab::{
    place::TestPod,
    sidecar::Sidecar,
    traffic::{CallPlan, LoadPlan, ServePlan, Serving, load_in},
};

use crate::{books, figures::Storm, measure::Measure};

/// Threads that connect.
const THREADS: u64 = 4;

/// For so long. Both ends are followed, and the settings are the default ones.
pub(crate) fn measure(measure: &Measure<'_>, duration: Duration) -> io::Result<Storm> {
    let pod = TestPod::new("bench-storm")?;
    measure.interrupt.kills(pod.cgroup())?;
    let ports = ("net.ipv4.ip_local_port_range", "1024 65535");
    pod.netns().sysctl(ports.0, ports.1)?;
    let serving = Serving::start(&pod, &ServePlan::at(([127, 0, 0, 1], 0).into()))?;
    let settings = [("OTEL_EXPORTER_OTLP_ENDPOINT", measure.receiver.endpoint())];
    let sidecar = Sidecar::follow(pod.cgroup().path(), settings)?;
    let plan = LoadPlan {
        call: CallPlan::to(serving.address()).connections(0, THREADS),
        duration,
        rate: None,
    };
    let used = sidecar.cpu()?;
    let load = load_in(&pod, &plan)?;
    let used = (sidecar.cpu()? - used).as_secs_f64();
    let rss_bytes = sidecar.rss()?;
    drop(serving);
    let books = books::of(&sidecar.stop()?)?;
    while measure.receiver.next(Duration::ZERO)?.is_some() {}
    let seconds = load.elapsed_ns as f64 / 1e9;
    Ok(Storm {
        seconds,
        connections: load.connections,
        opened: books.opened,
        lost: books.lost,
        cpu_percent: 100.0 * used / seconds,
        cpu_percent_per_10000_flows: 100.0 * used * 10_000.0 / books.opened as f64,
        rss_bytes,
    })
}

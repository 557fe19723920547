//! A report and a connection whose every figure is known.

use std::{collections::BTreeMap, net::SocketAddr, sync::OnceLock, time::Duration};

use flowcar::{
    clock::Anchor,
    config::Config,
    flow::{
        Books, CloseReason, Failure, Flow, Lost, Monotonic, Outcome, Retransmits, Role, RttKind,
        SeriesId, TraceIdentity, Volume,
    },
    histogram::Histogram,
    otlp::exporter::Exporter,
    snapshot::{Peer, SelfMetrics, Series, SeriesKey, Snapshot},
};

pub(super) const LIMIT: Duration = Duration::from_secs(20);

/// The setting by which flowcar sends log records.
pub(super) const LOGS: (&str, &str) = ("OTEL_LOGS_EXPORTER", "otlp");

/// `count` durations of so many milliseconds, for each pair.
pub(super) fn millis(pairs: &[(u64, u64)]) -> Histogram {
    let mut histogram = Histogram::default();
    for (ms, count) in pairs {
        for _ in 0..*count {
            histogram.record(ms * 1_000_000);
        }
    }
    histogram
}

/// A minute of one client's connections to a server; 100 round trips of 5 ms and 10 of 20 ms.
pub(super) fn snapshot() -> Snapshot {
    let now = Anchor::now();
    let at_unix_ns = now.unix_ns(now.monotonic());
    let key = SeriesKey::Flows {
        container: None,
        role: Role::Client,
        peer: Peer::Address([10, 1, 2, 3].into()),
        server_port: Some(8080),
    };
    let series = Series {
        id: SeriesId::default(),
        since_unix_ns: at_unix_ns,
        opened: 7,
        adopted_at_startup: 0,
        adopted_at_restart: 0,
        closed: BTreeMap::from([
            (CloseReason::LocalFin.into(), 4),
            (CloseReason::Timeout.into(), 1),
        ]),
        failed: BTreeMap::from([(Failure::Refused, 2)]),
        live: 1,
        volume: Volume {
            bytes_sent: 1_000,
            bytes_received: 50_000,
            segments_sent: 70,
            segments_received: 90,
            retransmits: Retransmits {
                syn: 1,
                tail_loss_probe: 3,
                ..Default::default()
            },
        },
        connect: BTreeMap::from([
            (None, millis(&[(5, 7)])),
            (Some(Failure::Refused), millis(&[(1, 2)])),
        ]),
        rtt: BTreeMap::from([(RttKind::Measured, millis(&[(5, 100), (20, 10)]))]),
        receive_window_limited_us: 1_500_000,
        send_buffer_limited_us: 250_000,
        exchange: millis(&[(30, 12)]),
        duration: BTreeMap::from([
            (CloseReason::LocalFin.into(), millis(&[(250, 4)])),
            (CloseReason::Timeout.into(), millis(&[(2_000, 1)])),
        ]),
    };
    Snapshot {
        start_unix_ns: at_unix_ns - 60_000_000_000,
        at_unix_ns,
        series: BTreeMap::from([(key, series)]),
        unattributed: Default::default(),
        dropped: Default::default(),
        listeners: BTreeMap::new(),
        containers: BTreeMap::new(),
        lost: BTreeMap::from([(Lost::RingFull, 1)]),
        books: Books {
            opened: 7,
            closed: 5,
            live: 1,
            failed: 2,
            lost: BTreeMap::from([(Lost::RingFull, 1)]),
        },
        self_metrics: SelfMetrics {
            records: BTreeMap::from([("close", 7)]),
            table_flows: 1,
            series: 1,
            ..Default::default()
        },
    }
}

/// One end of a connection from 127.0.0.1:41000 to 127.0.0.1:8080 that took a second, and the anchor of its times.
pub(super) fn flow(role: Role, client_isn: u32, server_isn: u32) -> (Flow, Anchor) {
    let anchor = Anchor::now();
    let closed = anchor.monotonic();
    let established = Monotonic(closed.0 - 1_000_000_000);
    let started = if role == Role::Server {
        established
    } else {
        Monotonic(established.0 - 5_000_000)
    };
    let (client, server) = ("127.0.0.1:41000", "127.0.0.1:8080");
    let (local, peer) = if role == Role::Server {
        (server, client)
    } else {
        (client, server)
    };
    let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let flow = Flow {
        cookie: 1,
        role,
        local: address(local),
        peer: address(peer),
        trace: TraceIdentity::of_handshake(client_isn, server_isn, role),
        started,
        established: Some(established),
        seen: closed,
        volume: Volume {
            bytes_sent: 100,
            bytes_received: 4096,
            segments_sent: 5,
            segments_received: 6,
            retransmits: Retransmits {
                fast: 2,
                ..Default::default()
            },
        },
        rtt: millis(&[(5, 3)]),
        rtt_kind: RttKind::Measured,
        exchanges: millis(&[(30, 1)]),
        asked: None,
        name: None,
        origin: Default::default(),
        start_seen: true,
        polled: false,
        adopted: None,
        socket: None,
        outcome: Some(Outcome::Closed(CloseReason::LocalFin)),
        reset_after_fin: false,
        series: None,
    };
    (flow, anchor)
}

/// The `number`-th report of a client that has sent so many bytes since the process of the test began to report.
pub(super) fn report_at(number: u64, bytes_sent: u64) -> Snapshot {
    static START: OnceLock<u64> = OnceLock::new();
    let mut report = snapshot();
    let start = *START.get_or_init(|| report.at_unix_ns - 1_000_000_000);
    report.start_unix_ns = start;
    for series in report.series.values_mut() {
        *series = Series {
            opened: number,
            volume: Volume {
                bytes_sent,
                ..Volume::default()
            },
            ..Default::default()
        };
    }
    report.lost.clear();
    report.books = Books::default();
    report
}

/// Settings that make the pod known, and those given; on a runtime of one thread, as flowcar's is. `work` gets what
/// starts an exporter of the service `service` to an endpoint.
pub(super) fn export<T>(
    service: &str,
    settings: &[(&str, &str)],
    work: impl AsyncFnOnce(&dyn Fn(&str) -> Exporter) -> T,
) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let start = |endpoint: &str| {
        let all = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
            ("OTEL_SERVICE_NAME", service),
            ("FLOWCAR_POD_UID", "0b1d"),
            ("OTEL_RESOURCE_ATTRIBUTES", "team=a%2Cb"),
        ];
        let vars = all.iter().chain(settings);
        let vars = vars.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let config = Config::from_vars(vars).expect("good settings");
        Exporter::start(&config, "ebpf", None).expect("an endpoint is set")
    };
    runtime.block_on(work(&start))
}

/// Sends the report and waits until it is taken.
pub(super) fn send_metrics(endpoint: &str, settings: &[(&str, &str)], report: Snapshot) {
    export("web", settings, async |start| {
        let exporter = start(endpoint);
        exporter.metrics(report);
        assert!(
            exporter.flush(LIMIT).await,
            "{:?}",
            exporter.self_metrics().exports
        );
        let taken = BTreeMap::from([(("metrics", "success"), 1)]);
        assert_eq!(exporter.self_metrics().exports, taken);
    });
}

/// Sends the span of one end, and its log record where `settings` ask for it, and waits until all is taken.
pub(super) fn send_flow(
    service: &str,
    endpoint: &str,
    settings: &[(&str, &str)],
    (flow, anchor): &(Flow, Anchor),
) {
    export(service, settings, async |start| {
        let mut exporter = start(endpoint);
        exporter.flow(flow, anchor);
        assert!(
            exporter.flush(LIMIT).await,
            "{:?}",
            exporter.self_metrics().exports
        );
        let logs = settings.contains(&LOGS).then_some((("logs", "success"), 1));
        let taken = [(("traces", "success"), 1)].into_iter().chain(logs);
        let taken: BTreeMap<_, _> = taken.collect();
        assert_eq!(exporter.self_metrics().exports, taken);
    });
}

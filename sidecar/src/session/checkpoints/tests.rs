use std::{collections::BTreeMap, net::SocketAddr, sync::mpsc};

use tokio::net::TcpListener;

use super::*;
use crate::{
    config::Config,
    flow::{Flow, checkpoint::CheckpointFlow, example::closed},
    host::Host,
    otlp::exporter::Exporter,
    sink::Sink,
    snapshot::{SelfMetrics, Snapshot},
};

const LIMIT: Duration = Duration::from_secs(20);

/// One connection that is open.
fn flows() -> CheckpointFlows {
    let lives = Flow {
        outcome: None,
        ..closed(9)
    };
    CheckpointFlows {
        lost_closes: 3,
        flows: Vec::from_iter(CheckpointFlow::of(&lives)),
    }
}

fn report(at_unix_ns: u64) -> Snapshot {
    Snapshot {
        start_unix_ns: 500,
        at_unix_ns,
        series: BTreeMap::new(),
        dropped: Default::default(),
        unattributed: Default::default(),
        lost: BTreeMap::new(),
        listeners: BTreeMap::new(),
        containers: BTreeMap::new(),
        books: Default::default(),
        self_metrics: SelfMetrics::default(),
    }
}

/// What a session does with one report to this endpoint, and at its end.
async fn report_to(endpoint: SocketAddr, at_unix_ns: u64, file: CheckpointFile, within: Duration) {
    let endpoint = format!("http://{endpoint}");
    let settings = [("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), endpoint)];
    let config = Config::from_vars(settings).expect("good settings");
    let exporter = Exporter::start_as(&config, "ebpf", &Host::default()).expect("an endpoint");
    let progress = exporter.report_progress().expect("metrics are exported");
    let checkpoints = Checkpoints::start(file, progress);
    checkpoints.add(ReportCheckpoint {
        number: exporter.metrics(report(at_unix_ns)).expect("a number"),
        at_unix_ns,
        flows: flows(),
    });
    let deadline = Instant::now() + within;
    exporter.flush(within).await;
    drop(exporter);
    checkpoints.finish(deadline).await;
}

/// Only an acknowledged report is checkpointed.
#[tokio::test]
async fn acknowledged_report_is_checkpointed() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = || CheckpointFile::open(directory.path(), 100).expect("a place");
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let away = closed.local_addr().expect("its address");
    drop(closed);
    report_to(away, 1_000, file(), Duration::from_millis(300)).await;
    assert_eq!(file().read(), None);

    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let (sink, _received) = Sink::start(any, any).await.expect("a free port");
    report_to(sink.grpc(), 2_000, file(), LIMIT).await;
    let read = file().read().expect("a checkpoint");
    assert_eq!((read.taken_unix_ns, read.reported), (2_000, flows()));
}

/// What is written belongs to the report that was acknowledged, whichever other ones were made before or behind it, and few wait.
#[tokio::test]
async fn checkpoint_is_that_of_the_acknowledged_report() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = || CheckpointFile::open(directory.path(), 100).expect("a place");
    let (progress, receiver) = watch::channel(ReportProgress::default());
    let checkpoints = Checkpoints::start(file(), receiver);
    let add = |number| {
        checkpoints.add(ReportCheckpoint {
            number,
            at_unix_ns: number * 1_000,
            flows: CheckpointFlows::default(),
        });
        let unwritten = checkpoints.unwritten.lock();
        Vec::from_iter(unwritten.iter().map(|of| of.number))
    };
    let written = || file().read().map(|read| read.taken_unix_ns);
    let now = |sending, acknowledged| {
        progress.send_modify(|progress| {
            progress.sending = sending;
            progress.acknowledged = acknowledged;
        });
    };
    assert_eq!(add(1), [1]);
    now(1, 0);
    // The first is retried, so the others wait, each in place of the one before.
    for newest in 2..=9 {
        assert_eq!(add(newest), [1, newest]);
    }
    now(1, 1);
    // Nothing had a turn since, so that the first is not written yet.
    now(9, 1);
    assert_eq!(add(10), [1, 9, 10]);
    let first = async {
        while written().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, first).await.expect("a checkpoint");
    assert_eq!(written(), Some(1_000));
    // The receiver refused a part of 9.
    now(10, 1);
    assert_eq!(add(11), [10, 11]);
    now(10, 10);
    now(11, 10);
    // 11 is not acknowledged any more.
    drop(progress);
    checkpoints.finish(Instant::now() + LIMIT).await;
    assert_eq!(written(), Some(10_000));
}

/// A disk that hangs is not waited for beyond the end of the process.
#[tokio::test]
async fn hanging_write_is_waited_for_until_the_deadline() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = CheckpointFile::open(directory.path(), 100).expect("a place");
    let (progress, receiver) = watch::channel(ReportProgress::default());
    let unwritten = Unwritten::default();
    let file = Arc::new(Mutex::new(file));
    let writer = Writer {
        file: Arc::clone(&file),
        writing: None,
        skipped: None,
    };
    let work = write_acknowledged(unwritten.clone(), receiver.clone(), writer);
    let checkpoints = Checkpoints {
        unwritten,
        progress: receiver,
        task: Task::spawn("writes checkpoints", work),
    };
    checkpoints.add(ReportCheckpoint {
        number: 1,
        at_unix_ns: 1_000,
        flows: CheckpointFlows::default(),
    });
    let (hangs, hang) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let disk = thread::spawn(move || {
        let _file = file.lock().expect("no panic");
        hangs.send(()).expect("the test waits");
        // It is released when the test is over.
        let _ = released.recv();
    });
    hang.recv().expect("it hangs");
    progress.send_modify(|progress| progress.acknowledged = 1);
    drop(progress);
    let began = Instant::now();
    let limit = Duration::from_millis(200);
    checkpoints.finish(began + limit).await;
    let waited = began.elapsed();
    assert!(waited >= limit && waited < WAIT, "{waited:?}");
    drop(release);
    disk.join().expect("no panic");
}

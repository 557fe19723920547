use super::*;
use crate::{
    config::SourceChoice,
    host::Host,
    source::{Options, Source},
    task::Task,
};

/// A session that follows by socket dumps alone, exports to where nobody listens, and writes checkpoints to this directory.
fn session(state: &Path) -> Session {
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"),
        ("OTEL_LOGS_EXPORTER", "otlp"),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::from_vars(settings).expect("good settings");
    let source = Source::open(SourceChoice::InetDiag, None, Options::from(&config));
    let follower = Follower::new(source.expect("inet_diag"), &Limits::from(&config));
    let exporter = Exporter::start_as(&config, "inet_diag", &Host::default());
    let mut session =
        Session::new(follower, exporter, Duration::from_secs(1), &config).expect("a timer");
    let file = CheckpointFile::open(state, config.max_flows).expect("an instance");
    session.write_checkpoints(file);
    session
}

/// Without an end the process would go on, and a signal or the checkpoint would be missing unnoticed.
#[tokio::test]
async fn session_ends_with_the_first_task_that_ends() {
    let state = tempfile::tempdir().expect("a directory");
    let tasks = |session: &Session, act: &dyn Fn(usize, &Task)| {
        let exports = session.exporter.as_ref().expect("exports").tasks();
        let writes = session.checkpoints.as_ref().expect("checkpoints").task();
        let all = exports.into_iter().chain([writes]);
        all.enumerate().for_each(|(number, task)| act(number, task));
    };
    for (ended, work) in [
        "exports metrics",
        "exports traces",
        "exports logs",
        "writes checkpoints",
    ]
    .into_iter()
    .enumerate()
    {
        let mut session = session(state.path());
        tasks(&session, &|number, task| {
            if number == ended {
                task.abort();
            }
        });
        let error = loop {
            if let Err(error) = session.step().await {
                break error.to_string();
            }
        };
        assert!(error.contains(work), "{work}: {error}");
        session.close(Duration::ZERO, Patience::IfEverThere).await;
    }
}

#[test]
fn missed_times_are_not_made_up_for() {
    let began = clock::now();
    let at = |ms| began + Duration::from_millis(ms);
    let mut times = Times::after(at(100), Duration::from_millis(1_000));
    for (now, is_due, next) in [
        (99, false, 100),
        (100, true, 1_100),
        (1_105, true, 2_100),
        (5_200, true, 6_100),
        (6_099, false, 6_100),
    ] {
        assert_eq!(times.is_due(at(now)), is_due, "{now}");
        assert_eq!(times.next, at(next), "{now}");
    }
    assert_eq!(times.latest(), at(6_300), "it can wait for a drain");
}

//! The answers of one pod's sidecar: `flowcar top --format json` in its container, as `kubectl exec` would start it.

use std::time::Duration;

use flowcar_screen::{
    answer::{Answer, Key},
    line::{LineError, Reader, printable},
};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};
use kube::{
    Api,
    api::{AttachParams, AttachedProcess},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    sync::{mpsc, watch},
    time::timeout,
};

use super::lines::Lines;
use crate::{
    cli::sentence::{is_forbidden, of_answer},
    inject::CONTAINER,
};

/// How long it may take to start, and how much longer than the interval an answer may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long the status of a process that ended may take.
const LAST: Duration = Duration::from_secs(2);

/// Bytes of the output that wait to be read.
const BUFFER: usize = 64 << 10;

/// The most bytes of what it writes to the standard error that are kept, and shown.
const MOST_ERROR: usize = 400;

/// What a stream has.
#[derive(Debug)]
pub(super) enum Event {
    /// An answer.
    Answer(Answer),
    /// There is none this time, and why.
    Trouble(String),
}

/// Why a stream has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The pod has ended.
    PodEnded,
    /// Something is to be done about it.
    Failed(String),
}

/// What the stream of each pod is started with.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) api: Api<Pod>,
    /// Seconds between two answers.
    pub(super) interval: f64,
    /// The peer whose connections are wanted.
    pub(super) wanted: watch::Receiver<Option<Key>>,
    /// Events, with the pod.
    pub(super) events: mpsc::Sender<(String, Event)>,
}

// === impl Plan ===

impl Plan {
    /// Passes the answers of a pod's sidecar on until it ends.
    pub(super) async fn follow(mut self, pod: &str) -> End {
        let interval = self.interval.to_string();
        let words = [
            "flowcar",
            "top",
            "--format",
            "json",
            "--stdin",
            "--interval",
        ];
        let command = words.into_iter().chain([interval.as_str()]);
        let attach = AttachParams::default()
            .container(CONTAINER)
            .stdin(true)
            .stdout(true)
            .stderr(true)
            .max_stdout_buf_size(BUFFER);
        let started = timeout(PATIENCE, self.api.exec(pod, command, &attach)).await;
        let mut process = match started {
            Ok(Ok(process)) => process,
            Ok(Err(error)) => return refused(&error),
            Err(_) => {
                let seconds = PATIENCE.as_secs();
                return End::Failed(format!("its node did not answer exec for {seconds} s"));
            }
        };
        // Read beside the answers: what nobody reads would hold them up.
        let errors = process
            .stderr()
            .map(|stderr| tokio::spawn(start_of(stderr)));
        let why = match self.answers(&mut process, pod).await {
            Ok(()) => None,
            Err(why) => return End::Failed(why),
        };
        let status = match process.take_status() {
            Some(status) => timeout(LAST, status).await.ok().flatten(),
            None => None,
        };
        let written = match errors {
            Some(errors) => timeout(LAST, errors).await.ok().and_then(Result::ok),
            None => None,
        };
        why.unwrap_or_else(|| ended(status.as_ref(), &written.unwrap_or_default()))
    }

    /// Until the output ends.
    async fn answers(&mut self, process: &mut AttachedProcess, pod: &str) -> Result<(), String> {
        let (Some(mut output), Some(mut input)) = (process.stdout(), process.stdin()) else {
            return Err("its streams are missing".to_owned());
        };
        let (mut lines, mut reader) = (Lines::default(), Reader::default());
        let mut bytes = vec![0; BUFFER];
        let patience = Duration::from_secs_f64(self.interval) + PATIENCE;
        // A stream that starts later is a later receiver, for which what was opened before is a change, too.
        loop {
            let read = tokio::select! {
                read = timeout(patience, output.read(&mut bytes)) => read,
                Ok(()) = self.wanted.changed() => {
                    let wanted = self.wanted.borrow_and_update().clone();
                    let line = wanted.map(|key| key.to_string()).unwrap_or_default();
                    // Where it has ended, so does the output.
                    let _ = input.write_all(format!("{line}\n").as_bytes()).await;
                    continue;
                }
            };
            let read =
                read.map_err(|_| format!("it has not answered for {} s", patience.as_secs()))?;
            let length = read.map_err(|error| format!("its stream broke off: {error}"))?;
            if length == 0 {
                return Ok(());
            }
            let whole = lines.push(&bytes[..length]);
            for line in whole.map_err(|_| LineError::Damaged("it is too long").to_string())? {
                let event = match reader.read(&line) {
                    Ok(answer) => Event::Answer(answer),
                    // What its own flowcar reports may pass.
                    Err(LineError::Refused(why)) => Event::Trouble(why),
                    Err(error) => return Err(error.to_string()),
                };
                if self.events.send((pod.to_owned(), event)).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

/// Why exec was refused.
fn refused(error: &kube::Error) -> End {
    match error {
        kube::Error::Api(status) if status.code == 404 => End::PodEnded,
        error if is_forbidden(error) => End::Failed(format!(
            "you may not exec: {}. Ask for the verbs get and create on pods/exec",
            printable(&of_answer(error), MOST_ERROR)
        )),
        error => End::Failed(format!(
            "exec failed: {}",
            printable(&of_answer(error), MOST_ERROR)
        )),
    }
}

/// Why a process has ended, by its status and what it wrote to the standard error.
fn ended(status: Option<&Status>, written: &str) -> End {
    let first = written.lines().find(|line| !line.trim().is_empty());
    let first = first.map(|line| {
        let line = line.trim();
        printable(line.strip_prefix("flowcar: ").unwrap_or(line), MOST_ERROR)
    });
    // As clap reports an argument, or a command, that it does not know.
    let is_unknown = |line: &String| {
        line.starts_with("error: unexpected argument") || line.starts_with("error: unrecognized")
    };
    match (first, status.and_then(|status| status.message.as_deref())) {
        (Some(line), _) if is_unknown(&line) => End::Failed(
            "its flowcar is older than this plugin, and has no lines for it: restart the workload to renew the sidecar"
                .to_owned(),
        ),
        (Some(line), _) => End::Failed(line),
        (None, Some(message)) if !message.is_empty() => {
            End::Failed(format!("flowcar top ended there: {}", printable(message, MOST_ERROR)))
        }
        (None, _) => End::PodEnded,
    }
}

/// The first bytes of a stream, which is read to its end.
async fn start_of(mut stream: impl AsyncRead + Unpin) -> String {
    let mut start = Vec::new();
    let mut bytes = [0; 1024];
    while let Ok(length @ 1..) = stream.read(&mut bytes).await {
        let room = MOST_ERROR.saturating_sub(start.len());
        start.extend_from_slice(&bytes[..length.min(room)]);
    }
    String::from_utf8_lossy(&start).into_owned()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;

    use super::{End, ended, refused, start_of};

    fn failed(end: End) -> String {
        match end {
            End::Failed(why) => why,
            End::PodEnded => panic!("no failure"),
        }
    }

    #[test]
    fn process_that_ends_is_explained_by_its_own_words() {
        let status = |message: &str| Status {
            message: Some(message.to_owned()),
            ..Status::default()
        };
        let terminated = status("command terminated with non-zero exit code: 137");
        let missing = status("exec: \"flowcar\": executable file not found in $PATH\u{1b}[2J");
        for (status, written, expected) in [
            (
                Some(&terminated),
                "error: unexpected argument '--format' found\n\nUsage: flowcar top [OPTIONS]\n",
                "restart the workload to renew the sidecar",
            ),
            (
                Some(&terminated),
                "\nflowcar: nobody answers (refused)\u{1b}[31m\nmore\n",
                "nobody answers (refused)?[31m",
            ),
            (Some(&terminated), "", "exit code: 137"),
            (Some(&missing), "", "not found in $PATH?[2J"),
        ] {
            let why = failed(ended(status, written));
            assert!(why.ends_with(expected), "{why}");
        }
        assert_eq!(ended(None, ""), End::PodEnded);
        assert_eq!(ended(Some(&Status::default()), " \n"), End::PodEnded);
    }

    #[test]
    fn refusal_of_exec_names_the_right() {
        let answer = |code, message: &str| {
            let status = kube::core::Status::failure(message, "Reason").with_code(code);
            kube::Error::Api(Box::new(status))
        };
        let why = failed(refused(&answer(403, "pods \"a\" is forbidden")));
        assert!(
            why.contains("pods \"a\" is forbidden") && why.contains("get and create on pods/exec"),
            "{why}"
        );
        let why = failed(refused(&answer(500, "container not found (\"flowcar\")")));
        assert_eq!(why, "exec failed: container not found (\"flowcar\")");
        assert_eq!(refused(&answer(404, "pods \"a\" not found")), End::PodEnded);
    }

    #[tokio::test]
    async fn only_the_start_of_errors_is_kept() {
        let endless = tokio::io::AsyncReadExt::take(tokio::io::repeat(b'x'), 1 << 20);
        assert_eq!(start_of(endless).await.len(), super::MOST_ERROR);
    }
}

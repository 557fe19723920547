//! The connections of the control socket. Each is a task of its own: a process that asks and does not read holds nobody up.

use std::{
    io::{self, Write as _},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::timeout,
};

use super::{
    Health,
    peer::{self, Rule},
    protocol::{self, LONGEST_REQUEST, Listing, PeerListing, Question},
};

/// Connections at once: of this container, or of the same user on a host.
const CONNECTIONS: usize = 16;

/// How long a request may take, and how long an answer may take to be read.
const WITHIN: Duration = Duration::from_secs(2);

/// A question that the main loop is to answer.
#[derive(Debug)]
pub struct ControlRequest {
    question: Question,
    answer: oneshot::Sender<Vec<u8>>,
}

/// Reads requests, and passes questions on to the main loop.
#[derive(Debug)]
pub(super) struct Connections {
    free: Arc<Semaphore>,
    questions: mpsc::Sender<ControlRequest>,
    rule: Rule,
}

// === impl ControlRequest ===

impl ControlRequest {
    /// What is asked.
    pub const fn question(&self) -> Question {
        self.question
    }

    /// Answers [`Question::Health`].
    pub fn health(self, health: Health) {
        self.send(protocol::health(health));
    }

    /// Answers [`Question::Flows`].
    pub fn flows(self, listing: &Listing) {
        self.send(protocol::listing(listing));
    }

    /// Answers [`Question::Peers`].
    pub fn peers(self, listing: &PeerListing) {
        self.send(protocol::listing(listing));
    }

    fn send(self, answer: Vec<u8>) {
        // A process that has gone away needs no answer.
        let _ = self.answer.send(answer);
    }
}

// === impl Connections ===

impl Connections {
    /// No connections yet, and where questions come.
    pub(super) fn new(rule: Rule) -> (Self, mpsc::Receiver<ControlRequest>) {
        let (questions, asked) = mpsc::channel(CONNECTIONS);
        let this = Self {
            free: Arc::new(Semaphore::new(CONNECTIONS)),
            questions,
            rule,
        };
        (this, asked)
    }

    /// Serves a connection, if its process may ask and there is a place.
    pub(super) fn accept(&self, stream: UnixStream) {
        if let Err(stranger) = peer::check(&stream, self.rule) {
            let remedy = "ask in flowcar's own container; on a host as flowcar's user or as root";
            let why = format!("{stranger} may not ask: {remedy}");
            return reply(stream, &protocol::refusal(&why));
        }
        match Arc::clone(&self.free).try_acquire_owned() {
            Ok(place) => {
                tokio::spawn(serve(stream, self.questions.clone(), place));
            }
            Err(_) => reply(stream, &protocol::busy()),
        }
    }
}

/// An empty socket buffer takes a line at once.
fn reply(stream: UnixStream, answer: &[u8]) {
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write(answer);
    }
}

async fn serve(
    mut stream: UnixStream,
    questions: mpsc::Sender<ControlRequest>,
    _place: OwnedSemaphorePermit,
) {
    let answer = match timeout(WITHIN, request(&mut stream)).await {
        Ok(Ok(line)) => match Question::read(&line) {
            Ok(question) => ask(question, &questions).await,
            Err(error) => Some(protocol::refusal(&error.to_string())),
        },
        // Nothing, or nothing in time: nobody waits for an answer.
        Ok(Err(_)) | Err(_) => None,
    };
    if let Some(answer) = answer {
        let _ = timeout(WITHIN, stream.write_all(&answer)).await;
    }
}

/// One line.
async fn request(stream: &mut UnixStream) -> io::Result<String> {
    let mut line = String::new();
    let bounded = stream.take(LONGEST_REQUEST as u64);
    BufReader::with_capacity(LONGEST_REQUEST, bounded)
        .read_line(&mut line)
        .await?;
    Ok(line)
}

async fn ask(question: Question, questions: &mpsc::Sender<ControlRequest>) -> Option<Vec<u8>> {
    let (answer, answered) = oneshot::channel();
    let request = ControlRequest { question, answer };
    questions.send(request).await.ok()?;
    answered.await.ok()
}

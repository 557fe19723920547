//! `flowcar top` without a screen: one table, or a line of JSON for each answer.

use std::{
    io::{self, BufRead as _, Write as _},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use flowcar_screen::{
    answer::Key,
    line::{MOST_BYTES, Writer},
    top::Once,
};

use super::feed::ask;
use crate::{
    control::{NoAnswer, Running},
    exit::{self, Failure},
};

/// The longest line of the standard input, bytes.
const LONGEST_QUESTION: u64 = 512;

/// How long the flowcar that is asked for the first time may take to add up its idle connections.
const BEFORE: Duration = Duration::from_millis(200);

/// Prints the peers between two answers.
///
/// # Errors
/// [`Failure`] if nobody answers, or the table cannot be written.
pub(super) fn table(running: &Running, interval: Duration) -> Result<(), Failure> {
    let mut once = Once::default();
    let mut take = || {
        ask(running, None)
            .map(|answer| once.take("", answer))
            .map_err(no_answer)
    };
    take()?;
    thread::sleep(interval.min(BEFORE));
    take()?;
    thread::sleep(interval);
    take()?;
    for line in once.lines(false) {
        print(&line)?;
    }
    Ok(())
}

/// Prints the first answer as a line.
///
/// # Errors
/// [`Failure`] if nobody answers, or the line cannot be written.
pub(super) fn line(running: &Running) -> Result<(), Failure> {
    let answer = ask(running, None).map_err(no_answer)?;
    print(&Writer::default().answer(answer)).map(|_| ())
}

/// Prints a line for each answer, until nobody reads them. `reads`: until the standard input ends, from which it reads whose connections are
/// wanted, too.
///
/// # Errors
/// [`Failure`] if a line cannot be written.
pub(super) fn lines(running: &Running, interval: Duration, reads: bool) -> Result<(), Failure> {
    let mut writer = Writer::default();
    let mut opened = None;
    let (to, questions) = mpsc::channel();
    // Without a reader of the standard input, the channel stays open.
    let _kept = if reads {
        thread::spawn(move || read_questions(&to));
        None
    } else {
        Some(to)
    };
    loop {
        let text = match ask(running, opened.as_ref()) {
            Ok(answer) => writer.answer(answer),
            Err(error) => Writer::error(&error.to_string()),
        };
        let text = match text.len() {
            0..=MOST_BYTES => text,
            _ => Writer::error("its answer is too long: let flowcar have fewer series"),
        };
        if !print(&text)? {
            return Ok(());
        }
        match questions.recv_timeout(interval) {
            Ok(question) => opened = question,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// Each line is the peer whose connections are wanted from now on, and an empty one is none.
fn read_questions(to: &mpsc::Sender<Option<Key>>) {
    let mut input = io::stdin().lock();
    loop {
        let mut line = String::new();
        let read = io::Read::take(&mut input, LONGEST_QUESTION).read_line(&mut line);
        if !matches!(read, Ok(1..)) || to.send(line.trim_end().parse().ok()).is_err() {
            return;
        }
    }
}

fn no_answer(error: NoAnswer) -> Failure {
    Failure::new(exit::UNAVAILABLE, error)
}

/// Prints a line. False if nobody reads it.
fn print(line: &str) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(
            exit::CANNOT_CREATE,
            format_args!("cannot write the peers: {error}"),
        )),
    }
}

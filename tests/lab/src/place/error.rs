use std::{fmt::Display, io};

/// A fixture that could not be made or used: what was tried, why it failed, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}; {advice}")]
pub struct Error {
    what: String,
    why: io::Error,
    advice: &'static str,
}

// === impl Error ===

impl Error {
    /// Makes a function for `map_err`.
    pub(crate) fn at<E: Into<io::Error>>(
        what: impl Display,
        advice: &'static str,
    ) -> impl FnOnce(E) -> Error {
        let what = what.to_string();
        move |why| Self {
            what,
            why: why.into(),
            advice,
        }
    }

    /// The operating system's error.
    pub fn io(&self) -> &io::Error {
        &self.why
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        io::Error::new(error.why.kind(), error)
    }
}

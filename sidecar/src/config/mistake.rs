//! Settings that do not parse, gathered so that one run shows them all.

use std::{ffi::OsString, fmt};

/// One setting that does not parse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The variable.
    pub name: String,
    /// Its value; hidden where it may hold credentials.
    pub value: String,
    /// What is wrong with it.
    pub wrong: String,
    /// What to do.
    pub remedy: String,
}

/// Every setting that does not parse; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(Vec<Mistake>);

/// Why one value does not parse, without its name.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) wrong: String,
    pub(super) remedy: String,
}

/// Parses values and keeps what goes wrong.
#[derive(Debug, Default)]
pub(super) struct Reader {
    mistakes: Vec<Mistake>,
}

// === impl Wrong ===

impl Wrong {
    pub(super) fn new(wrong: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            wrong: wrong.into(),
            remedy: remedy.into(),
        }
    }
}

// === impl Mistakes ===

impl Mistakes {
    /// One by one.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Mistake> {
        self.0.iter()
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            value,
            wrong,
            remedy,
        } = self;
        write!(f, "{name}={value}: {wrong}; {remedy}")
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, mistake) in self.0.iter().enumerate() {
            let end = if at == 0 { "" } else { "\n" };
            write!(f, "{end}{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

// === impl Reader ===

impl Reader {
    /// The value parsed, or `default` where there is none or it does not parse.
    pub(super) fn read<T>(
        &mut self,
        name: &str,
        value: &Option<String>,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> T {
        let Some(value) = value else { return default };
        match parse(value) {
            Ok(parsed) => parsed,
            Err(wrong) => {
                self.add(name, value, wrong);
                default
            }
        }
    }

    /// Keeps a mistake.
    pub(super) fn add(&mut self, name: &str, value: &str, Wrong { wrong, remedy }: Wrong) {
        let secret =
            name.ends_with("_HEADERS") || name.ends_with("_ENDPOINT") && value.contains('@');
        self.mistakes.push(Mistake {
            name: name.to_owned(),
            value: if secret { "(hidden)" } else { value }.to_owned(),
            wrong,
            remedy,
        });
    }

    /// Keeps a mistake unless it is known.
    pub(super) fn add_once(&mut self, name: &str, value: &str, wrong: Wrong) {
        if !self.mistakes.iter().any(|known| known.name == name) {
            self.add(name, value, wrong);
        }
    }

    /// The variable, if it is Unicode.
    pub(super) fn unicode(&mut self, name: String, value: OsString) -> Option<(String, String)> {
        match value.into_string() {
            Ok(value) => Some((name, value)),
            Err(value) => {
                let wrong = Wrong::new("is not valid UTF-8", "write it in UTF-8");
                self.add(&name, &value.to_string_lossy(), wrong);
                None
            }
        }
    }

    /// `config`, unless something went wrong on the way to it.
    pub(super) fn finish<T>(self, config: T) -> Result<T, Mistakes> {
        if self.mistakes.is_empty() {
            Ok(config)
        } else {
            Err(Mistakes(self.mistakes))
        }
    }
}

//! Settings that do not parse, gathered so that one run shows them all.

use std::{ffi::OsString, fmt, path::Path};

use super::{endpoint, names, parse, target::Signal};

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

/// Something about a setting that is worth a line at the start and stops nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The variable.
    pub name: String,
    /// What is to be known about it; no value that may be a secret.
    pub text: String,
}

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
    notices: Vec<Notice>,
}

// === impl Notice ===

impl Notice {
    pub(super) fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            text: text.into(),
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.text)
    }
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

    /// The value by OpenTelemetry's rule: whatever does not say true is false.
    pub(super) fn boolean(&mut self, name: &str, value: &Option<String>) -> bool {
        let Some(value) = value else { return false };
        let (is_true, means_either) = parse::boolean(value);
        if !means_either {
            let text = format!(
                "is {}, which is neither true nor false, and counts as false",
                shown(name, value)
            );
            self.notice(name, text);
        }
        is_true
    }

    /// Keeps something that is worth a line, once.
    pub(super) fn notice(&mut self, name: &str, text: impl Into<String>) {
        let notice = Notice::new(name, text);
        if !self.notices.contains(&notice) {
            self.notices.push(notice);
        }
    }

    /// Keeps that a variable changes nothing, if it does not and somebody may think so.
    pub(super) fn unused(&mut self, name: &str, value: &str) {
        self.notices.extend(names::notice(name, value));
    }

    /// Keeps a mistake.
    pub(super) fn add(&mut self, name: &str, value: &str, Wrong { wrong, remedy }: Wrong) {
        self.mistakes.push(Mistake {
            name: name.to_owned(),
            value: shown(name, value),
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

    /// Takes the mistakes in variables that are not flowcar's own for mere notices. Gives the signals that are without their
    /// settings.
    pub(super) fn tolerate(&mut self) -> Vec<Signal> {
        let (own, others) = std::mem::take(&mut self.mistakes)
            .into_iter()
            .partition(|mistake| mistake.name.starts_with("FLOWCAR_"));
        self.mistakes = own;
        let mut without = Vec::new();
        for Mistake {
            name,
            value,
            wrong,
            remedy,
        } in others
        {
            let of = Signal::of_variable(&name);
            let what = of.map_or("nothing is exported", Signal::not_exported);
            self.notice(&name, format!("is {value}: {wrong}; {what}; {remedy}"));
            without.extend(of.map_or(vec![Signal::Metrics, Signal::Traces], |of| vec![of]));
        }
        without
    }

    /// What `config` makes of the notices, unless something went wrong on the way to it.
    pub(super) fn finish<T>(self, config: impl FnOnce(Vec<Notice>) -> T) -> Result<T, Mistakes> {
        if self.mistakes.is_empty() {
            Ok(config(self.notices))
        } else {
            Err(Mistakes(self.mistakes))
        }
    }
}

/// A value as far as it may be shown: a key that was pasted into the wrong variable is none of the log's business.
fn shown(name: &str, value: &str) -> String {
    const LONGEST: usize = 100;
    let hidden = "(hidden)".to_owned();
    if name.ends_with("_HEADERS") || name.ends_with("_ATTRIBUTES") {
        return hidden;
    }
    if name.ends_with("_ENDPOINT") || name.to_ascii_uppercase().ends_with("_PROXY") {
        return endpoint::shown_text(value);
    }
    let odd = value.contains(|c: char| c.is_control() || c.is_whitespace());
    if ["_CERTIFICATE", "_KEY", "_FILE"]
        .iter()
        .any(|end| name.ends_with(end))
    {
        let path = ["/", "./", "../"]
            .iter()
            .any(|start| value.starts_with(start));
        let shown = path && !odd || Path::new(value).exists();
        return if shown {
            value.escape_debug().to_string()
        } else {
            hidden
        };
    }
    if value.chars().count() > LONGEST {
        return hidden;
    }
    // No value may look like a line of its own.
    value
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

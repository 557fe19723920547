//! Reads settings one by one, and keeps every error and notice.

use std::{ffi::OsString, os::unix::ffi::OsStrExt as _, path::Path};

use strsim::normalized_damerau_levenshtein;

use super::{
    endpoint,
    environment::{Environment, Variable},
    error::{ConfigError, ConfigErrors, Notice, ParseError},
    names,
    parse::Boolean,
    setting::{Row, Setting, Shown},
    settings::SETTINGS,
    signal::Signal,
};
use crate::files;

/// Parses values and collects errors and notices.
#[derive(Debug, Default)]
pub(super) struct Reader {
    environment: Environment,
    errors: Vec<ConfigError>,
    notices: Vec<Notice>,
}

// === impl Reader ===

impl Reader {
    /// Reads `environment`; `errors` are those of variables that are not texts.
    pub(super) fn new(environment: Environment, errors: Vec<ConfigError>) -> Self {
        Self {
            environment,
            errors,
            notices: Vec::new(),
        }
    }

    /// The variable that sets it.
    pub(super) fn find<T>(&self, setting: &Setting<T>) -> Option<Variable> {
        self.environment.find(setting.names)
    }

    /// The value parsed, or the default if there is none or it does not parse.
    pub(super) fn read<T: Clone>(&mut self, setting: &Setting<T>) -> T {
        self.try_read(setting).unwrap_or_else(|wrong| {
            self.error(setting, wrong);
            setting.default.clone()
        })
    }

    /// The value parsed, or the default if there is none. An error is the caller's to report.
    pub(super) fn try_read<T: Clone>(&self, setting: &Setting<T>) -> Result<T, ParseError> {
        match self.find(setting) {
            Some(Variable { value, .. }) => (setting.parse)(&value),
            None => Ok(setting.default.clone()),
        }
    }

    /// The value by OpenTelemetry's rule: everything but true is false.
    pub(super) fn boolean(&mut self, setting: &Setting<Boolean>) -> bool {
        let value = self.read(setting);
        if let (Boolean::Neither, Some(Variable { name, value })) = (value, self.find(setting)) {
            let text = format!(
                "is {}, which is neither true nor false, and counts as false",
                shown(name, &value)
            );
            self.notice(name, text);
        }
        value == Boolean::True
    }

    /// Adds a notice about the variable that sets it, if one does.
    pub(super) fn notice_about<T>(&mut self, setting: &Setting<T>, text: impl Into<String>) {
        if let Some(Variable { name, .. }) = self.find(setting) {
            self.notice(name, text);
        }
    }

    /// Adds an error in the variable that sets it, if one does.
    pub(super) fn error<T>(&mut self, setting: &Setting<T>, wrong: ParseError) {
        if let Some(Variable { name, value }) = self.find(setting) {
            self.add_once(name, &value, wrong);
        }
    }

    /// Adds a notice, once.
    pub(super) fn notice(&mut self, name: &str, text: impl Into<String>) {
        let notice = Notice::new(name, text);
        if !self.notices.contains(&notice) {
            self.notices.push(notice);
        }
    }

    /// Adds a notice for a variable that changes nothing although its name suggests otherwise.
    pub(super) fn unused(&mut self, name: &str, value: &str) {
        self.notices.extend(names::notice(name, value));
    }

    /// Adds an error unless the variable has one already.
    fn add_once(&mut self, name: &str, value: &str, wrong: ParseError) {
        if !self.errors.iter().any(|known| known.name == name) {
            self.errors.push(error(name, value, wrong));
        }
    }

    /// Turns the errors in variables that are not flowcar's own into notices. Returns the signals whose settings are missing.
    pub(super) fn tolerate(&mut self) -> Vec<Signal> {
        let (own, others) = std::mem::take(&mut self.errors)
            .into_iter()
            .partition(|error| error.name.starts_with("FLOWCAR_"));
        self.errors = own;
        let mut without = Vec::new();
        for ConfigError {
            name,
            value,
            wrong,
            remedy,
        } in others
        {
            let of = Signal::of_variable(&name);
            let what = of.map_or("nothing is exported", Signal::not_exported);
            self.notice(&name, format!("is {value}: {wrong}; {what}; {remedy}"));
            without.extend(of.map_or(Signal::ALL.to_vec(), |of| vec![of]));
        }
        without
    }

    /// What `config` makes of the notices, unless there are errors.
    pub(super) fn finish<T>(
        self,
        config: impl FnOnce(Vec<Notice>) -> T,
    ) -> Result<T, ConfigErrors> {
        if self.errors.is_empty() {
            Ok(config(self.notices))
        } else {
            Err(ConfigErrors(self.errors))
        }
    }
}

/// Settings whose wrong values stop nothing, or only where they apply: their own rules decide.
const TOLERANT: [&str; 6] = [
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_SDK_DISABLED",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
];

/// The variable, if it is Unicode, or if its rules decide what is not: bytes that are not Unicode are percent-encoded.
pub(super) fn unicode(name: String, value: OsString) -> Result<(String, String), ConfigError> {
    match value.into_string() {
        Ok(value) => Ok((name, value)),
        Err(value) if TOLERANT.contains(&&*name) => {
            let mut text = String::new();
            for chunk in value.as_bytes().utf8_chunks() {
                text.push_str(chunk.valid());
                let invalid = chunk.invalid().iter();
                invalid.for_each(|byte| text.push_str(&format!("%{byte:02X}")));
            }
            Ok((name, text))
        }
        Err(value) => {
            let wrong = ParseError::new("is not valid UTF-8", "write it in UTF-8");
            Err(error(&name, &value.to_string_lossy(), wrong))
        }
    }
}

fn error(name: &str, value: &str, ParseError { wrong, remedy }: ParseError) -> ConfigError {
    ConfigError {
        name: name.to_owned(),
        value: shown(name, value),
        wrong,
        remedy,
    }
}

/// A value as far as it may be shown, by the setting's entry in the table.
fn shown(name: &str, value: &str) -> String {
    let row = SETTINGS
        .iter()
        .find(|row| row.name.eq_ignore_ascii_case(name));
    let Some(row) = row else {
        return "(hidden)".to_owned();
    };
    match row.shown {
        // A word alone may be a password.
        Shown::Url if value.contains(':') => endpoint::shown_text(value),
        Shown::File => files::shown(Path::new(value)),
        Shown::Word if is_number(value) || resembles_words(value, row) => value.to_owned(),
        Shown::Url | Shown::Word | Shown::Hidden => "(hidden)".to_owned(),
    }
}

/// Words that OpenTelemetry's specification and other programs have for such settings, accepted here or not.
const OPENTELEMETRY: [&str; 22] = [
    "brotli",
    "console",
    "cumulative",
    "deflate",
    "delta",
    "fatal",
    "grpc",
    "gzip",
    "http",
    "jaeger",
    "json",
    "lowmemory",
    "none",
    "otlp",
    "parentbased",
    "prometheus",
    "protobuf",
    "snappy",
    "verbose",
    "warning",
    "zipkin",
    "zstd",
];

/// Whether a value consists of words that the setting accepts, or of some that are misspelt. Keys and passwords do not.
fn resembles_words(value: &str, row: &Row) -> bool {
    const LEAST: f64 = 0.6;
    let words = |text: &'static str| text.split(|c: char| !c.is_ascii_alphabetic());
    let known = || {
        // What the meaning has between backquotes.
        let quoted = row.meaning.split('`').skip(1).step_by(2);
        let accepted = quoted.flat_map(words).chain(words(row.default));
        accepted.chain(OPENTELEMETRY)
    };
    value
        .to_ascii_lowercase()
        .split(['.', '_', '-', '+', '/', ',', ' '])
        .filter(|part| !part.is_empty())
        .all(|part| {
            let resembles = |word| normalized_damerau_levenshtein(part, word) >= LEAST;
            part.chars().all(|c| c.is_ascii_alphabetic()) && known().any(resembles)
        })
}

/// A number, perhaps with a unit.
fn is_number(value: &str) -> bool {
    const LONGEST: usize = 24;
    const LONGEST_UNIT: usize = 3;
    let unit = value.trim_start_matches(|c: char| c.is_ascii_digit() || "._-+,".contains(c));
    let is_unit = unit.chars().all(|c| c.is_ascii_alphabetic());
    value.len() <= LONGEST && unit.len() <= LONGEST_UNIT && is_unit
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys and tokens, as they are pasted into the wrong variable.
    const SECRETS: [&str; 14] = [
        "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANs3cret\n-----END PRIVATE KEY-----",
        "authorization=Bearer s3cret=",
        "Bearer s3cret",
        "eyJhbGciOiJIUzI1NiJ9.s3cret.b3VyIHNlY3JldCBpcyBsb25n",
        "user:s3cret@host:4317",
        "glc_s3cretOiIxMjM0NTY3ODkwMTIzNDU2Nzg5MCJ9",
        "s3cret",
        "AKIAs3cretEXAMPLE012",
        "hcaiks3cretabcdef01234",
        "0123456789abs3cret0123456789abcd",
        "/9j4AAQSkZJRgABAQAASABIAADs3cret/QAASABI12345678901234567890123456789012345678901",
        "correcthorsebattery",
        "Correct-Horse-Battery",
        "hcaikabcdefghijk",
    ];

    #[test]
    fn no_setting_shows_a_secret() {
        for setting in SETTINGS {
            for secret in SECRETS {
                let wrong = ParseError::new("is wrong", "write it anew");
                let mut reader = Reader::default();
                reader.add_once(setting.name, secret, wrong);
                let message = reader.finish(|_| ()).expect_err("an error").to_string();
                assert!(!message.contains("s3cret"), "{message}");
                assert!(!message.contains(secret), "{message}");
                assert!(message.contains(setting.name), "{message}");
            }
        }
    }

    #[test]
    fn misspelt_value_is_shown() {
        for (name, value) in [
            ("FLOWCAR_SOURCE", "epbf"),
            ("FLOWCAR_SOURCE", "inet-diag"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "10s"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "-1.5"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip,deflate"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gizp"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "snappy"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "-1"),
            ("FLOWCAR_LOG", "dbug"),
            ("FLOWCAR_LOG", "Warning"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/run/absent/ca.crt"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "htp://collector:4317"),
        ] {
            assert_eq!(shown(name, value), value);
        }
        // Every value that is not known to be harmless is hidden.
        assert_eq!(shown("FLOWCAR_TO_COME", "1"), "(hidden)");
    }
}

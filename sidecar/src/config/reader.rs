//! Reads settings one by one, and keeps every error and notice.

use std::{ffi::OsString, path::Path};

use super::{
    endpoint,
    error::{ConfigError, ConfigErrors, Notice, ParseError},
    names, parse,
    signal::Signal,
};

/// Parses values and collects errors and notices.
#[derive(Debug, Default)]
pub(super) struct Reader {
    errors: Vec<ConfigError>,
    notices: Vec<Notice>,
}

// === impl Reader ===

impl Reader {
    /// The value parsed, or `default` if there is none or it does not parse.
    pub(super) fn read<T>(
        &mut self,
        name: &str,
        value: &Option<String>,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, ParseError>,
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

    /// The value by OpenTelemetry's rule: everything but true is false.
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

    /// Adds an error.
    pub(super) fn add(
        &mut self,
        name: &str,
        value: &str,
        ParseError { wrong, remedy }: ParseError,
    ) {
        self.errors.push(ConfigError {
            name: name.to_owned(),
            value: shown(name, value),
            wrong,
            remedy,
        });
    }

    /// Adds an error unless the variable has one already.
    pub(super) fn add_once(&mut self, name: &str, value: &str, wrong: ParseError) {
        if !self.errors.iter().any(|known| known.name == name) {
            self.add(name, value, wrong);
        }
    }

    /// The variable, if it is Unicode.
    pub(super) fn unicode(&mut self, name: String, value: OsString) -> Option<(String, String)> {
        match value.into_string() {
            Ok(value) => Some((name, value)),
            Err(value) => {
                let wrong = ParseError::new("is not valid UTF-8", "write it in UTF-8");
                self.add(&name, &value.to_string_lossy(), wrong);
                None
            }
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
            without.extend(of.map_or(vec![Signal::Metrics, Signal::Traces], |of| vec![of]));
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

/// Settings whose values are words and numbers: a wrong value may be shown if it resembles a word or a number. Every other setting, a new
/// one too, is reported by its name only.
const PLAIN: &[&str] = &[
    "_PROTOCOL",
    "_TIMEOUT",
    "_COMPRESSION",
    "_INSECURE",
    "_TEMPORALITY_PREFERENCE",
    "_EXPORTER",
    "OTEL_METRIC_EXPORT_INTERVAL",
    "OTEL_SDK_DISABLED",
    "FLOWCAR_SOURCE",
    "FLOWCAR_PEER",
    "FLOWCAR_PEER_PREFIX",
    "FLOWCAR_PORTS",
    "FLOWCAR_SERIES_LIMIT",
    "FLOWCAR_SERIES_IDLE",
    "FLOWCAR_SELF_METRICS",
    "FLOWCAR_MAX_FLOWS",
    "FLOWCAR_RING_BYTES",
    "FLOWCAR_EXCHANGE",
    "FLOWCAR_TRACE_PARENT",
    "FLOWCAR_SPANS_PER_SECOND",
    "FLOWCAR_SPAN_QUEUE",
    "FLOWCAR_SPAN_QUEUE_BYTES",
    "FLOWCAR_SPAN_INTERVAL",
    "FLOWCAR_HISTOGRAMS",
    "FLOWCAR_LOG",
    "FLOWCAR_LOG_FORMAT",
    "FLOWCAR_SHUTDOWN_TIMEOUT",
];

/// Settings that name a file.
const FILES: &[&str] = &["_CERTIFICATE", "_KEY", "_FILE"];

/// A value as far as it may be shown: a key that was pasted into the wrong variable must not reach the log.
fn shown(name: &str, value: &str) -> String {
    const LONGEST_WORD: usize = 24;
    const LONGEST_PATH: usize = 128;
    let ends_with = |names: &[&str]| names.iter().any(|end| name.ends_with(end));
    if name.ends_with("_ENDPOINT") || name.to_ascii_uppercase().ends_with("_PROXY") {
        return endpoint::shown_text(value);
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-+/,".contains(c);
    let may_be = if ends_with(FILES) {
        let path = ["/", "./", "../"]
            .iter()
            .any(|start| value.starts_with(start));
        path && value.len() <= LONGEST_PATH && value.chars().all(plain) || Path::new(value).exists()
    } else {
        ends_with(PLAIN) && value.len() <= LONGEST_WORD && value.chars().all(plain)
    };
    if may_be {
        value.escape_debug().to_string()
    } else {
        "(hidden)".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SETTINGS;

    /// Keys and tokens, as they are pasted into the wrong variable.
    const SECRETS: [&str; 6] = [
        "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANs3cret\n-----END PRIVATE KEY-----",
        "authorization=Bearer s3cret=",
        "Bearer s3cret",
        "eyJhbGciOiJIUzI1NiJ9.s3cret.b3VyIHNlY3JldCBpcyBsb25n",
        "user:s3cret@host:4317",
        "glc_s3cretOiIxMjM0NTY3ODkwMTIzNDU2Nzg5MCJ9",
    ];

    #[test]
    fn no_setting_shows_a_secret() {
        for setting in SETTINGS {
            for secret in SECRETS {
                let wrong = ParseError::new("is wrong", "write it anew");
                let mut reader = Reader::default();
                reader.add(setting.name, secret, wrong);
                let message = reader.finish(|_| ()).expect_err("an error").to_string();
                assert!(!message.contains("s3cret"), "{message}");
                assert!(message.contains(setting.name), "{message}");
            }
        }
    }

    #[test]
    fn misspelt_value_is_shown() {
        for (name, value) in [
            ("FLOWCAR_SOURCE", "magic"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "10s"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/run/absent/ca.crt"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "htp://collector:4317"),
        ] {
            assert_eq!(shown(name, value), value);
        }
        // Every value that is not known to be harmless is hidden.
        assert_eq!(shown("FLOWCAR_TO_COME", "1"), "(hidden)");
    }
}

//! What an entry of the table of settings is.

use super::{error::ParseError, signal::Signal};

/// One setting.
pub(super) struct Setting<T: 'static> {
    /// The variables that set it; the first that has a value wins.
    pub(super) names: &'static [&'static str],
    /// The value where none is set, or where it does not parse.
    pub(super) default: T,
    /// Parses a value. What depends on other settings is checked where both are read.
    pub(super) parse: fn(&str) -> Result<T, ParseError>,
}

/// A setting that each signal may have of its own, and that is common to the signals that have not.
pub(super) struct PerSignal<T: 'static> {
    /// The variable for all signals.
    pub(super) common: &'static str,
    pub(super) metrics: Setting<T>,
    pub(super) traces: Setting<T>,
    pub(super) logs: Setting<T>,
}

/// A row of the table in docs/configuration.md: one variable.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The environment variable.
    pub name: &'static str,
    /// The default.
    pub default: &'static str,
    /// What it does.
    pub meaning: &'static str,
    /// How much of a wrong value may be shown.
    pub(super) shown: Shown,
}

/// How much of a wrong value may be shown: a key that was pasted into the wrong variable must not reach the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// A word or a number, if the value resembles one.
    Word,
    /// A path, if the value resembles one.
    File,
    /// A URL without what may be a secret.
    Url,
    /// Nothing.
    Hidden,
}

// === impl PerSignal ===

impl<T> PerSignal<T> {
    /// The setting of one signal.
    pub(super) const fn of(&self, signal: Signal) -> &Setting<T> {
        match signal {
            Signal::Metrics => &self.metrics,
            Signal::Traces => &self.traces,
            Signal::Logs => &self.logs,
        }
    }
}

// === impl Row ===

/// The rows in Markdown.
pub(super) fn markdown(rows: &[Row]) -> String {
    let rows = rows.iter().map(|row| {
        let Row {
            name,
            default,
            meaning,
            ..
        } = row;
        format!("| `{name}` | {default} | {meaning} |\n")
    });
    let head = "| variable | default | meaning |\n|---|---|---|\n".to_owned();
    std::iter::once(head).chain(rows).collect()
}

/// Makes of each entry a static by which `Config` reads it, and its rows in `SETTINGS`. An entry is
///
/// ```text
/// NAME: type {
///     also: "a second spelling of the name",           (if there is one)
///     default: the value, "the value in the docs",
///     parse: a function or a closure,
///     shown: how much of a wrong value may be shown,
///     meaning: "what it does",
///     metrics: "what it does for metrics alone",       (per_signal only)
///     traces: "what it does for spans alone",          (per_signal only)
///     logs: "what it does for log records alone",      (per_signal only)
/// }
/// ```
macro_rules! settings {
    (
        per_signal { $(
            $each:ident: $each_type:ty {
                default: $each_default:expr, $each_text:literal,
                parse: $each_parse:expr,
                shown: $each_shown:ident,
                meaning: $each_meaning:literal,
                metrics: $metrics:literal,
                traces: $traces:literal,
                logs: $logs:literal,
            }
        )* }
        others { $(
            $name:ident: $type:ty {
                $(also: $also:literal,)?
                default: $default:expr, $text:literal,
                parse: $parse:expr,
                shown: $shown:ident,
                meaning: $meaning:literal,
            }
        )* }
    ) => {
        $(
            pub(super) static $each: PerSignal<$each_type> = PerSignal {
                common: concat!("OTEL_EXPORTER_OTLP_", stringify!($each)),
                metrics: Setting {
                    names: &[
                        concat!("OTEL_EXPORTER_OTLP_METRICS_", stringify!($each)),
                        concat!("OTEL_EXPORTER_OTLP_", stringify!($each)),
                    ],
                    default: $each_default,
                    parse: $each_parse,
                },
                traces: Setting {
                    names: &[
                        concat!("OTEL_EXPORTER_OTLP_TRACES_", stringify!($each)),
                        concat!("OTEL_EXPORTER_OTLP_", stringify!($each)),
                    ],
                    default: $each_default,
                    parse: $each_parse,
                },
                logs: Setting {
                    names: &[
                        concat!("OTEL_EXPORTER_OTLP_LOGS_", stringify!($each)),
                        concat!("OTEL_EXPORTER_OTLP_", stringify!($each)),
                    ],
                    default: $each_default,
                    parse: $each_parse,
                },
            };
        )*
        $(
            pub(super) static $name: Setting<$type> = Setting {
                names: &[stringify!($name) $(, $also)?],
                default: $default,
                parse: $parse,
            };
        )*
        /// The second spellings of settings.
        pub(super) const SECOND_NAMES: &[&str] = &[$($($also,)?)*];

        /// Every setting. Those of `OTEL_EXPORTER_OTLP_` exist for a single signal, too, and then win.
        pub const SETTINGS: &[Row] = &[
            $(
                Row {
                    name: concat!("OTEL_EXPORTER_OTLP_", stringify!($each)),
                    default: $each_text,
                    meaning: $each_meaning,
                    shown: Shown::$each_shown,
                },
                Row {
                    name: concat!("OTEL_EXPORTER_OTLP_METRICS_", stringify!($each)),
                    default: "",
                    meaning: $metrics,
                    shown: Shown::$each_shown,
                },
                Row {
                    name: concat!("OTEL_EXPORTER_OTLP_TRACES_", stringify!($each)),
                    default: "",
                    meaning: $traces,
                    shown: Shown::$each_shown,
                },
                Row {
                    name: concat!("OTEL_EXPORTER_OTLP_LOGS_", stringify!($each)),
                    default: "",
                    meaning: $logs,
                    shown: Shown::$each_shown,
                },
            )*
            $(
                Row {
                    name: stringify!($name),
                    default: $text,
                    meaning: $meaning,
                    shown: Shown::$shown,
                },
            )*
        ];
    };
}
pub(super) use settings;

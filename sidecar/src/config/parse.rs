//! Parses one setting's text.

use std::{path::PathBuf, time::Duration};

use percent_encoding::percent_decode_str;
use tracing::level_filters::LevelFilter;

use super::{error::ParseError, signal::Protocol};

/// The shortest interval between reports: below it the reports would be flowcar's heaviest load.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);

/// The page size of ring buffers is a multiple of this on every machine that flowcar runs on.
const PAGE: u32 = 4096;

/// Exporters that OpenTelemetry's SDKs have and flowcar does not.
const OTHER_EXPORTERS: [&str; 9] = [
    "console",
    "jaeger",
    "logging",
    "logging-otlp",
    "otlp/stdout",
    "otlp_file",
    "otlp_stdout",
    "prometheus",
    "zipkin",
];

/// A Boolean as a user wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Boolean {
    True,
    False,
    /// Counts as false.
    Neither,
}

/// A list of exporters.
#[derive(Clone, Debug)]
pub(super) struct Exporters {
    /// Whether OTLP is among them.
    pub(super) otlp: bool,
    /// Those that flowcar does not have.
    pub(super) others: Vec<String>,
}

impl Exporters {
    pub(super) const DEFAULT: Self = Self {
        otlp: true,
        others: Vec::new(),
    };

    pub(super) const NONE: Self = Self {
        otlp: false,
        others: Vec::new(),
    };
}

pub(super) fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, ParseError> {
    choices
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(text))
        .map(|(_, value)| *value)
        .ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            ParseError::new("is not known", format!("set it to {}", one_of(&names)))
        })
}

/// Any text.
pub(super) fn text(text: &str) -> Result<Option<String>, ParseError> {
    Ok(Some(text.to_owned()))
}

/// Any path. What is there is checked where it is read.
pub(super) fn path(text: &str) -> Result<Option<PathBuf>, ParseError> {
    Ok(Some(text.into()))
}

/// Only "true", in letters of either case, is true, and whatever else is false (OpenTelemetry specification, "Boolean").
pub(super) fn boolean(text: &str) -> Result<Boolean, ParseError> {
    let is = |value: &str| text.eq_ignore_ascii_case(value);
    Ok(match (is("true"), is("false")) {
        (true, _) => Boolean::True,
        (_, true) => Boolean::False,
        _ => Boolean::Neither,
    })
}

pub(super) fn protocol(text: &str) -> Result<Protocol, ParseError> {
    if text.eq_ignore_ascii_case("http/json") {
        let remedy = "set it to http/protobuf, which the same receivers take on the same port";
        return Err(ParseError::new("is not supported", remedy));
    }
    choice(
        text,
        &[
            ("grpc", Protocol::Grpc),
            ("http/protobuf", Protocol::HttpProtobuf),
        ],
    )
}

/// A list of exporters; an empty one gives the default.
pub(super) fn exporters(text: &str, default: Exporters) -> Result<Exporters, ParseError> {
    const REMEDY: &str = "set it to otlp, or to none";
    let named = text
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    let named: Vec<_> = named.collect();
    let has = |value: &str| named.iter().any(|name| name.eq_ignore_ascii_case(value));
    if named.is_empty() {
        return Ok(default);
    }
    let (otlp, none) = (has("otlp"), has("none"));
    let is_ours = |name: &&&str| {
        ["otlp", "none"]
            .iter()
            .any(|ours| ours.eq_ignore_ascii_case(name))
    };
    let others: Vec<_> = named
        .iter()
        .filter(|name| !is_ours(name))
        .copied()
        .collect();
    let known = |name: &str| {
        OTHER_EXPORTERS
            .iter()
            .any(|known| known.eq_ignore_ascii_case(name))
    };
    if !others.iter().all(|name| known(name)) {
        return Err(ParseError::new("is not known", REMEDY));
    }
    if none && named.iter().any(|name| !name.eq_ignore_ascii_case("none")) {
        return Err(ParseError::new("has none beside others", REMEDY));
    }
    if !otlp && !none {
        return Err(ParseError::new(
            "is an exporter that flowcar has not",
            REMEDY,
        ));
    }
    let others = others.into_iter().map(str::to_owned).collect();
    Ok(Exporters { otlp, others })
}

pub(super) fn count(text: &str) -> Result<usize, ParseError> {
    match text.parse() {
        Ok(0) | Err(_) => Err(ParseError::new(
            "is not a whole number above 0",
            "write it in digits",
        )),
        Ok(count) => Ok(count),
    }
}

pub(super) fn millis(text: &str) -> Result<Duration, ParseError> {
    match text.parse() {
        Ok(0) | Err(_) => Err(ParseError::new(
            "is not a time above 0",
            "give whole milliseconds, digits only, 5000 for 5 s",
        )),
        Ok(millis) => Ok(Duration::from_millis(millis)),
    }
}

/// Milliseconds, or 0 for no limit (OpenTelemetry specification, "Timeout").
pub(super) fn limit(text: &str) -> Result<Option<Duration>, ParseError> {
    let limit = text.parse().map(Duration::from_millis).map_err(|_| {
        ParseError::new(
            "is not a number of milliseconds",
            "set it to 10000 for 10 s; 0 is no limit",
        )
    })?;
    Ok(Some(limit).filter(|limit| !limit.is_zero()))
}

/// Milliseconds, or 0 for never.
pub(super) fn millis_or_never(text: &str) -> Result<Duration, ParseError> {
    text.parse().map(Duration::from_millis).map_err(|_| {
        ParseError::new(
            "is not a number of milliseconds",
            "set it to 60000 for 60 s; 0 is never",
        )
    })
}

pub(super) fn interval(text: &str) -> Result<Duration, ParseError> {
    let interval = millis(text)?;
    if interval < LEAST_INTERVAL {
        let least = LEAST_INTERVAL.as_millis();
        return Err(ParseError::new(
            format!("is less than {least} ms"),
            format!("set it to {least} or more"),
        ));
    }
    Ok(interval)
}

pub(super) fn ring_bytes(text: &str) -> Result<u32, ParseError> {
    match text.parse::<u32>() {
        Ok(bytes) if bytes >= PAGE && bytes.is_power_of_two() => Ok(bytes),
        _ => Err(ParseError::new(
            format!("is not a size that the kernel takes: a power of two, at least {PAGE}"),
            "set it to 1048576 for 1 MiB",
        )),
    }
}

/// `24/64`: leading bits of IPv4 and of IPv6 addresses.
pub(super) fn prefixes(text: &str) -> Result<(u8, u8), ParseError> {
    let lengths = text.split_once('/').and_then(|(v4, v6)| {
        let v4 = v4.parse().ok().filter(|bits| *bits <= 32)?;
        let v6 = v6.parse().ok().filter(|bits| *bits <= 128)?;
        Some((v4, v6))
    });
    lengths.ok_or_else(|| {
        ParseError::new(
            "is not two prefix lengths, of IPv4 (0 to 32) and of IPv6 (0 to 128)",
            "set it to 24/64, for example",
        )
    })
}

pub(super) fn level(text: &str) -> Result<LevelFilter, ParseError> {
    choice(
        text,
        &[
            ("off", LevelFilter::OFF),
            ("error", LevelFilter::ERROR),
            ("warn", LevelFilter::WARN),
            ("info", LevelFilter::INFO),
            ("debug", LevelFilter::DEBUG),
            ("trace", LevelFilter::TRACE),
        ],
    )
}

/// The parts of `key=value,key=value`, each with its number, the first being 1. A part without `=` is all key, which no
/// key may be.
pub(super) fn parts(text: &str) -> impl Iterator<Item = (usize, &str, Option<&str>)> {
    let parts = text.split(',').map(str::trim);
    let parts = parts.filter(|part| !part.is_empty()).enumerate();
    parts.map(|(at, part)| match part.split_once('=') {
        Some((key, value)) => (at + 1, key.trim(), Some(value.trim())),
        None => (at + 1, part, None),
    })
}

/// `key=value,key=value`, percent-encoded (OpenTelemetry specification, "Specifying resource information via an environment
/// variable"). An empty `service.name` is none.
pub(super) fn attributes(text: &str) -> Result<Vec<(String, String)>, ParseError> {
    let remedy = "write key=value,key=value; in a value a comma is %2C and a percent sign %25";
    let mut attributes = Vec::new();
    for (at, key, value) in parts(text) {
        let wrong = |what| ParseError::new(format!("its {} part {what}", ordinal(at)), remedy);
        let value = value.ok_or_else(|| wrong("is not key=value"))?;
        if key.is_empty() {
            return Err(wrong("has no key"));
        }
        if !well_encoded(key) || !well_encoded(value) {
            return Err(wrong("has a % without two hexadecimal digits behind it"));
        }
        attributes.push((decoded(key, at)?, decoded(value, at)?));
    }
    attributes.retain(|(key, value)| key != "service.name" || !value.is_empty());
    Ok(attributes)
}

fn well_encoded(text: &str) -> bool {
    text.split('%').skip(1).all(|rest| {
        let digits = rest.bytes().take(2).filter(u8::is_ascii_hexdigit);
        digits.count() == 2
    })
}

/// The text percent-decoded; `at` is the number of its part.
pub(super) fn decoded(text: &str, at: usize) -> Result<String, ParseError> {
    let text = percent_decode_str(text).decode_utf8();
    text.map(|text| text.into_owned()).map_err(|_| {
        ParseError::new(
            format!(
                "its {} part is not valid UTF-8 once percent-decoded",
                ordinal(at)
            ),
            "percent-encode the bytes of UTF-8",
        )
    })
}

pub(super) fn ordinal(n: usize) -> String {
    match (n % 10, n % 100) {
        (1, rest) if rest != 11 => format!("{n}st"),
        (2, rest) if rest != 12 => format!("{n}nd"),
        (3, rest) if rest != 13 => format!("{n}rd"),
        _ => format!("{n}th"),
    }
}

fn one_of(names: &[&str]) -> String {
    match names {
        [rest @ .., last] if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => names.concat(),
    }
}

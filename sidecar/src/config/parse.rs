//! From one setting's text to its value.

use std::time::Duration;

use percent_encoding::percent_decode_str;
use tracing::level_filters::LevelFilter;

use super::mistake::Wrong;

/// The least interval between reports: below it flowcar would be its own heaviest load.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);

/// The page size that ring buffers are made of on every machine that flowcar runs on is a multiple of this.
const PAGE: u32 = 4096;

pub(super) fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, Wrong> {
    choices
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(text))
        .map(|(_, value)| *value)
        .ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            Wrong::new("is not known", format!("set it to {}", one_of(&names)))
        })
}

pub(super) fn boolean(text: &str) -> Result<bool, Wrong> {
    choice(text, &[("true", true), ("false", false)])
}

pub(super) fn count(text: &str) -> Result<usize, Wrong> {
    match text.parse() {
        Ok(0) | Err(_) => Err(Wrong::new(
            "is not a whole number above 0",
            "write it in digits",
        )),
        Ok(count) => Ok(count),
    }
}

pub(super) fn millis(text: &str) -> Result<Duration, Wrong> {
    match text.parse() {
        Ok(0) | Err(_) => Err(Wrong::new(
            "is not a time above 0",
            "give whole milliseconds, digits only, 5000 for 5 s",
        )),
        Ok(millis) => Ok(Duration::from_millis(millis)),
    }
}

/// Milliseconds, or 0 for never.
pub(super) fn millis_or_never(text: &str) -> Result<Duration, Wrong> {
    if text == "0" {
        Ok(Duration::ZERO)
    } else {
        millis(text)
    }
}

pub(super) fn interval(text: &str) -> Result<Duration, Wrong> {
    let interval = millis(text)?;
    if interval < LEAST_INTERVAL {
        let least = LEAST_INTERVAL.as_millis();
        return Err(Wrong::new(
            format!("is less than {least} ms"),
            format!("set it to {least} or more"),
        ));
    }
    Ok(interval)
}

pub(super) fn ring_bytes(text: &str) -> Result<u32, Wrong> {
    match text.parse::<u32>() {
        Ok(bytes) if bytes >= PAGE && bytes.is_power_of_two() => Ok(bytes),
        _ => Err(Wrong::new(
            format!("is not a size that the kernel takes: a power of two, at least {PAGE}"),
            "set it to 1048576 for 1 MiB",
        )),
    }
}

/// `24/64`: leading bits of IPv4 and of IPv6 addresses.
pub(super) fn prefixes(text: &str) -> Result<(u8, u8), Wrong> {
    let lengths = text.split_once('/').and_then(|(v4, v6)| {
        let v4 = v4.parse().ok().filter(|bits| *bits <= 32)?;
        let v6 = v6.parse().ok().filter(|bits| *bits <= 128)?;
        Some((v4, v6))
    });
    lengths.ok_or_else(|| {
        Wrong::new(
            "is not two prefix lengths, of IPv4 (0 to 32) and of IPv6 (0 to 128)",
            "set it to 24/64, say",
        )
    })
}

pub(super) fn level(text: &str) -> Result<LevelFilter, Wrong> {
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

/// `key=value,key=value`, values percent-decoded: the W3C Baggage format, without properties.
pub(super) fn pairs(text: &str) -> Result<Vec<(String, String)>, Wrong> {
    text.split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
        .enumerate()
        .map(|(at, pair)| {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                Wrong::new(
                    format!("its {} part is not key=value", ordinal(at + 1)),
                    "write key=value,key=value; a comma inside a value is %2C",
                )
            })?;
            let key = decoded(key, at)?;
            if key.is_empty() {
                return Err(Wrong::new(
                    format!("its {} part has no key", ordinal(at + 1)),
                    "write key=value,key=value",
                ));
            }
            Ok((key, decoded(value, at)?))
        })
        .collect()
}

fn decoded(text: &str, at: usize) -> Result<String, Wrong> {
    let text = percent_decode_str(text.trim()).decode_utf8();
    text.map(|text| text.into_owned()).map_err(|_| {
        Wrong::new(
            format!(
                "its {} part is not valid UTF-8 once percent-decoded",
                ordinal(at + 1)
            ),
            "percent-encode the bytes of UTF-8",
        )
    })
}

fn ordinal(n: usize) -> String {
    match n {
        1 => "1st".to_owned(),
        2 => "2nd".to_owned(),
        3 => "3rd".to_owned(),
        n => format!("{n}th"),
    }
}

fn one_of(names: &[&str]) -> String {
    match names {
        [rest @ .., last] if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => names.concat(),
    }
}

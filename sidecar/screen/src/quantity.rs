//! Quantities in few characters.

/// A duration in three significant digits: `85us`, `1.23ms`, `20.4ms`, `3.05s`, `12m05s`, `3h20m`, `4d04h`, `123d`.
pub fn duration(seconds: f64) -> String {
    // Rounded before the unit is chosen, so that nothing reads 60m00s.
    let whole = seconds.round() as u64;
    let minutes = (seconds / 60.0).round() as u64;
    let hours = (seconds / 3600.0).round() as u64;
    if hours >= 100 * 24 {
        format!("{}d", hours / 24)
    } else if minutes >= 100 * 60 {
        format!("{}d{:02}h", hours / 24, hours % 24)
    } else if whole >= 3600 {
        format!("{}h{:02}m", minutes / 60, minutes % 60)
    } else if whole >= 100 {
        format!("{}m{:02}s", whole / 60, whole % 60)
    } else if seconds >= 0.9995 {
        format!("{}s", three_digits(seconds))
    } else if seconds >= 0.000_999_5 {
        format!("{}ms", three_digits(seconds * 1e3))
    } else {
        format!("{:.0}us", seconds * 1e6)
    }
}

/// A number of bytes: `512B`, `1.50kB`, `20.4MB` (powers of 1000).
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return format!("{count}B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{}{}", three_digits(value), UNITS[unit])
}

fn three_digits(value: f64) -> String {
    if value >= 99.95 {
        format!("{value:.0}")
    } else if value >= 9.995 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_keep_three_digits_and_never_carry_into_a_fourth() {
        for (seconds, text) in [
            (0.0, "0us"),
            (0.000_085, "85us"),
            (0.001, "1.00ms"),
            (0.009_996, "10.0ms"),
            (0.099_96, "100ms"),
            (0.9996, "1.00s"),
            (20.44, "20.4s"),
            (99.4, "99.4s"),
            (99.6, "1m40s"),
            (725.0, "12m05s"),
            (3599.6, "1h00m"),
            (12_000.0, "3h20m"),
            (359_969.0, "99h59m"),
            (359_971.0, "4d04h"),
            (8_638_000.0, "99d23h"),
            (8_639_000.0, "100d"),
        ] {
            assert_eq!(duration(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn bytes_change_their_unit_before_a_fourth_digit() {
        for (count, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.00kB"),
            (999_499, "999kB"),
            (999_500, "1.00MB"),
            (20_440_000, "20.4MB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(bytes(u64::MAX), "18.4EB");
    }
}

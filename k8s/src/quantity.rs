//! Kubernetes' resource quantities, compared exactly.
//!
//! The grammar is that of `k8s.io/apimachinery/pkg/api/resource/quantity.go`: a signed decimal number with one
//! of the suffixes `n u m k M G T P E`, `Ki Mi Gi Ti Pi Ei`, or an exponent `e3`.

/// Nano-units of one unit: the finest suffix is `n`.
const NANO: i128 = 1_000_000_000;

/// The quantity in nano-units (1 CPU or 1 byte is 10^9), rounded up like Kubernetes rounds a finer value;
/// `None` where the text is no quantity or is out of the range of 10^18 units.
pub(crate) fn parse(text: &str) -> Option<i128> {
    let split = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '+' | '-' | '.')))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (numerator, denominator) = scale(suffix)?;
    let (negative, digits) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.len() + fraction.len() == 0 || whole.len() > 18 || fraction.len() > 9 {
        return None;
    }
    if !(whole.bytes().chain(fraction.bytes())).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let mantissa: i128 = format!("0{whole}{fraction}").parse().ok()?;
    let divisor = 10_i128.pow(u32::try_from(fraction.len()).ok()?) * denominator;
    let scaled = mantissa.checked_mul(numerator)?;
    let nanos = scaled / divisor + i128::from(scaled % divisor != 0);
    (nanos <= NANO.pow(3)).then_some(if negative { -nanos } else { nanos })
}

/// A suffix as a fraction of nano-units.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    let binary = |power: u32| Some((NANO << (10 * power), 1));
    let decimal = |power: i32| {
        let ten = 10_i128.checked_pow(power.unsigned_abs())?;
        Some(if power < 0 {
            (NANO, ten)
        } else {
            (NANO.checked_mul(ten)?, 1)
        })
    };
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            (-9..=18).contains(&exponent).then(|| decimal(exponent))?
        }
    }
}

/// Nano-units as a quantity that Kubernetes reads back to the same value.
pub(crate) fn format_nanos(nanos: i128) -> String {
    for (unit, suffix) in [(NANO, ""), (NANO / 1_000, "m"), (NANO / 1_000_000, "u")] {
        if nanos % unit == 0 {
            return format!("{}{suffix}", nanos / unit);
        }
    }
    format!("{nanos}n")
}

/// The same for people: what is counted in bytes has the largest suffix that leaves it whole.
pub(crate) fn readable(resource: &str, nanos: i128) -> String {
    let name = resource.rsplit_once('.').map_or(resource, |(_, name)| name);
    let is_bytes = matches!(name, "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    let mut suffixes = [(4, "Ti"), (3, "Gi"), (2, "Mi"), (1, "Ki")].into_iter();
    let whole =
        suffixes.find(|(power, _)| is_bytes && nanos != 0 && nanos % (NANO << (10 * power)) == 0);
    match whole {
        Some((power, suffix)) => format!("{}{suffix}", nanos / (NANO << (10 * power))),
        None => format_nanos(nanos),
    }
}

#[cfg(test)]
mod tests {
    use super::{NANO, format_nanos, parse, readable};

    #[test]
    fn bytes_are_readable_and_other_amounts_as_they_are() {
        for (resource, text, expected) in [
            ("memory", "1073741824", "1Gi"),
            ("limits.memory", "1100Mi", "1100Mi"),
            ("memory", "1000", "1000"),
            ("memory", "0", "0"),
            ("ephemeral-storage", "2Ti", "2Ti"),
            ("hugepages-2Mi", "4Mi", "4Mi"),
            ("cpu", "1024", "1024"),
            ("cpu", "0.1", "100m"),
        ] {
            let nanos = parse(text).expect("a quantity");
            assert_eq!(readable(resource, nanos), expected, "{resource} {text}");
        }
    }

    #[test]
    fn every_suffix_has_its_value() {
        for (text, nanos) in [
            ("1", NANO),
            ("100m", NANO / 10),
            ("0.1", NANO / 10),
            (".5", NANO / 2),
            ("1.", NANO),
            ("1u", 1_000),
            ("1n", 1),
            ("0.5n", 1),
            ("2k", 2_000 * NANO),
            ("1Ki", 1_024 * NANO),
            ("64Mi", 67_108_864 * NANO),
            ("1Gi", 1_073_741_824 * NANO),
            ("1e3", 1_000 * NANO),
            ("1E3", 1_000 * NANO),
            ("1e-3", NANO / 1_000),
            ("-1", -NANO),
            ("+1", NANO),
            ("0", 0),
        ] {
            assert_eq!(parse(text), Some(nanos), "{text}");
        }
    }

    #[test]
    fn invalid_quantity_is_refused() {
        for text in [
            "",
            "m",
            "1mi",
            "1 Mi",
            "1ki",
            "--1",
            "1.2.3",
            "1e",
            "1e99",
            "ten",
            "9999999999999999999999",
            ".",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_formatted_quantity_reads_back() {
        for nanos in [0, 1, 999, 1_000, 1_500_000, NANO, 3 * NANO + 7, NANO / 10] {
            assert_eq!(parse(&format_nanos(nanos)), Some(nanos));
        }
    }
}

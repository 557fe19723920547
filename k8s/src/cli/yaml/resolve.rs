//! What a scalar means to kubectl: sigs.k8s.io/yaml over go-yaml v2, whose `resolve.go` this follows. `yes` and `off`
//! are booleans, `0644` is octal, and a tag that go-yaml does not know leaves a string.

use k8s_openapi::ByteString;
use serde_json::{Value, json};

/// A scalar as go-yaml v2 decodes it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    Text(String),
}

/// The tags of the YAML 1.1 type repository begin with this.
const STANDARD: &str = "tag:yaml.org,2002:";

/// Floats print without an exponent, and are then read as integers, below this (`encoding/json`).
const PRINTED_WITHOUT_EXPONENT: f64 = 1e18;

// === impl Scalar ===

impl Scalar {
    /// A scalar without quotes where `is_plain`, with the tag that is written before it.
    ///
    /// # Errors
    /// Why the text is not of the tag's type.
    pub(super) fn resolve(text: String, tag: Option<&str>, is_plain: bool) -> Result<Self, String> {
        let Some(tag) = tag else {
            return Ok(if is_plain {
                untagged(text)
            } else {
                Self::Text(text)
            });
        };
        let kind = tag.strip_prefix(STANDARD).unwrap_or("");
        match kind {
            "binary" => return binary(&text),
            "bool" | "int" | "float" | "null" | "timestamp" => {}
            _ => return Ok(Self::Text(text)),
        }
        let found = match (kind, untagged(text.clone())) {
            ("float", Self::Int(int)) => Self::Float(int as f64),
            (_, found) => found,
        };
        let fits = match found {
            Self::Null => kind == "null",
            Self::Bool(_) => kind == "bool",
            Self::Int(_) | Self::Uint(_) => kind == "int",
            Self::Float(_) => kind == "float",
            Self::Text(_) => kind == "timestamp",
        };
        fits.then_some(found)
            .ok_or_else(|| format!("{text:?} is no !!{kind}"))
    }

    /// # Errors
    /// JSON has no infinity and no NaN.
    pub(super) fn to_value(&self) -> Result<Value, String> {
        Ok(match self {
            Self::Null => Value::Null,
            Self::Bool(value) => json!(value),
            Self::Int(value) => json!(value),
            Self::Uint(value) => json!(value),
            Self::Float(value) if !value.is_finite() => return Err(format!("{value} is no JSON")),
            Self::Float(value)
                if value.fract() == 0.0 && value.abs() < PRINTED_WITHOUT_EXPONENT =>
            {
                json!(*value as i64)
            }
            Self::Float(value) => json!(value),
            Self::Text(value) => json!(value),
        })
    }

    /// The scalar as the key of a mapping.
    ///
    /// # Errors
    /// Null and integers beyond an `int64` are no keys.
    pub(super) fn to_key(&self) -> Result<String, String> {
        Ok(match self {
            Self::Null => return Err("null is no key".to_owned()),
            Self::Uint(value) => return Err(format!("{value} is no key")),
            Self::Bool(value) => value.to_string(),
            Self::Int(value) => value.to_string(),
            // Rounded to a `float32` first, as sigs.k8s.io/yaml does.
            Self::Float(value) if value.is_nan() => ".nan".to_owned(),
            Self::Float(value) if value.is_infinite() => {
                if *value > 0.0 { ".inf" } else { "-.inf" }.to_owned()
            }
            Self::Float(value) => float_key(*value as f32),
            Self::Text(value) => value.clone(),
        })
    }
}

/// As `strconv.FormatFloat(value, 'g', -1, 32)` writes it.
fn float_key(value: f32) -> String {
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..21).contains(&exponent) {
        return value.to_string();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

fn binary(text: &str) -> Result<Scalar, String> {
    let text: String = text.chars().filter(|c| !"\r\n".contains(*c)).collect();
    let bytes: ByteString =
        serde_json::from_value(json!(text)).map_err(|_| "!!binary is no base64".to_owned())?;
    Ok(Scalar::Text(String::from_utf8_lossy(&bytes.0).into_owned()))
}

fn untagged(text: String) -> Scalar {
    match text.as_str() {
        "" | "~" | "null" | "Null" | "NULL" => Scalar::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Scalar::Bool(true)
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Scalar::Bool(false)
        }
        ".nan" | ".NaN" | ".NAN" => Scalar::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Scalar::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => Scalar::Float(f64::NEG_INFINITY),
        _ => number(&text).unwrap_or(Scalar::Text(text)),
    }
}

fn number(text: &str) -> Option<Scalar> {
    let first = text.chars().next()?;
    if first == '.' {
        return float(text).filter(|_| text.len() > 1);
    }
    if !first.is_ascii_digit() && !matches!(first, '+' | '-') {
        return None;
    }
    let plain = text.replace('_', "");
    integer(&plain).or_else(|| float(&plain)).or_else(|| {
        i64::from_str_radix(plain.strip_prefix("0b")?, 2)
            .ok()
            .map(Scalar::Int)
    })
}

/// As `strconv.ParseInt(text, 0, 64)`, then `ParseUint`, which takes no sign.
fn integer(text: &str) -> Option<Scalar> {
    let (sign, unsigned) = match text.as_bytes() {
        [b'-', ..] => ("-", &text[1..]),
        [b'+', ..] => ("", &text[1..]),
        _ => ("", text),
    };
    let has_sign = unsigned.len() != text.len();
    let prefix = unsigned.get(..2).unwrap_or("").to_ascii_lowercase();
    let (digits, radix) = match prefix.as_str() {
        "0x" => (&unsigned[2..], 16),
        "0o" => (&unsigned[2..], 8),
        "0b" => (&unsigned[2..], 2),
        _ if unsigned.len() > 1 && unsigned.starts_with('0') => (&unsigned[1..], 8),
        _ => (unsigned, 10),
    };
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return None;
    }
    let int = i64::from_str_radix(&format!("{sign}{digits}"), radix).map(Scalar::Int);
    int.ok().or_else(|| {
        let uint = u64::from_str_radix(digits, radix).ok()?;
        (!has_sign).then_some(Scalar::Uint(uint))
    })
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`, and finite.
fn float(text: &str) -> Option<Scalar> {
    let is_written_so = text
        .bytes()
        .all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    let value: f64 = is_written_so.then(|| text.parse().ok())??;
    value.is_finite().then_some(Scalar::Float(value))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::Scalar;

    fn plain(text: &str) -> Value {
        let scalar = Scalar::resolve(text.to_owned(), None, true).expect("no tag, no error");
        scalar.to_value().expect("JSON")
    }

    /// Each as `kubectl` v1.34 prints it.
    #[test]
    fn plain_scalars_resolve_as_in_kubectl() {
        for (text, value) in [
            ("yes", json!(true)),
            ("Off", json!(false)),
            ("y", json!(true)),
            ("oN", json!("oN")),
            ("0644", json!(420)),
            ("0o17", json!(15)),
            ("-0x1F", json!(-31)),
            ("0b101", json!(5)),
            ("1_000", json!(1000)),
            ("08", json!(8)),
            ("+5", json!(5)),
            ("1e3", json!(1000)),
            ("1.5", json!(1.5)),
            (".5", json!(0.5)),
            (".", json!(".")),
            ("1:30", json!("1:30")),
            ("2001-01-01", json!("2001-01-01")),
            ("18446744073709551615", json!(u64::MAX)),
            ("1e999", json!("1e999")),
            ("~", Value::Null),
            ("", Value::Null),
            ("<<", json!("<<")),
            ("100m", json!("100m")),
        ] {
            assert_eq!(plain(text), value, "{text}");
        }
    }

    #[test]
    fn tag_sets_the_type_or_is_refused() {
        let tagged = |tag: &str, text: &str| Scalar::resolve(text.to_owned(), Some(tag), true);
        let standard = |kind: &str, text: &str| tagged(&format!("tag:yaml.org,2002:{kind}"), text);
        assert_eq!(standard("str", "yes"), Ok(Scalar::Text("yes".into())));
        assert_eq!(standard("float", "1"), Ok(Scalar::Float(1.0)));
        assert_eq!(standard("binary", "aGk="), Ok(Scalar::Text("hi".into())));
        assert!(standard("int", "x").is_err());
        assert_eq!(tagged("!Ref", "5"), Ok(Scalar::Text("5".into())));
    }
}

//! The types of annotation values: what is valid, and how that is described.

use std::fmt;

use percent_encoding::percent_decode_str;

use super::endpoint::is_endpoint;
use crate::{quantity, text::nearest};

/// The type of an annotation's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One of these choices.
    Choice(&'static [&'static str]),
    /// An `http://` or `https://` URL with a host and without credentials, or `unix:///path` of a socket. Its host may
    /// be, or have in it, one of [`REFERENCES`](super::REFERENCES).
    Url,
    /// A whole number within these bounds, both included.
    Integer {
        /// The least.
        min: u64,
        /// The greatest.
        max: u64,
    },
    /// `name` or `name/key` of a Secret or ConfigMap.
    SecretRef,
    /// The name of an object or volume.
    Name,
    /// A Kubernetes CPU quantity from 1m to 64.
    Cpu,
    /// A Kubernetes memory quantity from 16Mi to 16Gi: runtimes refuse to start a container below a few MiB.
    Memory,
    /// `key=value,key=value`.
    Attributes,
    /// A line of text of at most `max` characters.
    Text {
        /// The greatest length in characters.
        max: usize,
    },
    /// An OCI image reference.
    Image,
    /// A JSON list of one or more strings.
    Command,
}

const MIB: i128 = 1 << 20;
const NANO: i128 = 1_000_000_000;

// === impl Kind ===

impl Kind {
    /// Whether `value` is valid. Whatever passes is accepted by the API server where it lands in the pod.
    #[must_use]
    pub fn accepts(self, value: &str) -> bool {
        match self {
            Self::Choice(words) => words.contains(&value),
            Self::Url => is_endpoint(value),
            Self::Integer { min, max } => is_integer(value, min, max),
            Self::SecretRef => parse_secret_ref(value).is_some(),
            Self::Name => is_dns_subdomain(value),
            Self::Cpu => quantity::parse(value).is_some_and(|n| {
                (NANO / 1_000..=64 * NANO).contains(&n) && n % (NANO / 1_000) == 0
            }),
            Self::Memory => quantity::parse(value).is_some_and(|n| {
                (16 * MIB * NANO..=16 * 1024 * MIB * NANO).contains(&n) && n % NANO == 0
            }),
            Self::Attributes => is_attributes(value),
            Self::Text { max } => is_text(value, max),
            Self::Image => is_image(value),
            Self::Command => parse_command(value).is_some(),
        }
    }

    /// The choice nearest to `value`, for types with choices.
    #[must_use]
    pub fn nearest(self, value: &str) -> Option<&'static str> {
        let Self::Choice(words) = self else {
            return None;
        };
        nearest(value, words.iter().copied())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Choice(words) => f.write_str(&words.join(" | ")),
            Self::Url => f.write_str(
                "http(s) URL ($(FLOWCAR_HOST_IP) may stand in it) or unix:///DIRECTORY/SOCKET",
            ),
            Self::Integer { min, max } => write!(f, "whole number {min} to {max}"),
            Self::SecretRef => f.write_str("NAME or NAME/KEY"),
            Self::Name => f.write_str("NAME"),
            Self::Cpu => f.write_str("CPU quantity 1m to 64"),
            Self::Memory => f.write_str("memory quantity 16Mi to 16Gi"),
            Self::Attributes => f.write_str("key=value,key=value"),
            Self::Text { max } => write!(f, "text of 1 to {max} characters"),
            Self::Image => f.write_str("image reference"),
            Self::Command => f.write_str("JSON list of strings"),
        }
    }
}

fn is_text(value: &str, max: usize) -> bool {
    !value.trim().is_empty() && value.chars().count() <= max && !value.chars().any(char::is_control)
}

/// Digits only: Rust's own parser also takes a plus sign, the sidecar's need not.
fn is_integer(value: &str, min: u64, max: u64) -> bool {
    value.bytes().all(|b| b.is_ascii_digit())
        && value.parse().is_ok_and(|n: u64| (min..=max).contains(&n))
}

/// The Secret's name and key of a `name` or `name/key` value; the key is `headers` where it is left out.
#[must_use]
pub fn parse_secret_ref(value: &str) -> Option<(&str, &str)> {
    parse_reference(value, "headers")
}

/// The name and the key of a `name` or `name/key` value, with the key where it is left out.
pub(crate) fn parse_reference<'a>(value: &'a str, key: &'a str) -> Option<(&'a str, &'a str)> {
    let (name, key) = value.split_once('/').unwrap_or((value, key));
    let key_ok = (1..=253).contains(&key.len())
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && key != "."
        && !key.starts_with("..");
    (is_dns_subdomain(name) && key_ok).then_some((name, key))
}

/// RFC 1123 subdomain, as Kubernetes wants object names.
fn is_dns_subdomain(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

/// OpenTelemetry's resource attribute list: keys are W3C baggage tokens, values have no separator unescaped, and
/// both are UTF-8 once percent-decoded.
fn is_attributes(value: &str) -> bool {
    is_text(value, 4096)
        && value.split(',').all(|pair| {
            pair.split_once('=').is_some_and(|(key, value)| {
                let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(&b);
                !key.is_empty()
                    && key.bytes().all(token)
                    && !value.contains('=')
                    && value.is_ascii()
                    && [key, value]
                        .iter()
                        .all(|text| percent_decode_str(text).decode_utf8().is_ok())
            })
        })
}

/// An image reference by the grammar of `distribution/reference`: `[host[:port]/]path[:tag][@digest]`.
fn is_image(value: &str) -> bool {
    if value.len() > 512 || !value.is_ascii() {
        return false;
    }
    let (rest, digest) = match value.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (value, None),
    };
    let digest_ok = digest.is_none_or(|digest| {
        digest.strip_prefix("sha256:").is_some_and(|hex| {
            hex.len() == 64
                && hex
                    .bytes()
                    .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        })
    });
    let slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match rest[slash..].find(':') {
        Some(colon) => (&rest[..slash + colon], Some(&rest[slash + colon + 1..])),
        None => (rest, None),
    };
    let tag_ok = tag.is_none_or(|tag| {
        (1..=128).contains(&tag.len())
            && tag
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
            && !tag.starts_with(['.', '-'])
    });
    digest_ok && tag_ok && is_image_name(name)
}

fn is_image_name(name: &str) -> bool {
    let mut parts = name.split('/').peekable();
    if name.contains('/')
        && let Some(host) =
            parts.next_if(|first| first.contains(['.', ':']) || *first == "localhost")
    {
        let (host, port) = host.split_once(':').unwrap_or((host, "443"));
        if !is_dns_subdomain(&host.to_ascii_lowercase()) || !is_integer(port, 1, 65_535) {
            return false;
        }
    }
    parts.all(|part| {
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        edge(part.bytes().next())
            && edge(part.bytes().last())
            && part.bytes().all(|b| {
                b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-')
            })
            && !["..", "._", "_.", "___", "-.", ".-", "-_", "_-"]
                .iter()
                .any(|pair| part.contains(pair))
    })
}

/// The words of a command written as a JSON list.
pub(crate) fn parse_command(value: &str) -> Option<Vec<String>> {
    let words: Vec<String> = serde_json::from_str(value).ok()?;
    let fine = !words.is_empty()
        && words.len() <= 64
        && words
            .iter()
            .all(|word| !word.is_empty() && !word.contains('\0'));
    fine.then_some(words)
}

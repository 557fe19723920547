//! Headers of requests. They carry credentials, so nothing of them is ever shown.

use std::{fmt, path::Path};

use http::{HeaderName, HeaderValue, header};

use super::{error::ParseError, parse};
use crate::files::{self, FileError};

/// The largest file of headers, bytes: receivers take some 8 KiB of headers in all.
const MOST_FILE: u64 = 64 << 10;

/// Headers that the two transports set, and those that ask for an answer in a form that flowcar does not read; another value would break the
/// request or its answer.
const OURS: [HeaderName; 20] = [
    header::ACCEPT_ENCODING,
    header::RANGE,
    header::CONTENT_RANGE,
    HeaderName::from_static("grpc-accept-encoding"),
    HeaderName::from_static("grpc-status-details-bin"),
    header::HOST,
    header::EXPECT,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("grpc-encoding"),
    HeaderName::from_static("grpc-timeout"),
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// HTTP/2's pseudo-headers.
const PSEUDO: [&str; 4] = [":authority", ":method", ":path", ":scheme"];

/// Headers of requests.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(HeaderName, HeaderValue)>);

impl Headers {
    /// Names and values. Of two with the same name the last wins.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&HeaderName, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// These, and then `later`.
    #[must_use]
    pub fn and(&self, later: &Self) -> Self {
        Self(self.0.iter().chain(&later.0).cloned().collect())
    }

    /// The headers in a file: `name=value` as in `OTEL_EXPORTER_OTLP_HEADERS`, one on each line, or separated by commas.
    ///
    /// # Errors
    /// The file cannot be read, is not a regular one, or has no headers in it; nothing of it is quoted.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let text = files::read(path, MOST_FILE)?;
        let wrong = |wrong: String| FileError::new(path, wrong, REMEDY_FILE);
        let text = String::from_utf8(text).map_err(|_| wrong("is not UTF-8".to_owned()))?;
        // Some editors begin a file with a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        if text.lines().any(|line| line.trim_start().starts_with('#')) {
            let wrong = "has a line that begins with #, and comments are not allowed";
            return Err(FileError::new(path, wrong, "take it out"));
        }
        let parsed = parse(&text.replace(['\r', '\n'], ","));
        let parsed = parsed.map_err(|error| {
            let remedy = match &*error.remedy {
                REMEDY => REMEDY_FILE,
                other => other,
            };
            FileError::new(path, format!("is wrong: {}", error.wrong), remedy)
        })?;
        if parsed.0.is_empty() {
            return Err(wrong("has no header in it".to_owned()));
        }
        Ok(parsed)
    }
}

const REMEDY: &str = "write name=value,name=value, values percent-encoded";
const REMEDY_FILE: &str = "write name=value on a line, the value percent-encoded";

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A comma that is not percent-encoded makes a name of the rest of a value.
        write!(f, "{} (hidden)", self.0.len())
    }
}

/// `name=value,name=value`, values percent-decoded, names not (OpenTelemetry specification, protocol/exporter).
pub(super) fn parse(text: &str) -> Result<Headers, ParseError> {
    parse::parts(text)
        .map(|(at, name, value)| {
            let part = parse::ordinal(at);
            // RFC 9113, 8.3.
            if let Some(pseudo) = PSEUDO.iter().find(|known| **known == name) {
                let wrong = format!("{pseudo} is set by flowcar");
                return Err(ParseError::new(wrong, "leave that header out"));
            }
            // As HTTP and curl's options have it.
            if let Some((before, _)) = name.split_once(':')
                && before.trim_end().parse::<HeaderName>().is_ok()
            {
                return Err(ParseError::new(
                    format!("its {part} part has : behind a header's name"),
                    "write = instead of :, and percent-encode the value: name=Bearer%20TOKEN",
                ));
            }
            let Some(value) = value else {
                return Err(ParseError::new(
                    format!("its {part} part is not name=value"),
                    REMEDY,
                ));
            };
            // The text in the name's position may be a secret, too: `authorization: Bearer abc=`.
            let name: HeaderName = name.parse().map_err(|_| {
                ParseError::new(
                    format!("its {part} part does not begin with a header's name and ="),
                    REMEDY,
                )
            })?;
            if OURS.contains(&name) {
                let wrong = format!("{name:?} is set by flowcar");
                return Err(ParseError::new(wrong, "leave that header out"));
            }
            let value = parse::decoded(value, at)?;
            let mut value = HeaderValue::from_str(&value).map_err(|_| {
                ParseError::new(
                    format!("its {part} part has a value that no header can have"),
                    REMEDY,
                )
            })?;
            value.set_sensitive(true);
            Ok((name, value))
        })
        .collect::<Result<_, _>>()
        .map(Headers)
}

impl Headers {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn framing_header_is_refused_by_name() {
        let framing = ["host", "content-length", "transfer-encoding"].into_iter();
        let ours = OURS.map(|name| name.to_string());
        for name in framing.chain(ours.iter().map(String::as_str)).chain(PSEUDO) {
            for text in [format!("{name}=x"), format!("a=1,{name}=x")] {
                let wrong = parse(&text).expect_err(name).wrong;
                assert!(wrong.contains(name), "{text}: {wrong}");
            }
        }
        for name in ["Host", "Content-Length", "Transfer-Encoding"] {
            assert!(parse(&format!("{name}=x")).is_err(), "{name}");
            parse(&format!("x-{name}=x")).expect(name);
        }
    }

    #[test]
    fn colon_behind_a_name_is_recognized() {
        for (text, is_colon) in [
            ("Authorization: Bearer s3cret", true),
            ("a=1,Authorization : Bearer s3cret==", true),
            ("x-a:1", true),
            ("a=b:c", false),
            ("s3cret", false),
        ] {
            let remedy = parse(text).err().map(|error| error.remedy);
            let found = remedy.is_some_and(|remedy| remedy.starts_with("write = instead of :"));
            assert_eq!(found, is_colon, "{text}");
        }
    }

    #[test]
    fn value_with_a_comma_is_not_shown_as_a_name() {
        let wrong = parse("api-key=abc,s3cret=%01")
            .expect_err("no header")
            .wrong;
        assert!(!wrong.contains("s3cret"), "{wrong}");
        let headers = parse("api-key=abc,s3cret=x").expect("two headers");
        assert!(!format!("{headers:?}").contains("s3cret"));
    }
}

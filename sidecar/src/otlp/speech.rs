//! Detects a receiver's protocol by its first bytes: if it is not the configured one, the error names the setting to
//! change. Pure except for [`FirstBytes`].

use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::config::Protocol;

/// The bytes that are kept: an HTTP server's answer to a malformed request, up to the words with the reason.
const MOST: usize = 512;

/// The protocol of the first bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Speech {
    /// HTTP/1.
    Http1,
    /// HTTP/2 (RFC 9113 section 3.4: the server begins with a SETTINGS frame).
    Http2,
    /// A TLS record (RFC 8446 section 5.1), or an HTTP answer that asks for TLS.
    Tls,
    /// Another protocol: its first words.
    Other(String),
}

/// A receiver that speaks another protocol than the configured one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The configured protocol.
    pub wanted: Protocol,
    /// The receiver's protocol.
    pub speech: Speech,
    /// Whether TLS was configured, and the receiver answers without.
    pub without_tls: bool,
}

// === impl Speech ===

impl Speech {
    /// The protocol of these bytes; `None` if there are none.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        Some(match bytes {
            [] => return None,
            [b'H', b'T', b'T', b'P', b'/', ..] if expects_tls(bytes) => Self::Tls,
            [b'H', b'T', b'T', b'P', b'/', ..] => Self::Http1,
            // An alert or a handshake message, of SSL 3.0 or later.
            [21 | 22, 3, 0..=4, ..] => Self::Tls,
            // The length, SETTINGS or GOAWAY, flags, and stream 0.
            [0, _, _, 4 | 7, _, 0, 0, 0, 0, ..] => Self::Http2,
            _ => Self::Other(first_words(bytes)),
        })
    }
}

/// Whether an HTTP server answers plain HTTP with a request for TLS: in the words of Go, of nginx, or of Apache.
pub fn expects_tls(answer: &[u8]) -> bool {
    const WORDS: [&str; 3] = [
        "http request to an https server",
        "plain http request was sent to https port",
        "speaking plain http to an ssl-enabled server port",
    ];
    let text = String::from_utf8_lossy(answer).to_ascii_lowercase();
    WORDS.iter().any(|words| text.contains(words))
}

fn first_words(bytes: &[u8]) -> String {
    const MOST: usize = 40;
    let text = String::from_utf8_lossy(bytes);
    let line = text.lines().next().unwrap_or_default();
    line.chars().take(MOST).collect()
}

// === impl Mismatch ===

impl Mismatch {
    /// Compares the received protocol with the configured one; `handshaking` while the TLS handshake is not complete.
    pub fn between(wanted: Protocol, handshaking: bool, first_bytes: &[u8]) -> Option<Self> {
        let speech = Speech::of(first_bytes)?;
        let fits = match (&speech, wanted) {
            (Speech::Tls, _) => handshaking,
            (Speech::Http2, Protocol::Grpc) | (Speech::Http1, Protocol::HttpProtobuf) => {
                !handshaking
            }
            _ => false,
        };
        let without_tls = handshaking;
        (!fits).then_some(Self {
            wanted,
            speech,
            without_tls,
        })
    }

    /// The setting to change.
    pub fn remedy(&self) -> String {
        const HTTP: &str = "set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or use port 4317";
        const GRPC: &str = "set OTEL_EXPORTER_OTLP_PROTOCOL=grpc, or use port 4318";
        let scheme = |scheme| format!("begin OTEL_EXPORTER_OTLP_ENDPOINT with {scheme}://");
        let protocol = match (&self.speech, self.wanted) {
            (Speech::Tls, _) => return scheme("https"),
            (Speech::Other(_), _) => {
                return "check host and port in OTEL_EXPORTER_OTLP_ENDPOINT".to_owned();
            }
            (Speech::Http1, Protocol::Grpc) => HTTP,
            (Speech::Http2, Protocol::HttpProtobuf) => GRPC,
            (Speech::Http1, Protocol::HttpProtobuf) | (Speech::Http2, Protocol::Grpc) => {
                return scheme("http");
            }
        };
        if self.without_tls {
            format!("{}, and {protocol}", scheme("http"))
        } else {
            protocol.to_owned()
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let without = if self.without_tls { " without TLS" } else { "" };
        match &self.speech {
            Speech::Http1 => write!(f, "it speaks HTTP{without} here"),
            Speech::Http2 => write!(f, "it speaks gRPC{without} here"),
            Speech::Tls => f.write_str("it speaks TLS here"),
            Speech::Other(words) => write!(f, "it does not speak OTLP here: it sends {words:?}"),
        }
    }
}

/// The first bytes received over the newest connection. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct FirstBytes(Arc<Mutex<First>>);

#[derive(Debug, Default)]
struct First {
    /// Whether anything was received over any connection.
    ever: bool,
    phase: Phase,
    /// The bytes are those of the stream with this number: what an earlier one still receives is not kept.
    number: u64,
    bytes: Vec<u8>,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// The name is being resolved.
    #[default]
    Resolving,
    /// A connection is being made.
    Connecting,
    /// The proxy is asked for a tunnel.
    Tunnelling,
    /// The TLS handshake is not complete.
    Handshaking,
    /// Requests can be sent.
    Connected,
}

// === impl FirstBytes ===

impl FirstBytes {
    /// A connection is about to be made: the bytes of the one before are discarded.
    pub(super) fn forget(&self) {
        let mut first = self.lock();
        *first = First {
            ever: first.ever,
            number: first.number + 1,
            ..First::default()
        };
    }

    /// The connection is established, and the TLS handshake is about to begin, is complete, or is not wanted.
    pub(super) fn begin(&self, handshaking: bool) {
        let mut first = self.lock();
        *first = First {
            ever: first.ever,
            phase: if handshaking {
                Phase::Handshaking
            } else {
                Phase::Connected
            },
            number: first.number + 1,
            bytes: Vec::new(),
        };
    }

    /// The connection that is being made is so far.
    pub(super) fn enter(&self, phase: Phase) {
        self.lock().phase = phase;
    }

    /// How far the newest connection is.
    pub(super) fn phase(&self) -> Phase {
        self.lock().phase
    }

    /// Whether the connection was established and nothing was received over it.
    pub(super) fn nothing(&self) -> bool {
        let first = self.lock();
        matches!(first.phase, Phase::Handshaking | Phase::Connected) && first.bytes.is_empty()
    }

    /// Whether anything was received over any connection.
    pub(super) fn ever(&self) -> bool {
        self.lock().ever
    }

    /// The mismatch in the received bytes.
    pub(super) fn mismatch(&self, wanted: Protocol) -> Option<Mismatch> {
        let first = self.lock();
        let handshaking = first.phase == Phase::Handshaking;
        Mismatch::between(wanted, handshaking, &first.bytes)
    }

    /// A stream whose first bytes are kept here, until the next stream's are.
    pub(super) fn over<S>(&self, stream: S) -> Listened<S> {
        Listened {
            stream,
            number: self.lock().number,
            left: MOST,
            first_bytes: self.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, First> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream whose first bytes are kept.
#[derive(Debug)]
pub(super) struct Listened<S> {
    stream: S,
    number: u64,
    /// Bytes that may still be kept.
    left: usize,
    first_bytes: FirstBytes,
}

impl<S: AsyncRead + Unpin> AsyncRead for Listened<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let came = &buf.filled()[before..];
        if self.left > 0 && !came.is_empty() {
            let kept = came.len().min(self.left);
            self.left -= kept;
            let mut first = self.first_bytes.lock();
            first.ever = true;
            if first.number == self.number {
                first.bytes.extend_from_slice(&came[..kept]);
            }
            drop(first);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Listened<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\n";
    /// What nginx 1.22 and Go 1.26 send.
    const WANTS_TLS: [&[u8]; 2] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n<center>The plain HTTP request was sent to HTTPS port</center>",
        b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
    ];
    /// SETTINGS with five values, as grpc-go sends it; GOAWAY.
    const SETTINGS: &[u8] = &[0, 0, 30, 4, 0, 0, 0, 0, 0, 0, 3];
    const GOAWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0];
    /// An alert, unexpected_message; the beginning of a handshake message.
    const ALERT: &[u8] = &[21, 3, 3, 0, 2, 2, 10];
    const HANDSHAKE: &[u8] = &[22, 3, 3, 0, 90];
    const SSH: &[u8] = b"SSH-2.0-OpenSSH_9.2p1\r\n";

    /// A resumed TLS handshake is short: the encrypted stream below is still read from when the data's own begins.
    #[tokio::test]
    async fn bytes_below_the_newest_stream_are_not_kept() {
        use tokio::io::AsyncReadExt as _;
        let first_bytes = FirstBytes::default();
        first_bytes.forget();
        first_bytes.begin(true);
        let encrypted = [HANDSHAKE, b"\x17\x03\x03\x00\x01x"].concat();
        let mut below = first_bytes.over(&encrypted[..]);
        let mut handshake = [0; HANDSHAKE.len()];
        below.read_exact(&mut handshake).await.expect("memory");
        first_bytes.begin(false);
        let mut above = first_bytes.over(HTTP);
        below.read_to_end(&mut Vec::new()).await.expect("memory");
        assert!(first_bytes.nothing() && first_bytes.ever());
        assert_eq!(first_bytes.mismatch(Protocol::Grpc), None);
        above.read_to_end(&mut Vec::new()).await.expect("memory");
        let mismatch = first_bytes.mismatch(Protocol::Grpc).expect("HTTP");
        assert_eq!(mismatch.speech, Speech::Http1);
    }

    /// The configured protocol, whether the TLS handshake is incomplete, the received bytes, and the error.
    #[test]
    fn every_mismatch_error_has_a_remedy() {
        use Protocol::{Grpc, HttpProtobuf as Http};
        let http =
            "it speaks HTTP here: set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or use port 4317";
        let grpc = "it speaks gRPC here: set OTEL_EXPORTER_OTLP_PROTOCOL=grpc, or use port 4318";
        let tls = "it speaks TLS here: begin OTEL_EXPORTER_OTLP_ENDPOINT with https://";
        let no_tls = " without TLS here: begin OTEL_EXPORTER_OTLP_ENDPOINT with http://";
        let no_tls_grpc = &format!("it speaks gRPC{no_tls}");
        let no_tls_http = &format!("it speaks HTTP{no_tls}");
        let both = &format!(
            "it speaks HTTP{no_tls}, and set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or use port 4317"
        );
        let both_grpc = &format!(
            "it speaks gRPC{no_tls}, and set OTEL_EXPORTER_OTLP_PROTOCOL=grpc, or use port 4318"
        );
        let other = "it does not speak OTLP here: it sends \"SSH-2.0-OpenSSH_9.2p1\": check host and port in OTEL_EXPORTER_OTLP_ENDPOINT";
        for (wanted, handshaking, came, reported) in [
            (Grpc, false, HTTP, Some(http)),
            (Grpc, false, SETTINGS, None),
            (Grpc, false, GOAWAY, None),
            (Grpc, false, ALERT, Some(tls)),
            (Grpc, false, HANDSHAKE, Some(tls)),
            (Grpc, false, WANTS_TLS[0], Some(tls)),
            (Grpc, false, WANTS_TLS[1], Some(tls)),
            (Grpc, false, SSH, Some(other)),
            (Grpc, false, b"", None),
            (Http, false, HTTP, None),
            (Http, false, SETTINGS, Some(grpc)),
            (Http, false, GOAWAY, Some(grpc)),
            (Http, false, ALERT, Some(tls)),
            (Http, false, HANDSHAKE, Some(tls)),
            (Http, false, WANTS_TLS[0], Some(tls)),
            (Http, false, WANTS_TLS[1], Some(tls)),
            (Http, false, SSH, Some(other)),
            (Http, false, b"", None),
            (Grpc, true, HTTP, Some(both)),
            (Grpc, true, SETTINGS, Some(no_tls_grpc)),
            (Grpc, true, GOAWAY, Some(no_tls_grpc)),
            (Grpc, true, ALERT, None),
            (Grpc, true, HANDSHAKE, None),
            (Grpc, true, SSH, Some(other)),
            (Grpc, true, b"", None),
            (Http, true, HTTP, Some(no_tls_http)),
            (Http, true, SETTINGS, Some(both_grpc)),
            (Http, true, ALERT, None),
            (Http, true, HANDSHAKE, None),
            (Http, true, SSH, Some(other)),
            (Http, true, b"", None),
        ] {
            let mismatch = Mismatch::between(wanted, handshaking, came);
            let printed = mismatch.map(|mismatch| format!("{mismatch}: {}", mismatch.remedy()));
            let words = String::from_utf8_lossy(came);
            assert_eq!(
                printed.as_deref(),
                reported,
                "{wanted:?} {handshaking} {words:?}"
            );
        }
    }
}

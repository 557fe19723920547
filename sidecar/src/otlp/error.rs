//! Why an export failed, and whether it is worth another try.

use std::{borrow::Cow, error::Error, fmt, io, time::Duration};

use tonic::Code;

use super::{
    connect::{ConnectError, Connector},
    quote::{Quoted, Said, Shown},
    retry::MOST_ASKED,
    speech::Mismatch,
};
use crate::config::{Signal, Target};

/// What a receiver took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Points or spans that it refused all the same (`partial_success`).
    pub rejected: u64,
    /// What it had to say.
    pub message: String,
}

/// A failed export.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot export {} to {endpoint}: {cause}{}{} {}", signal.name(), LeftAlone(*retry_after), cause.pause(), cause.remedy())]
pub struct ExportError {
    /// What was to be exported.
    pub signal: Signal,
    /// Where to, as a URL.
    pub endpoint: String,
    /// Why it failed.
    pub cause: Cause,
    /// For how long the receiver asked to be left alone; flowcar heeds [`MOST_ASKED`] of it.
    pub retry_after: Option<Duration>,
}

/// Why an export failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Cause {
    /// No connection, or it broke.
    #[error("no connection ({})", Shown(.0))]
    Unreachable(String),
    /// The connection came about, and ended before anything came over it.
    #[error("it closed the connection without an answer ({0})")]
    Silent(String),
    /// The receiver speaks something else than it is spoken to in.
    #[error("{0}")]
    Mismatch(Mismatch),
    /// The two ends do not trust each other.
    #[error("TLS does not come about ({})", Shown(.0))]
    Tls(String),
    /// The request or its answer hung.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// An HTTP status other than success.
    #[error("the receiver answered HTTP {status}{}", Said(message))]
    Http {
        /// The status.
        status: u16,
        /// What the receiver said.
        message: String,
    },
    /// A gRPC status other than success.
    #[error("the receiver answered gRPC {code:?}{}", Said(message))]
    Grpc {
        /// The status.
        code: Code,
        /// What the receiver said.
        message: String,
        /// Whether it asked to be tried again (`RetryInfo`).
        retry_info: bool,
    },
    /// A proxy does not let it through.
    #[error("no connection through the proxy ({})", Shown(.0))]
    Proxy(String),
    /// An HTTP status that sends the client elsewhere.
    #[error("the receiver redirects{} (HTTP {status}), and flowcar follows no redirect", Elsewhere(target.as_deref()))]
    Redirect {
        /// The status.
        status: u16,
        /// Where to, without what may be a secret.
        target: Option<String>,
    },
    /// A success by its status, and no OTLP in it: nothing says that a receiver has taken anything.
    #[error("the answer is a success and not OTLP ({})", Shown(.0))]
    NotOtlp(String),
    /// The connection cannot be set up from this end.
    #[error("the connection cannot be set up ({})", Shown(.0))]
    Setup(String),
}

impl Accepted {
    /// `success` or `partial`. With nothing rejected a message is a warning (OTLP specification, "Partial Success").
    pub fn outcome(&self) -> &'static str {
        if self.rejected == 0 {
            "success"
        } else {
            "partial"
        }
    }
}

impl ExportError {
    pub(super) fn new(signal: Signal, target: &Target, cause: Cause) -> Self {
        Self {
            signal,
            endpoint: target.url(),
            cause,
            retry_after: None,
        }
    }

    pub(super) fn after(self, retry_after: Option<Duration>) -> Self {
        Self {
            retry_after,
            ..self
        }
    }

    /// Whether the same request may be taken later (OTLP specification, "Failures").
    pub fn retryable(&self) -> bool {
        match &self.cause {
            Cause::Unreachable(_)
            | Cause::Silent(_)
            | Cause::Mismatch(_)
            | Cause::Tls(_)
            | Cause::Timeout(_)
            | Cause::Proxy(_)
            | Cause::Setup(_)
            | Cause::NotOtlp(_) => true,
            Cause::Redirect { .. } => false,
            Cause::Http { status, .. } => matches!(status, 429 | 502 | 503 | 504),
            Cause::Grpc {
                code, retry_info, ..
            } => match code {
                Code::Cancelled
                | Code::DeadlineExceeded
                | Code::Aborted
                | Code::OutOfRange
                | Code::Unavailable
                | Code::DataLoss => true,
                Code::ResourceExhausted => *retry_info,
                _ => false,
            },
        }
    }

    /// Whether a smaller request may be taken. Go's servers say that a body is too large with HTTP 400, tonic's that a
    /// message is with OUT_OF_RANGE.
    pub(super) fn too_large(&self) -> bool {
        match &self.cause {
            Cause::Http { status: 413, .. } => true,
            Cause::Http {
                status: 400,
                message,
            } => message.contains("request body too large"),
            Cause::Grpc {
                code: Code::ResourceExhausted,
                retry_info,
                ..
            } => !retry_info,
            Cause::Grpc {
                code: Code::OutOfRange,
                message,
                ..
            } => message.contains("message length too large"),
            _ => false,
        }
    }

    /// Whether the receiver says that it has these very points already.
    pub(super) fn says_known(&self) -> bool {
        matches!(
            self.cause,
            Cause::Http { status: 409, .. }
                | Cause::Grpc {
                    code: Code::AlreadyExists,
                    ..
                }
        )
    }

    /// Whether the receiver may have taken the request all the same: its answer did not come, or is not OTLP's.
    pub(super) fn outcome_unknown(&self) -> bool {
        matches!(
            self.cause,
            Cause::Unreachable(_) | Cause::Silent(_) | Cause::Timeout(_) | Cause::NotOtlp(_)
        )
    }

    /// `failure`, which may work later, or `refused`, which will not.
    pub fn outcome(&self) -> &'static str {
        if self.retryable() {
            "failure"
        } else {
            "refused"
        }
    }
}

impl Cause {
    /// What stands between it and its remedy.
    const fn pause(&self) -> char {
        match self {
            Self::Mismatch(_) => ':',
            _ => ';',
        }
    }

    /// What to do.
    pub fn remedy(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Mismatch(mismatch) => return mismatch.remedy().into(),
            Self::Unreachable(_) => {
                "check that the receiver runs and that OTEL_EXPORTER_OTLP_ENDPOINT names it"
            }
            Self::Silent(_) => {
                "check OTEL_EXPORTER_OTLP_PROTOCOL, and whether OTEL_EXPORTER_OTLP_ENDPOINT is to begin with http:// or https://"
            }
            Self::Timeout(_) => "look at the receiver's load, or raise OTEL_EXPORTER_OTLP_TIMEOUT",
            Self::Tls(_) => {
                "check OTEL_EXPORTER_OTLP_CERTIFICATE, _CLIENT_CERTIFICATE and _CLIENT_KEY against what the receiver shows and wants"
            }
            Self::Proxy(_) | Self::Http { status: 407, .. } => {
                "check HTTP_PROXY and HTTPS_PROXY, or name the receiver's host in NO_PROXY"
            }
            Self::Setup(_) => "check that file; it is read again before the next try",
            Self::Redirect { .. } => "set OTEL_EXPORTER_OTLP_ENDPOINT to where the receiver is",
            Self::NotOtlp(_) => {
                "check that OTEL_EXPORTER_OTLP_ENDPOINT names an OTLP receiver, and that no proxy answers in its place"
            }
            Self::Http {
                status: 401 | 403, ..
            }
            | Self::Grpc {
                code: Code::Unauthenticated | Code::PermissionDenied,
                ..
            } => "check OTEL_EXPORTER_OTLP_HEADERS",
            Self::Http {
                status: 404 | 405, ..
            }
            | Self::Grpc {
                code: Code::Unimplemented,
                ..
            } => "check OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_PROTOCOL",
            Self::Http { .. } | Self::Grpc { .. } => "look at the receiver's log",
        })
    }
}

/// Where a redirect leads to.
struct Elsewhere<'a>(Option<&'a str>);

impl fmt::Display for Elsewhere<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(target) => write!(f, " to {}", Quoted(target)),
            None => f.write_str(" and does not say where to"),
        }
    }
}

/// What a receiver asked for beyond reason.
struct LeftAlone(Option<Duration>);

impl fmt::Display for LeftAlone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(asked) if asked > MOST_ASKED => write!(
                f,
                "; it asks to be left alone for {} s, of which flowcar heeds {} s",
                asked.as_secs(),
                MOST_ASKED.as_secs()
            ),
            _ => Ok(()),
        }
    }
}

/// Why there was no answer, from the error of a client: what our connector said, that the receiver speaks something else, or
/// the TLS that was set up, else what the error comes from in the end, which says most.
pub(super) fn no_answer(error: &(dyn Error + 'static), connector: &Connector) -> Cause {
    let target = connector.target();
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<ConnectError>() {
            return match error {
                ConnectError::Unreachable(why) => Cause::Unreachable(why.clone()),
                ConnectError::Mismatch(mismatch) => Cause::Mismatch(mismatch.clone()),
                ConnectError::Tls(why) if connector.heard_nothing() => Cause::Silent(why.clone()),
                ConnectError::Tls(why) => Cause::Tls(why.clone()),
                ConnectError::Files(error) => Cause::Setup(error.to_string()),
                ConnectError::Proxy(why) => Cause::Proxy(why.clone()),
            };
        }
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        let alert = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(alert) = alert {
            return Cause::Tls(format!("{alert}; {}", target.tls));
        }
        next = error.source();
    }
    if let Some(mismatch) = connector.mismatch() {
        return Cause::Mismatch(mismatch);
    }
    // HTTP/2 keeps no more of it than its words.
    match root(error) {
        alert if alert.contains("received fatal alert") => {
            Cause::Tls(format!("{alert}; {}", target.tls))
        }
        why if connector.heard_nothing() => Cause::Silent(why),
        why => Cause::Unreachable(why),
    }
}

/// Why there was no answer in time: the receiver waits for something else, perhaps.
pub(super) fn late(cause: Cause, connector: &Connector) -> Cause {
    connector.mismatch().map_or(cause, Cause::Mismatch)
}

/// What an error comes from in the end.
fn root(error: &dyn Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

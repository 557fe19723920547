//! Why an export failed, and whether to retry it.

use std::{borrow::Cow, fmt, time::Duration};

use tonic::Code;

use super::{
    quote::{Quoted, ServerMessage, Shown},
    retry::MOST_ASKED,
    speech::Mismatch,
};
use crate::{
    certs::Fault,
    config::{OwnVariable, Signal, Target, in_force},
};

/// The result of an export that a receiver took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Points or spans that it rejected (`partial_success`).
    pub rejected: u64,
    /// The receiver's message.
    pub message: String,
}

/// A failed export.
#[derive(Clone, Debug, thiserror::Error)]
pub struct ExportError {
    /// The signal.
    pub signal: Signal,
    /// The receiver's URL.
    pub endpoint: String,
    /// Why it failed.
    pub cause: Cause,
    /// How long the receiver asked flowcar to wait; flowcar waits at most [`MOST_ASKED`].
    pub retry_after: Option<Duration>,
    route: Box<Route>,
    /// The bytes of the request, if it cannot be split.
    alone: Option<usize>,
}

/// What of a target decides whom an error is about, and which variables correct it.
#[derive(Clone, Debug)]
struct Route {
    proxy: Option<Via>,
    own_variables: Vec<OwnVariable>,
    /// Whether headers are read from a file.
    has_headers_file: bool,
    /// Whether a request has a limit of time.
    has_timeout: bool,
}

/// The proxy in between.
#[derive(Clone, Debug)]
struct Via {
    /// Without user and password.
    url: String,
    /// The variable that names it.
    variable: String,
    /// Whether it reads the requests, and may answer them itself; it cannot in a tunnel.
    forwards: bool,
}

/// Why an export failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Cause {
    /// No connection.
    #[error("no connection ({})", Shown(.0))]
    Unreachable(String),
    /// The endpoint's IPv6 address is on an interface that is absent.
    #[error("no connection ({})", Shown(.0))]
    Interface(String),
    /// The receiver's name was not resolved in time.
    #[error("the name was not resolved within {0:?}")]
    Unresolved(Duration),
    /// Nothing answered the attempts to connect in time.
    #[error("no TCP connection within {0:?}")]
    Unconnected(Duration),
    /// The connection was established, and the TLS handshake took too long.
    #[error("the TLS handshake was not answered within {0:?}")]
    Handshake(Duration),
    /// A connection over which there was traffic broke.
    #[error("the connection ended before the whole answer came ({})", Shown(.0))]
    Cut(String),
    /// HTTP/2's RST_STREAM.
    #[error("the receiver reset the stream ({})", Shown(.0))]
    Reset(String),
    /// The connection was established and closed before anything was received over it.
    #[error("it closed the connection without an answer ({0})")]
    Silent(String),
    /// The receiver speaks another protocol than the configured one.
    #[error("{0}")]
    Mismatch(Mismatch),
    /// The two ends do not trust each other.
    #[error("the TLS handshake fails ({})", Shown(.0))]
    Tls(String),
    /// The receiver's certificate is not valid for it now.
    #[error("the TLS handshake fails ({})", Shown(&.0.wrong))]
    Certificate(Fault),
    /// The request or its answer hung.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// An HTTP status other than success.
    #[error("the receiver answered HTTP {status}{}", ServerMessage(message))]
    Http {
        /// The status.
        status: u16,
        /// The receiver's message.
        message: String,
    },
    /// A gRPC status other than success.
    #[error("the receiver answered gRPC {code:?}{}", ServerMessage(message))]
    Grpc {
        /// The status.
        code: Code,
        /// The receiver's message.
        message: String,
        /// Whether it asked for a retry (`RetryInfo`).
        retry_info: bool,
    },
    /// A proxy refuses the connection.
    #[error("no connection through the proxy ({})", Shown(.0))]
    Proxy(String),
    /// An HTTP status that sends the client elsewhere.
    #[error("the receiver redirects{} (HTTP {status}), and flowcar follows no redirect", Elsewhere(target.as_deref()))]
    Redirect {
        /// The status.
        status: u16,
        /// The target, without possible secrets.
        target: Option<String>,
    },
    /// A success by its status without OTLP in it: nothing shows that a receiver has taken the export.
    #[error("the answer is a success and not OTLP ({})", Shown(.0))]
    NotOtlp(String),
    /// An answer that is no HTTP message, though it begins like one.
    #[error("the answer is no valid HTTP ({})", Shown(.0))]
    NotHttp(String),
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
            route: Box::new(Route {
                proxy: target.proxy.as_ref().map(|proxy| Via {
                    url: proxy.to_string(),
                    variable: proxy.variable.clone(),
                    forwards: target.is_forwarded(),
                }),
                own_variables: target.own_variables.clone(),
                has_headers_file: target.headers_file.is_some(),
                has_timeout: target.timeout.is_some(),
            }),
            alone: None,
        }
    }

    /// The error about a request of so many bytes that cannot be split.
    pub(super) fn alone(self, bytes: usize) -> Self {
        Self {
            alone: Some(bytes),
            ..self
        }
    }

    /// Whether the request cannot be split, as far as that is known.
    pub(super) const fn is_alone(&self) -> bool {
        self.alone.is_some()
    }

    /// The proxy that the request went through. The texts of some causes name it themselves.
    fn via(&self) -> Option<&Via> {
        let named = matches!(self.cause, Cause::Proxy(_) | Cause::Setup(_));
        self.route.proxy.as_ref().filter(|_| !named)
    }

    /// What to do, with the variables that are in force.
    fn remedy(&self) -> String {
        in_force(&self.route.own_variables, &self.common_remedy())
    }

    /// What to do, with the variables of all signals.
    fn common_remedy(&self) -> String {
        let remedy = match self.alone {
            Some(bytes) if self.too_large() => match self.cause {
                Cause::Grpc {
                    code: Code::ResourceExhausted,
                    ..
                } => format!(
                    "its limit, of size or of rate, is below a request of {bytes} bytes: raise the receiver's limit"
                ),
                _ => format!("its limit is below {bytes} bytes: raise the receiver's limit"),
            },
            None if self.too_large() => "smaller requests are sent".to_owned(),
            _ => self.remedy_of_cause(),
        };
        let Some(Via {
            url,
            variable,
            forwards,
        }) = &self.route.proxy
        else {
            return remedy;
        };
        let proxy = format!("check the proxy {url}, which {variable} names");
        match &self.cause {
            Cause::Proxy(_) => {
                format!("check {variable}, or name the receiver's host in NO_PROXY")
            }
            Cause::Http { status: 407, .. } if *forwards => {
                format!("check {variable}, or name the receiver's host in NO_PROXY")
            }
            Cause::Setup(_) => remedy,
            Cause::Silent(_) if *forwards => proxy,
            _ if *forwards || self.had_no_answer() => format!("{remedy}, and {proxy}"),
            _ => remedy,
        }
    }

    fn remedy_of_cause(&self) -> String {
        match &self.cause {
            Cause::Http {
                status: 401 | 403, ..
            }
            | Cause::Grpc {
                code: Code::Unauthenticated | Code::PermissionDenied,
                ..
            } => match self.route.has_headers_file {
                true => "check the file that OTEL_EXPORTER_OTLP_HEADERS_FILE names".to_owned(),
                false => "check OTEL_EXPORTER_OTLP_HEADERS".to_owned(),
            },
            Cause::Timeout(_) if !self.route.has_timeout => {
                "check the receiver, or set a limit with OTEL_EXPORTER_OTLP_TIMEOUT".to_owned()
            }
            cause => cause.remedy().into_owned(),
        }
    }

    /// Whether nothing shows that the receiver was reached.
    const fn had_no_answer(&self) -> bool {
        matches!(
            self.cause,
            Cause::Unreachable(_)
                | Cause::Unresolved(_)
                | Cause::Unconnected(_)
                | Cause::Handshake(_)
                | Cause::Cut(_)
                | Cause::Silent(_)
                | Cause::Tls(_)
                | Cause::Timeout(_)
        )
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
            | Cause::Interface(_)
            | Cause::Unresolved(_)
            | Cause::Unconnected(_)
            | Cause::Handshake(_)
            | Cause::Cut(_)
            | Cause::Reset(_)
            | Cause::Silent(_)
            | Cause::Mismatch(_)
            | Cause::Tls(_)
            | Cause::Certificate(_)
            | Cause::Timeout(_)
            | Cause::Proxy(_)
            | Cause::Setup(_)
            | Cause::NotHttp(_)
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

    /// Whether a smaller request may be taken. Go's servers report a body that is too large with HTTP 400, tonic's a message
    /// that is too large with OUT_OF_RANGE.
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

    /// Whether the receiver reports that it has exactly these points already.
    pub(super) fn is_known(&self) -> bool {
        matches!(
            self.cause,
            Cause::Http { status: 409, .. }
                | Cause::Grpc {
                    code: Code::AlreadyExists,
                    ..
                }
        )
    }

    /// Whether the receiver answered: the connection serves for the next request, too.
    pub(super) const fn was_answered(&self) -> bool {
        matches!(
            self.cause,
            Cause::Http { .. } | Cause::Grpc { .. } | Cause::Redirect { .. }
        )
    }

    /// Whether the receiver may have taken the request nevertheless: the request was sent, and its answer did not come, or is not OTLP's.
    pub(super) const fn outcome_unknown(&self) -> bool {
        matches!(
            self.cause,
            Cause::Cut(_)
                | Cause::Reset(_)
                | Cause::Silent(_)
                | Cause::Timeout(_)
                | Cause::NotHttp(_)
                | Cause::NotOtlp(_)
        )
    }

    /// `failure`, which may succeed later, or `refused`, which will not.
    pub fn outcome(&self) -> &'static str {
        if self.retryable() {
            "failure"
        } else {
            "refused"
        }
    }
}

impl Cause {
    /// The punctuation between the cause and its remedy.
    const fn pause(&self) -> char {
        match self {
            Self::Mismatch(_) => ':',
            _ => ';',
        }
    }

    /// What to do, without regard to the target.
    fn remedy(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Mismatch(mismatch) => return mismatch.remedy().into(),
            Self::Certificate(fault) => return fault.remedy.clone().into(),
            Self::Unreachable(_) => {
                "check that the receiver runs and that OTEL_EXPORTER_OTLP_ENDPOINT names it"
            }
            Self::Interface(_) => {
                "name an interface of this host or pod behind the % in OTEL_EXPORTER_OTLP_ENDPOINT"
            }
            Self::Unresolved(_) => {
                "check the DNS server, and the host in OTEL_EXPORTER_OTLP_ENDPOINT"
            }
            Self::Unconnected(_) => {
                "check OTEL_EXPORTER_OTLP_ENDPOINT, and whether a packet filter or a network policy on the path drops packets"
            }
            Self::Handshake(_) => {
                "check that the port in OTEL_EXPORTER_OTLP_ENDPOINT speaks TLS, and the receiver's load"
            }
            Self::Cut(_) => {
                "check the receiver's log, and what else on the path closes connections"
            }
            Self::Reset(_) => "check the receiver's load and its log",
            Self::Silent(_) => {
                "check OTEL_EXPORTER_OTLP_PROTOCOL, and whether OTEL_EXPORTER_OTLP_ENDPOINT is to begin with http:// or https://"
            }
            Self::Timeout(_) => "check the receiver's load, or raise OTEL_EXPORTER_OTLP_TIMEOUT",
            Self::Tls(_) => {
                "check OTEL_EXPORTER_OTLP_CERTIFICATE, OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY against what the receiver shows and wants"
            }
            Self::Proxy(_) | Self::Http { status: 407, .. } => {
                "check HTTP_PROXY and HTTPS_PROXY, or name the receiver's host in NO_PROXY"
            }
            Self::Setup(_) => "check that file; it is read again before the next try",
            Self::Redirect { .. } => "set OTEL_EXPORTER_OTLP_ENDPOINT to where the receiver is",
            Self::NotOtlp(_) | Self::NotHttp(_) => {
                "check that OTEL_EXPORTER_OTLP_ENDPOINT names an OTLP receiver, and that no proxy answers in its place"
            }
            Self::Http {
                status: 404 | 405, ..
            }
            | Self::Grpc {
                code: Code::Unimplemented,
                ..
            } => "check OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_PROTOCOL",
            Self::Http { .. } | Self::Grpc { .. } => "check the receiver's log",
        })
    }
}

impl fmt::Display for ExportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (signal, endpoint) = (self.signal.name(), &self.endpoint);
        write!(f, "cannot export {signal} to {endpoint}")?;
        let via = self.via();
        if let Some(Via { url, .. }) = via {
            write!(f, " through the proxy {url}")?;
        }
        let forwards = via.is_some_and(|via| via.forwards);
        let cause = About {
            cause: &self.cause,
            forwards,
        };
        let (wait, pause) = (LeftAlone(self.retry_after), self.cause.pause());
        write!(f, ": {cause}{wait}{pause} {}", self.remedy())
    }
}

/// A cause that is about the proxy, or may be, where one forwards the requests.
struct About<'a> {
    cause: &'a Cause,
    forwards: bool,
}

impl fmt::Display for About<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.cause.to_string();
        if !self.forwards {
            return f.write_str(&text);
        }
        let (subject, by) = match self.cause {
            Cause::Silent(_) => ("it ", "the proxy "),
            Cause::Http { status: 407, .. } => ("the receiver ", "the proxy "),
            _ => ("the receiver ", "the receiver or the proxy "),
        };
        match text.strip_prefix(subject) {
            Some(rest) => write!(f, "{by}{rest}"),
            None => f.write_str(&text),
        }
    }
}

/// Where a redirect leads to.
struct Elsewhere<'a>(Option<&'a str>);

impl fmt::Display for Elsewhere<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(target) => write!(f, " to {}", Quoted(target)),
            None => f.write_str(" without a target"),
        }
    }
}

/// A wait that the receiver asked for and that is longer than flowcar waits.
struct LeftAlone(Option<Duration>);

impl fmt::Display for LeftAlone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(asked) if asked > MOST_ASKED => write!(
                f,
                "; it asks flowcar to wait {} s, of which flowcar waits {} s",
                asked.as_secs(),
                MOST_ASKED.as_secs()
            ),
            _ => Ok(()),
        }
    }
}

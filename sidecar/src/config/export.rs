//! `OTEL_EXPORTER_OTLP_*`: where each signal goes, and how (OpenTelemetry specification, protocol/exporter).

use std::{fmt, time::Duration};

use http::{HeaderName, HeaderValue, Uri};

use super::{
    mistake::{Reader, Wrong},
    parse,
    raw::{Raw, RawSignal},
};

/// Where each signal goes; `None` for one that is not exported.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Export {
    /// Metrics.
    pub metrics: Option<Target>,
    /// Spans.
    pub traces: Option<Target>,
}

/// A kind of telemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// Metrics.
    Metrics,
    /// Spans.
    Traces,
}

/// Where a signal goes, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The URL, scheme included; for HTTP with the signal's path.
    pub endpoint: Uri,
    /// The transport.
    pub protocol: Protocol,
    /// Sent with every request.
    pub headers: Headers,
    /// Time for one request and its answer.
    pub timeout: Duration,
    /// What requests are packed with.
    pub compression: Option<Compression>,
}

/// OTLP's transports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `grpc`
    Grpc,
    /// `http/protobuf`
    HttpProtobuf,
}

/// How requests are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// RFC 1952
    Gzip,
    /// RFC 8878
    Zstd,
}

/// Headers of requests. They carry credentials, so their values are kept out of every log.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(HeaderName, HeaderValue)>);

// === impl Signal ===

impl Signal {
    /// The signal's name in paths and figures.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Traces => "traces",
        }
    }

    const fn prefix(self) -> &'static str {
        match self {
            Self::Metrics => "OTEL_EXPORTER_OTLP_METRICS_",
            Self::Traces => "OTEL_EXPORTER_OTLP_TRACES_",
        }
    }
}

// === impl Headers ===

impl Headers {
    /// Names and values.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&HeaderName, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name, value))
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.iter().map(|(name, _)| (name.as_str(), "(hidden)"));
        f.debug_map().entries(names).finish()
    }
}

// === reading ===

const ANY: &str = "OTEL_EXPORTER_OTLP_";

/// What is set, and what the default endpoint would give.
pub(super) fn read(raw: &Raw, reader: &mut Reader) -> (Export, Export) {
    let disabled = reader.read(
        "OTEL_SDK_DISABLED",
        &raw.sdk.sdk_disabled,
        false,
        parse::boolean,
    );
    let exporter = |text: &str| parse::choice(text, &[("otlp", true), ("none", false)]);
    let (metrics, traces) = (&raw.sdk.metrics_exporter, &raw.sdk.traces_exporter);
    let metrics_wanted = reader.read("OTEL_METRICS_EXPORTER", metrics, true, exporter);
    let traces_wanted = reader.read("OTEL_TRACES_EXPORTER", traces, true, exporter);

    // Of a signal that is not wanted the mistakes count all the same.
    let metrics = SignalReader::new(Signal::Metrics, &raw.metrics, &raw.any).read(reader);
    let traces = SignalReader::new(Signal::Traces, &raw.traces, &raw.any).read(reader);
    let (metrics, metrics_default) = metrics.wanted(metrics_wanted && !disabled);
    let (traces, traces_default) = traces.wanted(traces_wanted && !disabled);
    (
        Export { metrics, traces },
        Export {
            metrics: metrics_default,
            traces: traces_default,
        },
    )
}

/// A signal's target, and whether anybody asked for it.
struct Read {
    target: Option<Target>,
    asked: bool,
}

impl Read {
    /// What is set, and what would be by default.
    fn wanted(self, wanted: bool) -> (Option<Target>, Option<Target>) {
        let target = self.target.filter(|_| wanted);
        (target.clone().filter(|_| self.asked), target)
    }
}

/// Reads a signal's own variables before those of any signal.
struct SignalReader<'a> {
    signal: Signal,
    own: &'a RawSignal,
    any: &'a RawSignal,
}

impl<'a> SignalReader<'a> {
    fn new(signal: Signal, own: &'a RawSignal, any: &'a RawSignal) -> Self {
        Self { signal, own, any }
    }

    fn read(&self, reader: &mut Reader) -> Read {
        let protocol = self.setting(reader, "PROTOCOL", |raw| &raw.protocol, protocol);
        let protocol = protocol.unwrap_or(Protocol::Grpc);
        let insecure = self.setting(reader, "INSECURE", |raw| &raw.insecure, parse::boolean);
        let insecure = insecure.unwrap_or(false);
        let headers = self.setting(reader, "HEADERS", |raw| &raw.headers, headers);
        let timeout = self.setting(reader, "TIMEOUT", |raw| &raw.timeout, parse::millis);
        let compression = self.setting(reader, "COMPRESSION", |raw| &raw.compression, compression);

        let asked = self.own.endpoint.is_some() || self.any.endpoint.is_some();
        let url = |text: &str| endpoint(text, protocol, insecure);
        let endpoint = if self.own.endpoint.is_some() {
            self.setting(reader, "ENDPOINT", |raw| &raw.endpoint, url)
        } else {
            let base = self
                .any
                .endpoint
                .as_deref()
                .unwrap_or(protocol.default_endpoint());
            match url(base).and_then(|uri| self.signal_endpoint(uri, protocol)) {
                Ok(endpoint) => Some(endpoint),
                Err(wrong) => {
                    // Both signals read the same text: one report of it is enough.
                    reader.add_once(&format!("{ANY}ENDPOINT"), base, wrong);
                    None
                }
            }
        };
        Read {
            target: endpoint.map(|endpoint| Target {
                endpoint,
                protocol,
                headers: headers.unwrap_or_default(),
                timeout: timeout.unwrap_or(Duration::from_secs(10)),
                compression: compression.flatten(),
            }),
            asked,
        }
    }

    /// The parsed value of the signal's own variable, else of any signal's.
    fn setting<T>(
        &self,
        reader: &mut Reader,
        name: &str,
        pick: impl Fn(&RawSignal) -> &Option<String>,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        let (prefix, value) = match (pick(self.own), pick(self.any)) {
            (Some(value), _) => (self.signal.prefix(), value),
            (None, Some(value)) => (ANY, value),
            (None, None) => return None,
        };
        match parse(value) {
            Ok(parsed) => Some(parsed),
            Err(wrong) => {
                reader.add_once(&format!("{prefix}{name}"), value, wrong);
                None
            }
        }
    }

    /// For HTTP, the signal's path below the endpoint of any signal.
    fn signal_endpoint(&self, base: Uri, protocol: Protocol) -> Result<Uri, Wrong> {
        if protocol == Protocol::Grpc {
            return Ok(base);
        }
        let base = base.to_string();
        let (base, name) = (base.trim_end_matches('/'), self.signal.name());
        format!("{base}/v1/{name}")
            .parse()
            .map_err(|error| not_a_url(&error))
    }
}

// === impl Protocol ===

impl Protocol {
    const fn default_endpoint(self) -> &'static str {
        match self {
            Self::Grpc => "http://localhost:4317",
            Self::HttpProtobuf => "http://localhost:4318",
        }
    }
}

fn protocol(text: &str) -> Result<Protocol, Wrong> {
    if text.eq_ignore_ascii_case("http/json") {
        let remedy = "set it to http/protobuf, which the same receivers take on the same port";
        return Err(Wrong::new("is not spoken here", remedy));
    }
    parse::choice(
        text,
        &[
            ("grpc", Protocol::Grpc),
            ("http/protobuf", Protocol::HttpProtobuf),
        ],
    )
}

fn compression(text: &str) -> Result<Option<Compression>, Wrong> {
    parse::choice(
        text,
        &[
            ("gzip", Some(Compression::Gzip)),
            ("zstd", Some(Compression::Zstd)),
            ("none", None),
        ],
    )
}

fn headers(text: &str) -> Result<Headers, Wrong> {
    let remedy = "write name=value,name=value, values percent-encoded";
    parse::pairs(text)?
        .into_iter()
        .map(|(name, value)| {
            let wrong = |what: &str| Wrong::new(format!("{name:?} {what}"), remedy);
            let parsed: HeaderName = name.parse().map_err(|_| wrong("is not a header's name"))?;
            let mut value = HeaderValue::from_str(&value)
                .map_err(|_| wrong("has a value that no header can have"))?;
            value.set_sensitive(true);
            Ok((parsed, value))
        })
        .collect::<Result<_, _>>()
        .map(Headers)
}

/// The scheme may be missing with gRPC only: then it is https, or http if that is said to be fine.
fn endpoint(text: &str, protocol: Protocol, insecure: bool) -> Result<Uri, Wrong> {
    let url = match (text.contains("://"), protocol) {
        (false, Protocol::Grpc) if insecure => format!("http://{text}"),
        (false, Protocol::Grpc) => format!("https://{text}"),
        _ => text.to_owned(),
    };
    let uri: Uri = url.parse().map_err(|error| not_a_url(&error))?;
    if uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        let remedy = "take it out, and send the credentials in OTEL_EXPORTER_OTLP_HEADERS";
        return Err(Wrong::new("has a user in it", remedy));
    }
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(Wrong::new(
            "does not begin with http:// or https://",
            format!("set it to {}, say", protocol.default_endpoint()),
        ));
    }
    Ok(uri)
}

fn not_a_url(error: &http::uri::InvalidUri) -> Wrong {
    let wrong = format!("is not a URL ({error})");
    Wrong::new(wrong, "set it to http://collector:4317, say")
}

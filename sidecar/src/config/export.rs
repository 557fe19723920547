//! `OTEL_EXPORTER_OTLP_*`: where each signal goes, and how (OpenTelemetry specification, protocol/exporter).

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use http::{HeaderName, HeaderValue, Uri};

use super::{
    mistake::{Reader, Wrong},
    parse,
    raw::{Raw, RawSignal},
};
use crate::certs::{self, CertError, ClientFiles, TlsFiles};

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
    /// The URL, scheme included; for HTTP with the signal's path. Of a socket, what requests over it are told.
    pub endpoint: Uri,
    /// The Unix-domain socket that the receiver listens on, for `unix:///path`.
    pub socket: Option<PathBuf>,
    /// The transport.
    pub protocol: Protocol,
    /// Sent with every request.
    pub headers: Headers,
    /// Time for one request and its answer.
    pub timeout: Duration,
    /// What requests are packed with.
    pub compression: Option<Compression>,
    /// Certificates, for https.
    pub tls: TlsFiles,
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

// === impl Target ===

impl Target {
    /// Where it is, as the settings say it.
    pub fn url(&self) -> String {
        match &self.socket {
            Some(path) => format!("unix://{}", path.display()),
            None => self.endpoint.to_string(),
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

        let tls = self.tls(reader);

        let asked = self.own.endpoint.is_some() || self.any.endpoint.is_some();
        let text = self.own.endpoint.as_ref().or(self.any.endpoint.as_ref());
        let socket = text.and_then(|text| socket(text));
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
                // The path of a socket is the socket's: the signal's comes after it in any case.
                endpoint: match (&socket, protocol) {
                    (Some(_), Protocol::HttpProtobuf) => self.on_socket(),
                    _ => endpoint,
                },
                socket,
                protocol,
                headers: headers.unwrap_or_default(),
                timeout: timeout.unwrap_or(Duration::from_secs(10)),
                compression: compression.flatten(),
                tls,
            }),
            asked,
        }
    }

    /// The certificates' files, each read once so that a wrong one is told before anything is exported.
    fn tls(&self, reader: &mut Reader) -> TlsFiles {
        let authorities = self.file(
            reader,
            "CERTIFICATE",
            |raw| &raw.certificate,
            |path| certs::authorities(path).map(drop),
        );
        let chain = |path: &Path| certs::chain(path).map(drop);
        let key = |path: &Path| certs::private_key(path).map(drop);
        let pick = |raw: &'a RawSignal| &raw.client_certificate;
        let certificate = self.file(reader, "CLIENT_CERTIFICATE", pick, chain);
        let pick = |raw: &'a RawSignal| &raw.client_key;
        let key = self.file(reader, "CLIENT_KEY", pick, key);
        let client = self.client(reader, certificate, key);
        TlsFiles {
            authorities,
            client,
        }
    }

    /// The pair, both of it or none.
    fn client(
        &self,
        reader: &mut Reader,
        certificate: Option<PathBuf>,
        key: Option<PathBuf>,
    ) -> Option<ClientFiles> {
        let set = |pick: fn(&RawSignal) -> &Option<String>| match (pick(self.own), pick(self.any)) {
            (Some(value), _) => Some((self.signal.prefix(), value)),
            (None, Some(value)) => Some((ANY, value)),
            (None, None) => None,
        };
        let alone = |other: &str| {
            let remedy = format!("set {ANY}{other} as well, or neither");
            Wrong::new("is of no use alone", remedy)
        };
        let key_set = set(|raw| &raw.client_key);
        match (set(|raw| &raw.client_certificate), key_set) {
            (Some((prefix, value)), None) => {
                let name = format!("{prefix}CLIENT_CERTIFICATE");
                reader.add_once(&name, value, alone("CLIENT_KEY"));
            }
            (None, Some((prefix, value))) => {
                let name = format!("{prefix}CLIENT_KEY");
                reader.add_once(&name, value, alone("CLIENT_CERTIFICATE"));
            }
            _ => {}
        }
        let client = ClientFiles {
            certificate: certificate?,
            key: key?,
        };
        let pair = TlsFiles {
            // The authorities have been told of: what is asked here is whether key and certificate match.
            authorities: Some(client.certificate.clone()),
            client: Some(client.clone()),
        };
        if !may_come(&client.certificate)
            && !may_come(&client.key)
            && let Err(error) = pair.load(b"")
            && let Some((prefix, value)) = key_set
        {
            reader.add_once(&format!("{prefix}CLIENT_KEY"), value, mismatch(&error));
        }
        Some(client)
    }

    /// A file's path, if `check` finds nothing wrong with the file.
    fn file(
        &self,
        reader: &mut Reader,
        name: &str,
        pick: impl Fn(&'a RawSignal) -> &'a Option<String>,
        check: impl Fn(&Path) -> Result<(), CertError>,
    ) -> Option<PathBuf> {
        self.setting(reader, name, pick, |text| {
            let path = PathBuf::from(text);
            if may_come(&path) {
                return Ok(path);
            }
            check(&path).map_err(|error| Wrong::new(error.wrong, "give the path of a PEM file"))?;
            Ok(path)
        })
    }

    /// What HTTP over a Unix-domain socket asks for.
    fn on_socket(&self) -> Uri {
        let name = self.signal.name();
        format!("http://localhost/v1/{name}")
            .parse()
            .expect("a URL")
    }

    /// The parsed value of the signal's own variable, else of any signal's.
    fn setting<T>(
        &self,
        reader: &mut Reader,
        name: &str,
        pick: impl Fn(&'a RawSignal) -> &'a Option<String>,
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

/// Where the injector mounts certificates, from a Secret that may be made after the pod: until then exports fail, and the
/// pod starts.
const MOUNTED: &str = "/run/flowcar-tls";

fn may_come(path: &Path) -> bool {
    path.starts_with(MOUNTED) && !path.exists()
}

fn mismatch(error: &CertError) -> Wrong {
    Wrong::new(
        error.wrong.clone(),
        "give the key that the certificate was made for",
    )
}

/// The path in `unix:///path` or `unix:/path` (gRPC's naming of Unix-domain sockets).
fn socket(text: &str) -> Option<PathBuf> {
    let path = text.strip_prefix("unix:")?;
    let path = path.strip_prefix("//").unwrap_or(path);
    Some(PathBuf::from(path))
}

/// The scheme may be missing with gRPC only: then it is https, or http if that is said to be fine.
fn endpoint(text: &str, protocol: Protocol, insecure: bool) -> Result<Uri, Wrong> {
    if let Some(path) = socket(text) {
        if !path.is_absolute() {
            return Err(Wrong::new(
                "has no absolute path",
                "set it to unix:///run/collector.sock, say",
            ));
        }
        return Ok(Uri::from_static("http://localhost"));
    }
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

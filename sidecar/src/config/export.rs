//! `OTEL_EXPORTER_OTLP_*`: where each signal goes, and how (OpenTelemetry specification, protocol/exporter).

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    endpoint::{self, Endpoint},
    error::ParseError,
    headers::{self, Headers},
    parse,
    proxy::proxy,
    raw::{Raw, RawProxies, RawSignal},
    reader::Reader,
    signal::{Compression, Protocol, Signal},
    target::{Export, Target},
};
use crate::{
    certs::{self, ClientFiles, TlsFiles},
    files::FileError,
};

const ANY: &str = "OTEL_EXPORTER_OTLP_";

/// What is set, and what the default endpoint would give.
pub(super) fn read(raw: &Raw, reader: &mut Reader) -> (Export, Export) {
    let disabled = reader.boolean("OTEL_SDK_DISABLED", &raw.sdk.sdk_disabled);
    let mut wanted = |name: &str, value: &Option<String>| {
        let (otlp, others) = reader.read(name, value, (true, Vec::new()), |text| {
            let (otlp, others) = parse::exporters(text)?;
            Ok((otlp, others.into_iter().map(str::to_owned).collect()))
        });
        if !others.is_empty() {
            let known = ["console", "logging", "prometheus", "zipkin", "jaeger"];
            let named = others.iter().all(|other| known.contains(&other.as_str()));
            let others = if named {
                others.join(" and ")
            } else {
                "others".to_owned()
            };
            reader.notice(
                name,
                format!("has {others}, which flowcar has not: it exports by OTLP only"),
            );
        }
        otlp && !disabled
    };
    let metrics_wanted = wanted("OTEL_METRICS_EXPORTER", &raw.sdk.metrics_exporter);
    let traces_wanted = wanted("OTEL_TRACES_EXPORTER", &raw.sdk.traces_exporter);

    // Errors in the settings of a signal that is switched off count as well.
    let metrics = SignalReader::new(Signal::Metrics, &raw.metrics, raw).read(reader);
    let traces = SignalReader::new(Signal::Traces, &raw.traces, raw).read(reader);
    let (metrics, metrics_default) = metrics.wanted(metrics_wanted);
    let (traces, traces_default) = traces.wanted(traces_wanted);
    (
        Export { metrics, traces },
        Export {
            metrics: metrics_default,
            traces: traces_default,
        },
    )
}

/// A signal's target, and whether its endpoint is set.
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
    proxies: &'a RawProxies,
    is_injected: bool,
}

impl<'a> SignalReader<'a> {
    fn new(signal: Signal, own: &'a RawSignal, raw: &'a Raw) -> Self {
        Self {
            signal,
            own,
            any: &raw.any,
            proxies: &raw.proxies,
            is_injected: raw.flowcar.pod_uid.is_some(),
        }
    }

    fn read(&self, reader: &mut Reader) -> Read {
        let protocol = self.setting(reader, "PROTOCOL", |raw| &raw.protocol, protocol);
        let protocol = protocol.unwrap_or(Protocol::Grpc);
        let insecure = self.set(|raw| &raw.insecure);
        let insecure = insecure.is_some_and(|(prefix, value)| {
            reader.boolean(&format!("{prefix}INSECURE"), &Some(value.clone()))
        });
        let headers = self.headers(reader);
        let pick = |raw: &'a RawSignal| &raw.headers_file;
        let headers_file = self.file(reader, "HEADERS_FILE", pick, |path| {
            Headers::read(path).map(drop)
        });
        let timeout = self.setting(reader, "TIMEOUT", |raw| &raw.timeout, parse::limit);
        let compression = self.setting(reader, "COMPRESSION", |raw| &raw.compression, compression);
        let tls = self.tls(reader);
        let endpoint = self.endpoint(reader, protocol, insecure);
        let secrets = headers.as_ref().is_some_and(|headers| !headers.is_empty());
        if let Some(endpoint) = &endpoint
            && (secrets || headers_file.is_some())
        {
            self.unencrypted(reader, endpoint);
        }
        Read {
            target: endpoint.map(|endpoint| Target {
                proxy: proxy(self.proxies, &endpoint, reader),
                endpoint: endpoint.uri,
                zone: endpoint.zone,
                socket: endpoint.socket,
                protocol,
                headers: headers.unwrap_or_default(),
                headers_file,
                timeout: timeout.unwrap_or(Some(Duration::from_secs(10))),
                compression: compression.flatten(),
                tls,
            }),
            asked: self.set(|raw| &raw.endpoint).is_some(),
        }
    }

    /// In a pod they come from a Secret. The pod starts without it or with a wrong one: see [`MOUNTED`].
    fn headers(&self, reader: &mut Reader) -> Option<Headers> {
        let pick = |raw: &'a RawSignal| &raw.headers;
        let Some((prefix, value)) = self.set(pick).filter(|_| self.is_injected) else {
            return self.setting(reader, "HEADERS", pick, headers::parse);
        };
        match headers::parse(value) {
            Ok(headers) => Some(headers),
            Err(ParseError { wrong, remedy }) => {
                let text = format!(
                    "are wrong ({wrong}), and none are sent until the Secret behind them is corrected and the pod is recreated; {remedy}"
                );
                reader.notice(&format!("{prefix}HEADERS"), text);
                None
            }
        }
    }

    /// Headers carry credentials, which are sent in plain text without TLS.
    fn unencrypted(&self, reader: &mut Reader, endpoint: &Endpoint) {
        let plain = endpoint.socket.is_none() && endpoint.uri.scheme_str() == Some("http");
        if !plain {
            return;
        }
        let names = [
            self.set(|raw| &raw.headers)
                .map(|(prefix, _)| (prefix, "HEADERS")),
            self.set(|raw| &raw.headers_file)
                .map(|(prefix, _)| (prefix, "HEADERS_FILE")),
        ];
        let host = endpoint.uri.host().unwrap_or_default();
        let bare = host.trim_matches(['[', ']']);
        let here = bare.parse::<std::net::IpAddr>().map_or_else(
            |_| bare.eq_ignore_ascii_case("localhost"),
            |address| address.is_loopback(),
        );
        let text = if here {
            "goes without encryption to this host, where any process may listen in the receiver's place: use https:// or unix:///path"
        } else {
            "goes without encryption over the network, where others may read it: use https://"
        };
        for (prefix, name) in names.into_iter().flatten() {
            reader.notice(&format!("{prefix}{name}"), text);
        }
    }

    /// The endpoint: for HTTP, the signal's path below the common endpoint; below a Unix-domain socket always.
    fn endpoint(
        &self,
        reader: &mut Reader,
        protocol: Protocol,
        insecure: bool,
    ) -> Option<Endpoint> {
        let set = self.set(|raw| &raw.endpoint);
        let text = set.map_or(protocol.default_endpoint(), |(_, value)| value);
        let own = self.own.endpoint.is_some();
        let read = || {
            let endpoint = endpoint::endpoint(text, protocol, insecure)?;
            if protocol == Protocol::HttpProtobuf && (!own || endpoint.socket.is_some()) {
                endpoint.below(&format!("/v1/{}", self.signal.name()))
            } else {
                Ok(endpoint)
            }
        };
        let endpoint = self.setting(reader, "ENDPOINT", |raw| &raw.endpoint, |_| read());
        let endpoint = if set.is_some() {
            endpoint?
        } else {
            read().ok()?
        };
        let path = endpoint
            .uri
            .path_and_query()
            .map_or("/", |path| path.as_str());
        if let (Some((prefix, _)), Protocol::Grpc) = (set, protocol)
            && path != "/"
        {
            let text =
                "has a path or a query, which gRPC does not send: only its host and port are used";
            reader.notice(&format!("{prefix}ENDPOINT"), text);
        }
        Some(endpoint)
    }

    /// The certificates' files, each read once so that a wrong one is reported before the first export.
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
        self.dates(reader, "CERTIFICATE", authorities.as_deref(), true);
        self.dates(reader, "CLIENT_CERTIFICATE", certificate.as_deref(), false);
        let client = self.client(reader, certificate, key);
        TlsFiles {
            authorities,
            client,
        }
    }

    /// Expired and future certificates are no error: the files may be replaced, and the clock may be set.
    fn dates(&self, reader: &mut Reader, name: &str, path: Option<&Path>, all: bool) {
        let Some(path) = path else { return };
        if let Some(dates) = certs::out_of_date(path, all) {
            let text = format!(
                "is {}, whose certificate {dates}: write a valid one there, which is read when the file changes",
                path.display()
            );
            reader.notice(&format!("{ANY}{name}"), text);
        }
    }

    /// Certificate and key: both or none.
    fn client(
        &self,
        reader: &mut Reader,
        certificate: Option<PathBuf>,
        key: Option<PathBuf>,
    ) -> Option<ClientFiles> {
        let alone = |other: &str| {
            let remedy = format!("set {ANY}{other} as well, or neither");
            ParseError::new("is of no use alone", remedy)
        };
        let key_set = self.set(|raw| &raw.client_key);
        match (self.set(|raw| &raw.client_certificate), key_set) {
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
            // The authorities were checked above: this checks whether key and certificate match.
            authorities: Some(client.certificate.clone()),
            client: Some(client.clone()),
        };
        if let Some((prefix, value)) = key_set
            && let Err(error) = pair.load(b"")
        {
            let name = format!("{prefix}CLIENT_KEY");
            if !is_mounted(&client.certificate) && !is_mounted(&client.key) {
                reader.add_once(&name, value, ParseError::new(error.wrong, error.remedy));
            } else if certs::chain(&client.certificate).is_ok()
                && certs::private_key(&client.key).is_ok()
            {
                // An error in either file alone was reported above.
                reader.notice(&name, until_right(&error));
            }
        }
        Some(client)
    }

    /// A file's path, if `check` finds nothing wrong with the file.
    fn file(
        &self,
        reader: &mut Reader,
        name: &str,
        pick: impl Fn(&'a RawSignal) -> &'a Option<String>,
        check: impl Fn(&Path) -> Result<(), FileError>,
    ) -> Option<PathBuf> {
        let mut notice = None;
        let path = self.setting(reader, name, &pick, |text| {
            let path = PathBuf::from(text);
            match check(&path) {
                Err(error) if is_mounted(&path) => notice = Some(until_right(&error)),
                checked => checked.map_err(|error| ParseError::new(error.wrong, error.remedy))?,
            }
            Ok(path)
        });
        if let (Some(text), Some((prefix, _))) = (notice, self.set(pick)) {
            reader.notice(&format!("{prefix}{name}"), text);
        }
        path
    }

    /// The signal's own variable, else that of any signal: the beginning of its name, and its value.
    fn set(
        &self,
        pick: impl Fn(&'a RawSignal) -> &'a Option<String>,
    ) -> Option<(&'static str, &'a String)> {
        let own = pick(self.own).as_ref();
        let own = own.map(|value| (self.signal.prefix(), value));
        own.or_else(|| pick(self.any).as_ref().map(|value| (ANY, value)))
    }

    /// The parsed value of the signal's own variable, else of any signal's.
    fn setting<T>(
        &self,
        reader: &mut Reader,
        name: &str,
        pick: impl Fn(&'a RawSignal) -> &'a Option<String>,
        parse: impl FnOnce(&str) -> Result<T, ParseError>,
    ) -> Option<T> {
        let (prefix, value) = self.set(pick)?;
        match parse(value) {
            Ok(parsed) => Some(parsed),
            Err(wrong) => {
                reader.add_once(&format!("{prefix}{name}"), value, wrong);
                None
            }
        }
    }
}

fn protocol(text: &str) -> Result<Protocol, ParseError> {
    if text.eq_ignore_ascii_case("http/json") {
        let remedy = "set it to http/protobuf, which the same receivers take on the same port";
        return Err(ParseError::new("is not supported", remedy));
    }
    parse::choice(
        text,
        &[
            ("grpc", Protocol::Grpc),
            ("http/protobuf", Protocol::HttpProtobuf),
        ],
    )
}

fn compression(text: &str) -> Result<Option<Compression>, ParseError> {
    parse::choice(
        text,
        &[
            ("gzip", Some(Compression::Gzip)),
            ("zstd", Some(Compression::Zstd)),
            ("none", None),
        ],
    )
}

/// Where the injector mounts certificates, from Secrets that may be created and corrected after the pod. If flowcar exited, the pod would
/// not start, as the application's containers wait for a native sidecar. So until the files are right, exports fail, and the log says so.
const MOUNTED: &str = "/run/flowcar-tls";

fn is_mounted(path: &Path) -> bool {
    path.starts_with(MOUNTED)
}

fn until_right(error: &FileError) -> String {
    let FileError {
        path,
        wrong,
        remedy,
    } = error;
    format!(
        "is {}, which {wrong}: exports fail until the Secret or ConfigMap behind it is corrected; {remedy}",
        path.display()
    )
}

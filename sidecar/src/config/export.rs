//! `OTEL_EXPORTER_OTLP_*`: where each signal goes, and how (OpenTelemetry specification, protocol/exporter).

use std::path::{Path, PathBuf};

use super::{
    endpoint::{self, Endpoint},
    error::ParseError,
    headers::Headers,
    parse::Exporters,
    proxy::{is_this_host, proxy},
    reader::Reader,
    setting::{PerSignal, Setting},
    settings,
    signal::{Protocol, Signal},
    target::{Export, OwnVariable, Target},
};
use crate::{
    certs::{self, ClientFiles, TlsFiles},
    files::FileError,
};

/// What is set, and what the default endpoint would give.
pub(super) fn read(reader: &mut Reader) -> (Export, Export) {
    let disabled = reader.boolean(&settings::OTEL_SDK_DISABLED);
    let mut wanted = |setting: &Setting<Exporters>| {
        let Exporters { otlp, others } = reader.read(setting);
        if !others.is_empty() {
            let known = ["console", "logging", "prometheus", "zipkin", "jaeger"];
            let named = others.iter().all(|other| known.contains(&other.as_str()));
            let others = if named {
                others.join(" and ")
            } else {
                "others".to_owned()
            };
            reader.notice_about(
                setting,
                format!("has {others}, which flowcar has not: it exports by OTLP only"),
            );
        }
        otlp && !disabled
    };
    let metrics_wanted = wanted(&settings::OTEL_METRICS_EXPORTER);
    let traces_wanted = wanted(&settings::OTEL_TRACES_EXPORTER);
    let logs_wanted = wanted(&settings::OTEL_LOGS_EXPORTER);

    let (mut export, mut defaults) = (Export::default(), Export::default());
    for (signal, wanted) in [
        (Signal::Metrics, metrics_wanted),
        (Signal::Traces, traces_wanted),
        (Signal::Logs, logs_wanted),
    ] {
        // Errors in the settings of a signal that is switched off count as well. Log records nobody has switched off.
        if signal == Signal::Logs && !wanted {
            continue;
        }
        let read = SignalReader::new(signal, reader).read().wanted(wanted);
        (*export.of_mut(signal), *defaults.of_mut(signal)) = read;
    }
    (export, defaults)
}

/// Whether the settings ask for log records.
pub(super) fn sends_log_records(reader: &Reader) -> bool {
    let exporters = reader.try_read(&settings::OTEL_LOGS_EXPORTER);
    exporters.is_ok_and(|exporters| exporters.otlp)
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

/// Reads what is set for one signal.
struct SignalReader<'a> {
    signal: Signal,
    reader: &'a mut Reader,
    is_injected: bool,
}

impl<'a> SignalReader<'a> {
    fn new(signal: Signal, reader: &'a mut Reader) -> Self {
        Self {
            signal,
            is_injected: reader.find(&settings::FLOWCAR_POD_UID).is_some(),
            reader,
        }
    }

    fn read(&mut self) -> Read {
        let signal = self.signal;
        let protocol = self.reader.read(settings::PROTOCOL.of(signal));
        let insecure = self.reader.boolean(settings::INSECURE.of(signal));
        let headers = self.headers();
        let headers_file = self.file(&settings::HEADERS_FILE, |path| {
            Headers::read(path).map(drop)
        });
        let timeout = self.reader.read(settings::TIMEOUT.of(signal));
        let compression = self.reader.read(settings::COMPRESSION.of(signal));
        let tls = self.tls();
        let endpoint = self.endpoint(protocol, insecure);
        if let (Some(endpoint), Some(path)) = (&endpoint, &tls.authorities) {
            self.alt_name(endpoint, path);
        }
        let secrets = headers.as_ref().is_some_and(|headers| !headers.is_empty());
        if let Some(endpoint) = &endpoint
            && (secrets || headers_file.is_some())
        {
            self.unencrypted(endpoint);
        }
        let own_variables = self.own_variables();
        Read {
            target: endpoint.map(|endpoint| Target {
                proxy: proxy(&endpoint, self.reader),
                endpoint: endpoint.uri,
                zone: endpoint.zone,
                socket: endpoint.socket,
                protocol,
                headers: headers.unwrap_or_default(),
                headers_file,
                timeout,
                compression,
                tls,
                own_variables,
            }),
            asked: self.reader.find(settings::ENDPOINT.of(signal)).is_some(),
        }
    }

    /// The signal's own variables that win over the common ones.
    fn own_variables(&self) -> Vec<OwnVariable> {
        [
            self.own(&settings::ENDPOINT),
            self.own(&settings::PROTOCOL),
            self.own(&settings::HEADERS),
            self.own(&settings::HEADERS_FILE),
            self.own(&settings::TIMEOUT),
            self.own(&settings::CERTIFICATE),
            self.own(&settings::CLIENT_CERTIFICATE),
            self.own(&settings::CLIENT_KEY),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The signal's own variable, if that is the one in force.
    fn own<T>(&self, setting: &PerSignal<T>) -> Option<OwnVariable> {
        let name = self.reader.find(setting.of(self.signal))?.name;
        (name != setting.common).then_some((name, setting.common))
    }

    /// In a pod they come from a Secret. The pod starts without it or with a wrong one: see [`MOUNTED`].
    fn headers(&mut self) -> Option<Headers> {
        let setting = settings::HEADERS.of(self.signal);
        if !self.is_injected {
            return self.reader.read(setting);
        }
        self.reader.try_read(setting).unwrap_or_else(|ParseError { wrong, remedy }| {
            let text = format!(
                "are wrong ({wrong}), and none are sent until the Secret behind them is corrected and the pod is recreated; {remedy}"
            );
            self.reader.notice_about(setting, text);
            None
        })
    }

    /// Headers carry credentials, which are sent in plain text without TLS.
    fn unencrypted(&mut self, endpoint: &Endpoint) {
        let plain = endpoint.socket.is_none() && endpoint.uri.scheme_str() == Some("http");
        if !plain {
            return;
        }
        let text = if is_this_host(&endpoint.uri) {
            "goes without encryption to this host, where any process may listen in the receiver's place: use https:// or unix:///path"
        } else {
            "goes without encryption over the network, where others may read it: use https://"
        };
        let signal = self.signal;
        self.reader.notice_about(settings::HEADERS.of(signal), text);
        self.reader
            .notice_about(settings::HEADERS_FILE.of(signal), text);
    }

    /// The endpoint: for HTTP, the signal's path below the common endpoint; below a Unix-domain socket always.
    fn endpoint(&mut self, protocol: Protocol, insecure: bool) -> Option<Endpoint> {
        let setting = settings::ENDPOINT.of(self.signal);
        let set = self.reader.find(setting);
        let own = set
            .as_ref()
            .is_some_and(|set| set.name != settings::ENDPOINT.common);
        let text = set.map_or(protocol.default_endpoint().to_owned(), |set| set.value);
        let read = || {
            let endpoint = endpoint::endpoint(&text, protocol, insecure)?;
            if protocol == Protocol::HttpProtobuf && (!own || endpoint.socket.is_some()) {
                endpoint.below(&format!("/v1/{}", self.signal.name()))
            } else {
                Ok(endpoint)
            }
        };
        let mut endpoint = read()
            .map_err(|wrong| self.reader.error(setting, wrong))
            .ok()?;
        let path = endpoint
            .uri
            .path_and_query()
            .map_or("/", |path| path.as_str());
        if protocol == Protocol::Grpc && path != "/" {
            let text =
                "has a path or a query, which gRPC does not send: only its host and port are used";
            self.reader.notice_about(setting, text);
            endpoint = endpoint.without_path();
        }
        Some(endpoint)
    }

    /// The certificates' files, each read once so that a wrong one is reported before the first export.
    fn tls(&mut self) -> TlsFiles {
        let authorities = self.file(&settings::CERTIFICATE, |path| {
            certs::authorities(path).map(drop)
        });
        let certificate = self.file(&settings::CLIENT_CERTIFICATE, |path| {
            certs::chain(path).map(drop)
        });
        let key = self.file(&settings::CLIENT_KEY, |path| {
            certs::private_key(path).map(drop)
        });
        self.dates(&settings::CERTIFICATE, authorities.as_deref(), true);
        self.dates(&settings::CLIENT_CERTIFICATE, certificate.as_deref(), false);
        let client = self.client(certificate, key);
        TlsFiles {
            authorities,
            client,
        }
    }

    /// Expired and future certificates are no error: the files may be replaced, and the clock may be set.
    fn dates(&mut self, setting: &PerSignal<Option<PathBuf>>, path: Option<&Path>, all: bool) {
        let Some(path) = path else { return };
        if let Some(dates) = certs::out_of_date(path, all) {
            let text = format!(
                "is {}, whose certificate {dates}: write a valid one there, which is read when the file changes",
                path.display()
            );
            self.reader.notice(setting.common, text);
        }
    }

    /// A certificate that names the receiver by its common name alone, as curl and OpenSSL accept it.
    fn alt_name(&mut self, endpoint: &Endpoint, path: &Path) {
        let host = endpoint.uri.host().unwrap_or_default();
        let host = host.trim_matches(['[', ']']);
        let is_tls = endpoint.uri.scheme_str() == Some("https");
        if is_tls && certs::lacks_alt_name(path, host) {
            let text = format!(
                "is {}, whose certificate has {host} as its common name and no subjectAltName, without which exports to a receiver that shows it fail: create one that has, for example with openssl req -x509 -addext subjectAltName={}",
                path.display(),
                certs::alt_name(host)
            );
            self.reader
                .notice_about(settings::CERTIFICATE.of(self.signal), text);
        }
    }

    /// Certificate and key: both or none.
    fn client(
        &mut self,
        certificate: Option<PathBuf>,
        key: Option<PathBuf>,
    ) -> Option<ClientFiles> {
        let (own_certificate, own_key) = (
            settings::CLIENT_CERTIFICATE.of(self.signal),
            settings::CLIENT_KEY.of(self.signal),
        );
        let alone = |other: &str| {
            let remedy = format!("set {other} as well, or neither");
            ParseError::new("is of no use alone", remedy)
        };
        let certificate_set = self.reader.find(own_certificate).is_some();
        let key_set = self.reader.find(own_key).is_some();
        if certificate_set && !key_set {
            let wrong = alone(settings::CLIENT_KEY.common);
            self.reader.error(own_certificate, wrong);
        }
        if key_set && !certificate_set {
            let wrong = alone(settings::CLIENT_CERTIFICATE.common);
            self.reader.error(own_key, wrong);
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
        if let Err(error) = pair.load(b"") {
            if !is_mounted(&client.certificate) && !is_mounted(&client.key) {
                let wrong = ParseError::new(error.wrong, error.remedy);
                self.reader.error(own_key, wrong);
            } else if certs::chain(&client.certificate).is_ok()
                && certs::private_key(&client.key).is_ok()
            {
                // An error in either file alone was reported above.
                self.reader.notice_about(own_key, until_right(&error));
            }
        }
        Some(client)
    }

    /// A file's path, if `check` finds nothing wrong with the file.
    fn file(
        &mut self,
        setting: &'static PerSignal<Option<PathBuf>>,
        check: impl Fn(&Path) -> Result<(), FileError>,
    ) -> Option<PathBuf> {
        let setting = setting.of(self.signal);
        let path = self.reader.read(setting)?;
        match check(&path) {
            Ok(()) => Some(path),
            Err(error) if is_mounted(&path) => {
                self.reader.notice_about(setting, until_right(&error));
                Some(path)
            }
            Err(error) => {
                let wrong = ParseError::new(error.wrong, error.remedy);
                self.reader.error(setting, wrong);
                None
            }
        }
    }
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

//! Variables that are set and change nothing: reported once, with the name that was probably meant.

use std::net::IpAddr;

use super::{
    error::Notice,
    settings::{self, SETTINGS},
};

/// The similarity to a setting's name from which on a name counts as misspelt; 1 is the same name.
const ALIKE: f64 = 0.75;

/// What the names of OTLP's settings begin with.
const OTLP: &str = "OTEL_EXPORTER_OTLP_";

/// Variables of flowcar's build and tests.
const BUILD: [&str; 5] = [
    "FLOWCAR_BPF",
    "FLOWCAR_BPF_CARGO",
    "FLOWCAR_BPF_TOOLCHAIN",
    "FLOWCAR_CACHE",
    "FLOWCAR_STATIC_TARGET",
];

/// Variables of OpenTelemetry's specification that are not honoured, as names or prefixes (`*`), and what to do instead.
/// The first match wins.
const NOT_HONOURED: &[(&str, &str)] = &[
    (
        "OTEL_CONFIG_FILE",
        "flowcar reads no configuration file: set the variables themselves",
    ),
    (
        "OTEL_EXPERIMENTAL_CONFIG_FILE",
        "flowcar reads no configuration file: set the variables themselves",
    ),
    ("OTEL_LOG_LEVEL", "set FLOWCAR_LOG"),
    (
        "OTEL_PROPAGATORS",
        "flowcar propagates nothing: see FLOWCAR_TRACE_PARENT",
    ),
    ("OTEL_TRACES_SAMPLER*", "set FLOWCAR_SPANS_PER_SECOND"),
    ("OTEL_BSP_MAX_QUEUE_SIZE", "set FLOWCAR_SPAN_QUEUE"),
    (
        "OTEL_BSP_EXPORT_TIMEOUT",
        "set OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    ),
    (
        "OTEL_BSP_*",
        "FLOWCAR_SPAN_QUEUE and FLOWCAR_SPANS_PER_SECOND bound the spans, which are sent every second",
    ),
    (
        "OTEL_METRIC_EXPORT_TIMEOUT",
        "set OTEL_EXPORTER_OTLP_METRICS_TIMEOUT",
    ),
    (
        "OTEL_METRICS_EXEMPLAR_FILTER",
        "exemplars name spans that the receiver has",
    ),
    (
        "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
        "set FLOWCAR_HISTOGRAMS",
    ),
    (
        "OTEL_EXPORTER_OTLP_SPAN_INSECURE",
        "set OTEL_EXPORTER_OTLP_TRACES_INSECURE",
    ),
    (
        "OTEL_EXPORTER_OTLP_METRIC_INSECURE",
        "set OTEL_EXPORTER_OTLP_METRICS_INSECURE",
    ),
    (
        "OTEL_ATTRIBUTE_*",
        "flowcar's attributes have no limits to set",
    ),
    ("OTEL_SPAN_*", "flowcar's spans have no limits to set"),
    ("OTEL_EVENT_*", "flowcar's spans have no events"),
    ("OTEL_LINK_*", "flowcar's spans have no links"),
    (
        "OTEL_LOGRECORD_*",
        "flowcar's log records have no limits to set",
    ),
    ("OTEL_BLRP_MAX_QUEUE_SIZE", "set FLOWCAR_SPAN_QUEUE"),
    (
        "OTEL_BLRP_EXPORT_TIMEOUT",
        "set OTEL_EXPORTER_OTLP_LOGS_TIMEOUT",
    ),
    (
        "OTEL_BLRP_*",
        "FLOWCAR_SPAN_QUEUE and FLOWCAR_SPANS_PER_SECOND bound the log records, which are sent every second",
    ),
    ("OTEL_PROFILES_EXPORTER", "flowcar sends no profiles"),
    ("OTEL_EXPORTER_OTLP_PROFILES_*", "flowcar sends no profiles"),
    ("OTEL_EXPORTER_PROMETHEUS_*", "flowcar exports by OTLP only"),
    ("OTEL_EXPORTER_ZIPKIN_*", "flowcar exports by OTLP only"),
    ("OTEL_EXPORTER_JAEGER_*", "flowcar exports by OTLP only"),
    ("OTEL_EXPORTER_CONSOLE_*", "flowcar exports by OTLP only"),
    (
        "OTEL_SEMCONV_STABILITY_OPT_IN",
        "flowcar has one set of names",
    ),
    ("OTEL_ENTITIES", "set OTEL_RESOURCE_ATTRIBUTES"),
];

/// Those of which flowcar does what `none` asks for.
const NONE: [&str; 2] = ["OTEL_PROPAGATORS", "OTEL_PROFILES_EXPORTER"];

/// What is wrong with a setting of log records where none are sent: they are off by default, and other signals are not.
pub(super) const NO_LOG_RECORDS: &str =
    "changes nothing: flowcar sends log records with OTEL_LOGS_EXPORTER=otlp only";

/// Whether the variable is a setting of log records alone, besides the one that switches them on.
pub(super) fn is_of_log_records(name: &str) -> bool {
    name.starts_with("OTEL_EXPORTER_OTLP_LOGS_")
}

/// The notice about a variable with this value, if there is one.
pub(super) fn notice(name: &str, value: &str) -> Option<Notice> {
    let known = SETTINGS.iter().any(|setting| setting.name == name)
        || settings::SECOND_NAMES.contains(&name)
        || BUILD.contains(&name);
    let done = NONE.contains(&name) && value.eq_ignore_ascii_case("none");
    if known || done || value.is_empty() || is_service_link(name, value) {
        return None;
    }
    if name.starts_with("FLOWCAR_") {
        let meant = match alike(name) {
            Some(alike) => format!("did you mean {alike}?"),
            None => "flowcar's docs/configuration.md lists them all".to_owned(),
        };
        return Some(Notice::new(
            name,
            format!("is not a setting of flowcar; {meant}"),
        ));
    }
    let fits = |pattern: &str| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    };
    if let Some((_, instead)) = NOT_HONOURED.iter().find(|(pattern, _)| fits(pattern)) {
        return Some(Notice::new(name, format!("is not honoured; {instead}")));
    }
    // Other variables belong to other programs: SDKs have their own for each language.
    let alike = alike(name)?;
    Some(Notice::new(
        name,
        format!("is not known; did you mean {alike}?"),
    ))
}

/// The setting with the most similar name; of OpenTelemetry's only, if the name is meant to be one of those.
fn alike(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_uppercase();
    if let Some(end) = name.strip_prefix(OTLP) {
        return alike_of_otlp(end);
    }
    let end = end(&name);
    // FLOWCAR_LOG_LEVEL is FLOWCAR_LOG, and FLOWCAR_SPANS is FLOWCAR_SPANS_PER_SECOND.
    let begins = |known: &&str| {
        let ours = name.starts_with("FLOWCAR_") && end.len() > 2;
        ours && (name.starts_with(known) || known.starts_with(&name))
    };
    let otel = name.starts_with("OTEL_");
    let names = || {
        let names = SETTINGS.iter().map(|setting| setting.name);
        names.filter(|known| !otel || known.starts_with("OTEL_"))
    };
    let likeness = |known: &str| {
        let known_end = self::end(known);
        match otel {
            true if end != known_end => strsim::normalized_damerau_levenshtein(&name, known),
            _ => strsim::normalized_damerau_levenshtein(end, known_end),
        }
    };
    let nearest = names()
        .map(|known| (likeness(known), known))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        // Of equals the first: the common setting before those of one signal.
        .rev()
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    let begun = || {
        names()
            .filter(begins)
            .max_by_key(|known| known.len().min(name.len()))
    };
    nearest.map(|(_, known)| known).or_else(begun)
}

/// OTLP's setting that a name with this end is meant to be. Ends are compared, as what all the names begin with makes any two similar: first
/// by the beginnings of words (`CERT` is CERTIFICATE, `KEY` is CLIENT_KEY), then by their letters, then by the last words
/// (`SPAN_ENDPOINT` is ENDPOINT).
fn alike_of_otlp(end: &str) -> Option<&'static str> {
    let known = || {
        let names = SETTINGS.iter().map(|setting| setting.name);
        names.filter_map(|name| Some((name.strip_prefix(OTLP)?, name)))
    };
    let begun = known()
        .filter(|(known, _)| begins_words(end, known))
        .min_by_key(|(known, _)| known.split('_').count());
    let similar = || {
        known()
            .map(|(known, name)| (strsim::normalized_damerau_levenshtein(end, known), name))
            .filter(|(likeness, _)| *likeness >= ALIKE)
            // Of equals the first, as below.
            .rev()
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
    };
    let last = || {
        known()
            .filter(|(known, _)| {
                let before = end.strip_suffix(known);
                before.is_some_and(|before| before.ends_with('_'))
            })
            .max_by_key(|(known, _)| known.len())
    };
    let found = begun.map(|(_, name)| name);
    let found = found.or_else(|| similar().map(|(_, name)| name));
    found.or_else(|| last().map(|(_, name)| name))
}

/// Whether words of `known` begin with the words of `given`, in their order.
fn begins_words(given: &str, known: &str) -> bool {
    let mut known = known.split('_');
    given
        .split('_')
        .all(|word| word.len() > 2 && known.any(|known| known.starts_with(word)))
}

/// A name without its owner's prefix, and without that of OTLP's settings or a part of it.
fn end(name: &str) -> &str {
    let bare = ["OTEL_", "FLOWCAR_"]
        .iter()
        .find_map(|owner| name.strip_prefix(owner));
    let bare = bare.unwrap_or(name);
    ["EXPORTER_OTLP_", "OTLP_", "EXPORTER_"]
        .iter()
        .find_map(|prefix| bare.strip_prefix(prefix))
        .unwrap_or(bare)
}

/// Whether Kubernetes (or Docker) set it for a Service that happens to be called flowcar or otel-something: `X_SERVICE_HOST`,
/// `X_SERVICE_PORT`, `X_SERVICE_PORT_NAME`, `X_PORT`, `X_PORT_4317_TCP` and what belongs to it (Kubernetes, "Service",
/// "Environment variables").
fn is_service_link(name: &str, value: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    if name.ends_with("_SERVICE_HOST") {
        return value.parse::<IpAddr>().is_ok();
    }
    if name.ends_with("_SERVICE_PORT") || name.contains("_SERVICE_PORT_") {
        return number(value);
    }
    if name.ends_with("_PORT") && value.contains("://") {
        return true;
    }
    let mut rest = name
        .match_indices("_PORT_")
        .map(|(at, found)| &name[at + found.len()..]);
    rest.any(|rest| {
        let mut parts = rest.split('_');
        parts.next().is_some_and(number)
            && matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"))
            && matches!(parts.next(), None | Some("PROTO" | "PORT" | "ADDR"))
            && parts.next().is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(name: &str, value: &str) -> String {
        notice(name, value)
            .map(|notice| notice.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn unknown_name_is_reported_with_the_likely_one() {
        for (name, meant) in [
            ("FLOWCAR_LOG_LEVEL", "FLOWCAR_LOG?"),
            ("FLOWCAR_LOGLEVEL", "FLOWCAR_LOG?"),
            ("FLOWCAR_log", "FLOWCAR_LOG?"),
            ("FLOWCAR_EXCHANGES", "FLOWCAR_EXCHANGE?"),
            ("FLOWCAR_SPANS", "FLOWCAR_SPANS_PER_SECOND?"),
            ("FLOWCAR_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT?"),
            ("FLOWCAR_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT?"),
            ("FLOWCAR_EXPORTER_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT?"),
            (
                "FLOWCAR_EXPORTER_OTLP_ENDPOINT",
                "OTEL_EXPORTER_OTLP_ENDPOINT?",
            ),
            ("FLOWCAR_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS?"),
            (
                "FLOWCAR_OTLP_TRACES_ENDPOINT",
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT?",
            ),
            ("FLOWCAR_SERVICE_NAME", "OTEL_SERVICE_NAME?"),
            ("FLOWCAR_PORT", "FLOWCAR_PORTS?"),
            ("FLOWCAR_PODNAME", "FLOWCAR_POD_NAME?"),
            ("FLOWCAR_RINGBYTES", "FLOWCAR_RING_BYTES?"),
            ("FLOWCAR_WHATEVER", "docs/configuration.md lists them all"),
            (
                "OTEL_EXPORTER_OTLP_ENDPIONT",
                "OTEL_EXPORTER_OTLP_ENDPOINT?",
            ),
            (
                "OTEL_EXPORTER_OTLP_TRACE_ENDPOINT",
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT?",
            ),
            ("OTEL_EXPORTER_OTLP_CERT", "OTEL_EXPORTER_OTLP_CERTIFICATE?"),
            ("OTEL_EXPORTER_OTLP_KEY", "OTEL_EXPORTER_OTLP_CLIENT_KEY?"),
            (
                "OTEL_EXPORTER_OTLP_TRACES_CERT",
                "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE?",
            ),
            (
                "OTEL_EXPORTER_OTLP_CLIENT_CERT",
                "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE?",
            ),
            (
                "OTEL_EXPORTER_OTLP_TEMPORALITY",
                "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE?",
            ),
            (
                "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY",
                "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE?",
            ),
            ("OTEL_EXPORTER_OTLP_HEADER", "OTEL_EXPORTER_OTLP_HEADERS?"),
            ("OTEL_EXPORTER_OTLP_headers", "OTEL_EXPORTER_OTLP_HEADERS?"),
            (
                "OTEL_EXPORTER_OTLP_METRIC_TIMEOUTS",
                "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT?",
            ),
            (
                "OTEL_EXPORTER_OTLP_SPAN_ENDPOINT",
                "OTEL_EXPORTER_OTLP_ENDPOINT?",
            ),
            ("OTEL_EXPORTER_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT?"),
            ("Http_Proxy", "HTTP_PROXY?"),
            ("https_PROXY", "HTTPS_PROXY?"),
            ("OTEL_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT?"),
            ("OTEL_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT?"),
            ("OTEL_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS?"),
            (
                "OTEL_OTLP_METRICS_ENDPOINT",
                "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT?",
            ),
            ("OTEL_EXPORTER_OTLP_PROFILES_ENDPOINT", "no profiles"),
            ("OTEL_PROFILES_EXPORTER", "no profiles"),
            ("OTEL_RESOURCE_ATTRIBUTE", "OTEL_RESOURCE_ATTRIBUTES?"),
            (
                "OTEL_METRICS_EXPORT_INTERVAL",
                "OTEL_METRIC_EXPORT_INTERVAL?",
            ),
            ("OTEL_CONFIG_FILE", "no configuration file"),
            ("OTEL_EXPERIMENTAL_CONFIG_FILE", "no configuration file"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "FLOWCAR_SPAN_QUEUE"),
            ("OTEL_BSP_SCHEDULE_DELAY", "FLOWCAR_SPANS_PER_SECOND"),
            (
                "OTEL_METRIC_EXPORT_TIMEOUT",
                "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT",
            ),
            ("OTEL_TRACES_SAMPLER_ARG", "FLOWCAR_SPANS_PER_SECOND"),
            ("OTEL_PROPAGATORS", "FLOWCAR_TRACE_PARENT"),
            ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "no limits"),
            ("OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", "no limits"),
            ("OTEL_BLRP_MAX_QUEUE_SIZE", "FLOWCAR_SPAN_QUEUE"),
            ("OTEL_BLRP_SCHEDULE_DELAY", "FLOWCAR_SPANS_PER_SECOND"),
        ] {
            let error = error(name, "s3cret");
            assert!(error.starts_with(&format!("{name} is no")), "{error}");
            assert!(
                error.ends_with(meant) || !meant.ends_with('?') && error.contains(meant),
                "{error}"
            );
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn variable_of_other_programs_is_not_reported() {
        for (name, value) in [
            // Services called flowcar, flowcar-controller and otel-collector.
            ("FLOWCAR_SERVICE_HOST", "10.96.0.7"),
            ("FLOWCAR_SERVICE_HOST", "fd00::7"),
            ("FLOWCAR_SERVICE_PORT", "443"),
            ("FLOWCAR_SERVICE_PORT_HTTPS_WEBHOOK", "443"),
            ("FLOWCAR_PORT", "tcp://10.96.0.7:443"),
            ("FLOWCAR_PORT_443_TCP", "tcp://10.96.0.7:443"),
            ("FLOWCAR_PORT_443_TCP_PROTO", "tcp"),
            ("FLOWCAR_PORT_443_TCP_PORT", "443"),
            ("FLOWCAR_PORT_443_TCP_ADDR", "10.96.0.7"),
            ("FLOWCAR_PORT_53_UDP_ADDR", "10.96.0.7"),
            ("FLOWCAR_CONTROLLER_SERVICE_HOST", "10.96.0.8"),
            ("FLOWCAR_CONTROLLER_PORT_443_TCP_ADDR", "10.96.0.8"),
            ("OTEL_COLLECTOR_SERVICE_PORT_OTLP_GRPC", "4317"),
            ("OTEL_COLLECTOR_PORT", "tcp://10.96.0.9:4317"),
            ("OTEL_COLLECTOR_PORT_4317_TCP", "tcp://10.96.0.9:4317"),
            // Of SDKs for other languages.
            ("OTEL_PYTHON_LOG_CORRELATION", "true"),
            ("OTEL_JAVAAGENT_ENABLED", "true"),
            ("OTEL_GO_AUTO_TARGET_EXE", "/app"),
            ("OTEL_NODE_RESOURCE_DETECTORS", "all"),
            ("OTEL_DOTNET_AUTO_HOME", "/otel"),
            ("OTEL_SERVICE_VERSION", "1"),
            // No setting is near.
            ("OTEL_EXPORTER_OTLP_CA", "/ca.pem"),
            ("OTEL_EXPORTER_OTLP_URL", "http://collector:4317"),
            ("OTEL_EXPORTER_OTLP_TRACES_URL", "http://collector:4317"),
            ("OTEL_EXPORTER_OTLP_MAX_RETRIES", "3"),
            // What they ask for is so.
            ("OTEL_PROPAGATORS", "NONE"),
            ("OTEL_PROFILES_EXPORTER", "none"),
            // Empty is not set.
            ("FLOWCAR_LOG_LEVEL", ""),
            ("OTEL_CONFIG_FILE", ""),
        ] {
            assert_eq!(error(name, value), "", "{name}={value}");
        }
        let names = SETTINGS.iter().map(|setting| setting.name);
        for name in names.chain(settings::SECOND_NAMES.iter().copied()) {
            assert_eq!(error(name, "x"), "");
        }
        for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
            assert_eq!(error(name, "x"), "", "{name}");
        }
    }
}

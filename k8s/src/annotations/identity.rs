//! Attributes that identify a pod. Pure.

use percent_encoding::percent_decode_str;

/// The `key=value` pairs of `text` that identify a pod.
pub(crate) fn identity_of(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter(|pair| is_identity(&name_of(pair)))
}

/// The name in a `name=value` pair, as the sidecar reads it.
pub(super) fn name_of(pair: &str) -> String {
    let name = pair.split_once('=').map_or(pair, |(name, _)| name).trim();
    percent_decode_str(name)
        .decode_utf8_lossy()
        .trim()
        .to_owned()
}

/// OpenTelemetry's names for where in Kubernetes something runs (semantic conventions, resource/k8s).
pub(super) fn is_identity(name: &str) -> bool {
    name.to_ascii_lowercase().starts_with("k8s.")
}

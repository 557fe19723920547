//! Endpoints that are sockets, and what they need in the pod.

use serde_json::Value;

use super::volumes::{has_volume, is_taken, socket_directory};
use crate::annotations::{Key, Overrides};
use crate::config::{Level, Settings};

/// Leaves only an endpoint that the pod can have: one that it cannot costs the endpoint and not the pod.
pub(super) fn keep_reachable(
    mut overrides: Overrides,
    pod: &Value,
    level: Level,
    settings: &Settings,
    notes: &mut Vec<String>,
) -> Overrides {
    if let Some(volume) = overrides.get(Key::EndpointVolume)
        && !has_volume(pod, volume)
    {
        notes.push(format!(
            "flowcar.io/endpoint-volume: ignored, the pod has no volume {volume}"
        ));
        overrides.forget(Key::EndpointVolume);
    }
    // The pod's own, then the operator's.
    for _ in 0..2 {
        let Some(why) = unreachable(&overrides, level) else {
            return overrides;
        };
        notes.push(format!("flowcar.io/endpoint: ignored, {why}"));
        overrides.forget(Key::Endpoint);
        overrides = overrides.or(&settings.defaults);
    }
    if unreachable(&overrides, level).is_some() {
        overrides.forget(Key::Endpoint);
    }
    notes.dedup();
    overrides
}

/// Why the endpoint's socket cannot be mounted.
fn unreachable(overrides: &Overrides, level: Level) -> Option<String> {
    let directory = socket_directory(overrides.get(Key::Endpoint)?)?;
    if is_taken(directory) {
        return Some(format!("{directory} is flowcar's own: move the socket"));
    }
    let needs_host = overrides.get(Key::EndpointVolume).is_none();
    (needs_host && level != Level::Privileged).then(|| {
        format!(
            "Pod Security {} forbids hostPath: name a volume in endpoint-volume",
            level.name()
        )
    })
}

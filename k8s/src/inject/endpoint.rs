//! Endpoints that are sockets, and what they need in the pod.

use serde_json::Value;

use super::volumes::{Socket, has_volume};
use crate::{
    annotations::{Key, Overrides},
    config::{Level, Settings},
};

/// Drops an endpoint that the pod cannot have: the pod is injected without it.
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
    let socket = Socket::of(overrides)?;
    if let Some(excess) = socket.excess() {
        let what = if socket.is_on_node() { "name" } else { "path" };
        return Some(format!(
            "its path in the sidecar would be {excess} bytes too long: shorten the socket's {what}"
        ));
    }
    (socket.is_on_node() && level != Level::Privileged).then(|| {
        format!(
            "Pod Security {} forbids hostPath: name a volume in endpoint-volume",
            level.name()
        )
    })
}

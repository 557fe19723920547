//! The socket of a container that a pod brings along, as annotations name it.

use super::{Preset, mounts::absolute};
use crate::{
    annotations::{Annotation, Key, socket_path},
    inject::{
        view,
        volumes::{ENDPOINT, ENDPOINT_PATH},
    },
};

/// An endpoint as annotations name it.
struct Named<'a> {
    endpoint: String,
    /// The volume of the pod's own that its socket is in.
    volume: Option<&'a str>,
}

/// What of `path` is below `directory`, from its slash on.
fn below<'a>(path: &'a str, directory: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(directory)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

// === impl Preset ===

impl Preset<'_> {
    /// Whether annotations may name this endpoint, and the volume that its socket is in.
    pub(super) fn allows_endpoint(&self, endpoint: &str) -> bool {
        let allows = |key, value: &str| self.settings.allows(Annotation::of(key), value);
        self.named(endpoint).is_some_and(|named| {
            let volume = named.volume;
            allows(Key::Endpoint, &named.endpoint)
                && volume.is_none_or(|volume| allows(Key::EndpointVolume, volume))
        })
    }

    /// Undoes what is written for the sidecar. `None` where a mount of one volume hides that of another, or the node's directory is
    /// not known.
    fn named(&self, endpoint: &str) -> Option<Named<'_>> {
        let as_it_is = Named {
            endpoint: endpoint.to_owned(),
            volume: None,
        };
        let Some(path) = socket_path(endpoint) else {
            return Some(as_it_is);
        };
        let mounts = view::list(self.container, "/volumeMounts").iter();
        let mut holders = mounts.filter_map(|mount| {
            let directory = absolute(view::text(mount, "/mountPath")?)?;
            Some((view::text(mount, "/name")?, below(path, &directory)?))
        });
        let Some((volume, rest)) = holders.next() else {
            return Some(as_it_is);
        };
        if holders.next().is_some() {
            return None;
        }
        if volume != ENDPOINT {
            let name = below(path, ENDPOINT_PATH).unwrap_or(path);
            return Some(Named {
                endpoint: format!("unix://{name}"),
                volume: Some(volume),
            });
        }
        let mut volumes = view::list(self.pod, "/spec/volumes").iter();
        let volume = volumes.find(|volume| view::is_named(volume, ENDPOINT))?;
        let directory = view::text(volume, "/hostPath/path")?;
        Some(Named {
            endpoint: format!("unix://{directory}{rest}"),
            volume: None,
        })
    }
}

//! The volumes of a container that a pod brings along, and where it mounts them.

use std::path::Path;

use serde_json::Value;

use super::Preset;
use crate::{
    annotations::{Annotation, Key},
    config::is_cgroup_path,
    inject::{view, volumes},
};

/// Where other webhooks mount what is theirs: nothing of the image's is there, and nothing that flowcar reads.
const OF_OTHERS: [&str; 7] = ["mnt", "opt", "run", "srv", "tmp", "var", "vault"];

/// The path as the kubelet takes it: without empty parts, and from the root. `None` if it goes up.
pub(super) fn absolute(path: &str) -> Option<String> {
    let mut whole = String::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => return None,
            part => {
                whole.push('/');
                whole.push_str(part);
            }
        }
    }
    Some(whole)
}

/// Whether another's mount hides nothing of flowcar's there.
fn is_of_others(path: &str) -> bool {
    let mut parts = path.split('/').skip(1);
    let top = parts.next().unwrap_or_default();
    OF_OTHERS.contains(&top) && parts.next().is_some() && volumes::owner_of(path).is_none()
}

// === impl Preset ===

impl Preset<'_> {
    pub(super) fn are_mounts(&self) -> bool {
        let mounts = view::list(self.container, "/volumeMounts");
        let has = |name| mounts.iter().any(|mount| view::is_named(mount, name));
        mounts.iter().all(|mount| self.is_mount(mount))
            && has(volumes::NO_TOKEN)
            && has(volumes::CGROUP) == self.ebpf
    }

    fn is_mount(&self, mount: &Value) -> bool {
        let name = view::text(mount, "/name").unwrap_or_default();
        let path = view::text(mount, "/mountPath").and_then(absolute);
        let Some(path) = path else {
            return false;
        };
        let Some(wanted) = volumes::mount_path(name) else {
            return is_of_others(&path);
        };
        let is_placed = match wanted {
            Some(wanted) => path == wanted,
            // At another place in an earlier version. Without an endpoint in it, the node's directory is there for nothing.
            None if name == volumes::ENDPOINT => {
                let is_place = path == volumes::ENDPOINT_PATH;
                (is_place || (!self.is_current && is_of_others(&path))) && self.has_socket_in(&path)
            }
            None => is_of_others(&path),
        };
        let is_whole = ["subPath", "subPathExpr", "mountPropagation"]
            .iter()
            .all(|field| {
                view::text(mount, &format!("/{field}"))
                    .is_none_or(|value| value.is_empty() || value == "None")
            });
        // The checkpoints of an earlier version, which had a volume of their own.
        let is_read_only = mount["readOnly"] == true || name == volumes::STATE;
        is_placed && is_whole && is_read_only
    }

    fn has_socket_in(&self, directory: &str) -> bool {
        let prefix = format!("unix://{directory}/");
        view::list(self.container, "/env").iter().any(|entry| {
            let text = view::text(entry, "/value").unwrap_or_default();
            view::is_named(entry, "OTEL_EXPORTER_OTLP_ENDPOINT")
                && text
                    .strip_prefix(&prefix)
                    .is_some_and(|name| !name.contains('/'))
        })
    }

    pub(super) fn are_volumes(&self) -> bool {
        let find = |name: &str| {
            let mut all = view::list(self.pod, "/spec/volumes").iter();
            all.find(|volume| view::is_named(volume, name))
        };
        let cgroup = find(volumes::CGROUP);
        let cgroup = cgroup.and_then(|volume| view::text(volume, "/hostPath/path"));
        let token = find(volumes::NO_TOKEN);
        // An emptyDir in an earlier version.
        let has = |volume: &Value, source: &str| volume.get(source).is_some();
        let is_token =
            token.is_some_and(|volume| has(volume, "downwardAPI") || has(volume, "emptyDir"));
        let is_cgroup = match cgroup {
            Some(path) if self.is_current => path == self.settings.config.host_cgroup_path,
            // Another path may be narrower, but not wider.
            Some(path) => {
                let own = &self.settings.config.host_cgroup_path;
                is_cgroup_path(path) && (!self.is_held || Path::new(path).starts_with(own))
            }
            None => false,
        };
        let are_certificates =
            find(volumes::TLS).is_none_or(|volume| self.are_certificates(volume));
        is_token && is_cgroup == self.ebpf && cgroup.is_some() == self.ebpf && are_certificates
    }

    fn are_certificates(&self, volume: &Value) -> bool {
        let sources = view::list(volume, "/projected/sources");
        !sources.is_empty() && sources.iter().all(|source| self.is_certificate(source))
    }

    /// A Secret or ConfigMap that annotations may name; any, where the operator's limits do not hold.
    fn is_certificate(&self, source: &Value) -> bool {
        let named = |kind: &str| {
            let name = view::text(source, &format!("/{kind}/name"))?;
            let items = view::list(source, &format!("/{kind}/items")).iter();
            let items =
                items.map(|item| Some((view::text(item, "/key")?, view::text(item, "/path")?)));
            Some((name, items.collect::<Option<Vec<_>>>()?))
        };
        let authorities = |key, name: &str, file: &str| {
            let row = Annotation::of(key);
            let default = self.settings.defaults.get(key);
            default == Some(name) || self.settings.allows(row, &format!("{name}/{file}"))
        };
        let is_allowed = match (named("secret"), named("configMap")) {
            (Some((name, items)), None) => match items.as_slice() {
                [(file, "ca.crt")] => authorities(Key::CaSecret, name, file),
                [("tls.crt", "tls.crt"), ("tls.key", "tls.key")] => {
                    let row = Annotation::of(Key::ClientCertificateSecret);
                    self.settings.allows(row, name)
                }
                _ => return false,
            },
            (None, Some((name, items))) => match items.as_slice() {
                [(file, "ca.crt")] => authorities(Key::CaConfigMap, name, file),
                _ => return false,
            },
            _ => return false,
        };
        is_allowed || !self.is_held
    }
}

//! The sidecar's volumes, and where it mounts them.
//!
//! None is an `emptyDir`, which would keep a node from being drained (`super::evict`), and none has to be there for the pod
//! to start.

use std::path::Path;

use serde_json::{Value, json};

use super::{CONTAINER, sidecar::Sidecar, view};
use crate::annotations::{Key, LONGEST_SOCKET, Overrides, parse_reference, socket_path};

pub(super) const CGROUP: &str = "flowcar-host-cgroup";
pub(super) const NO_TOKEN: &str = "flowcar-no-token";
pub(super) const TLS: &str = "flowcar-tls";
pub(super) const ENDPOINT: &str = "flowcar-endpoint";

pub(super) const STATE: &str = "flowcar-state";

/// The names of the volumes that flowcar adds, in this version or in one before it.
pub(super) const VOLUMES: [&str; 5] = [CGROUP, NO_TOKEN, TLS, ENDPOINT, STATE];

/// Where the sidecar finds the host's cgroup tree.
pub(super) const HOST_CGROUP: &str = "/run/host-cgroup";

/// Where the sidecar writes its checkpoint: the runtime mounts the pod's own shared memory here in every container, and it
/// lives as long as the pod's sandbox.
pub(super) const CHECKPOINTS: &str = "/dev/shm";

/// Where an earlier version wrote it, in a volume of its own.
pub(super) const OLD_CHECKPOINTS: &str = "/run/flowcar";

/// Where the ServiceAccount admission plugin mounts a token, unless something is mounted there already.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Where the certificates are.
const TLS_PATH: &str = "/run/flowcar-tls";
/// The authorities that the receiver's certificate is checked against.
pub(super) const AUTHORITIES: &str = "/run/flowcar-tls/ca.crt";
/// The client certificate of the sidecar.
pub(super) const CLIENT_CERTIFICATE: &str = "/run/flowcar-tls/tls.crt";
/// The private key of that certificate.
pub(super) const CLIENT_KEY: &str = "/run/flowcar-tls/tls.key";

/// Below this are the directories of receivers' sockets: where they are on the node, the sidecar has other things.
pub(super) const ENDPOINT_PATH: &str = "/run/flowcar-endpoint";

/// A receiver's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Socket<'a> {
    /// The volume of the pod's own that it is in; else it is on the node.
    own: Option<&'a str>,
    /// Its directory on the node, or as the annotation names it.
    directory: &'a str,
    name: &'a str,
}

/// A volume in the sidecar.
pub(super) struct Volume {
    /// The volume's source, where it is not one that the pod has already.
    source: Option<Value>,
    /// The container's mount.
    pub(super) mount: Value,
}

/// All of them, in the order in which they are added.
pub(super) fn of(sidecar: &Sidecar<'_>) -> Vec<Volume> {
    let cgroup = sidecar.form.ebpf.then(|| {
        let path = &sidecar.settings.config.host_cgroup_path;
        let source = json!({ "hostPath": { "path": path, "type": "Directory" } });
        Volume::new(CGROUP, source, HOST_CGROUP).with_all_below(sidecar)
    });
    let volumes = [
        cgroup,
        Some(no_token()),
        certificates(sidecar),
        endpoint(sidecar),
    ];
    volumes.into_iter().flatten().collect()
}

/// Something that is mounted where the token would be, and that no drain counts. The uid is no secret to its own pod.
fn no_token() -> Volume {
    let file = json!({ "path": "pod-uid", "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.uid" } });
    Volume::new(
        NO_TOKEN,
        json!({ "downwardAPI": { "items": [file] } }),
        TOKEN_PATH,
    )
}

/// Optional: the pod starts without telemetry if the Secret is missing.
fn certificates(sidecar: &Sidecar<'_>) -> Option<Volume> {
    let item = |key: &str, path: &str| json!({ "key": key, "path": path });
    let reference = |key| parse_reference(sidecar.overrides.get(key)?, "ca.crt");
    let secret = reference(Key::CaSecret).map(|(name, key)| {
        json!({ "secret": { "name": name, "optional": true, "items": [item(key, "ca.crt")] } })
    });
    // One file: a Secret goes before a ConfigMap.
    let map = reference(Key::CaConfigMap).filter(|_| secret.is_none());
    let map = map.map(|(name, key)| {
        json!({ "configMap": { "name": name, "optional": true, "items": [item(key, "ca.crt")] } })
    });
    let client = sidecar.overrides.get(Key::ClientCertificateSecret);
    let client = client.map(|name| {
        let items = json!([item("tls.crt", "tls.crt"), item("tls.key", "tls.key")]);
        json!({ "secret": { "name": name, "optional": true, "items": items } })
    });
    let sources: Vec<_> = [secret, map, client].into_iter().flatten().collect();
    (!sources.is_empty()).then(|| {
        let source = json!({ "projected": { "sources": sources } });
        Volume::new(TLS, source, TLS_PATH)
    })
}

/// The directory of the receiver's socket: in a volume of the pod's own where it names one, else the node's.
fn endpoint(sidecar: &Sidecar<'_>) -> Option<Volume> {
    let socket = Socket::of(sidecar.overrides)?;
    let mounted = socket.mounted();
    if let Some(own) = socket.own {
        return Some(Volume {
            source: None,
            mount: json!({ "name": own, "mountPath": mounted }),
        });
    }
    // A missing directory is created: its absence must not block the pod.
    let source = json!({ "hostPath": { "path": socket.directory, "type": "DirectoryOrCreate" } });
    Some(Volume::new(ENDPOINT, source, &mounted).with_all_below(sidecar))
}

/// `None` if the volume is not flowcar's; else its mount path, if it always has the same.
pub(super) fn mount_path(volume: &str) -> Option<Option<&'static str>> {
    Some(match volume {
        CGROUP => Some(HOST_CGROUP),
        NO_TOKEN => Some(TOKEN_PATH),
        TLS => Some(TLS_PATH),
        _ if VOLUMES.contains(&volume) => None,
        _ => return None,
    })
}

/// What flowcar has at that path, above it or below it.
pub(super) fn owner_of(path: &str) -> Option<&'static str> {
    let path = Path::new(path);
    [HOST_CGROUP, TLS_PATH, TOKEN_PATH]
        .into_iter()
        .find(|own| path.starts_with(own) || Path::new(own).starts_with(path))
}

/// The first of the application's containers, of every kind, that mounts a volume of flowcar's, and that volume. Whether the
/// pod defines the volume makes no difference: by the name alone it would gain what the sidecar has.
pub(super) fn mounted_elsewhere(pod: &Value) -> Option<(String, &'static str)> {
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    lists.into_iter().find_map(|list| {
        let containers = view::list(pod, &format!("/spec/{list}")).iter();
        // No ephemeral container is flowcar's, whatever its name is.
        let mut others = containers.filter(|container| {
            list == "ephemeralContainers" || !view::is_named(container, CONTAINER)
        });
        others.find_map(|container| {
            let mounts = view::list(container, "/volumeMounts").iter();
            let mut all = mounts.chain(view::list(container, "/volumeDevices"));
            let volume = all.find_map(|mount| {
                VOLUMES
                    .into_iter()
                    .find(|volume| view::is_named(mount, volume))
            })?;
            let name = view::text(container, "/name").unwrap_or_default();
            Some((name.to_owned(), volume))
        })
    })
}

/// The volume of that name, if the pod has it.
pub(super) fn has_volume(pod: &Value, name: &str) -> bool {
    let volumes = view::list(pod, "/spec/volumes");
    volumes.iter().any(|volume| view::is_named(volume, name))
}

/// Whether a checkpoint would be the pod's alone: with the host's IPC namespace, `/dev/shm` is the host's.
pub(super) fn has_checkpoints(sidecar: &Sidecar<'_>) -> bool {
    let is_hosts = sidecar
        .pod
        .pointer("/spec/hostIPC")
        .and_then(Value::as_bool)
        == Some(true);
    !is_hosts && sidecar.overrides.get(Key::Checkpoint) != Some("off")
}

// === impl Socket ===

impl<'a> Socket<'a> {
    /// The socket of a `unix://` endpoint.
    pub(super) fn of(overrides: &'a Overrides) -> Option<Self> {
        let (directory, name) = socket_path(overrides.get(Key::Endpoint)?)?.rsplit_once('/')?;
        let own = overrides.get(Key::EndpointVolume);
        Some(Self {
            own,
            directory,
            name,
        })
    }

    /// Where the sidecar has its directory: the node's at one place, whatever it is called there, and that of a volume
    /// below, so that its name is not lost.
    fn mounted(&self) -> String {
        match self.own {
            Some(_) => format!("{ENDPOINT_PATH}{}", self.directory),
            None => ENDPOINT_PATH.to_owned(),
        }
    }

    /// The endpoint for the sidecar.
    pub(super) fn endpoint(&self) -> String {
        format!("unix://{}/{}", self.mounted(), self.name)
    }

    pub(super) fn is_on_node(&self) -> bool {
        self.own.is_none()
    }

    /// How much longer its path in the sidecar is than that of any socket can be, in bytes.
    pub(super) fn excess(&self) -> Option<usize> {
        let length = self.mounted().len() + 1 + self.name.len();
        length.checked_sub(LONGEST_SOCKET).filter(|more| *more > 0)
    }
}

// === impl Volume ===

impl Volume {
    fn new(name: &str, mut source: Value, path: &str) -> Self {
        let mount = json!({ "name": name, "mountPath": path, "readOnly": true });
        if let Some(source) = source.as_object_mut() {
            source.shift_insert(0, "name".to_owned(), json!(name));
        }
        Self {
            source: Some(source),
            mount,
        }
    }

    /// Read-only with whatever is mounted below, where the runtime can (`recursiveReadOnly`, Kubernetes 1.31; 1.30 with a
    /// feature gate). API servers of 1.30 and before drop the field; a file for one before 1.29, which would be refused with
    /// it, gets none.
    fn with_all_below(mut self, sidecar: &Sidecar<'_>) -> Self {
        if sidecar.context.native_sidecar {
            self.mount["recursiveReadOnly"] = json!("IfPossible");
        }
        self
    }

    /// What is added to the pod.
    pub(super) fn into_pods(self) -> Option<Value> {
        self.source
    }
}

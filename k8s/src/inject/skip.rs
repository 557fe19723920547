//! Why a pod that asked for a sidecar gets none.

use std::{borrow::Cow, fmt};

use crate::{
    annotations::{Annotation, INJECT, Key},
    text::clip,
};

/// Why a pod that asked for a sidecar gets none.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(strum::EnumDiscriminants))]
#[cfg_attr(
    test,
    strum_discriminants(vis(pub(crate)), name(SkipKind), derive(strum::EnumIter))
)]
pub enum Skip {
    /// The opt-in's value is neither `enabled` nor `disabled`.
    UnknownValue {
        /// The value, as written.
        value: String,
    },
    /// Not a pod that can be patched.
    Malformed {
        /// The field that is not what it should be.
        field: &'static str,
        /// It is not there at all, and has to be.
        is_absent: bool,
    },
    /// A namespace of the cluster's own, or flowcar's.
    ExcludedNamespace {
        /// Its name.
        namespace: String,
    },
    /// A namespace that `webhook.namespaceSelector` leaves out: the API server does not ask the webhook there.
    NamespaceLeftOut {
        /// Its name.
        namespace: String,
    },
    /// The kubelet's mirror of a static pod: it never reads the mirror's spec.
    MirrorPod,
    /// The pod is on the host's network.
    HostNetwork,
    /// The pod runs Windows.
    Windows,
    /// The pod runs on a node that is no machine.
    VirtualNode {
        /// What runs it.
        what: &'static str,
        /// It can run nowhere else; it only tolerates such nodes otherwise.
        is_certain: bool,
    },
    /// The pod has a user namespace of its own.
    UserNamespace,
    /// The pod has a kernel of its own.
    Sandboxed {
        /// Its runtime class.
        class: String,
    },
    /// A container or volume of the pod already has a name that flowcar needs.
    NameTaken {
        /// `container` or `volume`.
        what: &'static str,
        /// The name.
        name: &'static str,
    },
    /// A container of the application's mounts a volume that is flowcar's.
    ReservedMount {
        /// The container.
        container: String,
        /// The volume.
        volume: &'static str,
    },
    /// The pod came with a container and a status of flowcar's, and the container is not as flowcar writes it.
    Preset {
        /// The field that differs.
        field: Cow<'static, str>,
        /// It is as an earlier configuration has it, and the operator's limits rule that out.
        is_earlier: bool,
    },
    /// The pod is meant to complete, and a regular sidecar would not.
    WouldNeverEnd,
    /// The API server takes 256 KiB of annotations, and flowcar's would not fit.
    AnnotationsFull {
        /// What the pod's own take, in bytes.
        bytes: usize,
    },
    /// The pod's own limit, which holds for the sidecar, too, is below what it needs to start: a native sidecar would hold the pod.
    PodBudget {
        /// `cpu` or `memory`.
        resource: &'static str,
        /// The pod's limit.
        limit: String,
        /// What the sidecar needs.
        needed: String,
    },
    /// With the sidecar, the namespace's LimitRange would refuse the pod.
    LimitRange {
        /// What it refuses.
        why: String,
    },
    /// With the sidecar, the namespace's ResourceQuota would refuse the pod.
    Quota {
        /// What it refuses.
        why: String,
    },
}

// === impl Skip ===

impl Skip {
    /// The reason for metrics, Events and the status annotation, of a small fixed set.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnknownValue { .. } => "unknown_value",
            Self::Malformed { .. } => "malformed",
            Self::ExcludedNamespace { .. } => "excluded_namespace",
            Self::NamespaceLeftOut { .. } => "namespace_left_out",
            Self::MirrorPod => "mirror_pod",
            Self::HostNetwork => "host_network",
            Self::Windows => "windows",
            Self::VirtualNode { .. } => "virtual_node",
            Self::UserNamespace => "user_namespace",
            Self::Sandboxed { .. } => "sandboxed",
            Self::NameTaken { .. } => "name_taken",
            Self::ReservedMount { .. } => "reserved_mount",
            Self::Preset { .. } => "preset",
            Self::WouldNeverEnd => "would_never_end",
            Self::AnnotationsFull { .. } => "annotations_full",
            Self::PodBudget { .. } => "pod_budget",
            Self::LimitRange { .. } => "limit_range",
            Self::Quota { .. } => "quota",
        }
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownValue { value } => {
                let meant = Annotation::of(Key::Inject)
                    .kind
                    .nearest(value)
                    .unwrap_or("enabled");
                write!(
                    f,
                    "{INJECT}={} is unknown; did you mean {meant:?}?",
                    clip(&format!("{value:?}"), 24)
                )
            }
            Self::Malformed {
                field,
                is_absent: true,
            } => write!(f, "the pod has no {}", field.trim_start_matches('/')),
            Self::Malformed { field, .. } => write!(f, "the pod's {field} has the wrong type"),
            Self::ExcludedNamespace { namespace } => {
                write!(f, "namespace {} is never injected", clip(namespace, 63))
            }
            Self::NamespaceLeftOut { namespace } => write!(
                f,
                "the operator leaves namespace {} out (webhook.namespaceSelector)",
                clip(namespace, 63)
            ),
            Self::MirrorPod => f.write_str(
                "the kubelet never reads a mirror pod; add flowcar to the static pod's file",
            ),
            Self::HostNetwork => f.write_str(
                "the pod is on the host's network; flowcar.io/host-network=force overrules",
            ),
            Self::Windows => f.write_str("flowcar runs on Linux, and the pod is for Windows"),
            Self::VirtualNode {
                what,
                is_certain: true,
            } => write!(
                f,
                "the pod is for {what}, where no sidecar can follow flows"
            ),
            Self::VirtualNode {
                what,
                is_certain: false,
            } => write!(
                f,
                "the pod may run on {what}, where no sidecar can follow flows: drop the toleration, or rule those nodes out by affinity"
            ),
            Self::UserNamespace => {
                f.write_str("hostUsers: false rules eBPF out; set flowcar.io/source=inet_diag")
            }
            Self::Sandboxed { class } => {
                write!(
                    f,
                    "runtime class {} has its own kernel, out of flowcar's reach",
                    clip(class, 40)
                )
            }
            Self::NameTaken { what, name } => write!(
                f,
                "the pod has a {what} named {name} that flowcar did not add"
            ),
            Self::ReservedMount { container, volume } => write!(
                f,
                "container {} mounts {volume}, which only flowcar may mount",
                clip(container, 30)
            ),
            Self::Preset {
                field,
                is_earlier: true,
            } => write!(
                f,
                "its container is of an earlier configuration, and the operator does not allow its {field} now: take it out"
            ),
            Self::Preset { field, .. } => write!(
                f,
                "its container flowcar is not as flowcar writes it ({}): take it out",
                clip(field, 30)
            ),
            Self::WouldNeverEnd => f.write_str(
                "without native sidecars (Kubernetes 1.29) the pod would never complete",
            ),
            Self::AnnotationsFull { bytes } => write!(
                f,
                "its annotations take {bytes} of the 262144 bytes there are: no room for flowcar's"
            ),
            Self::PodBudget {
                resource,
                limit,
                needed,
            } => write!(
                f,
                "the pod's own {resource} limit is {limit}, and the sidecar needs {needed} to start"
            ),
            Self::LimitRange { why } | Self::Quota { why } => f.write_str(why),
        }
    }
}

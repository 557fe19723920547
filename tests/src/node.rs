//! A node's cgroup tree with two pods, and flowcar in a container of one of them.

use std::process::Command;

use crate::{
    flowcar,
    place::{Cgroup, Netns, cgroup2_mount},
};

/// The uid of the pod with the sidecar, as systemd's cgroup driver writes it.
pub const UID: &str = "0a1b2c3d_4e5f_6071_8293_a4b5c6d7e8f9";
/// The uid of the other pod.
pub const NEIGHBOUR: &str = "1a1b2c3d_4e5f_6071_8293_a4b5c6d7e8f9";

/// Makes what a container runtime makes, and gives flowcar, which is `$0`, no more than it would have there.
const CONTAINER: &str = r#"
    mount --make-rprivate /
    mount -t tmpfs none /run
    mkdir /run/host-cgroup /run/own-cgroup
    mount --rbind "$HOST" /run/host-cgroup
    mount -o remount,bind,ro /run/host-cgroup
    mount -t cgroup2 none /run/own-cgroup
    eval "$EXTRA"
    exec setpriv --bounding-set=-all,+bpf,+net_admin --inh-caps=-all,+bpf,+net_admin "$0" $ARGUMENTS
"#;

/// A node's tree, below a cgroup of this test's own. Innermost first, as they are removed.
#[derive(Debug)]
pub struct Node {
    /// The application's container, in the pod with the sidecar.
    pub app: Cgroup,
    /// The sidecar's container.
    pub sidecar: Cgroup,
    /// The container of the other pod.
    pub other: Cgroup,
    /// The pod with the sidecar, and the other.
    pub pods: [Cgroup; 2],
    parents: [Cgroup; 2],
    _root: Cgroup,
}

// === impl Node ===

impl Node {
    /// Makes it.
    ///
    /// # Panics
    /// The tree is not writable.
    #[expect(clippy::new_without_default, reason = "it makes cgroups")]
    pub fn new() -> Self {
        let root = Cgroup::new("node").unwrap();
        let kubepods = root.child("kubepods.slice").unwrap();
        let burstable = kubepods.child("kubepods-burstable.slice").unwrap();
        let pod = |uid: &str| {
            burstable
                .child(&format!("kubepods-burstable-pod{uid}.slice"))
                .unwrap()
        };
        let (own, neighbour) = (pod(UID), pod(NEIGHBOUR));
        Self {
            app: own.child("cri-containerd-app.scope").unwrap(),
            sidecar: own.child("cri-containerd-flowcar.scope").unwrap(),
            other: neighbour.child("cri-containerd-app.scope").unwrap(),
            pods: [own, neighbour],
            parents: [burstable, kubepods],
            _root: root,
        }
    }

    /// The cgroup of all pods.
    pub fn all_pods(&self) -> &Cgroup {
        &self.parents[1]
    }
}

/// flowcar in a container, with these arguments; shell commands in the variable `EXTRA` run before it.
///
/// # Panics
/// flowcar was not built, or no cgroup2 is mounted.
pub fn contained(cgroup: &Cgroup, netns: &Netns, arguments: &str) -> Command {
    let words = ["unshare", "--cgroup", "--mount", "sh", "-ec", CONTAINER];
    let mut command = flowcar::started_by(&words).unwrap();
    netns.enter(&mut command).unwrap();
    cgroup.enter(&mut command).unwrap();
    command
        .env("HOST", cgroup2_mount().unwrap())
        .env("ARGUMENTS", arguments)
        .env("EXTRA", "");
    command
}

/// Where a container sees this cgroup: in the node's tree.
///
/// # Panics
/// No cgroup2 is mounted.
pub fn in_container(cgroup: &Cgroup) -> String {
    let mount = cgroup2_mount().unwrap();
    let inside = cgroup.path().strip_prefix(mount).unwrap();
    format!("/run/host-cgroup/{}", inside.display())
}

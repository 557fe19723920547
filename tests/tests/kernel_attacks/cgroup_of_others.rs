//! A user who may start flowcar in the sidecar's container (`kubectl exec`) names cgroups of other pods.

use std::process::{Command, Stdio};

use flowcar_tests::{
    exporting::Exporting,
    node::{Node, UID, contained, in_container},
    place::{Cgroup, Netns, require_cgroup2, require_root},
};

/// A link to the neighbour's cgroup, which lies where anybody may make one.
const LINK: &str = "/run/link";

struct Attack {
    node: Node,
    netns: Netns,
}

impl Attack {
    /// In the sidecar's container, as the injector starts it.
    fn command(&self, words: &str, source: &str) -> Command {
        let mut command = contained(&self.node.sidecar, &self.netns, words);
        let link = format!("ln -s {} {LINK}", in_container(&self.node.pods[1]));
        command
            .env("EXTRA", link)
            .env("FLOWCAR_POD_UID", UID.replace('_', "-"))
            .env("FLOWCAR_SOURCE", source)
            .stdin(Stdio::null());
        command
    }
}

#[test]
fn pod_follows_only_its_own_cgroup() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let attack = Attack {
        node: Node::new(),
        netns: Netns::new("pod").unwrap(),
    };
    let node = &attack.node;
    let path = |cgroup: &Cgroup| in_container(cgroup);
    let beside = format!("{}/../../{}", path(&node.app), name(&node.pods[1]));
    for (what, path) in [
        ("the whole node", "/run/host-cgroup".to_owned()),
        ("all pods", path(node.all_pods())),
        ("another pod", path(&node.pods[1])),
        ("another pod's container", path(&node.other)),
        ("another pod by ..", beside),
        ("another pod by a link", LINK.to_owned()),
    ] {
        for source in ["auto", "inet_diag"] {
            let words = format!("export --cgroup {path}");
            let mut export = Exporting::start(&mut attack.command(&words, source));
            let message = export.reported("cgroup");
            assert!(
                message.contains("the pod's own cgroup"),
                "{what}: {message}"
            );
            assert_eq!(export.wait().code(), Some(64), "{what}");
        }
    }
    for identity in ["FLOWCAR_POD_NAME", "FLOWCAR_POD_NAMESPACE"] {
        let words = format!("export --cgroup {}", path(&node.other));
        let mut command = attack.command(&words, "auto");
        command.env_remove("FLOWCAR_POD_UID").env(identity, "shop");
        let mut export = Exporting::start(&mut command);
        export.reported("the pod's own cgroup");
        assert_eq!(export.wait().code(), Some(64), "{identity}");
    }
    let words = format!("check --cgroup {}", path(&node.other));
    let check = attack.command(&words, "auto").output().unwrap();
    assert_eq!(check.status.code(), Some(69), "{check:?}");

    for (what, path) in [
        ("the pod", path(&node.pods[0])),
        ("its application", path(&node.app)),
        (
            "the sidecar, as it sees itself",
            "/run/own-cgroup".to_owned(),
        ),
    ] {
        let words = format!("export --cgroup {path}");
        let mut export = Exporting::start(&mut attack.command(&words, "auto"));
        let message = export.reported("following its TCP flows");
        assert!(message.contains(UID), "{what}: {message}");
    }
}

fn name(cgroup: &Cgroup) -> String {
    cgroup.path().file_name().unwrap().display().to_string()
}

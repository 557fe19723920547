use std::path::Path;

use proptest::prelude::*;

use super::*;

const UID: &str = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
const UID_: &str = "0a1b2c3d_4e5f_6071_8293_a4b5c6d7e8f9";
const HASH: &str = "0123456789abcdef0123456789abcdef";

/// Where kubelets put a container, and the pod's cgroup above it.
fn golden() -> Vec<(String, Option<String>)> {
    let pod = |path: String| (format!("{path}/cri-containerd-1f.scope"), Some(path));
    vec![
        // systemd: Burstable, BestEffort, Guaranteed.
        pod(format!(
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice"
        )),
        pod(format!(
            "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID_}.slice"
        )),
        pod(format!("kubepods.slice/kubepods-pod{UID_}.slice")),
        // cgroupfs.
        pod(format!("kubepods/burstable/pod{UID}")),
        pod(format!("kubepods/pod{UID}")),
        // A root of their own.
        pod(format!(
            "custom.slice/custom-kubepods.slice/custom-kubepods-pod{UID_}.slice"
        )),
        pod(format!("custom/kubepods/besteffort/pod{UID}")),
        // kind: a node in a container.
        pod(format!(
            "docker/9c/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{UID_}.slice"
        )),
        // A static pod's uid is a hash.
        pod(format!("kubepods/burstable/pod{HASH}")),
        pod(format!(
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{HASH}.slice"
        )),
        // CRI-O puts a container's processes one further down.
        (
            format!("kubepods.slice/kubepods-pod{UID_}.slice/crio-1f.scope/container"),
            Some(format!("kubepods.slice/kubepods-pod{UID_}.slice")),
        ),
        // No pods: the parents, similar names, and a container that itself is named like one.
        (
            "kubepods.slice/kubepods-burstable.slice/x.scope".to_owned(),
            None,
        ),
        ("kubepods/burstable/x".to_owned(), None),
        (format!("kubepods/xpod{UID}/c"), None),
        (
            format!("kubepods.slice/kubepods-tripod{UID_}.slice/c"),
            None,
        ),
        (format!("kubepods/pod{}/c", &UID[1..]), None),
        (format!("kubepods/pod{}/c", UID.to_uppercase()), None),
        (format!("pod{UID}"), None),
        ("user.slice/user-0.slice".to_owned(), None),
        (String::new(), None),
    ]
}

#[test]
fn pod_is_the_nearest_ancestor_with_a_pod_name() {
    for (container, expected) in golden() {
        let found = pod_above(Path::new(&container)).map(|(pod, _)| pod.display().to_string());
        assert_eq!(found, expected, "{container}");
    }
}

#[test]
fn pod_uid_has_hyphens() {
    let uid = |name: String| pod_uid(&name);
    assert_eq!(
        uid(format!("kubepods-burstable-pod{UID_}.slice")).as_deref(),
        Some(UID)
    );
    assert_eq!(uid(format!("pod{UID}")).as_deref(), Some(UID));
    assert_eq!(uid(format!("pod{HASH}")).as_deref(), Some(HASH));
}

#[test]
fn directory_is_found_by_its_inode() {
    let tree = std::env::temp_dir().join(format!("flowcar-scope-{}", std::process::id()));
    let deep = tree.join(format!("kubepods/burstable/pod{UID}/1f"));
    fs::create_dir_all(&deep).expect("a directory for the test");
    fs::create_dir_all(tree.join("kubepods/besteffort/other")).expect("another one");
    let id = fs::metadata(&deep).expect("it was just made").ino();
    let found = locate(&tree, id).expect("it can be searched");
    let absent = locate(&tree, u64::MAX).expect("it can be searched");
    fs::remove_dir_all(&tree).expect("what was made goes away");
    assert_eq!(found, Some(deep));
    assert_eq!(absent, None);
}

#[test]
fn key_in_place_of_the_hosts_tree_is_not_shown() {
    for (host, expected) in [("glc_s3cret", "(hidden)"), ("/run/absent", "/run/absent")] {
        let error = discover(Path::new(host)).expect_err("no tree").to_string();
        assert!(error.contains(&format!("not at {expected}.")), "{error}");
    }
}

proptest! {
    /// Whatever cgroups are called: what is taken for a pod's lies above the container and ends in a uid.
    #[test]
    fn arbitrary_names_never_panic(names in proptest::collection::vec("(kubepods|pod)?[-a-f0-9_./\\PC]{0,40}(\\.slice)?", 0..6)) {
        let path = names.join("/");
        let container = Path::new(&path);
        if let Some((pod, uid)) = pod_above(container) {
            prop_assert!(container.starts_with(pod) && container != pod);
            prop_assert!(is_uid(&uid));
            let name = pod.file_name().and_then(|name| name.to_str()).expect("it has a name");
            prop_assert!(name.replace('_', "-").trim_end_matches(".slice").ends_with(&uid));
        }
    }
}

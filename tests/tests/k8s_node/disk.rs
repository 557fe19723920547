//! The disk that configures a node: its kubelet with its configuration, and the images.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use flowcar_tests::peers::{ApiServer, binary};
use serde_json::json;

use crate::node::{HOST, Trust};

/// Makes it in a folder; where it is.
pub(crate) fn make(files: &Path, api: &ApiServer, trust: &Trust, images: &[PathBuf]) -> PathBuf {
    let folder = files.join("disk");
    fs::create_dir_all(folder.join("images")).unwrap();
    write(&folder, api, trust, images);
    let disk = files.join("node.ext4");
    make_file_system(&folder, &disk);
    fs::remove_dir_all(&folder).unwrap();
    disk
}

fn write(folder: &Path, api: &ApiServer, trust: &Trust, images: &[PathBuf]) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("node/start");
    fs::copy(source, folder.join("start")).unwrap();
    fs::copy(binary("kubelet"), folder.join("kubelet")).unwrap();
    for image in images {
        fs::copy(
            image,
            folder.join("images").join(image.file_name().unwrap()),
        )
        .unwrap();
    }
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    let identity = trust.authority.client("system:node:node1", "system:nodes");
    write("node.crt", &identity.certificate);
    write("node.key", &identity.key);
    write("ca.crt", api.ca());
    write("clients.crt", trust.authority.certificate());
    let port = api.url().rsplit(':').next().unwrap();
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {
            "server": format!("https://{HOST}:{port}"), "certificate-authority": "/node/ca.crt",
        }}],
        "users": [{"name": "node", "user": {"client-certificate": "/node/node.crt", "client-key": "/node/node.key"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "node"}}],
        "current-context": "test",
    });
    write("kubeconfig", &kubeconfig.to_string());
    let kubelet = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        // node/start puts it in.
        "cgroupDriver": "DRIVER",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": false},
            "x509": {"clientCAFile": "/node/clients.crt"}},
        "authorization": {"mode": "AlwaysAllow"},
        "failSwapOn": false,
        // Else it makes keys of its own, which takes an emulated processor seconds.
        "tlsCertFile": "/node/node.crt",
        "tlsPrivateKeyFile": "/node/node.key",
        "runtimeRequestTimeout": "10m",
        // Images that no registry has must not be collected.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {"memory.available": "10Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
    });
    write("kubelet.yaml", &kubelet.to_string());
}

fn make_file_system(folder: &Path, disk: &Path) {
    // As large as the one that tests/node/root stopped the machine with.
    fs::File::create(disk).unwrap().set_len(1 << 30).unwrap();
    let mut mkfs = Command::new("mkfs.ext4");
    mkfs.args(["-q", "-F", "-O", "^has_journal", "-d"])
        .arg(folder)
        .arg(disk);
    assert!(mkfs.status().unwrap().success());
}

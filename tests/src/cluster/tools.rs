//! Pods, paths and commands of these tests.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

/// A pod of one container.
pub fn pod(name: &str, annotations: Value) -> Value {
    json!({
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"containers": [{"name": "app", "image": "app:1"}]},
    })
}

/// The names of a pod's init containers and containers.
pub fn containers(pod: &Value) -> (Vec<&str>, Vec<&str>) {
    let names = |list: &'static str| {
        let items = pod["spec"][list].as_array();
        items
            .into_iter()
            .flatten()
            .filter_map(|container| container["name"].as_str())
            .collect()
    };
    (names("initContainers"), names("containers"))
}

/// Runs a command with this on its standard input: whether it succeeded, and what it wrote.
pub fn pipe(mut command: Command, input: &str) -> (bool, String, String) {
    use std::{io::Write as _, process::Stdio};
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the command starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("the command ends");
    // A command that fails early does not read all of it.
    drop(writer.join().expect("the writer"));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (
        output.status.success(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// A path in the crate `k8s`.
pub fn k8s(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../k8s")
        .join(path)
}

/// `kubectl-flowcar`, to be given its arguments, with this kubeconfig.
pub fn kubectl_flowcar(kubeconfig: &Path) -> Command {
    let mut command = Command::new(product("kubectl-flowcar"));
    command.env("KUBECONFIG", kubeconfig);
    command
}

/// A binary of the product, which lies above the tests.
pub fn product(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let path = test.ancestors().nth(2).expect("a target folder").join(name);
    assert!(
        path.is_file(),
        "{} is not there; build it with: cargo build --bins",
        path.display()
    );
    path
}

/// `base64` by the program, so that flowcar's own code is not involved.
pub fn base64(text: &str) -> String {
    let mut command = Command::new("base64");
    command.arg("-w0");
    run(command, text)
}

/// `base64 -d` of a text in JSON.
pub fn base64_decoded(text: &Value) -> String {
    let mut command = Command::new("base64");
    command.arg("-d");
    run(command, text.as_str().expect("a text"))
}

/// What a command that has to succeed writes.
pub fn run(command: Command, input: &str) -> String {
    let reported = format!("{command:?}");
    let (ok, stdout, stderr) = pipe(command, input);
    assert!(ok, "{reported}: {stderr}");
    stdout
}

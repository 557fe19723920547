//! One attempt in a pod, by the program that makes it.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, ChildStdout, Command, Stdio},
};

use flowcar_tests::{
    place::TestPod,
    traffic::{self, Attempted},
};
use serde::Deserialize;

/// An attempt under way.
pub(crate) struct Attempting {
    child: Child,
    stdout: BufReader<ChildStdout>,
    pub(crate) local: SocketAddr,
    target: SocketAddr,
}

impl Attempting {
    /// Starts it, and waits until its SYN is sent.
    pub(crate) fn start(pod: &TestPod, target: SocketAddr, arguments: &[&str]) -> Self {
        let program = traffic::program().unwrap();
        let command = pod.command(program.to_str().unwrap()).unwrap();
        Self::start_by(command, target, arguments)
    }

    /// The same in the pod's network namespace, and not in its cgroup.
    pub(crate) fn start_beside(pod: &TestPod, target: SocketAddr, arguments: &[&str]) -> Self {
        let program = traffic::program().unwrap();
        let command = pod.netns().command(program.to_str().unwrap()).unwrap();
        Self::start_by(command, target, arguments)
    }

    fn start_by(mut command: Command, target: SocketAddr, arguments: &[&str]) -> Self {
        #[derive(Deserialize)]
        struct UnderWay {
            local: SocketAddr,
        }
        command.arg("attempt").arg(target.to_string());
        let mut child = command
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let UnderWay { local } = serde_json::from_str(&line).unwrap();
        Self {
            child,
            stdout,
            local,
            target,
        }
    }

    /// Waits for its end; nothing where its process was killed or exited.
    pub(crate) fn finish(mut self) -> Option<Attempted> {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        self.child.wait().unwrap();
        (!line.is_empty()).then(|| serde_json::from_str(&line).unwrap())
    }

    /// `kill -9`
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// `ss -K`: SOCK_DESTROY, for which the kernel needs CONFIG_INET_DIAG_DESTROY. Gives whether it did.
    pub(crate) fn destroy(&self, pod: &TestPod) -> bool {
        let mut ss = pod.netns().command("ss").unwrap();
        let port = format!(":{}", self.target.port());
        let filter = ["-HntK", "state", "syn-sent", "dport", "=", &port];
        let output = ss.args(filter).output().unwrap();
        String::from_utf8_lossy(&output.stdout).contains(&port)
    }
}

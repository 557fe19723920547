//! The applications of these tests: a server, clients of it, and what the server reports of each connection.

use std::net::IpAddr;

use flowcar_tests::traffic::ConnectionReport;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::testbed::{Pod, Stage};

pub(crate) const PORT: u16 = 7000;

/// A pod template that Pod Security `restricted` admits.
fn template(app: &str, command: &[String]) -> Value {
    json!({
        "metadata": {"labels": {"app": app}},
        "spec": {
            "terminationGracePeriodSeconds": 10,
            "containers": [{
                "name": "app", "image": "example.test/app:1", "imagePullPolicy": "Never", "command": command,
                "securityContext": {
                    "runAsNonRoot": true, "runAsUser": 1000, "allowPrivilegeEscalation": false,
                    "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
                },
            }],
        },
    })
}

/// Without pods, until it has been opted in or is scaled.
fn deployment(app: &str, command: &[String]) -> Value {
    json!({
        "metadata": {"name": app},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": app}},
            "template": template(app, command),
        },
    })
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

/// Answers, and reports each connection when it has closed.
pub(crate) fn web() -> Value {
    deployment(
        "web",
        &words(&["traffic", "serve", "--listen", &format!("0.0.0.0:{PORT}")]),
    )
}

/// One connection after the other to the server, without an end.
pub(crate) fn client(app: &str, web: &Pod) -> Value {
    let many = [
        "--connections",
        "1000000",
        "--exchanges",
        "2-4",
        "--pause",
        "250",
    ];
    deployment(app, &call(web, &many))
}

/// The same, with a pod.
pub(crate) fn running(mut deployment: Value) -> Value {
    deployment["spec"]["replicas"] = json!(1);
    deployment
}

/// A Job that makes so many connections, opted in by its own annotation.
pub(crate) fn job(name: &str, web: &Pod, connections: u64) -> Value {
    let sizes = [
        "--request",
        "1-20000",
        "--response",
        "1-50000",
        "--exchanges",
        "1-3",
    ];
    let mut command = call(web, &sizes);
    command.extend(["--connections".to_owned(), connections.to_string()]);
    let mut template = template(name, &command);
    template["spec"]["restartPolicy"] = json!("Never");
    json!({
        "metadata": {"name": name, "annotations": {"flowcar.io/inject": "enabled"}},
        "spec": {"backoffLimit": 0, "template": template},
    })
}

fn call(web: &Pod, how: &[&str]) -> Vec<String> {
    let target = format!("{}:{PORT}", web.ip);
    words(&[&["traffic", "call", &target], how].concat())
}

/// A closed connection, as the server reports it.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    /// When the report was written, by the node's clock.
    pub(crate) at: Timestamp,
    pub(crate) report: ConnectionReport,
}

/// Every connection from that address, the oldest first.
pub(crate) fn ended(stage: &Stage, web: &Pod, from: &str) -> Vec<Ended> {
    let from: IpAddr = from.parse().unwrap();
    let lines = stage.log(web, "app");
    let ended = lines.into_iter().filter_map(|(at, line)| {
        let report = serde_json::from_str::<ConnectionReport>(&line).ok()?;
        Some(Ended { at, report })
    });
    ended
        .filter(|ended| ended.report.peer.ip() == from)
        .collect()
}

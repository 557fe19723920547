//! Resolvers' clients as they are: glibc by curl, musl, Go, and Java, each in a mount namespace with its own `/etc/resolv.conf`.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use flowcar_tests::place::require_program;

use super::{Pod, can_run};

/// Resolves its first argument as applications do, and connects to the port that is its second.
const C: &str = r#"
#include <netdb.h>
#include <sys/socket.h>
int main(int count, char **arguments) {
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found;
    if (count < 3 || getaddrinfo(arguments[1], arguments[2], &hints, &found)) return 3;
    int made = socket(found->ai_family, SOCK_STREAM, 0);
    return connect(made, found->ai_addr, found->ai_addrlen) ? 2 : 0;
}
"#;

const GO: &str = r#"package main

import (
	"net"
	"os"
)

func main() {
	connection, err := net.Dial("tcp", net.JoinHostPort(os.Args[1], os.Args[2]))
	if err != nil {
		println(err.Error())
		os.Exit(1)
	}
	connection.Close()
}
"#;

/// Java starts a single source file by itself.
const JAVA: &str = r#"
import java.net.Socket;

class Main {
    public static void main(String[] arguments) throws Exception {
        new Socket(arguments[0], Integer.parseInt(arguments[1])).close();
    }
}
"#;

#[test]
fn clients_of_resolvers_are_understood() {
    if !can_run() || !require_program("curl") || !require_program("unshare") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let pod = Pod::new("clients");
    let mut watch = pod.watch(&[]);
    let resolver = directory.path().join("resolv.conf");
    fs::write(&resolver, "nameserver 127.18.53.1\n").unwrap();
    let port = pod.port().to_string();
    let mut clients = vec![("curl".to_owned(), "w21.example")];
    clients.extend(
        compiled(
            directory.path(),
            "musl",
            "main.c",
            C,
            &["musl-gcc", "-static"],
        )
        .map(|program| (program, "w22.example")),
    );
    clients.extend(
        compiled(directory.path(), "go", "main.go", GO, &["go", "build"])
            .map(|program| (program, "w23.example")),
    );
    let java = directory.path().join("Main.java");
    if require_program("java") {
        fs::write(&java, JAVA).unwrap();
        clients.push(("java".to_owned(), "w24.example"));
    }
    for (program, name) in &clients {
        let mut client = pod.pod.command("unshare").unwrap();
        let script = r#"mount --bind "$0" /etc/resolv.conf && exec "$@""#;
        client
            .args(["--mount", "sh", "-c", script])
            .arg(&resolver)
            .arg(program);
        if program == "curl" {
            // The server speaks another protocol: what counts is the connection.
            client.args([
                "-s",
                "-m",
                "5",
                "--noproxy",
                "*",
                &format!("http://{name}:{port}/"),
            ]);
        } else {
            client
                .args((program == "java").then_some(&java))
                .args([name, port.as_str()])
                .env("GODEBUG", "netdns=go");
        }
        let status = client.stdin(Stdio::null()).status().unwrap();
        assert!(program == "curl" || status.success(), "{program}: {status}");
    }
    let seen = watch.until("all clients", |seen| {
        let named = |name: &str| {
            seen.flows
                .iter()
                .any(|flow| flow.get("server.address") == name)
        };
        clients.iter().all(|(_, name)| named(name))
    });
    for (program, name) in &clients {
        let mut flows = seen
            .flows
            .iter()
            .filter(|flow| flow.get("server.address") == *name);
        let flow = flows.next().unwrap();
        let number = &name[1..3];
        assert_eq!(
            flow.get("network.peer.address"),
            format!("127.18.0.{number}"),
            "{program}"
        );
    }
}

/// The program of this source, where its compiler is installed.
fn compiled(
    directory: &Path,
    name: &str,
    file: &str,
    source: &str,
    compiler: &[&str],
) -> Option<String> {
    if !require_program(compiler[0]) {
        return None;
    }
    let (source_path, program) = (directory.join(file), directory.join(name));
    fs::write(&source_path, source).unwrap();
    let status = Command::new(compiler[0])
        .args(&compiler[1..])
        .arg("-o")
        .args([&program, &source_path])
        .env("GO111MODULE", "off")
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{compiler:?}: {status}");
    Some(program.display().to_string())
}

//! Processes that may not ask flowcar, and processes that ask nonsense, or too much.

use std::{
    io::{self, Read as _, Write as _},
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            net::{SocketAddr, UnixStream},
            process::CommandExt as _,
        },
    },
    process::Output,
    thread,
    time::{Duration, Instant},
};

use flowcar_tests::{
    exporting::Exporting,
    flowcar,
    node::{Node, UID, contained},
    place::{Cgroup, Netns, require_cgroup2, require_root},
};
use nix::unistd::setuid;

const NOBODY: u32 = 65_534;

/// Longer than flowcar waits for a question; the rest is for a busy machine.
const WITHIN: Duration = Duration::from_secs(30);

struct Pod {
    node: Node,
    netns: Netns,
    export: Exporting,
}

impl Pod {
    /// `uid`: the pod's, where flowcar is to know that it is in one.
    fn new(uid: Option<&str>) -> Option<Self> {
        if !require_root() || !require_cgroup2() {
            return None;
        }
        let (node, netns) = (Node::new(), Netns::new("pod").unwrap());
        let mut command = contained(&node.sidecar, &netns, "export");
        command.envs(uid.map(|uid| ("FLOWCAR_POD_UID", uid)));
        let mut export = Exporting::start(&mut command);
        export.reported("following its TCP flows");
        let pod = Self {
            node,
            netns,
            export,
        };
        let began = Instant::now();
        while pod.connect().is_err() {
            assert!(began.elapsed() < WITHIN, "it never listened");
            thread::sleep(Duration::from_millis(20));
        }
        Some(pod)
    }

    /// Connects as this test, which is in no container: root, in another cgroup.
    fn connect(&self) -> io::Result<UnixStream> {
        let id = self.node.sidecar.id().unwrap();
        let name = SocketAddr::from_abstract_name(format!("flowcar.{id}")).unwrap();
        let stream = self
            .netns
            .run(|| UnixStream::connect_addr(&name))
            .unwrap()?;
        stream.set_read_timeout(Some(WITHIN)).unwrap();
        Ok(stream)
    }

    fn ask(&self, request: &[u8]) -> String {
        let mut stream = self.connect().unwrap();
        // flowcar may have closed by now.
        let _ = stream.write_all(request);
        read(&mut stream)
    }

    fn command(&self, cgroup: &Cgroup, user: u32, words: &[&str]) -> Output {
        // Another user may not find the program by its path.
        let (_program, mut command) = flowcar::by_descriptor().unwrap();
        self.netns.enter(&mut command).unwrap();
        cgroup.enter(&mut command).unwrap();
        // SAFETY: a system call, after those that need root's rights.
        unsafe { command.pre_exec(move || Ok(setuid(user.into())?)) };
        command.args(words).output().unwrap()
    }
}

/// All that is sent until the other end closes. A reset after an answer is what a request that nobody read leaves.
fn read(stream: &mut UnixStream) -> String {
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    loop {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&part[..length]),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error}"),
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn strangers_are_refused_and_take_no_place() {
    let Some(pod) = Pod::new(Some(UID)) else {
        return;
    };
    // The test is of another cgroup, as another container of the pod is.
    let held: Vec<_> = (0..64).map(|_| pod.connect().unwrap()).collect();
    for request in ["flowcar/1 health\n", "flowcar/1 flows\n"] {
        let answer = pod.ask(request.as_bytes());
        assert!(answer.starts_with("flowcar/1 error process "), "{answer}");
        assert!(answer.contains("of another cgroup may not ask"), "{answer}");
    }
    let (own, app) = (&pod.node.sidecar, &pod.node.app);
    let answered = pod.command(own, 0, &["probe", "live"]);
    assert!(answered.status.success(), "{answered:?}");
    let listed = pod.command(own, 0, &["flows"]);
    assert!(listed.status.success(), "{listed:?}");
    for (cgroup, user) in [(own, NOBODY), (app, 0), (app, NOBODY)] {
        let refused = pod.command(cgroup, user, &["flows"]);
        assert_eq!(refused.status.code(), Some(69), "{refused:?}");
        assert!(refused.stdout.is_empty(), "{refused:?}");
    }
    let other_user = pod.command(own, NOBODY, &["probe", "live"]);
    let words = String::from_utf8_lossy(&other_user.stderr);
    assert!(words.contains("user 65534 may not ask"), "{words}");
    drop(held);
}

#[test]
fn questions_are_bounded() {
    // On a host, where root may ask from any cgroup.
    let Some(pod) = Pod::new(None) else {
        return;
    };
    let error = "flowcar/1 error ";
    for (request, answer) in [
        (&b"\n"[..], error),
        (b"GET / HTTP/1.1\r\n\r\n", error),
        (b"flowcar/2 health\n", error),
        (b"flowcar/1 everything\n", error),
        (b"flowcar/1 flows most=-1\n", error),
        (b"\xff\xfe\n", ""),
        (&[b'x'; 1 << 20], error),
        (
            b"flowcar/1 health\nflowcar/1 health\n",
            "flowcar/1 ok\nlive started",
        ),
        (
            b"flowcar/1 flows after=18446744073709551615 most=0\n",
            "flowcar/1 ok\n",
        ),
    ] {
        let found = pod.ask(request);
        let shown = String::from_utf8_lossy(&request[..request.len().min(40)]);
        assert!(found.starts_with(answer), "{shown}: {found}");
    }
    // They ask nothing, and ask and do not read.
    let mut held: Vec<_> = (0..64).map(|_| pod.connect().unwrap()).collect();
    for stream in held.iter_mut().take(8) {
        let _ = stream.write_all(b"flowcar/1 flows\n");
    }
    let busy = held.iter_mut().map(read);
    let busy = busy.filter(|answer| answer == "flowcar/1 busy\n").count();
    assert!(busy >= 64 - 16 - 8, "{busy} were too many");
    let answered = pod.command(&pod.node.sidecar, 0, &["probe", "live"]);
    assert!(answered.status.success(), "{answered:?}");
    pod.export.stop();
}

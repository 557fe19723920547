//! `container.id` and `process.pid`: containers of a pod in cgroups that are named as containerd, CRI-O and docker name them. The truth is
//! where the test has placed each process, and its number.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Lines},
    net::SocketAddr,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use flowcar_tests::{
    peers::eventually,
    place::{
        Callbacks, Cgroup, Neighbour, Sharing, TestPod, kernel_release, lacks, require_cgroup2,
        require_root,
    },
    traffic::{self, ConnectionReport},
    watch::{Flow, Mode, Seen, Watch},
};

/// Ids of containers.
const CONTAINERD: &str = "c0ffee0000000000000000000000000000000000000000000000000000000001";
const CRIO: &str = "c0ffee0000000000000000000000000000000000000000000000000000000002";
const PLAIN: &str = "c0ffee0000000000000000000000000000000000000000000000000000000003";
const DOCKER: &str = "c0ffee0000000000000000000000000000000000000000000000000000000004";

/// Addresses on loopback, one for each network namespace.
const OUTER: &str = "127.0.0.1";
const INNER: &str = "127.0.0.2";

/// A `traffic` program in a container.
struct Program {
    container: &'static str,
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
}

/// Whose one end of a connection is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Whose {
    container: &'static str,
    pid: u32,
}

/// Both ends of all connections, by local and peer port. The kernel gives a client's port to another one once it is free: then there are
/// several.
type Truth = BTreeMap<(u16, u16), Vec<Whose>>;

impl Program {
    fn start(pod: &TestPod, cgroup: &Cgroup, container: &'static str, arguments: &[&str]) -> Self {
        let mut command = Command::new(traffic::program().unwrap());
        cgroup.enter(&mut command).unwrap();
        pod.netns().enter(&mut command).unwrap();
        let command = command.args(arguments).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            container,
            child,
            output,
        }
    }

    /// A server that ends after so many connections, once it listens.
    fn serve(
        pod: &TestPod,
        cgroup: &Cgroup,
        container: &'static str,
        port: u16,
        until: u64,
    ) -> Self {
        let (at, until) = (format!("[::]:{port}"), until.to_string());
        let arguments = ["serve", "--listen", &at, "--until", &until];
        let mut server = Self::start(pod, cgroup, container, &arguments);
        server.output.next().unwrap().unwrap();
        server
    }

    fn whose(&self) -> Whose {
        Whose {
            container: self.container,
            pid: self.child.id(),
        }
    }

    /// Waits until it ends, and adds its connections to the truth.
    fn end(mut self, truth: &mut Truth) -> usize {
        let whose = self.whose();
        let mut count = 0;
        for line in self.output.by_ref() {
            let report: ConnectionReport = serde_json::from_str(&line.unwrap()).unwrap();
            assert_eq!(report.failure, None);
            let local: SocketAddr = report.local.unwrap();
            let ports = (local.port(), report.peer.port());
            truth.entry(ports).or_default().push(whose.clone());
            count += 1;
        }
        assert!(self.child.wait().unwrap().success());
        count
    }
}

/// Connections of a client to a server, of which each makes exchanges with these pauses.
fn call(
    pod: &TestPod,
    cgroup: &Cgroup,
    container: &'static str,
    port: u16,
    connections: &str,
    more: &[&str],
) -> Program {
    let target = format!("127.0.0.1:{port}");
    let arguments = ["call", &target, "--connections", connections];
    Program::start(pod, cgroup, container, &[&arguments, more].concat())
}

fn can_run() -> bool {
    require_root() && require_cgroup2()
}

/// The first kernel that returns the network namespace of a connection to programs (net/core/filter.c, sock_ops_func_proto).
const RETURNS_NAMESPACES: (u32, u32) = (5, 15);

/// Takes whose a flow is from the truth: its container and, where it has one, its process are those that the test has started.
fn take(truth: &mut Truth, flow: &Flow) -> Whose {
    let (container, pid) = (flow.get("container.id"), flow.get("process.pid"));
    let ports = (flow.local.port(), flow.peer.port());
    let all = truth.get_mut(&ports);
    let all = all.unwrap_or_else(|| panic!("no connection of {flow:?}"));
    let is =
        |of: &Whose| of.container == container && (pid.is_empty() || of.pid.to_string() == pid);
    let found = all.iter().position(is);
    all.swap_remove(found.unwrap_or_else(|| panic!("{flow:?} is of {all:?}")))
}

/// Each flow, and each series, is of the container that the test has placed its process in.
fn containers_hold(seen: &Seen, truth: &Truth) {
    let mut truth = truth.clone();
    let mut counted = BTreeMap::<_, f64>::new();
    for flow in &seen.flows {
        let whose = take(&mut truth, flow);
        *counted.entry(whose.container).or_default() += 1.0;
    }
    for (container, count) in counted {
        let closed = seen.sum(
            "flowcar.tcp.connection.closed",
            &[("container.id", container)],
        );
        assert_eq!(closed, count, "{container}: {:#?}", seen.metrics);
    }
    assert_eq!(seen.sum("flowcar.self.container.unresolved", &[]), 0.0);
}

/// Three containers, of which one talks to itself, too: short and long connections.
fn three_containers(mode: Mode, short: u64) {
    let pod = TestPod::new("containers").unwrap();
    let client = pod.container("cri-containerd", CONTAINERD).unwrap();
    let server = pod.container("crio", CRIO).unwrap();
    let both = pod.cgroup().child(PLAIN).unwrap();
    let watch = Watch::start(&pod, mode, &[]);
    let mut truth = Truth::new();
    let long = ["--exchanges", "30", "--pause", "100", "--concurrency", "4"];
    let until = 2 * (4 + short);
    let servers = [
        Program::serve(&pod, &server, CRIO, 7101, until),
        Program::serve(&pod, &both, PLAIN, 7102, until),
    ];
    let count = short.to_string();
    let mut clients = Vec::new();
    for (cgroup, container) in [(&client, CONTAINERD), (&both, PLAIN)] {
        for port in [7101, 7102] {
            clients.push(call(&pod, cgroup, container, port, "4", &long));
            if short > 0 {
                clients.push(call(&pod, cgroup, container, port, &count, &[]));
            }
        }
    }
    let ends: usize = clients
        .into_iter()
        .chain(servers)
        .map(|program| program.end(&mut truth))
        .sum();
    assert_eq!(ends as u64, 4 * until);
    let seen = watch.stop();
    assert_eq!(seen.flows.len(), ends, "{mode:?}");
    containers_hold(&seen, &truth);
    for flow in &seen.flows {
        let has_process = !flow.get("process.pid").is_empty();
        assert_eq!(has_process, mode != Mode::AloneInCgroup, "{flow:?}");
    }
}

#[test]
fn each_connection_is_of_its_container_and_of_its_process() {
    if !can_run() {
        return;
    }
    three_containers(Mode::Both, 200);
}

/// From another network namespace, in which no dump shows the pod's listeners.
#[test]
fn each_connection_is_of_its_container_without_dumps() {
    if !can_run() {
        return;
    }
    three_containers(Mode::Outside, 100);
}

/// inet_diag shows the cgroup of each socket; short connections may open and close between two dumps.
#[test]
fn each_connection_that_dumps_show_is_of_its_container_without_programs() {
    if !can_run() {
        return;
    }
    three_containers(Mode::AloneInCgroup, 0);
}

/// How often a process has given up its processor: `voluntary_ctxt_switches` (proc_pid_status(5)).
fn turns_of(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mut lines = status.lines();
    let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.unwrap().trim().parse().unwrap()
}

/// How long a container's cgroup is there at least.
const LIVES: Duration = Duration::from_millis(100);

/// Containers that are made, have a connection, and are removed at once, one after the other, each with a server of the same port; and
/// cgroups inside a container.
#[test]
fn connection_of_a_removed_container_is_of_that_container() {
    if !can_run() {
        return;
    }
    const IDS: [&str; 4] = [CONTAINERD, CRIO, PLAIN, DOCKER];
    let pod = TestPod::new("removed").unwrap();
    let watch = Watch::start(&pod, Mode::Both, &[]);
    let mut expected = BTreeMap::<&str, usize>::new();
    let mut truth = Truth::new();
    let mut pids = BTreeMap::<u32, &str>::new();
    for round in 0..5 {
        for id in IDS {
            let engine = ["docker", "cri-containerd"][round % 2];
            let container = pod.container(engine, id).unwrap();
            let inner = container.child("init.scope").unwrap();
            let turns = turns_of(watch.id());
            let server = Program::serve(&pod, &inner, id, 7103, 1);
            let client = call(&pod, &container, id, 7103, "1", &[]);
            pids.extend([&server, &client].map(|of| (of.child.id(), id)));
            let ends = client.end(&mut truth) + server.end(&mut truth);
            *expected.entry(id).or_default() += ends;
            // No container runtime makes and removes a container within less.
            thread::sleep(LIVES);
            // On a busy machine flowcar may not have run meanwhile.
            eventually("a turn of flowcar", Duration::from_secs(60), || {
                (turns_of(watch.id()) > turns).then_some(())
            });
            drop((inner, container));
        }
    }
    let seen = watch.stop();
    let mut counted = BTreeMap::<&str, usize>::new();
    for flow in &seen.flows {
        let id = pids[&flow.get("process.pid").parse().unwrap()];
        assert_eq!(flow.get("container.id"), id, "{flow:?}");
        *counted.entry(id).or_default() += 1;
    }
    assert_eq!(counted, expected);
}

/// Listeners that are older than flowcar are known by dumps, and so is their container; the process that made them listen is not.
#[test]
fn older_listeners_and_connections_are_of_their_container() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("older").unwrap();
    let client = pod.container("docker", DOCKER).unwrap();
    let server = pod.container("crio", CRIO).unwrap();
    let serving = Program::serve(&pod, &server, CRIO, 7104, 20);
    let long = ["--exchanges", "20", "--pause", "500", "--concurrency", "10"];
    let older = call(&pod, &client, DOCKER, 7104, "10", &long);
    let began = Instant::now();
    while pod.netns().run(established).unwrap() < 20 {
        assert!(began.elapsed() < Duration::from_secs(30));
    }
    let mut watch = Watch::start(&pod, Mode::Both, &[]);
    let mut truth = Truth::new();
    call(&pod, &client, DOCKER, 7104, "10", &[]).end(&mut truth);
    older.end(&mut truth);
    serving.end(&mut truth);
    // The destroy events of the older ones come later than their closes.
    watch.until("each end", |seen| seen.flows.len() == 40);
    watch.reports(2);
    let seen = watch.stop();
    containers_hold(&seen, &truth);
    for flow in &seen.flows {
        let is_seen = flow.role() == "client" && flow.get("flowcar.tcp.adopted.by").is_empty();
        assert_eq!(!flow.get("process.pid").is_empty(), is_seen, "{flow:?}");
    }
}

/// Connections to an older listener that open while flowcar attaches, before its first dump shows the listener.
#[test]
fn connection_that_opens_while_flowcar_starts_is_of_its_listeners_container() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("starting").unwrap();
    let client = pod.container("docker", DOCKER).unwrap();
    let server = pod.container("crio", CRIO).unwrap();
    let listen = ["serve", "--listen", "[::]:7105"];
    let mut serving = Program::start(&pod, &server, CRIO, &listen);
    serving.output.next().unwrap().unwrap();
    // For as long as the start takes, and once more.
    let seen = thread::scope(|scope| {
        let starting = scope.spawn(|| Watch::start(&pod, Mode::Both, &[]));
        loop {
            let is_last = starting.is_finished();
            let more = ["--concurrency", "4"];
            call(&pod, &client, DOCKER, 7105, "500", &more).end(&mut Truth::new());
            if is_last {
                break starting.join().unwrap().stop();
            }
        }
    });
    serving.child.kill().unwrap();
    serving.child.wait().unwrap();
    let servers = seen.flows.iter().filter(|flow| flow.role() == "server");
    let servers: Vec<_> = servers.collect();
    assert!(!servers.is_empty(), "none closed while flowcar followed");
    for flow in servers {
        assert_eq!(flow.get("container.id"), CRIO, "{flow:?}");
    }
}

/// Established sockets of the namespace, by /proc/net/tcp and tcp6 (proc(5)).
fn established() -> usize {
    ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"]
        .map(|file| std::fs::read_to_string(file).unwrap())
        .iter()
        .flat_map(|text| text.lines().skip(1))
        .filter(|line| line.split_whitespace().nth(3) == Some("01"))
        .count()
}

/// A listener that two containers share by SO_REUSEPORT does not show whose a connection is: the pod's resource has it, and it is counted.
#[test]
fn container_is_unknown_where_two_share_a_port() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("shared").unwrap();
    let first = pod.container("crio", CRIO).unwrap();
    let second = pod.container("docker", DOCKER).unwrap();
    let watch = Watch::start(&pod, Mode::Both, &[]);
    let share = |cgroup: &Cgroup, id| {
        let arguments = ["serve", "--listen", "[::]:7105", "--workers", "2"];
        let mut server = Program::start(&pod, cgroup, id, &arguments);
        server.output.next().unwrap().unwrap();
        server
    };
    let mut servers = [share(&first, CRIO), share(&second, DOCKER)];
    let mut truth = Truth::new();
    call(&pod, &first, CRIO, 7105, "50", &[]).end(&mut truth);
    let seen = watch.stop();
    for server in &mut servers {
        server.child.kill().unwrap();
        server.child.wait().unwrap();
    }
    for flow in &seen.flows {
        let id = if flow.role() == "client" { CRIO } else { "" };
        assert_eq!(flow.get("container.id"), id, "{flow:?}");
    }
    assert_eq!(
        seen.sum(
            "flowcar.self.container.unresolved",
            &[("flowcar.self.container.reason", "no_cgroup")]
        ),
        50.0
    );
}

/// Two network namespaces of a pod have a listener at the same address, as where containers run in a container. A connection is of the
/// listener of its own namespace: where dumps show only one of them, the other's connections have no container.
#[test]
fn listener_of_another_namespace_has_no_connection_of_this_one() {
    if !can_run() {
        return;
    }
    if kernel_release() < RETURNS_NAMESPACES {
        return lacks("network namespaces of connections");
    }
    let pod = TestPod::new("outer").unwrap();
    let inner = TestPod::inside(pod.cgroup(), "inner").unwrap();
    let [client, outer_server, inner_server] = [
        pod.container("docker", DOCKER).unwrap(),
        pod.container("crio", CRIO).unwrap(),
        inner.container("cri-containerd", CONTAINERD).unwrap(),
    ];
    const EACH: usize = 10;
    let until = EACH as u64;
    // The address shows the namespace.
    let serve_and_call = |truth: &mut Truth, port, watch: &mut Option<Watch>| {
        let servers = [
            Program::serve(&pod, &outer_server, CRIO, port, until),
            Program::serve(&inner, &inner_server, CONTAINERD, port, until),
        ];
        if watch.is_none() {
            *watch = Some(Watch::start(&pod, Mode::Both, &[]));
        }
        // A server ends with its last connection: the outer one listens meanwhile.
        for (pod, address) in [(&inner, INNER), (&pod, OUTER)] {
            let (target, count) = (format!("{address}:{port}"), EACH.to_string());
            let arguments = ["call", &target, "--connections", &count];
            let calling = Program::start(pod, &client, DOCKER, &arguments);
            calling.end(truth);
        }
        for server in servers {
            server.end(truth);
        }
    };
    let (mut watch, mut truth) = (None, Truth::new());
    serve_and_call(&mut truth, 7107, &mut watch);
    serve_and_call(&mut truth, 7108, &mut watch);
    let seen = watch.unwrap().stop();
    assert_eq!(seen.flows.len(), 2 * 2 * 2 * EACH);
    let expected = |flow: &Flow| match (flow.role(), flow.local.port()) {
        ("client", _) => DOCKER,
        _ if flow.local.ip().to_string() == OUTER => CRIO,
        // Its listener is older than flowcar, and no dump shows it.
        (_, 7107) => "",
        _ => CONTAINERD,
    };
    let is_wrong = |flow: &&Flow| flow.get("container.id") != expected(flow);
    let wrong: Vec<_> = seen.flows.iter().filter(is_wrong).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    for (id, count) in [(CRIO, 2 * EACH), (CONTAINERD, EACH)] {
        let container = [("container.id", id)];
        let closed = seen.sum("flowcar.tcp.connection.closed", &container);
        assert_eq!(closed, count as f64, "{id}: {:#?}", seen.metrics);
    }
}

/// Another program asks for RTT callbacks before a client's handshake is complete, so that the kernel reports the handshake's round trip: it
/// is no sample, and takes no place of who called.
#[test]
fn client_is_of_its_process_where_another_program_asks_for_round_trips() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("asked").unwrap();
    let client = pod.container("docker", DOCKER).unwrap();
    let server = pod.container("crio", CRIO).unwrap();
    let watch = Watch::start(&pod, Mode::Both, &[]);
    let _neighbour = Neighbour::attach(pod.cgroup(), Sharing::Multi, Callbacks::RttBefore).unwrap();
    let mut truth = Truth::new();
    let serving = Program::serve(&pod, &server, CRIO, 7109, 20);
    call(&pod, &client, DOCKER, 7109, "20", &[]).end(&mut truth);
    serving.end(&mut truth);
    let seen = watch.stop();
    assert_eq!(seen.flows.len(), 40);
    containers_hold(&seen, &truth);
    for flow in &seen.flows {
        assert!(!flow.get("process.pid").is_empty(), "{flow:?}");
    }
}

/// What is off is not attached, and no attribute of either is sent.
#[test]
fn containers_and_processes_are_absent_where_both_are_off() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("off").unwrap();
    let app = pod.container("cri-containerd", CONTAINERD).unwrap();
    let settings = [("FLOWCAR_CONTAINER", "off"), ("FLOWCAR_PROCESS", "off")];
    let watch = Watch::start(&pod, Mode::Both, &settings);
    let mut truth = Truth::new();
    let server = Program::serve(&pod, &app, CONTAINERD, 7106, 5);
    call(&pod, &app, CONTAINERD, 7106, "5", &[]).end(&mut truth);
    server.end(&mut truth);
    let seen = watch.stop();
    assert_eq!(seen.flows.len(), 10);
    for flow in &seen.flows {
        for name in ["container.id", "process.pid", "process.executable.name"] {
            assert_eq!(flow.get(name), "", "{flow:?}");
        }
    }
    let records = [("flowcar.self.record.kind", "origin")];
    assert_eq!(seen.sum("flowcar.self.record.decoded", &records), 0.0);
}

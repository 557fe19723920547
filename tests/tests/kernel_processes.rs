//! `process.pid` and `process.executable.name`. The truth is the number that the shell, or this test, has of a process that it started, and
//! the name of the file that it started.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::symlink,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use flowcar_tests::{
    flowcar::{self, Report},
    place::{TestPod, kernel_release, lacks, require_cgroup2, require_root},
    traffic,
    watch::{Mode, Watch},
};
use nix::sys::signal::Signal;

/// The last number that the kernel gave to a process (proc_sys_kernel(5)); root sets it.
const LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";

/// Attempts to start a process with the number of another one, which any other process of the machine may take.
const ATTEMPTS: usize = 20;

fn can_run() -> bool {
    require_root() && require_cgroup2()
}

/// A directory in which the traffic program has these names.
fn named(names: &[&str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for name in names {
        symlink(traffic::program().unwrap(), directory.path().join(name)).unwrap();
    }
    directory
}

/// What a shell runs: a server, and two clients that last. It prints each name and number.
const SCRIPT: &str = r#"
    cd "$1"
    ./alpha serve --listen 127.0.0.1:7201 --until 6 > served &
    echo alpha $!
    until [ -s served ]; do sleep 0.01; done
    ./beta call 127.0.0.1:7201 --connections 2 --exchanges 10 --pause 100 > /dev/null &
    echo beta $!
    ./a-name-of-more-than-15-bytes call 127.0.0.1:7201 --connections 4 --exchanges 10 --pause 200 > /dev/null &
    echo a-name-of-more-than-15-bytes $!
    wait
"#;

#[test]
fn run_shows_the_process_of_each_connection() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("processes").unwrap();
    let directory = named(&["alpha", "beta", "a-name-of-more-than-15-bytes"]);
    let report = directory.path().join("report");
    let mut run = flowcar::command(&pod).unwrap();
    run.args(["run", "--format", "json", "-o"]).arg(&report);
    run.args(["--", "sh", "-ec", SCRIPT, "sh"])
        .arg(directory.path());
    let output = run.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let processes: BTreeMap<&str, u32> = printed
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, pid)| (name, pid.parse().unwrap()))
        .collect();
    assert_eq!(processes.len(), 3, "{printed}");
    let report = Report::parse(&fs::read_to_string(&report).unwrap()).unwrap();
    let mut counted = BTreeMap::<&str, usize>::new();
    for flow in &report.flows {
        let process = flow.process.as_ref().unwrap();
        let name = process
            .name
            .as_deref()
            .unwrap_or_else(|| panic!("{flow:?}"));
        let (name, pid) = processes.get_key_value(name).unwrap();
        assert_eq!(process.pid, *pid, "{flow:?}");
        assert_eq!(flow.role == "server", *name == "alpha", "{flow:?}");
        *counted.entry(name).or_default() += 1;
    }
    let expected = [
        ("a-name-of-more-than-15-bytes", 4),
        ("alpha", 6),
        ("beta", 2),
    ];
    assert_eq!(counted, BTreeMap::from(expected));
}

/// Its connections are one after the other, and most are reported after its end.
#[test]
fn all_connections_of_a_process_that_ended_have_its_name() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("short").unwrap();
    let directory = named(&["alpha", "beta"]);
    let script = r#"
        cd "$1"
        ./alpha serve --listen 127.0.0.1:7204 --until 10 > served &
        until [ -s served ]; do sleep 0.01; done
        ./beta call 127.0.0.1:7204 --connections 10 > /dev/null
        wait
    "#;
    for _ in 0..5 {
        fs::write(directory.path().join("served"), "").unwrap();
        let report = directory.path().join("report");
        let mut run = flowcar::command(&pod).unwrap();
        run.args(["run", "--format", "json", "-o"]).arg(&report);
        run.args(["--", "sh", "-ec", script, "sh"])
            .arg(directory.path());
        let output = run.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let report = Report::parse(&fs::read_to_string(&report).unwrap()).unwrap();
        let clients = report.flows.iter().filter(|flow| flow.role == "client");
        let names = clients.map(|flow| flow.process.as_ref()?.name.as_deref());
        let names: Vec<_> = names.collect();
        let is_named = names.iter().any(Option::is_some);
        // Where the process ended before flowcar read a record, nobody knows its name.
        let expected = is_named.then_some("beta");
        assert_eq!(names, [expected; 10]);
    }
}

/// The traffic program by two names, in a pod.
struct Programs {
    pod: TestPod,
    directory: tempfile::TempDir,
}

impl Programs {
    fn of(pod: TestPod) -> Self {
        let directory = named(&["first", "second"]);
        Self { pod, directory }
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.directory.path().join(name));
        self.pod.enter(&mut command).unwrap();
        command.stdout(Stdio::null());
        command
    }

    /// A server that listens when this returns.
    fn serve(&self, at: &str) -> Child {
        let mut command = self.command("first");
        command.args(["serve", "--listen", at]);
        let mut server = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut listens = String::new();
        let output = server.stdout.as_mut().unwrap();
        BufReader::new(output).read_line(&mut listens).unwrap();
        server
    }
}

/// Starts a program until it has this number, or gives up.
fn start_as(pid: u32, mut command: impl FnMut() -> Command) -> Option<Child> {
    for _ in 0..ATTEMPTS {
        fs::write(LAST_PID, (pid - 1).to_string()).ok()?;
        let mut child = command().spawn().unwrap();
        if child.id() == pid {
            return Some(child);
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    None
}

/// A process that ended before flowcar read its record, and whose number another one has by then: the other one's name is not given.
#[test]
fn later_process_of_the_same_number_does_not_name_a_connection() {
    if !can_run() {
        return;
    }
    if !Path::new(LAST_PID).exists() {
        return lacks("a kernel with CONFIG_CHECKPOINT_RESTORE");
    }
    let programs = Programs::of(TestPod::new("reused").unwrap());
    let mut server = programs.serve("127.0.0.1:7202");
    let watch = Watch::start(&programs.pod, Mode::Both, &[]);
    // It takes nothing in while the number changes hands.
    watch.signal(Signal::SIGSTOP);
    let mut command = programs.command("first");
    let mut first = command.args(["call", "127.0.0.1:7202"]).spawn().unwrap();
    let pid = first.id();
    assert!(first.wait().unwrap().success());
    // Starts are known to a hundredth of a second.
    thread::sleep(Duration::from_millis(50));
    let second = start_as(pid, || {
        let mut command = programs.command("second");
        command.arg("wait");
        command
    });
    let Some(mut second) = second else {
        server.kill().unwrap();
        server.wait().unwrap();
        watch.signal(Signal::SIGCONT);
        return lacks("a number of a process that nobody else takes");
    };
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    assert_eq!(comm.trim(), "second");
    watch.signal(Signal::SIGCONT);
    let seen = watch.stop();
    for child in [&mut second, &mut server] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let flow = seen
        .flows
        .iter()
        .find(|flow| flow.role() == "client")
        .unwrap();
    assert_eq!(flow.get("process.pid"), pid.to_string());
    assert_eq!(flow.get("process.executable.name"), "", "{flow:?}");
}

/// As before, but flowcar knows the name of the process that ended: it does not go to the connection of the later one, either.
#[test]
fn earlier_process_of_the_same_number_does_not_name_a_connection() {
    if !can_run() {
        return;
    }
    if !Path::new(LAST_PID).exists() {
        return lacks("a kernel with CONFIG_CHECKPOINT_RESTORE");
    }
    let programs = Programs::of(TestPod::new("known").unwrap());
    let mut server = programs.serve("127.0.0.1:7205");
    let watch = Watch::start(&programs.pod, Mode::Both, &[]);
    let mut command = programs.command("first");
    let mut first = command
        .args([
            "call",
            "127.0.0.1:7205",
            "--exchanges",
            "10",
            "--pause",
            "100",
        ])
        .spawn()
        .unwrap();
    let pid = first.id();
    assert!(first.wait().unwrap().success());
    watch.signal(Signal::SIGSTOP);
    // Both starts and both connections are taken in once the second process has ended, too.
    let second = start_as(pid, || {
        let mut command = programs.command("second");
        command.args(["call", "127.0.0.1:7205"]);
        command
    });
    let is_second = second.is_some();
    if let Some(mut second) = second {
        assert!(second.wait().unwrap().success());
    }
    watch.signal(Signal::SIGCONT);
    let seen = watch.stop();
    server.kill().unwrap();
    server.wait().unwrap();
    if !is_second {
        return lacks("a number of a process that nobody else takes");
    }
    let pid = pid.to_string();
    let clients = seen.flows.iter().filter(|flow| flow.role() == "client");
    let clients = clients.filter(|flow| flow.get("process.pid") == pid);
    let mut named: Vec<_> = clients
        .map(|flow| flow.get("process.executable.name"))
        .collect();
    named.sort_unstable();
    assert_eq!(named, ["", "first"]);
}

/// What a shell runs in a PID namespace of its own, with the machine's /proc at `host`. A program prints its number in the initial namespace
/// before it starts. One of the clients is in one more namespace.
const CONTAINED: &str = r#"
    cd "$1"
    begin='read -r pid rest < host/self/stat; echo "$1 $pid"; exec "./$@"'
    sh -c "$begin" sh alpha serve --listen 127.0.0.1:7203 --until 6 > served &
    until [ "$(wc -l < served)" = 2 ]; do sleep 0.01; done
    sh -c "$begin" sh beta call 127.0.0.1:7203 --connections 2 --exchanges 10 --pause 100 > called &
    unshare -p -f sh -c "$begin" sh nested call 127.0.0.1:7203 --connections 4 --exchanges 10 --pause 200 > deeper &
    wait
    cat served called deeper
"#;

/// Whether this kernel's programs may ask who calls in another PID namespace.
fn kernel_names_in_namespaces() -> bool {
    kernel_release() >= (6, 10)
}

/// Runs the script in a PID namespace of its own. `proc` is what shows its processes there. Gives what it printed, and the report.
fn run_contained(pod: &TestPod, proc: &str) -> (String, Report) {
    let directory = named(&["alpha", "beta", "nested"]);
    let (report, host) = (
        directory.path().join("report"),
        directory.path().join("host"),
    );
    fs::create_dir(&host).unwrap();
    let start = format!("mount --rbind /proc \"$1\"; shift; exec unshare -p -f {proc} \"$@\"");
    let host = host.to_str().unwrap();
    let words = ["unshare", "-m", "sh", "-ec", &start, "sh", host];
    let mut command = flowcar::started_by(&words).unwrap();
    pod.enter(&mut command).unwrap();
    command
        .args(["run", "--format", "json", "-o"])
        .arg(&report)
        .args(["--", "sh", "-ec", CONTAINED, "sh"])
        .arg(directory.path())
        .stdin(Stdio::null());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let report = Report::parse(&fs::read_to_string(&report).unwrap()).unwrap();
    (String::from_utf8(output.stdout).unwrap(), report)
}

/// As in a container, or in a pod whose containers share a PID namespace: /proc has other numbers than the kernel's records. A process of a
/// namespace below, whose /proc is not this one, has its number alone.
#[test]
fn run_in_a_pid_namespace_of_its_own_shows_its_processes() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("contained").unwrap();
    let (printed, report) = run_contained(&pod, "--mount-proc");
    assert_eq!(report.flows.len(), 12, "{printed}");
    if !kernel_names_in_namespaces() {
        assert!(report.flows.iter().all(|flow| flow.process.is_none()));
        return;
    }
    let mut counted = BTreeMap::<(String, Option<String>), usize>::new();
    for flow in report.flows {
        let process = flow.process.unwrap();
        let is_its = |line: &&str| line.ends_with(&format!(" {}", process.pid));
        let line = printed.lines().find(is_its).expect(&printed);
        let (name, _) = line.split_once(' ').unwrap();
        *counted.entry((name.to_owned(), process.name)).or_default() += 1;
    }
    let named = |name: &str| (name.to_owned(), Some(name.to_owned()));
    let expected = [
        (named("alpha"), 6),
        (named("beta"), 2),
        (("nested".to_owned(), None), 4),
    ];
    assert_eq!(counted, BTreeMap::from(expected), "{printed}");
}

/// The machine's /proc in another PID namespace: what has flowcar's number there is another process.
#[test]
fn proc_of_another_pid_namespace_names_nobody() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("foreign").unwrap();
    let (_, report) = run_contained(&pod, "");
    assert_eq!(report.flows.len(), 12);
    assert!(report.flows.iter().all(|flow| flow.process.is_none()));
}

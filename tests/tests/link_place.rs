//! Test pods: isolation, exact capabilities, and nothing left behind.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::{TcpListener, TcpStream},
    os::unix::process::ExitStatusExt,
    panic,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use flowcar_tests::place::{
    Capability, Cgroup, Netns, OnlyCaps, TestPod, as_nobody, cgroup2_mount, require_cgroup2,
    require_root, with_only_caps,
};

/// Set in the process that `a_killed_run_is_swept` starts and kills.
const VICTIM: &str = "FLOWCAR_TEST_VICTIM";

fn can_run() -> bool {
    require_root() && require_cgroup2()
}

#[test]
fn processes_are_in_the_pod_before_they_run() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("inside").unwrap();
    let output = pod
        .command("sh")
        .unwrap()
        .args([
            "-c",
            "grep ^0:: /proc/self/cgroup; readlink /proc/self/ns/net",
        ])
        .output()
        .unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let cgroup = pod
        .cgroup()
        .path()
        .strip_prefix(cgroup2_mount().unwrap())
        .unwrap();
    let netns = fs::read_link(pod.netns().path()).unwrap();
    assert_eq!(
        lines,
        format!("0::/{}\n{}\n", cgroup.display(), netns.display())
    );
    assert_ne!(netns, fs::read_link("/proc/self/ns/net").unwrap());
    assert_eq!(
        fs::read_link("/proc/thread-self/ns/net").unwrap(),
        fs::read_link("/proc/self/ns/net").unwrap()
    );
}

#[test]
fn namespaces_are_apart_and_start_alike() {
    if !can_run() {
        return;
    }
    let (one, other) = (Netns::new("one").unwrap(), Netns::new("other").unwrap());
    let read = |key: &'static str| {
        one.run(|| fs::read_to_string(key).unwrap().trim().to_owned())
            .unwrap()
    };
    assert_eq!(read("/proc/sys/net/ipv4/tcp_congestion_control"), "reno");
    assert_eq!(read("/proc/sys/net/ipv4/tcp_no_metrics_save"), "1");

    one.sysctl("net.ipv4.tcp_syn_retries", "2").unwrap();
    assert_eq!(read("/proc/sys/net/ipv4/tcp_syn_retries"), "2");
    let elsewhere = other
        .run(|| fs::read_to_string("/proc/sys/net/ipv4/tcp_syn_retries").unwrap())
        .unwrap();
    assert_ne!(elsewhere.trim(), "2");
    assert!(
        one.sysctl("net.ipv4.no_such_thing", "1")
            .unwrap_err()
            .to_string()
            .contains("no_such_thing")
    );

    let listener = one
        .run(|| TcpListener::bind("127.0.0.1:0").unwrap())
        .unwrap();
    let address = listener.local_addr().unwrap();
    let before = one.snmp().unwrap();
    assert!(one.run(|| TcpStream::connect(address)).unwrap().is_ok());
    assert!(other.run(|| TcpStream::connect(address)).unwrap().is_err());
    let grown = one.snmp().unwrap().since(&before);
    assert_eq!(
        (grown["Tcp.ActiveOpens"], grown["Tcp.PassiveOpens"]),
        (1, 1)
    );
    assert_eq!(other.snmp().unwrap()["Tcp.PassiveOpens"], 0);
}

#[test]
fn a_panic_leaves_nothing_behind() {
    if !can_run() {
        return;
    }
    let panicked = panic::catch_unwind(|| {
        let pod = TestPod::new("panic").unwrap();
        let child = pod.cgroup().child("kubepods-pod0.slice").unwrap();
        let grandchild = child.child("container").unwrap();
        let mut sleep = Command::new("sleep");
        grandchild.enter(&mut sleep).unwrap();
        let sleep = sleep.arg("1000").spawn().unwrap();
        panic::panic_any((pod.cgroup().path().to_owned(), sleep));
    });
    let (path, mut sleep) = *panicked
        .unwrap_err()
        .downcast::<(PathBuf, std::process::Child)>()
        .unwrap();
    assert!(!path.exists());
    assert_eq!(sleep.wait().unwrap().signal(), Some(libc::SIGKILL));
}

#[test]
fn panics_inside_a_namespace_reach_the_test() {
    if !can_run() {
        return;
    }
    let netns = Netns::new("panic").unwrap();
    let panicked = panic::catch_unwind(|| netns.run(|| panic::panic_any(7_u8)));
    assert_eq!(*panicked.unwrap_err().downcast::<u8>().unwrap(), 7);
}

#[test]
fn cgroup_empties_and_has_its_id() {
    if !can_run() {
        return;
    }
    let cgroup = Cgroup::new("empties").unwrap();
    assert_eq!(cgroup.id().unwrap(), inode(cgroup.path()));
    assert!(cgroup.wait_empty(Duration::ZERO).unwrap());

    let mut outside = Command::new("sleep").arg("1000").spawn().unwrap();
    cgroup.adopt(outside.id()).unwrap();
    assert!(!cgroup.wait_empty(Duration::ZERO).unwrap());
    cgroup.kill_all().unwrap();
    assert_eq!(outside.wait().unwrap().signal(), Some(libc::SIGKILL));
    assert!(cgroup.wait_empty(Duration::from_secs(10)).unwrap());
}

/// The leftovers of a process that had no chance to clean up are removed by the next one.
#[test]
fn a_killed_run_is_swept() {
    if !can_run() {
        return;
    }
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "be_killed_in_a_pod",
            "--nocapture",
            "--include-ignored",
        ])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let path = lines
        .by_ref()
        .map(Result::unwrap)
        .find_map(|line| Some(PathBuf::from(line.strip_prefix("victim in ")?)));
    let path = path.unwrap();
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert!(path.exists(), "a killed process cannot clean up");
    assert!(
        !fs::read_to_string(path.join("cgroup.procs"))
            .unwrap()
            .is_empty(),
        "its child lives on"
    );

    // This process may have swept already, a new one has not.
    let sweeper = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "cgroup_empties_and_has_its_id"])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(sweeper.success());
    assert!(!path.exists());
}

#[test]
#[ignore = "not a test: the process that a_killed_run_is_swept kills"]
fn be_killed_in_a_pod() {
    if std::env::var_os(VICTIM).is_none() {
        return;
    }
    let pod = TestPod::new("victim").unwrap();
    let mut sleep = pod.spawn("sleep", &["1000"]).unwrap();
    println!("\nvictim in {}", pod.cgroup().path().display());
    sleep.wait().unwrap();
}

const BPF: Capability = Capability::CAP_BPF;
const NET_ADMIN: Capability = Capability::CAP_NET_ADMIN;

#[test]
fn a_command_has_exactly_the_capabilities_of_a_pod() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("caps").unwrap();
    let mut command = pod.command("cat").unwrap();
    command
        .with_only_caps(&[BPF, NET_ADMIN])
        .arg("/proc/self/status");
    let status = Status::of(&mut command);
    // CAP_BPF is 39, CAP_NET_ADMIN 12.
    let two = "0000008000001000";
    assert_eq!(status.get("CapPrm"), two);
    assert_eq!(status.get("CapEff"), two);
    assert_eq!(status.get("CapBnd"), two);
    assert_eq!(status.get("CapInh"), "0000000000000000");
    assert_eq!(status.get("CapAmb"), "0000000000000000");
    assert_eq!(status.get("NoNewPrivs"), "1");
    assert_eq!(status.get("Uid"), "0\t0\t0\t0");

    let mut command = pod.command("cat").unwrap();
    command.with_only_caps(&[]).arg("/proc/self/status");
    assert_eq!(Status::of(&mut command).get("CapEff"), "0000000000000000");
}

#[test]
fn an_unprivileged_command_has_nothing() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("nobody").unwrap();
    let mut command = pod.command("cat").unwrap();
    command.unprivileged().arg("/proc/self/status");
    let status = Status::of(&mut command);
    for set in ["CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb"] {
        assert_eq!(status.get(set), "0000000000000000", "{set}");
    }
    assert_eq!(status.get("Uid"), "65534\t65534\t65534\t65534");
    assert_eq!(status.get("Gid"), "65534\t65534\t65534\t65534");
    assert_eq!(status.get("Groups"), "");
    assert_eq!(status.get("NoNewPrivs"), "1");
}

#[test]
fn a_thread_can_be_limited_alone() {
    if !can_run() {
        return;
    }
    let own = || Status(fs::read_to_string("/proc/thread-self/status").unwrap());
    let before = own();
    let inside = with_only_caps(&[BPF, NET_ADMIN], own).unwrap();
    assert_eq!(inside.get("CapEff"), "0000008000001000");
    assert_eq!(inside.get("CapPrm"), "0000008000001000");
    assert_eq!(own().get("CapEff"), before.get("CapEff"));
    for (kept, set) in [
        (&[][..], "0000000000000000"),
        (&[NET_ADMIN], "0000000000001000"),
    ] {
        let inside = as_nobody(kept, own).unwrap();
        assert_eq!(inside.get("CapEff"), set);
        assert_eq!(inside.get("CapPrm"), set);
        assert_eq!(inside.get("Uid"), "65534\t65534\t65534\t65534");
        assert_eq!(inside.get("Groups"), "");
    }
    assert_eq!(own().get("Uid"), before.get("Uid"));
}

/// `/proc/PID/status`.
struct Status(String);

impl Status {
    fn of(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut text = String::new();
        child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert!(child.wait().unwrap().success());
        Self(text)
    }

    fn get(&self, name: &str) -> &str {
        let found = self
            .0
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found.unwrap().trim()
    }
}

fn inode(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).unwrap().ino()
}

//! A node of a cluster: a virtual machine with containerd and the kubelet, and beside it a controller manager and a
//! scheduler that run natively. All of it is in a network namespace of the test's own, and goes away with it.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use flowcar_tests::{
    cluster::tools,
    peers::{ApiServer, ApiServerOptions, Authority, Net, Peer, Process, Program, eventually},
    place::Netns,
};
use tempfile::TempDir;

use crate::disk;

/// The host's loopback, as the emulated network's gateway is to the node.
pub(crate) const HOST: &str = "10.0.2.2";

/// The node's address, in its own network and on the test's loopback.
const NODE: &str = "10.0.2.15";

/// Where the node's shell listens, here and there.
const SHELL: u16 = 7777;

/// How long the node may take for what takes it a few seconds: it is emulated.
pub(crate) const LIMIT: Duration = Duration::from_secs(240);

/// How often the node is asked.
const POLL: Duration = Duration::from_millis(500);

pub(crate) struct Node {
    _machine: Process,
    console: PathBuf,
    _control: [Process; 2],
    _files: TempDir,
}

/// A network where the API server is reached by the node, and nothing else of the machine is.
pub(crate) struct Network {
    netns: Arc<Netns>,
}

// === impl Network ===

impl Network {
    /// Takes this thread there, and the programs that it starts.
    pub(crate) fn enter() -> Self {
        let netns = Arc::new(Netns::new("node").unwrap());
        netns.enter_for_good().unwrap();
        // The emulator answers there for the node's kubelet. It passes on what comes from the loopback's address only.
        let route = format!(
            "route replace local {NODE}/32 dev lo table local proto kernel scope host src 127.0.0.1"
        );
        let mut ip = Command::new("ip");
        ip.args(route.split(' '));
        tools::run(ip, "");
        Self { netns }
    }

    pub(crate) fn net(&self) -> Net {
        Net::in_namespace(Arc::clone(&self.netns), Ipv4Addr::LOCALHOST.into())
    }
}

/// What the node's kubelet proves itself by, and the API server's options that let it.
pub(crate) struct Trust {
    pub(crate) authority: Authority,
    files: TempDir,
}

// === impl Trust ===

impl Trust {
    pub(crate) fn new() -> Self {
        let authority = Authority::new("node tests");
        let files = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(files.path().join(name), text).unwrap();
        write("clients.crt", authority.certificate());
        // The kubelet lets every client of this authority exec.
        let api_server = authority.client("kube-apiserver", "system:masters");
        write("kubelet.crt", &api_server.certificate);
        write("kubelet.key", &api_server.key);
        Self { authority, files }
    }

    pub(crate) fn options(&self, net: Net) -> ApiServerOptions {
        let file = |name: &str| self.files.path().join(name).display().to_string();
        ApiServerOptions {
            names: vec![HOST.to_owned()],
            args: vec![
                format!("--advertise-address={HOST}"),
                // Besides RBAC.
                "--authorization-mode=Node".to_owned(),
                "--enable-admission-plugins=NodeRestriction".to_owned(),
                format!("--client-ca-file={}", file("clients.crt")),
                format!("--kubelet-client-certificate={}", file("kubelet.crt")),
                format!("--kubelet-client-key={}", file("kubelet.key")),
                "--kubelet-preferred-address-types=InternalIP".to_owned(),
            ],
            net,
        }
    }
}

// === impl Node ===

impl Node {
    /// Starts it with these images (archives), and with systemd as the cgroup driver; it is ready when the API server
    /// reports it so.
    pub(crate) fn start(api: &ApiServer, trust: &Trust, images: &[PathBuf]) -> Self {
        let files = tempfile::tempdir().unwrap();
        let disk = disk::make(files.path(), api, trust, images);
        let console = files.path().join("console");
        let control = ["kube-controller-manager", "kube-scheduler"].map(|name| control(name, api));
        let node = Self {
            _machine: emulator(api.process().net(), &disk, &console),
            console,
            _control: control,
            _files: files,
        };
        node.is_reported();
        node
    }

    /// Has it read its disk. It resumes from where it was stopped, and so does its clock.
    fn is_reported(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let printed = self.shell(&format!(
            "date -s @{} >/dev/null && mount -o ro /dev/vdb /node && systemd-run --quiet --unit node-start bash /node/start",
            now.as_secs()
        ));
        assert!(printed.is_empty(), "{printed}");
    }

    /// Runs a script on the node, as root, and gives what it wrote.
    pub(crate) fn shell(&self, script: &str) -> String {
        ask(script, LIMIT).unwrap_or_else(|error| panic!("the node's shell: {error}"))
    }

    /// Has containerd and the kubelet make cgroups without systemd from now on. There must be no pods.
    pub(crate) fn use_cgroupfs(&self) {
        let printed = self.shell("bash /node/start cgroupfs");
        assert!(printed.contains("flowcar-node: started"), "{printed}");
    }

    /// Asks until there is an answer.
    #[track_caller]
    pub(crate) fn wait<T>(&self, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
        let begun = Instant::now();
        let found = eventually(what, LIMIT, || {
            let answer = probe();
            if answer.is_none() {
                thread::sleep(POLL);
            }
            answer
        });
        println!("{what}: {:.1} s", begun.elapsed().as_secs_f64());
        found
    }

    /// The processes of that name in a pod.
    pub(crate) fn processes(&self, pod_uid: &str, name: &str) -> Vec<u32> {
        // Few programs: starting one takes an emulated node long.
        let script = format!(
            "cd /proc && grep -ls -e {pod_uid} -e {} $(grep -lsx {name} [0-9]*/comm | sed s/comm/cgroup/)",
            pod_uid.replace('-', "_")
        );
        self.shell(&script)
            .lines()
            .map(|path| path.strip_suffix("/cgroup").unwrap().parse().unwrap())
            .collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if thread::panicking() {
            let console = fs::read(&self.console).unwrap_or_default();
            let console = String::from_utf8_lossy(&console);
            let lines: Vec<_> = console.lines().collect();
            eprintln!("the node's console ends:");
            eprintln!("{}", lines[lines.len().saturating_sub(20)..].join("\n"));
            eprintln!(
                "{:?}",
                ask(FAILURES, LIMIT).map(|printed| eprintln!("{printed}"))
            );
        }
    }
}

/// The node's state, for a failed test.
const FAILURES: &str = "
    journalctl -u node-start --no-pager | tail -n 5
    journalctl -u kubelet -u containerd --no-pager | grep -E ' [EW][0-9]{4} |level=(error|warn)' | tail -n 30
    tail -n 8 /var/log/pods/*/*/*.log
";

fn ask(script: &str, limit: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, SHELL))?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(script.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut printed = String::new();
    stream.read_to_string(&mut printed)?;
    Ok(printed)
}

/// A part of the control plane. The pods show whether it works.
fn control(name: &'static str, api: &ApiServer) -> Process {
    let ca = api.process().dir().join("ca.crt");
    let mut words = vec![
        format!("--kubeconfig={}", api.kubeconfig().display()),
        "--leader-elect=false".to_owned(),
        "--secure-port=0".to_owned(),
    ];
    if name == "kube-controller-manager" {
        words.push(format!("--root-ca-file={}", ca.display()));
        // How soon a node that is ready gets pods.
        words.push("--node-monitor-period=1s".to_owned());
    }
    Process::start(
        Program::new(name, api.process().net().clone()).args(words),
        || Ok(()),
    )
}

fn emulator(net: &Net, disk: &Path, console: &Path) -> Process {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("node");
    let output = Command::new(scripts.join("root")).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let root = String::from_utf8(output.stdout).unwrap();
    let program = Program {
        name: "emulator",
        path: scripts.join("machine"),
        args: Vec::new(),
        net: net.clone(),
        dir: tempfile::tempdir().unwrap(),
    };
    let program = program
        .args(["go", root.trim()].map(str::to_owned))
        .args([disk.display().to_string()])
        .args(["-serial".to_owned(), format!("file:{}", console.display())]);
    Process::start(program, || {
        ask("echo goes on", Duration::from_secs(3))
            .is_ok_and(|printed| printed.contains("goes on"))
            .then_some(())
            .ok_or_else(|| "its shell is silent".to_owned())
    })
}

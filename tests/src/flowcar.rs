//! The product under test: `flowcar run` and `flowcar export` in a test pod, with the two capabilities that they
//! may have, and their JSON lines read strictly, so that a field too many or too few fails.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, BufRead, BufReader},
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
};

use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use tempfile::NamedTempFile;

use crate::{
    link::{Link, Plan},
    place::{Capability, OnlyCaps, TestPod},
    traffic::{self, ConnectionReport},
};

/// All capabilities that flowcar may need.
pub const CAPABILITIES: [Capability; 2] = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN];

/// One flow as `flowcar run --format json` writes it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the telemetry contract is their documentation")]
pub struct FlowLine {
    pub role: String,
    pub local: Address,
    pub peer: Address,
    /// Of clients.
    pub server: Option<Address>,
    pub opened_at: String,
    pub duration_s: f64,
    pub connect_s: Option<f64>,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub segments_sent: u64,
    pub segments_received: u64,
    pub retransmits: u64,
    pub rtt: Rtt,
    pub exchanges: Exchanges,
    #[serde(deserialize_with = "end_or_open")]
    #[serde(rename = "close_reason")]
    pub end: String,
    pub trace_id: String,
    pub span_id: String,
}

/// A connection that is still open has no close reason: it is read as `open`.
fn end_or_open<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let end = Option::<String>::deserialize(from)?;
    Ok(end.unwrap_or_else(|| "open".to_owned()))
}

/// An end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the telemetry contract is their documentation")]
pub struct Address {
    pub address: IpAddr,
    pub port: u16,
}

/// A flow's RTT samples.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the telemetry contract is their documentation")]
pub struct Rtt {
    pub kind: String,
    pub count: u64,
    pub min_s: Option<f64>,
    pub p50_s: Option<f64>,
    pub p99_s: Option<f64>,
}

/// A flow's exchanges.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the telemetry contract is their documentation")]
pub struct Exchanges {
    pub count: u64,
    pub p50_s: Option<f64>,
    pub p99_s: Option<f64>,
}

/// How long a report's connections took.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the telemetry contract is their documentation")]
pub struct Times {
    pub connections: u64,
    pub connect: Exchanges,
    pub rtt: Exchanges,
    pub exchanges: Exchanges,
}

/// The last line's figures.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the telemetry contract is their documentation")]
pub struct Summary {
    pub opened: u64,
    pub closed: u64,
    pub live: u64,
    pub failed: u64,
    pub lost: u64,
    pub lost_by: BTreeMap<String, u64>,
    pub unscoped: Option<u64>,
    pub times: Option<Times>,
    pub exit_status: i32,
}

/// All that one `flowcar run --format json` wrote.
#[derive(Clone, Debug)]
pub struct Report {
    /// One for each closed flow, and for each connection that is still open at the end.
    pub flows: Vec<FlowLine>,
    /// The last line.
    pub summary: Summary,
}

/// Where the binary `flowcar` is, as seen from a test or another binary of this crate.
///
/// # Errors
/// It was not built: `cargo build -p flowcar`.
pub fn program() -> io::Result<PathBuf> {
    let this = env::current_exe()?;
    // Binaries lie in target/PROFILE, tests in target/PROFILE/deps.
    this.ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("flowcar"))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            let message =
                "the program flowcar is not beside this one; build it with: cargo build -p flowcar";
            io::Error::new(io::ErrorKind::NotFound, message)
        })
}

/// `flowcar` by an open descriptor, because its user may not be allowed to open every folder above the build. The
/// file is to be kept until it has been started.
///
/// # Errors
/// It was not built.
pub fn by_descriptor() -> io::Result<(fs::File, Command)> {
    let file = fs::File::open(program()?)?;
    let command = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
    Ok((file, command))
}

/// `flowcar` in a test pod, to be given its arguments, with [`CAPABILITIES`] alone.
///
/// It has no setting of the tests' own environment.
///
/// # Errors
/// It was not built, or the pod cannot be entered.
pub fn command(pod: &TestPod) -> io::Result<Command> {
    let mut command = Command::new(program()?);
    for (name, _) in env::vars_os() {
        let of = |prefix| name.to_string_lossy().starts_with(prefix);
        if of("FLOWCAR_") || of("OTEL_") {
            command.env_remove(name);
        }
    }
    pod.enter(&mut command)?;
    command.with_only_caps(&CAPABILITIES);
    Ok(command)
}

// === impl FlowLine ===

impl FlowLine {
    /// The address at this end.
    pub fn local(&self) -> SocketAddr {
        (self.local.address, self.local.port).into()
    }

    /// The address at the other end.
    pub fn peer(&self) -> SocketAddr {
        (self.peer.address, self.peer.port).into()
    }
}

// === impl Report ===

impl Report {
    /// Reads the lines: flows, then one summary, and nothing else.
    ///
    /// # Errors
    /// They violate the telemetry contract.
    ///
    /// # Panics
    /// The books do not balance.
    pub fn parse(text: &str) -> io::Result<Self> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Last {
            summary: Summary,
        }
        let mut lines: Vec<&str> = text.lines().collect();
        let last = lines
            .pop()
            .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "an empty report"))?;
        let Last { summary } = parse(last)?;
        let accounted = summary.closed + summary.live + summary.lost;
        assert_eq!(summary.opened, accounted, "{summary:?}");
        let flows = lines.into_iter().map(parse).collect::<io::Result<_>>()?;
        Ok(Self { flows, summary })
    }

    /// The flow with this port at its local end.
    ///
    /// # Panics
    /// There is none, or more than one.
    #[track_caller]
    pub fn of_local_port(&self, port: u16) -> &FlowLine {
        self.only(port, |flow| flow.local.port == port)
    }

    /// The flow with this port at the other end.
    ///
    /// # Panics
    /// There is none, or more than one.
    #[track_caller]
    pub fn of_peer_port(&self, port: u16) -> &FlowLine {
        self.only(port, |flow| flow.peer.port == port)
    }

    #[track_caller]
    fn only(&self, port: u16, test: impl Fn(&FlowLine) -> bool) -> &FlowLine {
        let mut found = self.flows.iter().filter(|flow| test(flow));
        let flow = found
            .next()
            .unwrap_or_else(|| panic!("no flow with port {port}: {self:?}"));
        assert!(found.next().is_none(), "two flows with port {port}");
        flow
    }
}

/// The flows of both ends of a connection, which have its trace id and the payload bytes that the client's application sent
/// and received.
///
/// # Panics
/// They have not, or an end is missing.
#[track_caller]
pub fn both_ends<'a>(
    client: &ConnectionReport,
    at_client: &'a Report,
    at_server: &'a Report,
) -> [&'a FlowLine; 2] {
    assert_eq!(client.failure, None);
    let port = client.local.map_or(0, |local| local.port());
    let (flow, other) = (at_client.of_local_port(port), at_server.of_peer_port(port));
    assert_eq!(flow.trace_id, other.trace_id, "{flow:?} {other:?}");
    let bytes = |flow: &FlowLine| (flow.bytes_sent, flow.bytes_received);
    assert_eq!(bytes(flow), (client.sent, client.received), "{flow:?}");
    assert_eq!(bytes(other), (client.received, client.sent), "{other:?}");
    [flow, other]
}

fn parse<T: DeserializeOwned>(line: &str) -> io::Result<T> {
    serde_json::from_str(line)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{error}: {line}")))
}

/// Names and values of flowcar's settings.
pub type Settings<'a> = &'a [(&'a str, &'a str)];

/// `flowcar run --format json -o FILE -- COMMAND` in a test pod. It is killed on drop; its command, with the
/// pod.
#[derive(Debug)]
pub struct Run {
    child: Child,
    report: NamedTempFile,
}

// === impl Run ===

impl Run {
    /// Starts it. The command's standard output can be taken by [`Run::stdout`].
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(pod: &TestPod, program: &Path, arguments: &[&str]) -> io::Result<Self> {
        Self::start_with(pod, &[], program, arguments)
    }

    /// As [`Run::start`], with these settings.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_with(
        pod: &TestPod,
        settings: Settings,
        program: &Path,
        arguments: &[&str],
    ) -> io::Result<Self> {
        let report = NamedTempFile::new()?;
        let child = command(pod)?
            .envs(settings.iter().copied())
            .args(["run", "--format", "json", "-o"])
            .arg(report.path())
            .arg("--")
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self { child, report })
    }

    /// flowcar's process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The standard output, which is the command's.
    ///
    /// # Errors
    /// It was taken before.
    pub fn stdout(&mut self) -> io::Result<BufReader<ChildStdout>> {
        let stdout = self.child.stdout.take();
        stdout
            .map(BufReader::new)
            .ok_or_else(|| io::Error::other("standard output was taken before"))
    }

    /// Waits until it ends, and reads its report.
    ///
    /// # Errors
    /// The report violates the telemetry contract.
    pub fn finish(mut self) -> io::Result<(ExitStatus, Report)> {
        let status = self.child.wait()?;
        let text = fs::read_to_string(self.report.path())?;
        let report = Report::parse(&text).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("flowcar: {status}; its report: {error}"),
            )
        })?;
        Ok((status, report))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // It may have exited, or have been killed with its pod.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `traffic call TARGET ARGUMENTS` in a test pod, followed by a flowcar of its own.
///
/// # Errors
/// A program cannot be started or fails.
pub fn call(
    pod: &TestPod,
    target: SocketAddr,
    arguments: &[&str],
) -> io::Result<(Vec<ConnectionReport>, Report)> {
    call_with(pod, &[], target, arguments)
}

fn call_with(
    pod: &TestPod,
    settings: Settings,
    target: SocketAddr,
    arguments: &[&str],
) -> io::Result<(Vec<ConnectionReport>, Report)> {
    let target = target.to_string();
    let mut words = vec!["call", &target];
    words.extend_from_slice(arguments);
    let mut run = Run::start_with(pod, settings, &traffic::program()?, &words)?;
    let reports = lines(run.stdout()?)?;
    succeeded(reports, run)
}

/// `traffic serve` in a test pod, followed by a flowcar of its own, until so many connections are closed.
#[derive(Debug)]
pub struct Server {
    run: Run,
    stdout: BufReader<ChildStdout>,
    address: SocketAddr,
}

// === impl Server ===

impl Server {
    /// Starts it on all addresses and waits until it listens.
    ///
    /// # Errors
    /// It cannot be started, or cannot listen.
    pub fn start(pod: &TestPod, connections: usize) -> io::Result<Self> {
        Self::start_with(pod, &[], connections, &[])
    }

    fn start_with(
        pod: &TestPod,
        settings: Settings,
        connections: usize,
        sockets: &[&str],
    ) -> io::Result<Self> {
        #[derive(Deserialize)]
        struct Ready {
            listening: SocketAddr,
        }
        let until = connections.to_string();
        let mut words = vec!["serve", "--listen", "[::]:0", "--until", &until];
        words.extend_from_slice(sockets);
        let mut run = Run::start_with(pod, settings, &traffic::program()?, &words)?;
        let mut stdout = run.stdout()?;
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let Ready { listening } = parse(&line)?;
        Ok(Self {
            run,
            stdout,
            address: listening,
        })
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Waits until its connections are closed.
    ///
    /// # Errors
    /// It failed.
    pub fn finish(self) -> io::Result<(Vec<ConnectionReport>, Report)> {
        let Self { run, stdout, .. } = self;
        succeeded(lines(stdout)?, run)
    }
}

fn lines(stdout: BufReader<ChildStdout>) -> io::Result<Vec<ConnectionReport>> {
    stdout.lines().map(|line| parse(&line?)).collect()
}

fn succeeded(
    reports: Vec<ConnectionReport>,
    run: Run,
) -> io::Result<(Vec<ConnectionReport>, Report)> {
    let (status, report) = run.finish()?;
    if status.success() {
        Ok((reports, report))
    } else {
        Err(io::Error::other(format!("flowcar run: {status}")))
    }
}

/// A client's and a server's pod and a link between them; the client is its end a.
#[derive(Debug)]
pub struct Pair {
    settings: Vec<(&'static str, &'static str)>,
    sockets: Vec<&'static str>,
    link: Link,
    client: TestPod,
    server: TestPod,
}

/// One connection as reported by both applications and both flowcars.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The application at the client.
    pub client: ConnectionReport,
    /// The application at the server.
    pub server: ConnectionReport,
    /// The flowcar at the client.
    pub client_flow: FlowLine,
    /// The flowcar at the server.
    pub server_flow: FlowLine,
}

/// The result of [`Pair::call`].
#[derive(Clone, Debug)]
pub struct Called {
    /// Every connection.
    pub connections: Vec<Connection>,
    /// The books of the client's flowcar.
    pub client: Summary,
    /// The books of the server's flowcar.
    pub server: Summary,
}

// === impl Connection ===

impl Connection {
    /// Asserts that both flows have the payload bytes that the applications sent and received.
    ///
    /// # Panics
    /// They have not, or an application failed.
    #[track_caller]
    pub fn bytes_are_the_applications(&self) {
        for (application, flow) in [
            (&self.client, &self.client_flow),
            (&self.server, &self.server_flow),
        ] {
            assert_eq!(application.failure, None);
            assert_eq!(
                (flow.bytes_sent, flow.bytes_received),
                (application.sent, application.received),
                "{flow:?}"
            );
        }
    }
}

// === impl Pair ===

impl Pair {
    /// Makes them; the link has this plan in both directions.
    ///
    /// # Errors
    /// As [`TestPod::new`] and [`Link::between`].
    pub fn new(plan: Plan) -> io::Result<Self> {
        let client = TestPod::new("client")?;
        let server = TestPod::new("server")?;
        let link = Link::between(client.netns(), server.netns(), plan).map_err(io::Error::other)?;
        Ok(Self {
            settings: Vec::new(),
            sockets: Vec::new(),
            link,
            client,
            server,
        })
    }

    /// Sets a setting of both flowcars.
    #[must_use]
    pub fn set(mut self, name: &'static str, value: &'static str) -> Self {
        self.settings.push((name, value));
        self
    }

    /// Arguments for both `traffic call` and `traffic serve`: the options of their sockets.
    #[must_use]
    pub fn sockets(mut self, arguments: &[&'static str]) -> Self {
        self.sockets.extend_from_slice(arguments);
        self
    }

    /// The client's pod.
    pub fn client(&self) -> &TestPod {
        &self.client
    }

    /// The server's pod.
    pub fn server(&self) -> &TestPod {
        &self.server
    }

    /// The link between them.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Makes so many connections by `traffic call ARGUMENTS` to the server at `server` (an address of the
    /// link's end b), and joins the four reports of each by the client's port.
    ///
    /// # Errors
    /// A program fails.
    ///
    /// # Panics
    /// A flowcar has not exactly one flow of every connection.
    pub fn call(
        &self,
        server: IpAddr,
        connections: usize,
        arguments: &[&str],
    ) -> io::Result<Called> {
        let (settings, sockets) = (&self.settings, &self.sockets);
        let serving = Server::start_with(&self.server, settings, connections, sockets)?;
        let count = connections.to_string();
        let mut words = vec!["--connections", &count];
        words.extend_from_slice(sockets);
        words.extend_from_slice(arguments);
        let (clients, at_client) = call_with(
            &self.client,
            settings,
            (server, serving.port()).into(),
            &words,
        )?;
        let (servers, at_server) = serving.finish()?;
        assert_eq!((clients.len(), servers.len()), (connections, connections));
        assert_eq!(
            (at_client.flows.len(), at_server.flows.len()),
            (connections, connections)
        );
        let connections = clients.into_iter().map(|client| {
            let port = client
                .local
                .unwrap_or_else(|| panic!("it was never established: {client:?}"))
                .port();
            let server = servers.iter().find(|server| server.peer.port() == port);
            Connection {
                server: server
                    .unwrap_or_else(|| panic!("no server for {client:?}"))
                    .clone(),
                client_flow: at_client.of_local_port(port).clone(),
                server_flow: at_server.of_peer_port(port).clone(),
                client,
            }
        });
        Ok(Called {
            connections: connections.collect(),
            client: at_client.summary,
            server: at_server.summary,
        })
    }
}

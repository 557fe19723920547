//! The report: what is in it, and where it goes.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    process::Stdio,
    thread,
};

use flowcar_tests::{
    flowcar::{self, Report},
    place::{TestPod, require_program},
    traffic,
};

use super::{can_run, left_behind, pod, run, status, text};

const BODY: usize = 123_457;

/// Answers one request with [`BODY`] bytes, waits for the client to close, and gives how many bytes it read and wrote.
/// It is in the pod's network and not in its cgroup.
fn serve_one(pod: &TestPod) -> (SocketAddr, thread::JoinHandle<(u64, u64)>) {
    let bound = pod
        .netns()
        .run(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let listener = bound.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut chunk = [0; 1024];
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            let read = stream.read(&mut chunk).unwrap();
            assert_ne!(read, 0, "the request is incomplete");
            request.extend_from_slice(&chunk[..read]);
        }
        let mut response =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n").into_bytes();
        response.resize(response.len() + BODY, b'.');
        stream.write_all(&response).unwrap();
        assert_eq!(stream.read(&mut chunk).unwrap(), 0, "one request");
        (request.len() as u64, response.len() as u64)
    });
    (address, serving)
}

#[test]
fn curl_is_one_client_flow_with_exact_bytes() {
    if !can_run() || !require_program("curl") {
        return;
    }
    let pod = pod();
    let (address, serving) = serve_one(&pod);
    let file = tempfile::NamedTempFile::new().unwrap();
    let output = run(
        &pod,
        &["--format", "json", "-o", file.path().to_str().unwrap()],
        &[
            "curl",
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{size_request} %{size_header} %{size_download} %{local_port}",
            &format!("http://{address}/"),
        ],
    );
    assert_eq!(status(&output), 0, "{output:?}");
    assert_eq!(text(&output.stderr), "");
    let curl: Vec<u64> = text(&output.stdout)
        .split(' ')
        .map(|number| number.parse().unwrap())
        .collect();
    let (read, written) = serving.join().unwrap();
    assert_eq!((read, written), (curl[0], curl[1] + curl[2]));

    let report = Report::parse(&fs::read_to_string(file.path()).unwrap()).unwrap();
    let [flow] = &report.flows[..] else {
        panic!("not one flow: {report:?}");
    };
    assert_eq!(flow.role, "client");
    assert_eq!(flow.peer(), address);
    assert_eq!(u64::from(flow.local.port), curl[3]);
    assert_eq!((flow.bytes_sent, flow.bytes_received), (read, written));
    assert_eq!(flow.end, "local_fin");
    assert_eq!(flow.exchanges.count, 1, "measured without a setting");
    assert!(
        flow.connect_s
            .is_some_and(|connect| connect > 0.0 && connect < flow.duration_s + 1.0)
    );
    let books = &report.summary;
    assert_eq!((books.opened, books.closed, books.live), (1, 1, 0));
    assert_eq!((books.failed, books.lost, books.exit_status), (0, 0, 0));
    assert_eq!(left_behind(&pod), [""; 0]);
}

/// Nothing is said of a command that has a connection.
#[test]
fn command_without_connections_is_explained() {
    if !can_run() {
        return;
    }
    let pod = pod();
    let hints = |command: &[&str]| {
        let table = run(&pod, &[], command);
        let table = text(&table.stderr);
        let json = run(&pod, &["--format", "json"], command);
        let json = text(&json.stderr);
        let hint = table.contains("no TCP connection");
        assert_eq!(
            json.contains(r#""hint":"no TCP connection"#),
            hint,
            "{json}"
        );
        let systemd = "systemd-run has another process run the work";
        [hint, table.contains(systemd) && json.contains(systemd)]
    };
    assert_eq!(hints(&["true"]), [true, false]);
    assert_eq!(hints(&["echo", "systemd-run"]), [true, false]);
    let delegates = ["sh", "-c", "true; systemd-run --no-such-option true; true"];
    assert_eq!(hints(&delegates), [true, true]);
    let refused = format!(
        "{} call 127.0.0.1:9; true",
        traffic::program().unwrap().display()
    );
    assert_eq!(hints(&["sh", "-c", &refused]), [false, false]);
}

#[test]
fn report_goes_to_the_requested_output() {
    if !can_run() {
        return;
    }
    let pod = pod();
    let output = run(&pod, &["--format", "json", "-o", "-"], &["printf", ""]);
    assert_eq!(
        Report::parse(text(&output.stdout)).unwrap().summary.opened,
        0
    );
    assert_eq!(output.stderr, b"");

    let output = run(&pod, &["-o", "/nowhere/report"], &["echo", "ran"]);
    assert_eq!(status(&output), 73, "{output:?}");
    assert_eq!(output.stdout, b"", "the command was not run");
    assert!(text(&output.stderr).contains("/nowhere/report"));
    assert_eq!(text(&output.stderr).lines().count(), 1);
}

#[test]
fn files_keep_what_they_have_where_the_command_is_not_started() {
    if !can_run() {
        return;
    }
    let pod = pod();
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (page, report) = (file("page"), file("report"));
    let other = format!("{}/./page", directory.path().display());
    let long = "earlier\n".repeat(100_000);
    for path in [&page, &report] {
        fs::write(path, &long).unwrap();
    }
    let options = ["--report", &page, "-o", &report];
    for (options, command, expected) in [
        (&options[..], "flowcar-no-such-command", 127),
        (&["--report", &other, "-o", &page], "true", 64),
    ] {
        let output = run(&pod, options, &[command]);
        assert_eq!(status(&output), expected, "{output:?}");
        for path in [&page, &report] {
            assert!(fs::read_to_string(path).unwrap() == long, "{path}");
        }
    }
    let output = run(&pod, &options, &["true"]);
    assert_eq!(status(&output), 0, "{output:?}");
    let written = options.iter().skip(1).step_by(2).map(|path| {
        let written = fs::read_to_string(path).unwrap();
        assert!(!written.contains("earlier"), "{path}");
        written
    });
    let written: Vec<_> = written.collect();
    assert!(
        written[0].trim_end().ends_with("</html>"),
        "{}",
        written[0].len()
    );
    assert!(written[1].contains("0 opened = "), "{}", written[1]);
    let null = ["--report", "/dev/null", "-o", "/dev/../dev/null"];
    assert_eq!(status(&run(&pod, &null, &["true"])), 0);
}

#[test]
fn processes_that_the_command_leaves_are_counted() {
    if !can_run() {
        return;
    }
    let pod = pod();
    let script = "setsid sleep 1000 >/dev/null 2>&1 & setsid sleep 1000 >/dev/null 2>&1 & exit 0";
    let output = run(&pod, &["--format", "json"], &["sh", "-c", script]);
    let hint = Report::parse(text(&output.stderr)).unwrap().summary.hint;
    let expected = "no TCP connection until the command ended.\n\
                    2 processes of the command still run; their connections are followed no longer";
    assert_eq!(hint.as_deref(), Some(expected));
}

/// `| head -1`: the reader of the report may close the pipe early.
#[test]
fn closed_report_pipe_is_no_failure() {
    if !can_run() {
        return;
    }
    let pod = pod();
    for format in ["json", "table"] {
        let mut run = flowcar::command(&pod).unwrap();
        run.args([
            "run", "--format", format, "-o", "-", "--", "sh", "-c", "exit 7",
        ]);
        let mut run = run.stdin(Stdio::null()).stdout(Stdio::piped());
        run = run.stderr(Stdio::piped());
        let mut child = run.spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(status(&output), 7, "{format}: {output:?}");
        assert_eq!(text(&output.stderr), "", "{format}");
    }
}

#[test]
fn the_table_is_plain_and_narrow_in_a_file() {
    if !can_run() {
        return;
    }
    let pod = pod();
    let file = tempfile::NamedTempFile::new().unwrap();
    let traffic = traffic::program().unwrap();
    // Both ends in one cgroup: two rows for each connection.
    let script = format!(
        "{0} serve --listen '[::]:7000' --until 4 | {{ read -r listening; \
         {0} call '[::1]:7000' --connections 3 && \
         {0} call 127.0.0.1:7000 --close reset-by-client; cat; }} >/dev/null",
        traffic.display()
    );
    let output = run(
        &pod,
        &["-o", file.path().to_str().unwrap()],
        &["sh", "-c", &script],
    );
    assert_eq!(status(&output), 0, "{output:?}");
    let table = fs::read_to_string(file.path()).unwrap();
    println!("{table}");
    assert!(!table.contains('\x1b'), "colours are for terminals");
    assert!(table.lines().all(|line| line.chars().count() <= 108));
    let (processes, lines): (Vec<&str>, Vec<&str>) = table
        .lines()
        .partition(|line| line.starts_with("       by "));
    // The shell's own number is none of theirs.
    assert_eq!(processes.len(), 8, "a line below each row");
    // One that has ended by the time of its later connections has its number alone.
    let is_process = |line: &&str| {
        let [name, process] = ["       by traffic (", "       by process "];
        line.starts_with(name) && line.ends_with(')') || line.starts_with(process)
    };
    assert!(processes.iter().all(is_process), "{table}");
    // Peers: the server at both addresses, and its clients. The connection that was reset is first.
    let peers = [
        "by peer, ",
        "peer ",
        "clients of :7000 ",
        "127.0.0.1:7000 ",
        "[::1]:7000 ",
    ];
    let peers_end = lines.iter().position(|line| line.is_empty()).unwrap();
    assert_eq!(peers_end, peers.len(), "{table}");
    for (line, start) in lines.iter().zip(peers) {
        assert!(line.starts_with(start), "{start}: {table}");
    }
    let lines = &lines[peers_end + 1..];
    assert_eq!(lines.len(), 1 + 8 + 2, "head, two rows each, times, books");
    assert!(lines[0].starts_with("role"));
    let rows = |words: &[&str]| {
        let has = |line: &&&str| words.iter().all(|word| line.contains(word));
        lines[1..9].iter().filter(has).count()
    };
    assert_eq!(rows(&["client", "[::1]:", "132", "local_fin"]), 3);
    assert_eq!(rows(&["server", "[::1]:", "132", "peer_fin"]), 3);
    assert_eq!(rows(&["client", "127.0.0.1:", "reset"]), 1);
    assert_eq!(rows(&["server", "127.0.0.1:", "reset"]), 1);
    // Clients alone have a connect time, and connections of one round trip have an RTT or not.
    assert!(lines[9].starts_with("connect p50 ") && lines[9].contains(" (of 4); "));
    assert!(lines[9].ends_with("; over 8 connections"));
    assert!(lines[10].starts_with("8 opened = 8 closed + 0 live + 0 lost"));
}

/// Of more than 20 connections the failed ones have rows; with --all each has one, before the table by peer.
#[test]
fn many_connections_are_added_up_by_peer() {
    if !can_run() {
        return;
    }
    let pod = pod();
    let script = format!(
        "{0} serve --listen 127.0.0.1:7000 --until 33 | {{ read -r listening; \
         {0} call 127.0.0.1:7000 --connections 30; {0} call 127.0.0.1:9 --connections 2; \
         {0} call 127.0.0.1:7000 --connections 3 --close reset-by-client; cat; }} >/dev/null; true",
        traffic::program().unwrap().display()
    );
    let output = run(&pod, &[], &["sh", "-c", &script]);
    assert_eq!(status(&output), 0, "{output:?}");
    let table = text(&output.stderr);
    println!("{table}");
    let counts = |peer: &str| -> Vec<String> {
        let row = table.lines().find(|line| line.starts_with(peer));
        let row = row.unwrap_or_else(|| panic!("{peer}: {table}"));
        let counts = row[peer.len()..].split_whitespace().take(3);
        counts.map(str::to_owned).collect()
    };
    assert!(table.starts_with("by peer, "), "what comes first: {table}");
    // 33 at both ends and 2 attempts.
    assert!(table.contains("68 connections and attempts: --all"));
    assert_eq!(counts("127.0.0.1:7000 "), ["33", "0", "3"]);
    assert_eq!(counts("127.0.0.1:9 "), ["0", "2", "0"]);
    assert_eq!(counts("clients of :7000 "), ["33", "0", "3"]);
    let rows = |reason: &str| table.lines().filter(|line| line.ends_with(reason)).count();
    assert_eq!(rows(" refused"), 2, "attempts that failed have rows");
    assert!(table.contains("failed or cut off, 5 of 8:"), "{table}");
    assert!(table.contains("slowest of the others:"), "{table}");

    let output = run(&pod, &["--all"], &["sh", "-c", &script]);
    let table = text(&output.stderr);
    let rows = table
        .lines()
        .filter(|line| line.starts_with("client ") || line.starts_with("server "));
    assert_eq!(rows.count(), 68, "{table}");
    let first = |start: &str| table.lines().position(|line| line.starts_with(start));
    let (row, peers) = (first("client "), first("by peer, "));
    assert!(row < peers && peers.is_some(), "{table}");

    let output = run(&pod, &["--format", "json"], &["sh", "-c", &script]);
    let report = Report::parse(text(&output.stderr)).unwrap();
    let peers = report.summary.peers.iter();
    let counts = peers.map(|of| (&*of.name, of.connections, of.failed, of.cut_off));
    let counts: Vec<_> = counts.collect();
    assert_eq!(
        counts,
        [
            ("127.0.0.1:7000", 33, 0, 3),
            ("clients of :7000", 33, 0, 3),
            ("127.0.0.1:9", 0, 2, 0),
        ]
    );
    let server = &report.summary.peers[0];
    let of_server = report.flows.iter();
    let of_server = of_server.filter(|flow| flow.role == "client" && flow.peer.port == 7000);
    let sent: u64 = of_server.map(|flow| flow.bytes_sent).sum();
    assert_eq!(server.bytes_sent, sent);
    assert_eq!(server.connect.count, 33, "each has a connect time");
    assert!(server.rtt.count > 0 && server.exchanges.count >= 30);
}

#[test]
fn times_of_the_summary_are_those_of_the_rows() {
    if !can_run() {
        return;
    }
    let pod = pod();
    let script = format!(
        "{0} serve --listen 127.0.0.1:7000 --until 20 | {{ read -r listening; \
         {0} call 127.0.0.1:7000 --connections 20; cat; }} >/dev/null",
        traffic::program().unwrap().display()
    );
    let output = run(&pod, &["--format", "json"], &["sh", "-c", &script]);
    assert_eq!(status(&output), 0, "{output:?}");
    let report = Report::parse(text(&output.stderr)).unwrap();
    let times = report.summary.times.as_ref().unwrap();
    assert_eq!(times.connections, 40);
    // A rank among the rows' own times, to three digits.
    for (name, found, mut rows) in [
        (
            "connect",
            &times.connect,
            report
                .flows
                .iter()
                .filter_map(|flow| flow.connect_s)
                .collect(),
        ),
        (
            "rtt",
            &times.rtt,
            report
                .flows
                .iter()
                .filter_map(|flow| flow.rtt.p50_s)
                .collect::<Vec<f64>>(),
        ),
        (
            "exchanges",
            &times.exchanges,
            report
                .flows
                .iter()
                .filter_map(|flow| flow.exchanges.p50_s)
                .collect(),
        ),
    ] {
        rows.sort_by(f64::total_cmp);
        assert_eq!(found.count, rows.len() as u64, "{name}");
        assert!(found.count >= 20, "{name}: each client has one");
        for (percent, found) in [(50, found.p50_s), (99, found.p99_s)] {
            let rank = (rows.len() * percent).div_ceil(100);
            let (expected, found) = (rows[rank - 1], found.unwrap());
            assert!(
                (found - expected).abs() <= expected / 500.0,
                "{name} p{percent}: {found}, among the rows {expected}"
            );
        }
    }
    assert_eq!(times.exchanges.count, 40, "both ends of each have one");
}

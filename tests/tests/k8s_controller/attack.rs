//! A malicious client that reaches the webhook's port: rows of the table of threats in docs/security/injector.md.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use flowcar_tests::{
    cluster::{
        Cluster, Controller, LIMIT, SECRET,
        tools::{base64_decoded, containers, pod},
    },
    peers::eventually,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

/// More than a process may have open by the soft limit that container runtimes leave.
const CROWD: usize = 1_100;

/// RFC 9113, section 3.4, and an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A client that speaks no HTTP, or not all of it.
type Secured = StreamOwned<ClientConnection, TcpStream>;

/// A client with an address of its own.
struct Attacker {
    target: SocketAddr,
    config: Arc<ClientConfig>,
}

// === impl Attacker ===

impl Attacker {
    fn of(cluster: &Cluster, protocol: &[u8]) -> Self {
        let secret = cluster.admin().get(SECRET).success();
        let bundle = base64_decoded(&secret["data"]["ca.crt"]);
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            roots.add(authority.expect("PEM")).expect("an authority");
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions of TLS")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        Self {
            target: cluster.address(),
            config: Arc::new(config),
        }
    }

    /// A connection from 127.0.0.`host`.
    fn connect(&self, host: u8) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let from = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, host)), 0);
        socket.bind(&from.into()).expect("an address of loopback");
        socket.connect(&self.target.into()).expect("it accepts");
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
        stream
    }

    /// A connection whose TLS handshake is complete, as far as the client knows.
    fn secured(&self, host: u8) -> Secured {
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        let mut connection =
            ClientConnection::new(self.config.clone(), name).expect("a client of TLS");
        let mut stream = self.connect(host);
        while connection.is_handshaking() {
            connection.complete_io(&mut stream).expect("a handshake");
        }
        StreamOwned::new(connection, stream)
    }
}

/// Reads until the server closes the connection; returns what came.
fn until_ended(mut stream: impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return all,
            Ok(read) => all.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                panic!("the server has not ended the connection within {LIMIT:?}")
            }
            // A close without TLS's close_notify, or a reset.
            Err(_) => return all,
        }
    }
}

fn on() -> Value {
    json!({"flowcar.io/inject": "enabled"})
}

/// A pod goes through the API server and is injected.
fn injects(cluster: &Cluster, name: &str) {
    let pod = cluster.create_pod("shop", &pod(name, on()));
    assert_eq!(containers(&pod).0, ["flowcar"], "{name}");
    assert_eq!(cluster.failed_open("pods.flowcar.io"), 0.0, "{name}");
}

fn descriptors(controller: &Controller) -> usize {
    let pid = controller.process.pid().expect("it runs");
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors");
    open.count()
}

#[test]
fn many_idle_connections_block_nobody() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("descriptors");
    let cluster = Cluster::start();
    let controller = cluster.controller(&[]);
    injects(&cluster, "before");
    let attacker = Attacker::of(&cluster, b"h2");
    // Half of them at the API server's own address, as behind one node's.
    let crowd: Vec<_> = (0..CROWD)
        .map(|n| attacker.secured(if n % 2 == 0 { 1 } else { 66 + (n % 20) as u8 }))
        .collect();
    injects(&cluster, "among-idle-ones");
    assert!(
        descriptors(&controller) < 700,
        "{}",
        descriptors(&controller)
    );
    let closed = |reason: &str| {
        let line = format!("flowcar_connections_closed_total{{reason=\"{reason}\"}}");
        controller.metric(&line).unwrap_or_default()
    };
    assert!(closed("no_room") > 0.0);
    for stream in crowd {
        until_ended(stream);
    }
    assert!(closed("idle") > 0.0);
    injects(&cluster, "after");
}

#[test]
fn every_silent_client_is_disconnected() {
    let cluster = Cluster::start();
    let controller = cluster.controller(&[]);
    let (http1, http2) = (
        Attacker::of(&cluster, b"http/1.1"),
        Attacker::of(&cluster, b"h2"),
    );
    let printed = |mut stream: Secured, words: &[u8]| {
        stream.write_all(words).expect("it is written");
        stream
    };
    let head = b"POST /admit?timeout=5s HTTP/1.1\r\nhost: w\r\ncontent-length: 5000\r\n\r\n{";
    // HEADERS of stream 1 without END_HEADERS, of which no CONTINUATION follows.
    let headers = [PREFACE, b"\0\0\x01\x01\0\0\0\0\x01\x82"].concat();
    let tls: Vec<(&str, Secured)> = vec![
        ("TLS and no byte", http2.secured(66)),
        ("HTTP/2 and no stream", printed(http2.secured(66), PREFACE)),
        ("half a preface", printed(http2.secured(66), &PREFACE[..9])),
        (
            "half a head of HTTP/2",
            printed(http2.secured(66), &headers),
        ),
        ("half a head", printed(http1.secured(66), &head[..30])),
        ("half a body", printed(http1.secured(66), head)),
    ];
    let bare = [
        ("no byte at all", http1.connect(66)),
        ("half a ClientHello", {
            let mut stream = http1.connect(66);
            stream
                .write_all(b"\x16\x03\x01\x02\0\x01")
                .expect("written");
            stream
        }),
    ];
    for (what, stream) in bare {
        until_ended(stream);
        assert!(controller.is_ready(), "{what}");
    }
    for (what, stream) in tls {
        let came = until_ended(stream);
        let came = String::from_utf8_lossy(&came);
        if what == "half a body" {
            assert!(came.starts_with("HTTP/1.1 408 "), "{came}");
        }
    }
    injects(&cluster, "after");
}

/// A pod whose review has more than 256 KiB.
fn large(name: &str) -> Value {
    let mut large = pod(name, on());
    let entry = json!({"name": "SOME_SETTING", "value": "v".repeat(1000)});
    large["spec"]["containers"][0]["env"] = vec![entry; 400].into();
    large
}

#[test]
fn slow_bodies_delay_nobody() {
    let cluster = Cluster::start();
    let controller = cluster.controller(&[]);
    let attacker = Attacker::of(&cluster, b"http/1.1");
    let head = b"POST /admit HTTP/1.1\r\nhost: w\r\ncontent-length: 8000000\r\n\r\n";
    let slow = |host: u8, megabytes: usize| {
        let mut stream = attacker.secured(host);
        stream.write_all(head).expect("a head");
        // The server may have evicted it by then.
        drop(stream.write_all(&vec![b' '; megabytes << 20]));
        stream
    };
    let inline_samples: Vec<_> = (0..10).map(|_| slow(66, 1)).collect();
    let large_one = |name: &str| {
        let pod = cluster.create_pod("shop", &large(name));
        assert_eq!(containers(&pod).0, ["flowcar"], "{name}");
        assert_eq!(cluster.failed_open("pods.flowcar.io"), 0.0, "{name}");
    };
    large_one("among-slow-ones");
    for stream in inline_samples {
        let came = until_ended(stream);
        assert!(
            came.starts_with(b"HTTP/1.1 408 "),
            "{}",
            String::from_utf8_lossy(&came)
        );
    }
    // And more than there is memory for, from many addresses.
    let many: Vec<_> = (0..10).map(|n| slow(66 + n, 5)).collect();
    large_one("among-large-ones");
    let status = format!(
        "/proc/{}/status",
        controller.process.pid().expect("it runs")
    );
    let status = std::fs::read_to_string(status).expect("its status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    assert!(peak.expect("a peak") / 1024 < 128, "the chart's limit");
    drop(many);
}

#[test]
fn open_file_limit_is_raised_to_the_hard_limit() {
    let cluster = Cluster::start();
    let controller = cluster.controller(&[]);
    let path = format!(
        "/proc/{}/limits",
        controller.process.pid().expect("it runs")
    );
    let limits = std::fs::read_to_string(path).expect("its limits");
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let words: Vec<_> = files.expect("a limit").split_whitespace().collect();
    assert_eq!(words[3], words[4], "{words:?}");
}

fn review(name: &str, namespace: &str, owner: Value) -> Vec<u8> {
    let mut object = pod(
        name,
        json!({"flowcar.io/inject": "enabled", "flowcar.io/pear": "x"}),
    );
    if owner.is_object() {
        object["metadata"]["ownerReferences"] = json!([owner]);
    }
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u-1", "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "namespace": namespace, "operation": "CREATE", "object": object,
        },
    });
    review.to_string().into_bytes()
}

#[test]
fn forged_review_makes_no_event() {
    let cluster = Cluster::start();
    let controller = cluster.controller(&[]);
    let client = cluster.webhook();
    let forge = |body: Vec<u8>| {
        let answer = client.send("POST", "/admit?timeout=5s", "application/json", body);
        assert!(answer.expect("an answer").is_ok());
    };
    let dropped = |reason: &str| {
        let line = format!("flowcar_events_dropped_total{{reason=\"{reason}\"}}");
        controller.metric(&line).unwrap_or_default()
    };
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "w"}},
            "template": {"metadata": {"labels": {"app": "w"}}, "spec": {"containers": [{"name": "app", "image": "app:1"}]}},
        },
    });
    let deployments = "/apis/apps/v1/namespaces/shop/deployments";
    let stored = cluster.admin().create(deployments, &deployment).success();
    let owner = |kind: &str, name: &str, uid: &str| json!({"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid, "controller": true});
    // Nothing of that name, nothing of that uid, no such kind, no such namespace.
    forge(review("ghost", "shop", Value::Null));
    forge(review("p", "shop", owner("ReplicaSet", "ghost", "u")));
    forge(review("p", "shop", owner("Deployment", "web", "u")));
    forge(review("p", "shop", owner("Rollout", "ghost", "u")));
    forge(review("ghost", "nowhere", Value::Null));
    eventually("five dropped Events", LIMIT, || {
        (dropped("unverified") == 5.0).then_some(())
    });
    for name in ["ghost", "web", "p"] {
        assert_eq!(
            cluster.events("shop", "FlowcarAnnotation", name),
            Vec::<Value>::new()
        );
    }

    // An object that exists gets one, about itself; their rate is limited.
    let uid = stored["metadata"]["uid"].as_str().expect("a uid");
    forge(review("p", "shop", owner("Deployment", "web", uid)));
    let event = eventually("an Event", LIMIT, || {
        cluster.events("shop", "FlowcarAnnotation", "web").pop()
    });
    assert_eq!(event["regarding"]["uid"], uid);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..40 {
                    forge(review("p", "shop", owner("Deployment", "web", uid)));
                }
            });
        }
    });
    assert!(dropped("rate") > 0.0);
    assert_eq!(dropped("queue"), 0.0);
}

#[test]
fn too_deep_review_is_answered_with_its_uid() {
    let cluster = Cluster::start();
    let _controller = cluster.controller(&[]);
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let body = String::from_utf8(review("deep", "shop", Value::Null)).expect("UTF-8");
    let body = body.replacen("\"spec\":{", &format!("\"spec\":{{\"deep\":{deep},"), 1);
    let client = cluster.webhook();
    let answer = client.send("POST", "/admit", "application/json", body.into_bytes());
    let response = answer.expect("an answer").success()["response"].clone();
    assert_eq!(
        (&response["uid"], &response["allowed"]),
        (&json!("u-1"), &json!(true))
    );
    assert_eq!(response.get("patch"), None);
    let warning = response["warnings"][0].as_str().expect("a warning");
    assert!(warning.contains("nested too deeply"), "{warning}");
    // The process lives: no stack was used up.
    std::thread::sleep(Duration::from_millis(10));
    injects(&cluster, "after");
}

//! Exchange latency inside TLS, with a handshake and session tickets, against a packet capture at the same end.

use std::{
    io::{self, Read, Write},
    net::TcpListener,
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use flowcar_tests::{
    flowcar::{Exchanges, Run},
    link::{Capture, Plan, PodPair, is_within_a_bucket, percentile},
    place::{require_cgroup2, require_root, require_tun},
};
use rustls::{ServerConfig, ServerConnection, StreamOwned, crypto::ring};

const RTT: Duration = Duration::from_millis(20);

/// How long the server thinks.
const DELAY: Duration = Duration::from_millis(10);

/// Requests on the connection.
const REQUESTS: usize = 20;

fn config() -> Arc<ServerConfig> {
    let made = rcgen::generate_simple_self_signed(["flowcar.test".to_owned()]).unwrap();
    let key = made.signing_key.serialize_der().try_into().unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = builder
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.into()], key);
    Arc::new(config.unwrap())
}

/// Answers every request of one connection.
fn serve(listener: &TcpListener, config: Arc<ServerConfig>) -> io::Result<()> {
    const END: &[u8] = b"\r\n\r\n";
    const BODY: usize = 5_000;
    let (socket, _) = listener.accept()?;
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, socket);
    let mut response = format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY}\r\n\r\n").into_bytes();
    response.resize(response.len() + BODY, b'.');
    let mut request = Vec::new();
    loop {
        let mut bytes = [0; 4096];
        let count = match stream.read(&mut bytes)? {
            0 => return Ok(()),
            count => count,
        };
        request.extend_from_slice(&bytes[..count]);
        if request.ends_with(END) {
            request.clear();
            thread::sleep(DELAY);
            stream.write_all(&response)?;
            stream.flush()?;
        }
    }
}

/// The handshake's turns are exchanges, too; all match the wire, and most are the application's.
#[test]
fn tls_exchanges_match_the_capture() {
    if !require_root() || !require_cgroup2() || !require_tun() {
        return;
    }
    // The last percentile is the slowest of some twenty, which a busy machine may delay between the socket and the device.
    const TRIES: usize = 5;
    let is_right = (0..TRIES).any(|_| {
        let (exchanges, carried) = one_run();
        assert_eq!(exchanges.count, carried.len() as u64);
        assert!(
            (REQUESTS..REQUESTS + 3).contains(&carried.len()),
            "{carried:?}"
        );
        // As long as the application waits for each.
        assert!(exchanges.p50_s.unwrap() >= (RTT + DELAY).as_secs_f64() * 0.95);
        let mut quantiles = [(exchanges.p50_s, 0.5), (exchanges.p99_s, 0.99)].into_iter();
        quantiles.all(|(found, quantile)| {
            let name = format!("{quantile}");
            is_within_a_bucket(&name, found.unwrap(), percentile(&carried, quantile))
        })
    });
    assert!(is_right, "none of {TRIES}");
}

/// The exchanges of one curl, and those that were captured.
fn one_run() -> (Exchanges, Vec<Duration>) {
    let pods = PodPair::new(Plan::rtt(RTT)).unwrap();
    let (client, server, link) = (pods.client(), pods.server(), pods.link());
    let capture = Capture::start(client.netns(), &link.device()).unwrap();
    let listener = server.netns().run(|| TcpListener::bind((link.b4(), 0)));
    let listener = listener.unwrap().unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = thread::spawn(move || serve(&listener, config()));
    let url = format!("https://{}:{port}/[1-{REQUESTS}]", link.b4());
    let settings = [("FLOWCAR_EXCHANGE", "on")];
    let words = [
        "--silent",
        "--insecure",
        "--http1.1",
        "--output",
        "/dev/null",
        &url,
    ];
    let run = Run::start_with(client, &settings, Path::new("curl"), &words).unwrap();
    let (status, report) = run.finish().unwrap();
    assert!(status.success(), "{status}");
    // curl closes without close_notify, which this test ignores.
    let _ = serving.join().unwrap();
    let carried = capture.take().unwrap().of_port(port).exchanges(true);
    (report.of_peer_port(port).exchanges.clone(), carried)
}

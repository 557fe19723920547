//! Every way in which a receiver asks for a pause is honoured, and no retry is without a pause.

use std::time::{Duration, Instant};

use flowcar::flow::Role;
use prost::encoding::encode_varint;
use tonic::Code;

use crate::{
    answering::{Answering, grpc_refusal, http},
    sample::{LIMIT, export, flow, snapshot},
};

/// How long requests are counted.
const WATCHED: Duration = Duration::from_secs(3);

/// How many requests there may be in a time: at once, after 0.25 to 0.5 s, 0.5 to 1 s more, and so on up to half a minute.
fn most(within: Duration) -> usize {
    let mut least = Duration::ZERO;
    let mut wait = Duration::from_millis(250);
    let mut requests = 0;
    while least <= within {
        requests += 1;
        least += wait;
        wait = (2 * wait).min(Duration::from_secs(15));
    }
    requests
}

/// `Retry-After` that asks for no pause, or that is not valid.
const NOTHING: [Option<&str>; 10] = [
    None,
    Some("0"),
    Some("00"),
    Some("-1"),
    Some("-99999999999999999999"),
    Some(""),
    Some("soon"),
    Some("0.001"),
    Some("Thu, 01 Jan 1970 00:00:00 GMT"),
    Some("Sun, 06 Nov 1994 08:49:37 GMT"),
];

/// `Retry-After` that asks for more than the test lasts.
const LONG: [&str; 5] = [
    "60",
    "31536000",
    "18446744073709551616",
    "99999999999999999999999999",
    "Sat, 06 Nov 2094 08:49:37 GMT",
];

/// `RetryInfo.retry_delay` in seconds and nanoseconds, each perhaps left out.
type Delay = (Option<i64>, Option<i32>);

const NO_DELAYS: [Delay; 8] = [
    (None, None),
    (Some(0), Some(0)),
    (Some(0), None),
    (None, Some(1)),
    (Some(-1), None),
    (Some(-5), Some(-1)),
    (None, Some(-999_999_999)),
    (Some(i64::MIN), Some(i32::MIN)),
];

const LONG_DELAYS: [Delay; 3] = [
    (Some(60), None),
    (Some(315_576_000_000), Some(0)),
    (Some(i64::MAX), Some(i32::MAX)),
];

/// A receiver's refusal, and whether it asks for a long pause.
#[derive(Clone, Copy, Debug)]
enum Row {
    Http(u16, Option<&'static str>, bool),
    Grpc(Code, Option<Delay>, bool),
    /// A proxy's HTTP answer to a gRPC request.
    Proxy(u16, Option<&'static str>, bool),
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for status in [429, 502, 503, 504] {
        rows.extend(NOTHING.map(|text| Row::Http(status, text, false)));
        rows.extend(LONG.map(|text| Row::Http(status, Some(text), true)));
        rows.push(Row::Proxy(status, Some("0"), false));
        rows.push(Row::Proxy(status, Some("60"), true));
    }
    for code in [
        Code::Cancelled,
        Code::DeadlineExceeded,
        Code::ResourceExhausted,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unavailable,
        Code::DataLoss,
    ] {
        // Without RetryInfo it is for good.
        if code != Code::ResourceExhausted {
            rows.push(Row::Grpc(code, None, false));
        }
        rows.extend(NO_DELAYS.map(|delay| Row::Grpc(code, Some(delay), false)));
        rows.extend(LONG_DELAYS.map(|delay| Row::Grpc(code, Some(delay), true)));
    }
    rows
}

/// google.rpc.Status with a google.rpc.RetryInfo, by hand from the wire format.
fn details(code: Code, (seconds, nanos): Delay) -> Vec<u8> {
    fn field(number: u8, body: &[u8]) -> Vec<u8> {
        let length = u8::try_from(body.len()).expect("short");
        [&[number << 3 | 2, length], body].concat()
    }
    fn varint(number: u8, value: i64) -> Vec<u8> {
        let mut bytes = vec![number << 3];
        encode_varint(value.cast_unsigned(), &mut bytes);
        bytes
    }
    let seconds = seconds.map_or(Vec::new(), |value| varint(1, value));
    let nanos = nanos.map_or(Vec::new(), |value| varint(2, value.into()));
    let info = field(1, &[seconds, nanos].concat());
    let url = field(1, b"type.googleapis.com/google.rpc.RetryInfo");
    let any = [url, field(2, &info)].concat();
    [varint(1, (code as i32).into()), field(3, &any)].concat()
}

async fn start(row: Row) -> Answering {
    Answering::start(move |_| match row {
        Row::Http(status, text, _) | Row::Proxy(status, text, _) => {
            let headers = text.map(|text| ("retry-after", text));
            http(status, headers.as_slice(), b"busy")
        }
        Row::Grpc(code, delay, _) => {
            let details = delay.map_or(Vec::new(), |delay| details(code, delay));
            grpc_refusal(code, "busy", details)
        }
    })
    .await
}

#[test]
fn no_answer_causes_retries_without_backoff() {
    export("web", &[], async |_| {
        let started = Instant::now();
        let mut all = Vec::new();
        for row in rows() {
            let protocol = if matches!(row, Row::Http(..)) {
                "http/protobuf"
            } else {
                "grpc"
            };
            for signal in ["METRICS", "TRACES"] {
                let receiver = start(row).await;
                let settings = [
                    (
                        format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"),
                        format!("{}/v1/{}", receiver.endpoint(), signal.to_lowercase()),
                    ),
                    (
                        "OTEL_EXPORTER_OTLP_PROTOCOL".to_owned(),
                        protocol.to_owned(),
                    ),
                ];
                let config = flowcar::config::Config::from_vars(settings).expect("good settings");
                let exporter = flowcar::otlp::exporter::Exporter::start(&config, "ebpf", None);
                let mut exporter = exporter.expect("an endpoint is set");
                let (flow, anchor) = flow(Role::Client, 1, 2);
                exporter.flow(&flow, &anchor);
                exporter.metrics(snapshot());
                all.push((row, signal, receiver, exporter));
            }
        }
        let first = async {
            while all.iter().any(|(_, _, receiver, _)| receiver.count() == 0) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LIMIT, first)
            .await
            .expect("a request of each");
        tokio::time::sleep(WATCHED).await;
        for (row, signal, receiver, _) in &all {
            let count = receiver.count();
            let (Row::Http(_, _, long) | Row::Grpc(_, _, long) | Row::Proxy(_, _, long)) = row;
            let most = if *long { 1 } else { most(started.elapsed()) };
            assert!((1..=most).contains(&count), "{row:?} {signal}: {count}");
        }
        let again = async {
            let waits = |row: &Row| {
                let (Row::Http(_, _, long) | Row::Grpc(_, _, long) | Row::Proxy(_, _, long)) = row;
                !long
            };
            let tried_again = || {
                let mut all = all.iter();
                all.all(|(row, _, receiver, _)| !waits(row) || receiver.count() >= 2)
            };
            while !tried_again() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LIMIT, again)
            .await
            .expect("another try of each");
    });
}

//! A flowcar that runs for long under load that never repeats.
//!
//! Peers rotate, some connections live throughout, and the receiver goes away and comes back. What flowcar holds is to stay as it
//! is: memory, descriptors, series and points of a report do not grow once the load has been seen, and closed connections and
//! idle series are removed when the load ends. `FLOWCAR_SOAK_SECONDS` is how long: an hour by `make soak`, else a minute and a half. In less than ten
//! minutes the bounds are lower, so that they are reached as early.

use std::{
    env, fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use flowcar_tests::{
    flowcar,
    place::{TestPod, require_cgroup2, require_program, require_root},
    traffic::{CallPlan, Holding, ServePlan, Serving, call_in},
    watch::{Mode, Seen, Watch},
};

/// Series at most: the peers that rotate reach the bound early.
const SERIES: u32 = 300;
const SERIES_OF_A_SHORT_ONE: u32 = 40;

/// What is shorter is a short one.
const SHORT_SECONDS: u64 = 600;

/// Points of a series, at most.
const POINTS: usize = 12;

/// Longer than the peers of a short soak need to reach the bound of series.
const SERIES_IDLE_MS: &str = "30000";

/// Rounds in which the receiver is there, and in which it is not.
const THERE: u64 = 8;
const AWAY: u64 = 3;

/// What a process may gain by chance: pages of code that are read again, an export under way.
const SLACK_BYTES: u64 = 3 << 20;
const SLACK_FILES: usize = 3;

/// What flowcar holds at one time.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    resident: u64,
    files: usize,
    series: f64,
    points: usize,
}

#[test]
fn held_resources_do_not_grow() {
    if !require_root() || !require_cgroup2() || !require_program("nft") {
        return;
    }
    let seconds = env::var("FLOWCAR_SOAK_SECONDS").map_or(90, |text| text.parse().unwrap());
    let pod = TestPod::new("soak").unwrap();
    let range = ("net.ipv4.ip_local_port_range", "1024 65535");
    pod.netns().sysctl(range.0, range.1).unwrap();
    let serving = Serving::start(&pod, &ServePlan::at("[::]:0".parse().unwrap())).unwrap();
    let port = serving.address().port();
    let most_series = if seconds < SHORT_SECONDS {
        SERIES_OF_A_SHORT_ONE
    } else {
        SERIES
    };
    let limit = most_series.to_string();
    let settings = [
        ("FLOWCAR_SERIES_LIMIT", limit.as_str()),
        ("FLOWCAR_SERIES_IDLE", SERIES_IDLE_MS),
        ("FLOWCAR_SELF_METRICS", "detailed"),
        ("FLOWCAR_SPANS_PER_SECOND", "5"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1000"),
    ];
    let mut watch = Watch::start(&pod, Mode::Both, &settings);
    watch.reports(2);
    let idle = held(watch.id(), watch.reports(1));
    let long = CallPlan::to(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)).connections(50, 2);
    let mut holding = Holding::start(&pod, &long).unwrap();
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut samples = Vec::new();
    let mut calls = 0;
    let mut round = 0;
    while Instant::now() < end {
        let is_there = round % (THERE + AWAY) < THERE;
        receiver(&pod, &watch, is_there);
        for peer in peers(round) {
            let plan = CallPlan::to(SocketAddr::new(peer, port)).connections(25, 2);
            calls += call_in(&pod, &plan).unwrap().len();
        }
        holding.exchange().unwrap();
        if is_there {
            let now = held(watch.id(), watch.reports(1));
            println!("round {round}, {calls} calls: {now:?}");
            samples.push(now);
        }
        round += 1;
    }
    receiver(&pod, &watch, true);
    let (middle, last) = (part(&samples, 1), part(&samples, 3));
    assert_flat(&middle, &last, most_series);
    holding.close().unwrap();
    watch.until("no live connections", |seen| {
        seen.sum("flowcar.self.flow.count", &[]) == 0.0
            && seen.sum("flowcar.tcp.connection.live", &[]) == 0.0
    });
    let series = "flowcar.self.series.count";
    watch.until("no series", |seen| seen.sum(series, &[]) == idle.series);
    let after = held(watch.id(), watch.reports(2));
    println!("idle {idle:?}\nafter {after:?}");
    assert!(
        after.files <= idle.files + SLACK_FILES,
        "{idle:?} {after:?}"
    );
    assert!(
        after.resident <= last.resident + SLACK_BYTES,
        "{last:?} {after:?}"
    );
    // The books outlive the series.
    let (_, books) = flowcar::listing(&pod).unwrap();
    assert_eq!(books["opened"], 2 * (calls + 50));
    watch.stop();
}

/// Peers that no round before had, nor any of the last hour.
fn peers(round: u64) -> impl Iterator<Item = IpAddr> {
    (0..4).map(move |each| {
        let number = (4 * round + each) % (1 << 22);
        IpAddr::V4(Ipv4Addr::from_bits(0x7f01_0000 + number as u32))
    })
}

/// Lets the receiver take packets, or drops them.
fn receiver(pod: &TestPod, watch: &Watch, is_there: bool) {
    let port = watch.receiver_port();
    let rules = if is_there {
        "table inet away { }; delete table inet away".to_owned()
    } else {
        format!(
            "table inet away {{ chain input {{ type filter hook input priority 0; tcp dport {port} drop; }}; }}"
        )
    };
    let status = pod.netns().command("nft").unwrap().arg(rules).status();
    assert!(status.unwrap().success());
}

fn held(process: u32, seen: &Seen) -> Held {
    let statm = fs::read_to_string(format!("/proc/{process}/statm")).unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    Held {
        resident: 4096 * pages,
        files: fs::read_dir(format!("/proc/{process}/fd")).unwrap().count(),
        series: seen.sum("flowcar.self.series.count", &[]),
        points: seen.metrics.values().map(Vec::len).sum(),
    }
}

/// The most of each figure in one of four parts of the time.
fn part(samples: &[Held], number: usize) -> Held {
    let quarter = samples.len() / 4;
    assert!(quarter > 0, "too short: {} samples", samples.len());
    let of = samples[number * quarter..].iter().take(quarter);
    of.fold(Held::default(), |most, each| Held {
        resident: most.resident.max(each.resident),
        files: most.files.max(each.files),
        series: most.series.max(each.series),
        points: most.points.max(each.points),
    })
}

#[track_caller]
fn assert_flat(middle: &Held, last: &Held, most_series: u32) {
    let both = format!("{middle:?} {last:?}");
    assert!(last.resident <= middle.resident + SLACK_BYTES, "{both}");
    assert!(last.files <= middle.files + SLACK_FILES, "{both}");
    // Both are at the bound, or the time is too short to reach it.
    let with_overflow = most_series + 1;
    assert!(last.series <= f64::from(with_overflow), "{both}");
    assert!(
        last.points <= middle.points.max(POINTS * with_overflow as usize),
        "{both}"
    );
}

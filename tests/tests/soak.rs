//! A flowcar that runs for long under load that never repeats.
//!
//! Peers rotate, some connections live throughout, and the receiver goes away and comes back. What flowcar holds is to stay as it
//! is: memory, descriptors, series, points and bytes of a report do not grow once the load has been seen. When the load ends they come
//! back to what they were before it. `FLOWCAR_SOAK_SECONDS` is how long: an hour by `make soak`, else a minute and a half.

use std::{
    collections::BTreeMap,
    env, fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use flowcar_tests::{
    flowcar,
    place::{TestPod, require_cgroup2, require_program, require_root},
    traffic::{CallPlan, Holding, ServePlan, Serving, call_in},
    usage,
    watch::{Mode, Seen, Watch},
};

/// Series at most: the peers that rotate reach the bound in a quarter of a minute and a half.
const SERIES: u32 = 20;

/// Longer than the peers need to reach the bound of series.
const SERIES_IDLE_MS: &str = "30000";

/// Rounds in which the receiver is there, and in which it is not.
const THERE: u64 = 8;
const AWAY: u64 = 3;

/// What a process may gain by chance: pages of code that are read again, an export under way.
const SLACK_BYTES: u64 = 3 << 20;
const SLACK_FILES: usize = 3;

/// Heap that stays in use when the load has ended: glibc's allocator gives nothing back for less than a thousand connections
/// (`sidecar/src/memory/mod.rs`), and tables keep their room. 1.1 MB are usual.
const KEPT_BYTES: u64 = 2 << 20;

/// Points that stay in reports: counters of flowcar's own appear once there is something to count. Nine of 160 bytes are usual.
const KEPT_POINTS: usize = 20;
const KEPT_POINT_BYTES: usize = 200;

/// What a report may have more by chance, in a hundred: the points of zero that new series begin with, buckets of histograms.
const SLACK_REPORT: usize = 10;

/// What flowcar holds at one time.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    resident: u64,
    /// Heap and stacks.
    anonymous: u64,
    files: usize,
    series: f64,
    points: usize,
    report_bytes: usize,
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
    let limit = SERIES.to_string();
    let settings = [
        ("FLOWCAR_SERIES_LIMIT", limit.as_str()),
        ("FLOWCAR_SERIES_IDLE", SERIES_IDLE_MS),
        ("FLOWCAR_SELF_METRICS", "detailed"),
        ("FLOWCAR_SPANS_PER_SECOND", "5"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1000"),
    ];
    let mut watch = Watch::start(&pod, Mode::Both, &settings);
    watch.reports(2);
    let id = watch.id();
    let seen = watch.reports(1);
    let (idle, idle_points) = (held(id, seen), points_of_series(seen));
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
            let now = held(id, watch.reports(1));
            println!("round {round}, {calls} calls: {now:?}");
            samples.push(now);
        }
        round += 1;
    }
    receiver(&pod, &watch, true);
    let (middle, last) = (part(&samples, 1), part(&samples, 3));
    assert_flat(&middle, &last);
    holding.close().unwrap();
    watch.until("no live connections", |seen| {
        seen.sum("flowcar.self.flow.count", &[]) == 0.0
            && seen.sum("flowcar.tcp.connection.live", &[]) == 0.0
    });
    let series = "flowcar.self.series.count";
    watch.until("no series", |seen| seen.sum(series, &[]) == idle.series);
    let seen = watch.reports(2);
    let after = held(id, seen);
    println!("idle {idle:?}\nafter {after:?}");
    assert_eq!(points_of_series(seen), idle_points);
    assert_as_before(&idle, &last, &after);
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

/// How many points each metric of connections has.
fn points_of_series(seen: &Seen) -> BTreeMap<String, usize> {
    let all = seen.metrics.iter();
    let own = ["flowcar.self.", "otel.sdk.", "process."];
    all.filter(|(name, _)| !own.iter().any(|own| name.starts_with(own)))
        .map(|(name, points)| (name.clone(), points.len()))
        .collect()
}

fn held(process: u32, seen: &Seen) -> Held {
    Held {
        resident: usage::rss(process).unwrap(),
        anonymous: usage::anonymous(process).unwrap(),
        files: fs::read_dir(format!("/proc/{process}/fd")).unwrap().count(),
        series: seen.sum("flowcar.self.series.count", &[]),
        points: seen.metrics.values().map(Vec::len).sum(),
        report_bytes: seen.report_bytes,
    }
}

/// The most of each figure in one of four parts of the time.
fn part(samples: &[Held], number: usize) -> Held {
    let quarter = samples.len() / 4;
    assert!(quarter > 0, "too short: {} samples", samples.len());
    let of = samples[number * quarter..].iter().take(quarter);
    of.fold(Held::default(), |most, each| Held {
        resident: most.resident.max(each.resident),
        anonymous: most.anonymous.max(each.anonymous),
        files: most.files.max(each.files),
        series: most.series.max(each.series),
        points: most.points.max(each.points),
        report_bytes: most.report_bytes.max(each.report_bytes),
    })
}

#[track_caller]
fn assert_flat(middle: &Held, last: &Held) {
    let both = format!("{middle:?} {last:?}");
    assert!(last.resident <= middle.resident + SLACK_BYTES, "{both}");
    assert!(last.files <= middle.files + SLACK_FILES, "{both}");
    // The series that more have no room in is one more.
    let bound = f64::from(SERIES)..=f64::from(SERIES + 1);
    assert!(bound.contains(&middle.series), "too few peers: {both}");
    assert!(last.series <= *bound.end(), "{both}");
    let with_slack = |of: usize| of + of * SLACK_REPORT / 100;
    assert!(last.points <= with_slack(middle.points), "{both}");
    assert!(
        last.report_bytes <= with_slack(middle.report_bytes),
        "{both}"
    );
}

#[track_caller]
fn assert_as_before(idle: &Held, last: &Held, after: &Held) {
    let all = format!("{idle:?} {last:?} {after:?}");
    assert!(after.files <= idle.files + SLACK_FILES, "{all}");
    assert!(after.anonymous <= idle.anonymous + KEPT_BYTES, "{all}");
    // The rest of its memory is pages of the program, which the kernel takes back when it wants them.
    assert!(after.resident <= last.resident + SLACK_BYTES, "{all}");
    assert!(after.points <= idle.points + KEPT_POINTS, "{all}");
    let kept = KEPT_POINTS * KEPT_POINT_BYTES;
    assert!(after.report_bytes <= idle.report_bytes + kept, "{all}");
}

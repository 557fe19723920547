//! `FLOWCAR_CONTAINERS=on`: the statistics of containers in cgroups that are named as containerd, CRI-O and docker name them. The truth is
//! what /proc shows of the processes that the test has placed there, what they wrote, and the limits that the test has set. What a cgroup
//! has depends on the machine: beside cgroup v1 there is CPU time and pressure only.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, Lines, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use flowcar_tests::{
    place::{Cgroup, TestPod, cgroup2_mount, require_cgroup2, require_root},
    watch::{Mode, Seen, Watch},
};

/// Ids of containers.
const CONTAINERD: &str = "c0ffee0000000000000000000000000000000000000000000000000000000001";
const CRIO: &str = "c0ffee0000000000000000000000000000000000000000000000000000000002";
const DOCKER: &str = "c0ffee0000000000000000000000000000000000000000000000000000000004";

const ON: (&str, &str) = ("FLOWCAR_CONTAINERS", "on");

/// What a shell uses before it is in its cgroup, and the kernel's rounding.
const SLACK_S: f64 = 0.05;

/// A shell in a container that does as much as it is asked for. It is killed on drop.
struct Shell {
    child: Child,
    stdin: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

// === impl Shell ===

impl Shell {
    fn start(cgroup: &Cgroup) -> Self {
        let mut command = Command::new("sh");
        cgroup.enter(&mut command).unwrap();
        // Turns of a loop, or a command.
        let script = r#"while read -r word rest; do
            case $word in
            turn) i=0; while [ $i -lt $rest ]; do i=$((i+1)); done;;
            *) eval "$rest";;
            esac
            echo done
        done"#;
        let command = command.args(["-c", script]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            stdin: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()).lines(),
            child,
        }
    }

    fn ask(&mut self, what: &str) {
        writeln!(self.stdin, "{what}").unwrap();
        assert_eq!(self.output.next().unwrap().unwrap(), "done");
    }

    /// Has it use so much CPU time more. Gives how much it was, seconds.
    fn burn(&mut self, at_least: Duration) -> f64 {
        let before = self.cpu_s();
        while self.cpu_s() - before < at_least.as_secs_f64() {
            self.ask("turn 5000");
        }
        self.cpu_s() - before
    }

    /// The CPU time that it used, seconds: the first figure of `/proc/PID/schedstat` (Documentation/scheduler/sched-stats.rst).
    fn cpu_s(&self) -> f64 {
        let path = format!("/proc/{}/schedstat", self.child.id());
        let text = fs::read_to_string(path).unwrap();
        let ns: f64 = text.split_whitespace().next().unwrap().parse().unwrap();
        ns / 1e9
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn can_run() -> bool {
    require_root() && require_cgroup2()
}

fn cpu_s(seen: &Seen, id: &str) -> f64 {
    seen.sum("container.cpu.time", &[("container.id", id)])
}

/// Waits until the CPU time of a container is this, and checks that it stays so.
#[track_caller]
fn cpu_time_is(watch: &mut Watch, id: &str, expected: f64) {
    watch.until("the CPU time", |seen| cpu_s(seen, id) >= expected - SLACK_S);
    watch.catch_up();
    let found = cpu_s(watch.reports(2), id);
    assert!(
        (found - expected).abs() <= SLACK_S,
        "{id}: {found} s, and its process used {expected} s"
    );
}

/// One container that has used CPU time before flowcar begins, one that is made later, and one that ends.
fn cpu_time_is_that_of_each_containers_process(mode: Mode) {
    let pod = TestPod::new("stats").unwrap();
    let older = pod.container("cri-containerd", CONTAINERD).unwrap();
    let mut first = Shell::start(&older);
    first.burn(Duration::from_millis(300));
    let mut watch = Watch::start(&pod, mode, &[ON]);
    watch.reports(1);
    let newer = pod.container("crio", CRIO).unwrap();
    let ending = pod.container("docker", DOCKER).unwrap();
    let (mut second, mut third) = (Shell::start(&newer), Shell::start(&ending));
    let used = first.burn(Duration::from_millis(200));
    second.burn(Duration::from_millis(500));
    third.burn(Duration::from_millis(100));
    cpu_time_is(&mut watch, CONTAINERD, used);
    let whole = second.cpu_s();
    cpu_time_is(&mut watch, CRIO, whole);
    let whole = third.cpu_s();
    cpu_time_is(&mut watch, DOCKER, whole);
    drop((third, ending));
    watch.catch_up();
    watch.until("the end", |seen| cpu_s(seen, DOCKER) == 0.0);
    let more = second.burn(Duration::from_millis(100));
    let seen = watch.stop();
    // The last report has what was used by then.
    let found = cpu_s(&seen, CRIO);
    let expected = second.cpu_s();
    assert!(
        (found - expected).abs() <= SLACK_S,
        "{found} s, {expected} s, {more} s at last"
    );
    for id in [CONTAINERD, CRIO] {
        for mode in ["user", "system"] {
            let with = [("container.id", id), ("cpu.mode", mode)];
            let part = seen.sum("container.cpu.time", &with);
            assert!(part <= cpu_s(&seen, id), "{id}: {mode}");
        }
    }
    assert_eq!(seen.sum("flowcar.self.container.malformed", &[]), 0.0);
}

#[test]
fn cpu_time_of_a_container_is_that_of_its_processes() {
    if can_run() {
        cpu_time_is_that_of_each_containers_process(Mode::Both);
    }
}

/// As nobody, without a capability, and confined: the tree is read all the same.
#[test]
fn cpu_time_of_a_container_is_read_without_rights() {
    if can_run() {
        cpu_time_is_that_of_each_containers_process(Mode::AloneInCgroup);
    }
}

/// Enables these controllers below a cgroup, as far as it has them. Gives those that are enabled.
fn enable(cgroup: &Path, wanted: &[&str]) -> BTreeSet<String> {
    let there = fs::read_to_string(cgroup.join("cgroup.controllers")).unwrap();
    let there: BTreeSet<_> = there.split_whitespace().collect();
    for name in wanted.iter().filter(|name| there.contains(*name)) {
        fs::write(cgroup.join("cgroup.subtree_control"), format!("+{name}")).unwrap();
    }
    let enabled = fs::read_to_string(cgroup.join("cgroup.subtree_control")).unwrap();
    enabled.split_whitespace().map(str::to_owned).collect()
}

/// The total of a line of a cgroup's pressure file, seconds; `None` where the kernel has none.
fn pressure(cgroup: &Cgroup, resource: &str, stall: &str) -> Option<f64> {
    let text = fs::read_to_string(cgroup.path().join(format!("{resource}.pressure"))).ok()?;
    let line = text.lines().find(|line| line.starts_with(stall))?;
    let (_, total) = line.split_once("total=")?;
    Some(total.parse::<f64>().unwrap() / 1e6)
}

/// The figures of one container are those that its controllers count, and there are no others.
#[test]
fn figures_of_a_container_are_those_of_its_controllers() {
    if !can_run() {
        return;
    }
    const LIMIT: u64 = 256 << 20;
    const WRITTEN: u64 = 16 << 20;
    let pod = TestPod::new("controllers").unwrap();
    let wanted = ["cpu", "memory", "io", "pids"];
    enable(&cgroup2_mount().unwrap(), &wanted);
    let enabled = enable(pod.cgroup().path(), &wanted);
    let has = |name: &str| enabled.contains(name);
    let mut watch = Watch::start(&pod, Mode::Both, &[ON]);
    watch.reports(1);
    let cgroup = pod.container("cri-containerd", CONTAINERD).unwrap();
    let mut shell = Shell::start(&cgroup);
    if has("memory") {
        fs::write(cgroup.path().join("memory.max"), LIMIT.to_string()).unwrap();
    }
    // A file in memory counts to the container.
    let folder = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    let file = folder.path().join("file");
    let blocks = WRITTEN >> 20;
    shell.ask(&format!(
        "run dd if=/dev/zero of={} bs=1048576 count={blocks} 2>/dev/null",
        file.display()
    ));
    assert_eq!(fs::metadata(&file).unwrap().len(), WRITTEN);
    let began = Instant::now();
    if has("cpu") {
        fs::write(cgroup.path().join("cpu.max"), "20000 100000").unwrap();
    }
    shell.burn(Duration::from_millis(300));
    watch.catch_up();
    let stall = [
        ("cpu", "some"),
        ("cpu", "full"),
        ("memory", "some"),
        ("io", "some"),
    ];
    let before = stall.map(|(resource, stall)| pressure(&cgroup, resource, stall));
    watch.reports(2);
    let after = stall.map(|(resource, stall)| pressure(&cgroup, resource, stall));
    // Its limit is counted up to the report.
    let elapsed = began.elapsed().as_secs_f64();
    let seen = watch.seen();
    let sum = |name: &str| seen.sum(name, &[("container.id", CONTAINERD)]);
    let points = |name: &str| {
        let all = seen.metrics.get(name).into_iter().flatten();
        all.filter(|(of, _)| of.get("container.id").is_some_and(|id| id == CONTAINERD))
            .count()
    };
    // Throttling.
    let (periods, throttled) = (
        sum("flowcar.container.cpu.periods"),
        sum("flowcar.container.cpu.throttled.periods"),
    );
    let waited = sum("flowcar.container.cpu.throttled.time");
    if has("cpu") {
        assert!(
            throttled >= 1.0 && throttled <= periods,
            "{throttled} of {periods}"
        );
        assert!(periods <= elapsed / 0.1 + 2.0, "{periods} in {elapsed} s");
        assert!(waited > 0.0 && waited <= elapsed, "{waited} of {elapsed} s");
    } else {
        assert_eq!((periods, throttled, waited), (0.0, 0.0, 0.0));
    }
    // Memory.
    let names = [
        "container.memory.usage",
        "container.memory.working_set",
        "container.memory.rss",
        "container.memory.available",
        "flowcar.container.memory.limit",
    ];
    let faults = [
        ("container.id", CONTAINERD),
        ("system.paging.fault.type", "minor"),
    ];
    let minor = seen.sum("container.memory.paging.faults", &faults);
    if has("memory") {
        let [usage, working_set, rss, available, limit] = names.map(sum);
        let (written, most) = (WRITTEN as f64, (WRITTEN + (32 << 20)) as f64);
        assert!((written..most).contains(&usage), "{usage}");
        assert!(
            working_set <= usage && rss < usage,
            "{working_set}, {rss}, {usage}"
        );
        assert_eq!(limit, LIMIT as f64);
        assert_eq!(available, limit - working_set);
        assert!(minor >= 10.0, "{minor}");
    } else {
        assert_eq!(names.map(points), [0; 5]);
        assert_eq!(minor, 0.0);
    }
    // One shell.
    let threads = sum("flowcar.container.thread.count");
    assert_eq!(threads, if has("pids") { 1.0 } else { 0.0 });
    if !has("io") {
        assert_eq!(points("container.disk.io"), 0);
        assert_eq!(points("flowcar.container.disk.operations"), 0);
    }
    // Pressure, between what its files had before the report and after it.
    for (at, (resource, stall)) in stall.into_iter().enumerate() {
        let with = [
            ("container.id", CONTAINERD),
            ("flowcar.container.pressure.resource", resource),
            ("flowcar.container.pressure.stall", stall),
        ];
        let found = seen.sum("flowcar.container.pressure.time", &with);
        let (least, most) = (before[at].unwrap_or(0.0), after[at].unwrap_or(0.0));
        let is_between = found >= least - 1e-6 && found <= most + 1e-6;
        assert!(is_between, "{resource} {stall}: {found}, {least} to {most}");
    }
    watch.stop();
}

#[test]
fn no_statistics_of_containers_are_sent_unless_they_are_asked_for() {
    if !can_run() {
        return;
    }
    let pod = TestPod::new("unasked").unwrap();
    let cgroup = pod.container("docker", DOCKER).unwrap();
    let mut shell = Shell::start(&cgroup);
    let mut watch = Watch::start(&pod, Mode::Both, &[]);
    shell.burn(Duration::from_millis(50));
    watch.reports(2);
    let seen = watch.stop();
    let is_of_containers =
        |name: &&String| name.starts_with("container.") || name.starts_with("flowcar.container.");
    assert_eq!(seen.metrics.keys().find(is_of_containers), None);
}

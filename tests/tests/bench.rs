//! What `make bench` runs: its quick form measures every part, and its JSON has the figures that the plots and the final table are
//! made of.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use flowcar_tests::{
    flowcar,
    place::{require_cgroup2, require_root},
};
use serde_json::Value;

/// A tool that is not there: it is named with the reason in every run.
const NOT_INSTALLED: &str = "/nonexistent/netobserv-ebpf-agent";

fn bench() -> Command {
    Command::new(flowcar::program().unwrap().with_file_name("bench"))
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn at<'a>(figures: &'a Value, path: &str) -> &'a Value {
    let value = figures.pointer(path);
    value.unwrap_or_else(|| panic!("no {path}: {figures:#}"))
}

fn positive(figures: &Value, path: &str) {
    let value = at(figures, path).as_f64();
    assert!(value.is_some_and(|value| value > 0.0), "{path}: {value:?}");
}

#[test]
fn quick_run_writes_the_figures_of_every_part() {
    if !require_root() || !require_cgroup2() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("run.json");
    let output = bench()
        .args(["--quick", "--rounds", "1", "--run", "20"])
        .args(["--netobserv", NOT_INSTALLED, "--note", "a test", "--json"])
        .arg(&json)
        .output()
        .unwrap();
    let shown = text(&output);
    // No verdict that a slow machine passes: the figure and the goal, in nanoseconds.
    assert!(shown.contains("the goal is 800 ns"), "{shown}");
    assert!(!shown.contains("within the goal"), "{shown}");
    let figures: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    for number in 0..4 {
        let workload = format!("/workloads/{number}");
        for field in [
            "default/bare_ns",
            "default/calls",
            "default/goal_ns",
            "default/process/rss_bytes/median",
            "exchanges/calls",
            "exchanges/hooks/0/empty_call_ns",
            "without/throughput/median",
        ] {
            positive(&figures, &format!("{workload}/{field}"));
        }
        assert!(at(&figures, &format!("{workload}/default/ns/median")).is_f64());
        assert!(at(&figures, &format!("{workload}/default/share/median")).is_f64());
    }
    // Bulk, both ways at both ends.
    positive(&figures, "/workloads/7/without/segments");
    for field in [
        "/programs/0/translated_bytes",
        "/process/rss_bytes",
        "/process/attach_ms/median",
        "/growth/steps/1/flows",
        "/growth/closed/rss_bytes",
        "/close_delay/ms/median",
        "/export/bytes_per_span",
        "/export/report_bytes",
        "/storm/connections",
        "/storm/cpu_percent_per_10000_flows",
    ] {
        positive(&figures, field);
    }
    // It may not have woken in so short a time.
    assert!(at(&figures, "/growth/steps/2/idle_cpu_percent").is_f64());
    assert_eq!(at(&figures, "/machine/note"), "a test");
    assert_eq!(at(&figures, "/peers/2/name"), "netobserv-ebpf-agent");
    let reason = at(&figures, "/peers/2/left_out").as_str().unwrap();
    assert!(reason.starts_with("not installed"), "{reason}");
    let table = text(&bench().arg("table").arg(&json).output().unwrap());
    assert!(shown.ends_with(&table), "{shown}");
    text(
        &bench()
            .arg("plot")
            .arg(&json)
            .arg(folder.path())
            .output()
            .unwrap(),
    );
    for plot in ["exchange", "connection", "memory", "growth"] {
        let svg = fs::read_to_string(folder.path().join(format!("{plot}.svg"))).unwrap();
        assert!(svg.starts_with("<svg"), "{plot}: {svg}");
    }
}

fn docs() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

/// The page and README have the figures of the run beside the page.
#[test]
fn page_has_the_table_and_the_plots_of_the_run_beside_it() {
    let folder = docs().join("benchmarks");
    let json = folder.join("run.json");
    let page = fs::read_to_string(docs().join("benchmarks.md")).unwrap();
    let readme = fs::read_to_string(docs().join("../README.md")).unwrap();
    for (name, held, more) in [
        ("docs/benchmarks.md", &page, &[][..]),
        ("README.md", &readme, &["--readme"]),
    ] {
        let made = bench().arg("page").arg(&json).args(more).output().unwrap();
        for line in text(&made).lines() {
            assert!(held.contains(line), "{name} lacks: {line}");
        }
    }
    let awake = bench().arg("table").arg(folder.join("awake.json")).output();
    for line in text(&awake.unwrap()).lines() {
        assert!(page.contains(line), "docs/benchmarks.md lacks: {line}");
    }
    let drawn = tempfile::tempdir().unwrap();
    text(
        &bench()
            .arg("plot")
            .arg(&json)
            .arg(drawn.path())
            .output()
            .unwrap(),
    );
    for plot in fs::read_dir(drawn.path()).unwrap() {
        let plot = plot.unwrap();
        let name = plot.file_name();
        assert_eq!(
            fs::read_to_string(plot.path()).unwrap(),
            fs::read_to_string(folder.join(&name)).unwrap(),
            "{}: draw it again: bench plot docs/benchmarks/run.json docs/benchmarks",
            name.display()
        );
        let link = format!("benchmarks/{}", name.display());
        assert!(page.contains(&link), "docs/benchmarks.md links no {link}");
    }
}

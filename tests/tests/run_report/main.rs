//! `flowcar run --report`: the page in a real Chromium, against what applications and the link wrote down.

mod faults;
mod itself;
mod large;
mod missing;
mod peers;
mod processes;
mod readable;

use std::{
    net::Ipv6Addr,
    process::{Output, Stdio},
};

use flowcar_tests::{
    browser::{Browser, require_browser},
    flowcar,
    place::{TestPod, require_cgroup2, require_root},
    traffic::{self, ConnectionReport, Phase, ServePlan, Server},
};
use tempfile::TempPath;

/// A command that was run, its page, and what its applications reported.
struct Ran {
    page: TempPath,
    output: Output,
    connections: Vec<ConnectionReport>,
}

fn can_run() -> bool {
    require_root() && require_cgroup2() && require_browser()
}

/// A server in the pod's network, not in its cgroup.
fn serve(pod: &TestPod) -> Server {
    let plan = ServePlan::at((Ipv6Addr::UNSPECIFIED, 0).into());
    let started = pod.netns().run(|| Server::start(&plan, |_| {}));
    started.unwrap().unwrap()
}

/// Runs the script, in which `call` is `traffic call`, with a page.
fn run(pod: &TestPod, settings: flowcar::Settings, script: &str) -> Ran {
    let page = tempfile::Builder::new().suffix(".html").tempfile().unwrap();
    let page = page.into_temp_path();
    let traffic = traffic::program().unwrap();
    let script = format!(
        "call() {{ {0} call \"$@\"; }}; traffic={0}; {script}",
        traffic.display()
    );
    let mut command = flowcar::command(pod).unwrap();
    command.envs(settings.iter().copied());
    command.args(["run", "--report"]).arg(&page);
    command.args(["--", "sh", "-c", &script]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let connections = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    Ran {
        page,
        connections: connections.collect(),
        output,
    }
}

impl Ran {
    /// The page in a browser. It has drawn itself without an error, and requested nothing but itself.
    fn open(&self) -> Browser {
        let browser = Browser::open(&self.page);
        assert_eq!(browser.console(), [""; 0], "{:?}", self.output);
        let itself = format!("file://{}", self.page.display());
        assert_eq!(browser.requests(), [itself]);
        browser
    }

    fn established(&self) -> impl Iterator<Item = &ConnectionReport> {
        let is_established = |of: &&ConnectionReport| {
            !of.failure
                .as_ref()
                .is_some_and(|failure| failure.phase == Phase::Connect)
        };
        self.connections.iter().filter(is_established)
    }
}

/// The text of each element.
fn texts(browser: &Browser, selector: &str) -> Vec<String> {
    let found = browser.script(&format!(
        "return [...document.querySelectorAll({selector:?})].map((each) => each.textContent)"
    ));
    let found = found.as_array().unwrap().iter();
    found
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

fn text(browser: &Browser, selector: &str) -> String {
    texts(browser, selector).join("\n")
}

fn focus(browser: &Browser, selector: &str) {
    browser.script(&format!("document.querySelector({selector:?}).focus()"));
}

//! `flowcar export` in a test pod's network namespace and outside its cgroup, and all that it sends.

mod seen;
mod waits;

use std::{
    process::{Command, Output, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;

pub use self::{
    seen::{Flow, FlowRecord, Point, Seen, bytes_hold},
    waits::ProcessorWaits,
};
use crate::{
    exporting::Exporting,
    flowcar::{CAPABILITIES, by_descriptor},
    place::{Cgroup, CpuQuota, Netns, OnlyCaps, TestPod},
    receiver::Receiver,
};

/// The longest wait for a condition, on a busy machine.
const WITHIN: Duration = Duration::from_secs(60);

/// How flowcar follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// eBPF and inet_diag, with the two capabilities.
    Both,
    /// As [`Mode::Both`], from another network namespace than the pod's, so that polls show none of the pod's sockets.
    Outside,
    /// inet_diag alone, as nobody, over the whole network namespace.
    Alone,
    /// The same, over the pod's cgroup.
    AloneInCgroup,
    /// As flowcar chooses, without any right.
    Auto,
}

// === impl Mode ===

impl Mode {
    const fn source(self) -> &'static str {
        match self {
            Self::Both | Self::Outside => "ebpf",
            Self::Alone | Self::AloneInCgroup => "inet_diag",
            Self::Auto => "auto",
        }
    }

    fn take_rights(self, command: &mut Command) {
        if self.source() == "ebpf" {
            command.with_only_caps(&CAPABILITIES);
        } else {
            command.unprivileged();
        }
    }
}

/// A running `flowcar export`. It is killed on drop.
#[derive(Debug)]
pub struct Watch {
    export: Exporting,
    receiver: Receiver,
    seen: Seen,
    mode: Mode,
    quota: Option<CpuQuota>,
    /// It is in this cgroup, not in the followed one.
    cgroup: Cgroup,
}

impl Watch {
    /// Starts it with these settings besides those that make it report everything and often, and waits until it follows.
    ///
    /// # Panics
    /// It cannot be started, or does not follow.
    pub fn start(pod: &TestPod, mode: Mode, settings: &[(&str, &str)]) -> Self {
        Self::start_with(pod, mode, settings, |_| ())
    }

    /// The same; `prepare` changes the command last.
    ///
    /// # Panics
    /// As [`Watch::start`].
    pub fn start_with(
        pod: &TestPod,
        mode: Mode,
        settings: &[(&str, &str)],
        prepare: impl FnOnce(&mut Command),
    ) -> Self {
        // The processes inside keep it.
        let outside = (mode == Mode::Outside).then(|| Netns::new("outside").unwrap());
        let netns = outside.as_ref().unwrap_or(pod.netns());
        let receiver = netns.run(Receiver::start).unwrap().unwrap();
        let cgroup = Cgroup::new("sidecar").unwrap();
        let (_open, mut command) = by_descriptor().unwrap();
        cgroup.enter(&mut command).unwrap();
        netns.enter(&mut command).unwrap();
        mode.take_rights(&mut command);
        let source = mode.source();
        command.arg("export");
        if mode != Mode::Alone {
            command.arg("--cgroup").arg(pod.cgroup().path());
        }
        prepare(&mut command);
        command
            .env("FLOWCAR_SOURCE", source)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint())
            .env("OTEL_METRIC_EXPORT_INTERVAL", "200")
            .env("FLOWCAR_SPANS_PER_SECOND", "1000000")
            .env("FLOWCAR_SPAN_QUEUE", "1000000")
            .env("FLOWCAR_SPAN_QUEUE_BYTES", "1000000000")
            .env("FLOWCAR_SPAN_INTERVAL", "0")
            .env("FLOWCAR_SELF_METRICS", "detailed")
            .env("FLOWCAR_SHUTDOWN_TIMEOUT", "30000")
            .envs(settings.iter().copied())
            .stdin(Stdio::null());
        let export = Exporting::start(&mut command);
        let receiver_port = receiver
            .endpoint()
            .rsplit(':')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let mut watch = Self {
            export,
            receiver,
            seen: Seen::without(receiver_port, mode != Mode::Outside),
            mode,
            quota: None,
            cgroup,
        };
        watch.reported("following");
        watch
    }

    /// Waits until it logs this, and gives the line.
    ///
    /// # Panics
    /// It does not in time.
    #[track_caller]
    pub fn reported(&mut self, what: &str) -> String {
        let all = &mut self.seen.log;
        self.export
            .log()
            .until(what, WITHIN, |line| all.push(line.to_owned()))
    }

    /// Takes what it sends until `enough` holds.
    ///
    /// # Panics
    /// It is not in time.
    #[track_caller]
    pub fn until(&mut self, what: &str, enough: impl Fn(&Seen) -> bool) -> &Seen {
        let seen = &mut self.seen;
        let done = self.receiver.until(WITHIN, |export| {
            seen.take(export);
            enough(seen)
        });
        let ends = || seen.flows.iter().map(|flow| (flow.local, flow.peer));
        assert!(
            done.unwrap(),
            "{what} never came: {} flows without those of port {}, {:?}, {:#?}",
            seen.flows.len(),
            seen.receiver_port(),
            ends().collect::<Vec<_>>(),
            seen.metrics
        );
        &self.seen
    }

    /// Waits for so many whole reports from now on.
    ///
    /// # Panics
    /// They do not come in time.
    pub fn reports(&mut self, count: u64) -> &Seen {
        let upto = self.seen.reports + count;
        self.until("a report", |seen| seen.reports >= upto)
    }

    /// How long its main thread, which does all the work, was ready to run and had no processor so far.
    ///
    /// # Panics
    /// It has exited.
    pub fn waited_for_a_processor(&self) -> Duration {
        waits::waited(self.id())
    }

    /// Takes everything that it has sent so far, so that the next wait is for something new.
    ///
    /// # Panics
    /// The receiver broke.
    pub fn catch_up(&mut self) {
        while let Some(export) = self.receiver.next(Duration::ZERO).unwrap() {
            self.seen.take(export);
        }
    }

    /// What it has sent so far.
    pub const fn seen(&self) -> &Seen {
        &self.seen
    }

    /// The port at which its receiver listens.
    pub fn receiver_port(&self) -> u16 {
        self.seen.receiver_port()
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.export.id()
    }

    /// Leaves it this much CPU time in each period. False where the kernel cannot.
    ///
    /// # Panics
    /// It has exited.
    #[must_use]
    pub fn limit_cpu(&mut self, quota: Duration, period: Duration) -> bool {
        self.quota = CpuQuota::of(self.id(), &self.cgroup, quota, period).unwrap();
        self.quota.is_some()
    }

    /// Asks it whether it is live, as the kubelet does in its container.
    ///
    /// # Panics
    /// The question cannot be asked.
    pub fn probe(&self, pod: &TestPod) -> Output {
        let (_open, mut command) = by_descriptor().unwrap();
        self.cgroup.enter(&mut command).unwrap();
        if let Some(quota) = &self.quota {
            quota.enter(&mut command).unwrap();
        }
        pod.netns().enter(&mut command).unwrap();
        self.mode.take_rights(&mut command);
        let command = command.args(["probe", "live", "--cgroup"]);
        command.arg(pod.cgroup().path()).output().unwrap()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// It has exited.
    pub fn signal(&self, signal: Signal) {
        self.export.signal(signal).unwrap();
    }

    /// Moves it into the pod's cgroup, where sidecars are, and has it connect to the receiver again: its connections are among
    /// the followed ones from then on.
    ///
    /// # Panics
    /// It has exited.
    pub fn enter(&self, pod: &TestPod) {
        pod.cgroup().adopt(self.id()).unwrap();
        self.cut_off(pod);
    }

    /// Aborts its connections to the receiver, in the pod's network namespace.
    ///
    /// # Panics
    /// It had none.
    pub fn cut_off(&self, pod: &TestPod) {
        let port = format!(":{}", self.seen.receiver_port());
        let mut ss = pod.netns().command("ss").unwrap();
        let aborted = ss.args(["-HntK", "state", "established", "dport", "=", &port]);
        let reported = aborted.output().unwrap();
        let reported = String::from_utf8_lossy(&reported.stdout);
        assert!(reported.contains(&port), "nothing to abort: {reported}");
    }

    /// Kills it, and takes what it had sent by then.
    ///
    /// # Panics
    /// It has exited.
    pub fn kill(mut self) -> Seen {
        self.signal(Signal::SIGKILL);
        self.export.exit().unwrap();
        self.rest()
    }

    /// Stops it and takes everything that it sends at exit.
    ///
    /// # Panics
    /// It fails.
    pub fn stop(mut self) -> Seen {
        self.signal(Signal::SIGTERM);
        let status = self.export.exit().unwrap();
        let seen = self.rest();
        assert!(status.success(), "{status}: {:?}", seen.log);
        seen
    }

    /// What it had sent and logged when it exited.
    fn rest(&mut self) -> Seen {
        for export in self.receiver.rest() {
            self.seen.take(export);
        }
        self.seen.log.extend(self.export.log().rest());
        std::mem::take(&mut self.seen)
    }
}

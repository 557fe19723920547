//! What a run measured: it is printed, written as JSON and drawn from here and from nowhere else.
//!
//! Times are nanoseconds, memory is bytes, and CPU time is a percentage of one CPU, unless a name has another unit.

use serde::{Deserialize, Serialize};

use crate::{
    hooks::Hook,
    statistics::{Confident, Spread},
    worker::{End, Workload},
};

/// The form of the JSON. It grows by one when a field changes its meaning.
pub(crate) const FORM: u32 = 1;

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// [`FORM`]
    pub(crate) form: u32,
    /// Where it ran.
    pub(crate) machine: Machine,
    /// How much was measured.
    pub(crate) method: Method,
    /// Each workload at each end.
    pub(crate) workloads: Vec<AtEnd>,
    /// The programs that flowcar had attached.
    pub(crate) programs: Vec<Program>,
    /// Other tools.
    pub(crate) peers: Vec<Peer>,
    /// flowcar with nothing to do.
    pub(crate) process: Process,
    /// Connections that stay open.
    pub(crate) growth: Option<Growth>,
    /// From the close of a connection to its span at the receiver.
    pub(crate) close_delay: Option<CloseDelay>,
    /// What is sent.
    pub(crate) export: Option<Export>,
    /// As many connections as the machine makes.
    pub(crate) storm: Option<Storm>,
}

/// The machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Release of Linux.
    pub(crate) kernel: String,
    /// Name of the processor.
    pub(crate) processor: String,
    /// CPUs.
    pub(crate) cpus: usize,
    /// `release` or `debug`
    pub(crate) build: String,
    /// Load average of the minute before the run, which is of what else ran.
    pub(crate) load_before: f64,
    /// What whoever started it wrote about it.
    pub(crate) note: Option<String>,
}

/// How much was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Method {
    /// Rounds of each workload of exchanges.
    pub(crate) rounds: usize,
    /// Milliseconds of each run.
    pub(crate) run_ms: u64,
    /// Bytes of a request.
    pub(crate) request_bytes: usize,
    /// Bytes of a response.
    pub(crate) response_bytes: usize,
}

/// A workload with one of its ends in the followed cgroup.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AtEnd {
    /// The work.
    pub(crate) workload: Workload,
    /// The followed end.
    pub(crate) end: End,
    /// Without flowcar.
    pub(crate) without: Work,
    /// With it.
    pub(crate) with: Work,
    /// With by without, of each round.
    pub(crate) throughput_ratio: Confident,
    /// The same of the CPU time of a unit.
    pub(crate) cpu_ratio: Confident,
    /// The flowcar process meanwhile, while the kernel does not count.
    pub(crate) process: Usage,
    /// flowcar as it is by default.
    pub(crate) default: Counted,
    /// With `FLOWCAR_EXCHANGE=on`.
    pub(crate) exchanges: Counted,
}

/// Work that was done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Work {
    /// Units a second.
    pub(crate) throughput: Spread,
    /// CPU time of a unit, client and server.
    pub(crate) cpu_ns: Spread,
    /// Wall time of a unit.
    pub(crate) unit_ns: Spread,
    /// Segments with payload in a unit; absent where they were not counted.
    pub(crate) segments: Option<f64>,
}

/// What a process uses.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// CPU time.
    pub(crate) cpu_percent: Spread,
    /// Resident memory.
    pub(crate) rss_bytes: Spread,
}

/// What the kernel counted of the programs at one end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Counted {
    /// Hooks that were called in each round.
    pub(crate) hooks: Vec<AtHook>,
    /// Calls for each unit.
    pub(crate) calls: f64,
    /// Nanoseconds of a unit in the programs, less those in empty ones.
    pub(crate) ns: Confident,
    /// The goal for that, if there is one.
    pub(crate) goal_ns: Option<f64>,
    /// Wall time of a bare unit on this machine.
    pub(crate) bare_ns: f64,
    /// The programs' part of it, of each round: 0.01 is 1 %.
    pub(crate) share: Confident,
    /// The process meanwhile.
    pub(crate) process: Usage,
}

/// One hook.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct AtHook {
    /// Which.
    pub(crate) hook: Hook,
    /// Calls for each unit.
    pub(crate) calls: f64,
    /// A call, the kernel's own counting included.
    pub(crate) call_ns: f64,
    /// A call of the empty program beside it.
    pub(crate) empty_call_ns: f64,
    /// A unit, less what empty programs take.
    pub(crate) ns: f64,
}

/// A program that the verifier accepted.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Program {
    /// Whether it was there with `FLOWCAR_EXCHANGE=on` only.
    pub(crate) exchanges: bool,
    /// Where it is called.
    pub(crate) hook: Hook,
    /// Instructions that the verifier went through; absent before Linux 5.16.
    pub(crate) verified_insns: Option<u32>,
    /// Bytes of the translated program.
    pub(crate) translated_bytes: u32,
    /// Bytes of its machine code.
    pub(crate) jited_bytes: u32,
}

/// Another tool.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Peer {
    /// Its name.
    pub(crate) name: String,
    /// Absent where it is not installed.
    pub(crate) version: Option<String>,
    /// Why it was not measured.
    pub(crate) left_out: Option<String>,
    /// How it was started, where that is not the usual way.
    pub(crate) note: Option<String>,
    /// What it costs.
    pub(crate) workloads: Vec<PeerWork>,
}

impl Figures {
    /// A workload at an end.
    pub(crate) fn at(&self, workload: Workload, end: End) -> Option<&AtEnd> {
        let mut all = self.workloads.iter();
        all.find(|at| at.workload == workload && at.end == end)
    }
}

impl Peer {
    /// Its name and version.
    pub(crate) fn title(&self) -> String {
        let version = self.version.as_deref().unwrap_or_default();
        format!("{} {version}", self.name).trim_end().to_owned()
    }
}

/// A workload beside another tool. It sees both ends: what one end costs is half of what both do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PeerWork {
    /// The work.
    pub(crate) workload: Workload,
    /// Calls of its programs for each unit, both ends.
    pub(crate) calls: f64,
    /// Nanoseconds of a unit in its programs at one end, less those in an empty one for each call.
    pub(crate) ns: Confident,
    /// A call of the empty program.
    pub(crate) empty_call_ns: f64,
    /// Wall time of a bare unit, before the tool was started.
    pub(crate) bare_ns: f64,
    /// Its process.
    pub(crate) process: Usage,
}

impl PeerWork {
    /// It is called at all for a unit. What a tool does once in a run is no figure of a unit.
    pub(crate) fn sees_each(&self) -> bool {
        self.calls >= 0.5
    }
}

/// flowcar with nothing to do.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Process {
    /// Its binary.
    pub(crate) binary_bytes: u64,
    /// Resident memory.
    pub(crate) rss_bytes: u64,
    /// Heap and stacks.
    pub(crate) anonymous_bytes: u64,
    /// CPU time, with reports as often as in the workloads.
    pub(crate) cpu_percent: f64,
    /// From exec until it is attached.
    pub(crate) attach_ms: Spread,
}

/// Connections that stay open, both ends followed, reports every 10 s.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Growth {
    /// By their number.
    pub(crate) steps: Vec<Step>,
    /// Some seconds after all were closed.
    pub(crate) closed: Step,
    /// Flows that flowcar counted as lost.
    pub(crate) lost: u64,
}

/// So many flows.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Step {
    /// Flows, of which a connection has two here.
    pub(crate) flows: u64,
    /// Resident memory.
    pub(crate) rss_bytes: u64,
    /// Heap and stacks.
    pub(crate) anonymous_bytes: u64,
    /// The kernel's memory that is charged to flowcar; absent without a memory cgroup.
    pub(crate) kernel_bytes: Option<u64>,
    /// CPU time while nothing is sent; absent where it was not watched.
    pub(crate) idle_cpu_percent: Option<f64>,
}

/// From close() to the receiver, default settings.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct CloseDelay {
    /// Connections.
    pub(crate) connections: usize,
    /// Milliseconds.
    pub(crate) ms: Spread,
}

/// Bytes of exports, before compression.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Export {
    /// Connections that were made, one end of each followed.
    pub(crate) flows: u64,
    /// Spans that came.
    pub(crate) spans: u64,
    /// Bytes of traces for each span.
    pub(crate) bytes_per_span: f64,
    /// Bytes of the largest report of metrics, with one peer.
    pub(crate) report_bytes: u64,
}

/// As many connections as the machine makes, one exchange on each, both ends followed, default settings.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Storm {
    /// How long.
    pub(crate) seconds: f64,
    /// Connections that were made.
    pub(crate) connections: u64,
    /// Flows that flowcar counted: opened.
    pub(crate) opened: u64,
    /// Of those, lost.
    pub(crate) lost: u64,
    /// The process.
    pub(crate) cpu_percent: f64,
    /// The same for each 10,000 flows a second.
    pub(crate) cpu_percent_per_10000_flows: f64,
    /// Resident memory at its end.
    pub(crate) rss_bytes: u64,
}

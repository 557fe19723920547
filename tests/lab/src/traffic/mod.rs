//! Applications with known behaviour: their counts and measurements are the truth that flows are
//! compared with.
//!
//! Everything here runs in the namespace of the thread that calls it. The binary `traffic` offers the same
//! as commands, to be started inside a cgroup; it writes one JSON object a line.

mod asks;
mod attempt;
mod call;
mod call_plan;
mod connects;
mod crowd;
mod cut_off;
mod descriptors;
mod ending;
mod held;
mod kernel_tls;
mod load;
mod meet;
mod namespaces;
mod options;
mod pods;
mod programs;
mod protocol;
mod report;
mod serve;
mod socket;
mod sockmap;
mod splice;
mod tcp_info;

use std::{env, io, path::PathBuf};

pub use asks::{Answered, AskPlan, Asking, ask};
pub use attempt::{AttemptPlan, Attempted, GiveUp, attempt};
pub use call::{Caller, call};
pub use call_plan::CallPlan;
pub use connects::{Calling, ConnectPlan, Connected, connect_each};
pub use crowd::{Among, CrowdPlan, CrowdReport, crowd};
pub use cut_off::{CutOff, CutOffReport, GREETING, cut_off};
pub use descriptors::{give, take};
pub use ending::{ClosePlan, Ended, Way, end};
pub use held::Held;
pub use load::{LoadPlan, LoadReport, load};
pub use meet::{MeetPlan, Met, meet};
pub use namespaces::ClientPod;
pub use options::{Close, SocketOptions, StreamProtocol};
pub use pods::Pods;
pub use programs::{Connecting, Holding, Serving, Teardown, ask_in, call_in, load_in};
pub use report::{ConnectionReport, Failure, FailureKind, Percentiles, Phase, Role};
pub use serve::{ServePlan, Server};
pub use splice::{Bypassed, bypass, splice};
pub use tcp_info::TcpInfo;

/// Where the binary `traffic` is, as seen from a test or another binary of this crate.
///
/// # Errors
/// It was not built: `cargo build -p flowcar-lab --bin traffic`.
pub fn program() -> io::Result<PathBuf> {
    let this = env::current_exe()?;
    // Binaries lie in target/PROFILE, tests in target/PROFILE/deps.
    this.ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("traffic"))
        .find(|path| path.is_file())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the program traffic is not beside this one; build it with: cargo build -p flowcar-lab --bin traffic"))
}

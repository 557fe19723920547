//! Two pods on a slow and lossy link, a flowcar beside each, and what a collector gets to see of it.
//!
//! ```text
//!  pod shop (cgroup, netns)      link emulator: 20 ms, 2 % loss     pod web (cgroup, netns)
//!  client programs  <---------------- real packets --------------->  server program
//!        ^ cgroup                                                      ^ cgroup
//!  flowcar export                                                    flowcar export
//!        |                    OTLP on the host's loopback                |
//!        +----------------------> receiver -> screen <-------------------+
//! ```
//!
//! The two flowcars run in the host's network namespace and not in the pods': all that ties one to a pod is the
//! cgroup that it is attached to, and from there the receiver on 127.0.0.1 is in reach.

mod checks;
mod screen;
mod seen;
mod testbed;
mod truth;

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
    time::Instant,
};

use clap::Parser;
use flowcar_lab::{
    interrupt::Interrupt,
    place::{require_cgroup2, require_root, require_tun},
};
use screen::Style;
use testbed::Stage;

/// Two pods on a slow link and a flowcar beside each.
#[derive(Parser)]
#[command(name = "demo")]
struct Arguments {
    /// Decides sizes, delays and losses
    #[arg(long, default_value_t = 7)]
    seed: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match demo(&arguments) {
        Ok(problems) if problems.is_empty() => ExitCode::SUCCESS,
        Ok(problems) => {
            eprintln!("\ndemo: this does not add up:");
            for problem in problems {
                eprintln!("  - {problem}");
            }
            ExitCode::FAILURE
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            eprintln!("demo: interrupted; pods, link and flowcars were removed");
            // 128 + SIGINT, as a shell's exit status.
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Gives what does not add up.
fn demo(arguments: &Arguments) -> io::Result<Vec<String>> {
    if !require_root() || !require_cgroup2() || !require_tun() {
        return Err(io::Error::other("run it as root: sudo make demo"));
    }
    let interrupt = Interrupt::catch()?;
    let played = play(arguments, &interrupt);
    // Whoever was killed by the signal failed for another reason.
    interrupt.check()?;
    let played = played?;
    let style = match io::stdout().is_terminal() {
        true => Style::Coloured,
        false => Style::Plain,
    };
    print!("{}", screen::draw(&played, style));
    Ok(checks::problems(&played))
}

fn play(arguments: &Arguments, interrupt: &Interrupt) -> io::Result<testbed::Played> {
    let started = Instant::now();
    let log = |what: &str| eprintln!("[{:4.1} s] {what}", started.elapsed().as_secs_f64());
    log("two pods, 20 ms apart, on a link that loses 2 % of its packets");
    let stage = Stage::set(arguments.seed, interrupt)?;
    log("a flowcar is attached to each pod's cgroup; neither knows of the other");
    log("shop calls web: pages, queries, downloads, an upload, a reset, a closed port");
    let stage = stage.act(interrupt)?;
    log("all connections are closed; both flowcars send their last report and end");
    let played = stage.strike()?;
    log("pods and link are removed; the OTLP receiver got:");
    Ok(played)
}

//! Does one kind of work a fixed number of times, for `tests/tests/costs` to count what it takes (`make costs`).
//!
//! `costs WORK` prints `times N` and `allocations N` of the work itself; a profiler counts the instructions in `work::measured`.
//! `costs bytes` prints what connections take of memory, `costs names` the kinds of work, `costs compiler` what compiled this.

mod allocator;
mod memory;
mod records;
mod work;

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("bytes") => memory::print(),
        Some("names") => println!("{}", work::names().join("\n")),
        Some("compiler") => println!("{}", env!("COMPILER")),
        Some(name) if work::run(name) => {}
        _ => {
            eprintln!(
                "usage: costs bytes|names|compiler|{}",
                work::names().join("|")
            );
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

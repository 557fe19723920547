//! Applications with known behaviour, to be started inside a cgroup and a network namespace. Each writes
//! what it did to standard output, one JSON object a line.

use std::{
    io::{self, BufRead, Write},
    os::unix::net::UnixListener,
    path::PathBuf,
    process::{self, ExitCode},
    sync::mpsc,
    thread,
    time::Duration,
};

use clap::{Parser, Subcommand};
use flowcar_lab::traffic::{
    AskPlan, AttemptPlan, CallPlan, ClosePlan, ConnectPlan, ConnectionReport, CrowdPlan, CutOff,
    Held, LoadPlan, MeetPlan, ServePlan, Server, ask, attempt, bypass, call, connect_each, crowd,
    cut_off, end, give, load, meet, splice, take,
};
use nix::sys::signal::{SigSet, Signal};
use serde::Serialize;

/// Applications with known behaviour.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answers requests. First line: {"listening":"ADDRESS"}; then one for each closed connection
    Serve {
        #[command(flatten)]
        plan: ServePlan,
        /// Exits after this many connections; otherwise it serves until it is killed
        #[arg(long)]
        until: Option<u64>,
    },
    /// Makes connections with exchanges on each: one line for each
    Call(CallPlan),
    /// Opens connections and holds them; --concurrency is the number of threads. First line: {"open":COUNT}. Each line on
    /// standard input makes one more exchange on each, answered by {"exchanged":COUNT}; at its end they are
    /// closed: one line for each
    Hold(CallPlan),
    /// Makes connections for a time: one line in all
    Load(LoadPlan),
    /// Opens a connection, makes one exchange, and passes it to the process that takes it at the Unix socket AT: one line
    Give {
        #[command(flatten)]
        plan: CallPlan,
        #[arg(long)]
        at: PathBuf,
    },
    /// Takes a connection at the Unix socket AT, makes the last exchange and closes it. First line: {"taking":AT}; then one
    Take {
        #[command(flatten)]
        plan: CallPlan,
        #[arg(long)]
        at: PathBuf,
    },
    /// Makes a connection through a proxy of its own, whose payload a sockmap moves: one line
    Splice(CallPlan),
    /// Connects to an address that connects back at the same time: one line
    Meet(MeetPlan),
    /// Makes a connection of its own, over loopback or from another pod. First line: {"open":1}. A line on standard input closes it
    /// this way: one line
    End(ClosePlan),
    /// Tries to connect, and aborts by --give-up. First line: {"local":ADDRESS}, while the SYN is under way; then one
    Attempt(AttemptPlan),
    /// Calls connect(): one line for each call; with --hold they end when standard input does
    Connect(ConnectPlan),
    /// Sends a message to a resolver and waits for answers: one line
    Ask(AskPlan),
    /// Makes connections to itself whose server closes first and that are reset afterwards: one line for each
    CutOff {
        #[arg(value_enum)]
        how: CutOff,
        #[arg(long, default_value_t = 1)]
        connections: u32,
    },
    /// Opens connections over loopback. First line: {"open":COUNT}. A line on standard input has them time out a few milliseconds apart,
    /// and others end among them: one line for each
    Crowd(CrowdPlan),
    /// Does nothing until SIGTERM
    Wait,
    /// Prints "ready", and a line for each SIGINT. Ends with status 6 a second after the first
    Interrupts,
    /// Sends so many bytes over loopback, which a sockmap redirects past TCP: {"port":PORT,"bytes":BYTES}
    Bypass { bytes: u64 },
}

fn main() -> ExitCode {
    match end_on_request().and_then(|()| run(Arguments::parse().command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("traffic: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> io::Result<()> {
    match command {
        Command::Serve { plan, until } => serve(&plan, until),
        Command::Call(plan) => {
            let mut result = Ok(());
            call(&plan, |report| {
                if result.is_ok() {
                    result = print(&report);
                }
            })?;
            result
        }
        Command::Hold(plan) => hold(&plan),
        Command::Load(plan) => print(&load(&plan)?),
        Command::Give { plan, at } => print(&give(&plan, &at)?),
        Command::Take { plan, at } => {
            let listener = UnixListener::bind(&at)?;
            print(&serde_json::json!({ "taking": at }))?;
            print(&take(&plan, &listener)?)
        }
        Command::Splice(plan) => print(&splice(&plan)?),
        Command::Meet(plan) => print(&meet(&plan)?),
        Command::End(plan) => {
            let opened = || print(&serde_json::json!({ "open": 1 }));
            print(&end(&plan, opened)?)
        }
        Command::Attempt(plan) => {
            let under_way = |local| print(&serde_json::json!({ "local": local }));
            print(&attempt(&plan, under_way)?)
        }
        Command::Connect(plan) => {
            let held = connect_each(&plan, |connected| print(&connected))?;
            if plan.hold {
                io::copy(&mut io::stdin().lock(), &mut io::sink())?;
            }
            drop(held);
            Ok(())
        }
        Command::Ask(plan) => print(&ask(&plan)?),
        Command::CutOff { how, connections } => {
            (0..connections).try_for_each(|_| print(&cut_off(how)?))
        }
        Command::Crowd(plan) => {
            let opened = || {
                print(&serde_json::json!({ "open": plan.connections }))?;
                io::stdin().lock().read_line(&mut String::new()).map(drop)
            };
            crowd(&plan, opened)?.iter().try_for_each(print)
        }
        Command::Wait => loop {
            thread::park();
        },
        Command::Interrupts => interrupts(),
        Command::Bypass { bytes } => print(&bypass(bytes)?),
    }
}

/// A signal that comes while one is taken in waits, and is not merged with it.
fn interrupts() -> io::Result<()> {
    let mut interrupt = SigSet::empty();
    interrupt.add(Signal::SIGINT);
    interrupt.thread_block()?;
    print(&"ready")?;
    interrupt.wait()?;
    print(&"caught")?;
    thread::spawn(|| {
        thread::sleep(Duration::from_secs(1));
        process::exit(6);
    });
    loop {
        interrupt.wait()?;
        print(&"caught")?;
    }
}

/// Exits on SIGTERM: a container's first process ignores it otherwise (pid_namespaces(7)).
fn end_on_request() -> io::Result<()> {
    if process::id() != 1 {
        return Ok(());
    }
    let mut stop = SigSet::empty();
    stop.add(Signal::SIGTERM);
    // Before other threads start: they inherit the mask.
    stop.thread_block()?;
    thread::spawn(move || {
        let _ = stop.wait();
        process::exit(0)
    });
    Ok(())
}

fn serve(plan: &ServePlan, until: Option<u64>) -> io::Result<()> {
    let (ended, reports) = mpsc::channel::<ConnectionReport>();
    // The receiver is dropped only when the program exits.
    let server = Server::start(plan, move |report| drop(ended.send(report)))?;
    print(&serde_json::json!({ "listening": server.address() }))?;
    for (count, report) in (1..).zip(reports) {
        print(&report)?;
        if until.is_some_and(|until| count >= until) {
            break;
        }
    }
    Ok(())
}

fn hold(plan: &CallPlan) -> io::Result<()> {
    let mut held = Held::open(plan)?;
    print(&serde_json::json!({ "open": held.open_connections().len() }))?;
    for line in io::stdin().lock().lines() {
        line?;
        held.exchange()?;
        print(&serde_json::json!({ "exchanged": held.open_connections().len() }))?;
    }
    held.close()?.iter().try_for_each(print)
}

/// One line, flushed: whoever waits for it waits on a pipe.
fn print(value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    let mut output = io::stdout().lock();
    output.write_all(&line)?;
    output.flush()
}

//! The command around the receiver.

use std::{
    fs::File,
    io::{self, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use tokio::signal::{
    self,
    unix::{SignalKind, signal},
};

use super::{Received, Sink, json_line, text};
use crate::exit::{self, Failure};

/// Where to listen, and how to print.
#[derive(Debug, clap::Args)]
pub struct SinkArgs {
    /// Where OTLP by gRPC is taken
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:4317")]
    grpc: SocketAddr,
    /// Where OTLP by HTTP is taken
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:4318")]
    http: SocketAddr,
    /// What is printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Write it to FILE (`-`: standard output) instead of standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A line for each figure and span, histograms drawn
    Text,
    /// An OTLP request in JSON on each line
    Json,
}

/// Prints what comes until SIGTERM, SIGINT, or the end of whoever reads.
///
/// # Errors
/// [`Failure`] if it cannot listen, or not print.
pub async fn sink(args: SinkArgs) -> Result<u8, Failure> {
    let path = args.output.display();
    let cannot_write = |error: io::Error| {
        let message = format_args!("cannot write to {path}: {error}");
        Failure::new(exit::CANNOT_CREATE, message)
    };
    let mut out = open(&args.output).map_err(cannot_write)?;
    let listen = Sink::start(args.grpc, args.http).await;
    let (sink, mut received) = listen.map_err(|error| {
        let message =
            format_args!("cannot listen on {error}; choose others with --grpc and --http");
        Failure::new(exit::SOFTWARE, message)
    })?;
    // Before the line that tells whoever started it that it is there.
    let mut terminate = signal(SignalKind::terminate())
        .map_err(|error| Failure::new(exit::SOFTWARE, format_args!("no signals: {error}")))?;
    let (grpc, http) = (sink.grpc(), sink.http());
    eprintln!("flowcar: OTLP is taken by gRPC on {grpc} and by HTTP on {http}");
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = signal::ctrl_c() => {}
        }
    };
    tokio::pin!(stop);
    let mut stopped = false;
    loop {
        tokio::select! {
            // What was answered already still comes out; no more is taken.
            () = &mut stop, if !stopped => {
                stopped = true;
                received.close();
            }
            export = received.recv() => {
                let Some(export) = export else {
                    return Ok(0);
                };
                match print(&mut out, &export, args.format) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(0),
                    Err(error) => return Err(cannot_write(error)),
                }
            }
        }
    }
}

fn open(path: &Path) -> io::Result<Box<dyn Write>> {
    Ok(if path == Path::new("-") {
        Box::new(io::stdout())
    } else {
        Box::new(File::create(path)?)
    })
}

fn print(out: &mut dyn Write, export: &Received, format: Format) -> io::Result<()> {
    match format {
        Format::Text => out.write_all(text(export).as_bytes())?,
        Format::Json => writeln!(out, "{}", json_line(export))?,
    }
    out.flush()
}

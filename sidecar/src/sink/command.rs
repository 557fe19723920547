//! The command `flowcar sink`.

use std::{
    fs::File,
    io::{self, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use caps::{CapSet, Capability};
use tokio::{
    net::lookup_host,
    signal::{
        self,
        unix::{SignalKind, signal},
    },
    sync::mpsc,
};

use super::{Received, Sink, json_line, text};
use crate::{
    capabilities,
    exit::{self, Failure},
};

/// Where to listen, and how to print.
#[derive(Debug, clap::Args)]
pub struct SinkArgs {
    /// Where OTLP by gRPC is taken
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:4317", value_parser = listen_address)]
    grpc: String,
    /// Where OTLP by HTTP is taken
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:4318", value_parser = listen_address)]
    http: String,
    /// What is printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Write it to FILE (`-`: standard output) instead of standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A line for each figure, span and log record, histograms drawn
    Text,
    /// An OTLP request in JSON on each line
    Json,
}

/// Prints what comes until SIGTERM, SIGINT, or the reader closes the pipe.
///
/// # Errors
/// [`Failure`] if it cannot listen, or not print, or if capabilities cannot be dropped before.
pub async fn sink(args: SinkArgs) -> Result<u8, Failure> {
    let path = args.output.display();
    let cannot_write = |error: io::Error| {
        let message = format_args!("cannot write to {path}: {error}");
        Failure::new(exit::CANNOT_CREATE, message)
    };
    let mut out = open(&args.output).map_err(cannot_write)?;
    let listens = Capability::CAP_NET_BIND_SERVICE;
    let may_listen = caps::has_cap(None, CapSet::Permitted, listens).unwrap_or(false);
    let kept = may_listen.then_some((listens, "ports below 1024"));
    capabilities::drop_all(kept.as_slice())?;
    let listen = listen(&args).await;
    capabilities::drop_all(&[])?;
    let (sink, mut received) = listen.map_err(|error| {
        let message =
            format_args!("cannot listen on {error}; choose others with --grpc and --http");
        Failure::new(exit::SOFTWARE, message)
    })?;
    // Before the line that reports the start.
    let mut terminate = signal(SignalKind::terminate())
        .map_err(|error| Failure::new(exit::SOFTWARE, format_args!("no signals: {error}")))?;
    let (grpc, http) = sink.addresses();
    let (grpc, http) = (all(grpc), all(http));
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
            // Requests that were answered are still printed; no more are taken.
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

/// A name or an address with a port; IPv6 addresses are in brackets.
fn listen_address(text: &str) -> Result<String, String> {
    let (host, port) = text
        .rsplit_once(':')
        .ok_or("there is no port: write localhost:4317 or [::1]:4317, for example")?;
    let is_address = text.parse::<SocketAddr>().is_ok();
    if host.is_empty() || (!is_address && host.contains(['[', ']', ':'])) {
        return Err(
            "not a host and a port: write localhost:4317 or [::1]:4317, for example".to_owned(),
        );
    }
    match port.parse::<u16>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("port {port}: {error}")),
    }
}

async fn listen(args: &SinkArgs) -> io::Result<(Sink, mpsc::Receiver<Received>)> {
    let (grpc, http) = (resolve(&args.grpc).await?, resolve(&args.http).await?);
    Sink::start_on(&grpc, &http).await
}

/// Each address of a name once: several lines in a hosts file give duplicates.
async fn resolve(listen_address: &str) -> io::Result<Vec<SocketAddr>> {
    let found = lookup_host(listen_address).await;
    let found = found
        .map_err(|error| io::Error::new(error.kind(), format!("{listen_address}: {error}")))?;
    let mut addresses = Vec::new();
    for address in found {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

fn all(addresses: &[SocketAddr]) -> String {
    let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    texts.join(" and ")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_address_is_a_host_and_a_port() {
        for good in [
            "localhost:4317",
            "127.0.0.1:0",
            "[::1]:4317",
            "collector.example:65535",
        ] {
            assert_eq!(listen_address(good).as_deref(), Ok(good));
        }
        for bad in [
            "localhost",
            "4317",
            ":4317",
            "::1:4317",
            "[::1]",
            "localhost:99999",
            "[x]:1",
            "a:b",
        ] {
            assert!(listen_address(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn sink_listens_on_all_addresses_of_a_name() {
        let args = SinkArgs {
            grpc: "localhost:0".to_owned(),
            http: "127.0.0.1:0".to_owned(),
            format: Format::Text,
            output: "-".into(),
        };
        let (sink, _received) = listen(&args).await.expect("localhost is loopback");
        let (grpc, http) = sink.addresses();
        assert!(
            grpc.iter()
                .chain(http)
                .all(|address| address.ip().is_loopback())
        );
        assert!(resolve("no-such-name.invalid:1").await.is_err());
    }
}

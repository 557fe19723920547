use std::{
    ffi::OsString,
    io,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    ops::RangeInclusive,
    time::Duration,
};

use clap::Args;

use super::options::{Close, CommandLine, SocketOptions, milliseconds, range};

/// What to do on each of a number of connections.
#[derive(Clone, Debug, PartialEq, Args)]
pub struct CallPlan {
    /// The server
    pub target: SocketAddr,
    /// Local address, if not the one that the kernel chooses
    #[arg(long)]
    pub local: Option<IpAddr>,
    /// Local port, if not one that the kernel chooses; with --local only
    #[arg(long, requires = "local")]
    pub local_port: Option<u16>,
    /// Connections to make
    #[arg(long, default_value_t = 1)]
    pub connections: u64,
    /// Connections open at a time
    #[arg(long, default_value_t = 1)]
    pub concurrency: u64,
    /// Exchanges on each connection: a number, or MIN-MAX
    #[arg(long, default_value = "1", value_parser = range)]
    pub exchanges: RangeInclusive<u64>,
    /// Bytes of each request besides its header of 32: a number, or MIN-MAX
    #[arg(long, default_value = "100", value_parser = range)]
    pub request: RangeInclusive<u64>,
    /// Bytes of each response: a number, or MIN-MAX
    #[arg(long, default_value = "1000", value_parser = range)]
    pub response: RangeInclusive<u64>,
    /// How long the server waits before each response
    #[arg(long, default_value = "0", value_parser = milliseconds, value_name = "MS")]
    pub delay: Duration,
    /// How long the server stops reading in the middle of each request
    #[arg(long, default_value = "0", value_parser = milliseconds, value_name = "MS")]
    pub stall: Duration,
    /// How long the client waits between exchanges
    #[arg(long, default_value = "0", value_parser = milliseconds, value_name = "MS")]
    pub pause: Duration,
    /// How each connection is closed
    #[arg(long, value_enum, default_value_t)]
    pub close: Close,
    /// Time-out of connecting, and of each read and write
    #[arg(long, value_parser = milliseconds, value_name = "MS")]
    pub timeout: Option<Duration>,
    /// Decides the random sizes and numbers
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Socket options.
    #[command(flatten)]
    pub socket: SocketOptions,
}

// === impl CallPlan ===

impl CallPlan {
    /// The plan, if its intervals hold at least one number.
    pub(super) fn checked(&self) -> io::Result<&Self> {
        let empty = [&self.exchanges, &self.request, &self.response]
            .iter()
            .any(|range| range.is_empty());
        match empty {
            true => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "an interval of a call plan is empty",
            )),
            false => Ok(self),
        }
    }

    /// One connection with one exchange of 100 and 1,000 bytes, closed by the client.
    pub fn to(target: SocketAddr) -> Self {
        Self {
            target,
            local: None,
            local_port: None,
            connections: 1,
            concurrency: 1,
            exchanges: 1..=1,
            request: 100..=100,
            response: 1000..=1000,
            delay: Duration::ZERO,
            stall: Duration::ZERO,
            pause: Duration::ZERO,
            close: Close::Client,
            timeout: None,
            seed: 0,
            socket: SocketOptions::default(),
        }
    }

    /// This many connections, of which `concurrency` are open at a time.
    pub fn connections(self, connections: u64, concurrency: u64) -> Self {
        Self {
            connections,
            concurrency,
            ..self
        }
    }

    /// This many exchanges on each connection.
    pub fn exchanges(self, exchanges: u64) -> Self {
        Self {
            exchanges: exchanges..=exchanges,
            ..self
        }
    }

    /// Sizes of each request (besides its header) and response, uniform in these intervals.
    pub fn sizes(self, request: RangeInclusive<u64>, response: RangeInclusive<u64>) -> Self {
        Self {
            request,
            response,
            ..self
        }
    }

    /// How each connection is closed.
    pub fn close(self, close: Close) -> Self {
        Self { close, ..self }
    }

    /// The arguments of `traffic call` that read as this plan.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        self.command_line().into_arguments()
    }

    pub(super) fn command_line(&self) -> CommandLine {
        let line = CommandLine::default()
            .word(self.target)
            .maybe("--local", self.local)
            .maybe("--local-port", self.local_port)
            .option("--connections", self.connections)
            .option("--concurrency", self.concurrency)
            .interval("--exchanges", &self.exchanges)
            .interval("--request", &self.request)
            .interval("--response", &self.response)
            .milliseconds("--delay", self.delay)
            .milliseconds("--stall", self.stall)
            .milliseconds("--pause", self.pause)
            .option("--seed", self.seed)
            .choice("--close", self.close)
            .and(self.socket.arguments());
        match self.timeout {
            Some(timeout) => line.milliseconds("--timeout", timeout),
            None => line,
        }
    }

    /// The address to connect from, if it is given. A link-local one is on the link of the target.
    pub(super) fn local_address(&self) -> Option<SocketAddr> {
        let port = self.local_port.unwrap_or_default();
        Some(match (self.local?, self.target) {
            (IpAddr::V6(ip), SocketAddr::V6(target)) if ip.is_unicast_link_local() => {
                SocketAddrV6::new(ip, port, 0, target.scope_id()).into()
            }
            (ip, _) => SocketAddr::new(ip, port),
        })
    }

    pub(super) fn random(&self, connection: u64) -> fastrand::Rng {
        // Any odd factor gives every connection another seed.
        fastrand::Rng::with_seed(self.seed ^ (connection + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::traffic::StreamProtocol;

    #[derive(Parser)]
    struct Reader {
        #[command(flatten)]
        plan: CallPlan,
    }

    #[test]
    fn a_plan_survives_the_command_line() {
        let plan = CallPlan {
            local: Some("10.1.2.3".parse().unwrap()),
            local_port: Some(4711),
            exchanges: 2..=5,
            delay: Duration::from_micros(1500),
            stall: Duration::from_secs(100),
            pause: Duration::from_millis(7),
            close: Close::HalfByServer,
            timeout: Some(Duration::from_millis(250)),
            seed: u64::MAX,
            socket: SocketOptions {
                receive_buffer: Some(4096),
                send_buffer: Some(8192),
                fast_open: true,
                protocol: StreamProtocol::Smc,
                kernel_tls: true,
            },
            ..CallPlan::to("[fd77::1]:80".parse().unwrap())
        };
        let plan = plan.connections(9, 3).sizes(0..=u64::MAX, 1..=2);
        let program = std::iter::once(OsString::from("traffic"));
        let read = Reader::try_parse_from(program.chain(plan.arguments())).unwrap();
        assert_eq!(read.plan, plan);
    }
}

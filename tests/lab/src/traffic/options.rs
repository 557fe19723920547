use std::{ffi::OsString, fmt::Display, ops::RangeInclusive, time::Duration};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

/// How a connection is closed after its last exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Close {
    /// The client sends its FIN first and waits for the server's.
    #[default]
    Client,
    /// The server sends its FIN first.
    Server,
    /// Both FINs cross: the client sends its own half a round trip after the last request, when the server's
    /// is on its way. It takes a link whose delay is longer than the machine's jitter.
    Simultaneous,
    /// The client sends a RST (SO_LINGER 0) after the last response.
    ResetByClient,
    /// The server sends a RST after the client acknowledged the last response.
    ResetByServer,
    /// The client closes its direction before it reads the last response: half-closed for as long as the
    /// server waits with it.
    HalfByClient,
    /// The server closes its direction after the last response; the client answers with its FIN after the
    /// pause between exchanges.
    HalfByServer,
}

/// What carries the bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum StreamProtocol {
    /// TCP.
    #[default]
    Tcp,
    /// Multipath TCP (RFC 8684).
    Mptcp,
    /// Shared memory communications (RFC 7609), which falls back to TCP where no device takes part.
    Smc,
}

/// What both ends may set on their sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Args)]
pub struct SocketOptions {
    /// SO_RCVBUF in bytes; the kernel doubles it
    #[arg(long)]
    pub receive_buffer: Option<usize>,
    /// SO_SNDBUF in bytes; the kernel doubles it
    #[arg(long)]
    pub send_buffer: Option<usize>,
    /// TCP Fast Open; the namespace needs net.ipv4.tcp_fastopen=3
    #[arg(long)]
    pub fast_open: bool,
    /// What carries the bytes
    #[arg(long, value_enum, default_value_t)]
    pub protocol: StreamProtocol,
    /// TLS 1.3 by the kernel (kTLS), with keys that both ends know instead of a handshake
    #[arg(long)]
    pub kernel_tls: bool,
}

/// A command line in the making, the way back from what clap reads.
#[derive(Debug, Default)]
pub(super) struct CommandLine(Vec<OsString>);

// === impl SocketOptions ===

impl SocketOptions {
    pub(super) fn arguments(&self) -> CommandLine {
        CommandLine::default()
            .maybe("--receive-buffer", self.receive_buffer)
            .maybe("--send-buffer", self.send_buffer)
            .flag("--fast-open", self.fast_open)
            .choice("--protocol", self.protocol)
            .flag("--kernel-tls", self.kernel_tls)
    }
}

// === impl CommandLine ===

impl CommandLine {
    /// A positional argument.
    pub(super) fn word(mut self, value: impl Display) -> Self {
        self.0.push(value.to_string().into());
        self
    }

    pub(super) fn option(self, name: &str, value: impl Display) -> Self {
        self.word(name).word(value)
    }

    pub(super) fn maybe(self, name: &str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.option(name, value),
            None => self,
        }
    }

    /// One of the values that clap knows.
    pub(super) fn choice(self, name: &str, value: impl ValueEnum) -> Self {
        let value = value.to_possible_value();
        self.maybe(name, value.map(|value| value.get_name().to_owned()))
    }

    pub(super) fn flag(self, name: &str, set: bool) -> Self {
        if set { self.word(name) } else { self }
    }

    pub(super) fn interval(self, name: &str, range: &RangeInclusive<u64>) -> Self {
        self.option(name, format_args!("{}-{}", range.start(), range.end()))
    }

    pub(super) fn milliseconds(self, name: &str, duration: Duration) -> Self {
        self.option(name, duration.as_secs_f64() * 1000.0)
    }

    pub(super) fn and(mut self, mut other: Self) -> Self {
        self.0.append(&mut other.0);
        self
    }

    pub(super) fn into_arguments(self) -> Vec<OsString> {
        self.0
    }
}

/// `N` or `MIN-MAX`, for clap.
pub(super) fn range(text: &str) -> Result<RangeInclusive<u64>, String> {
    let number = |text: &str| {
        text.parse::<u64>()
            .map_err(|error| format!("{text:?}: {error}"))
    };
    let (min, max) = match text.split_once('-') {
        Some((min, max)) => (number(min)?, number(max)?),
        None => (number(text)?, number(text)?),
    };
    if min > max {
        return Err(format!("{min} is more than {max}"));
    }
    Ok(min..=max)
}

/// Milliseconds, for clap.
pub(super) fn milliseconds(text: &str) -> Result<Duration, String> {
    let milliseconds = text.parse::<f64>().map_err(|error| error.to_string())?;
    Duration::try_from_secs_f64(milliseconds / 1000.0).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_durations_read_as_documented() {
        assert_eq!(range("7"), Ok(7..=7));
        assert_eq!(range("7-9"), Ok(7..=9));
        assert!(range("9-7").is_err() && range("x").is_err() && range("").is_err());
        assert_eq!(milliseconds("1.5"), Ok(Duration::from_micros(1500)));
        assert!(milliseconds("-1").is_err());
    }
}

//! The log line for a significant share of lost closes. Each loss is counted as well, by its cause.

use std::collections::BTreeMap;

use crate::flow::{Books, Lost};

/// One close in so many may be lost without a line.
const SHARE: u64 = 100;

/// Compares each report's books with those of the one before it.
#[derive(Debug, Default)]
pub struct Losses {
    closed: u64,
    lost: BTreeMap<Lost, u64>,
}

/// Connections that were lost since the report before this one.
#[derive(Debug, PartialEq, Eq)]
struct Share {
    lost: u64,
    ended: u64,
    /// The cause of most of them.
    cause: Lost,
}

impl Losses {
    /// Logs it if more than one in a hundred connections that closed since the last report were lost.
    pub fn report(&mut self, books: &Books) {
        if let Some(Share { lost, ended, cause }) = self.share(books) {
            tracing::warn!(
                lost,
                ended,
                cause = cause.name(),
                "connections were lost since the last report, so their figures are missing: {}",
                remedy(cause)
            );
        }
    }

    fn share(&mut self, books: &Books) -> Option<Share> {
        let before = std::mem::replace(
            self,
            Self {
                closed: books.closed,
                lost: books.lost.clone(),
            },
        );
        let since = |(cause, count): (&Lost, &u64)| {
            let old = before.lost.get(cause).copied().unwrap_or(0);
            (count.saturating_sub(old), *cause)
        };
        let lost = books.lost.iter().map(since).map(|(count, _)| count).sum();
        let (_, cause) = books.lost.iter().map(since).max()?;
        let ended = books.closed.saturating_sub(before.closed) + lost;
        (lost > 0 && lost >= ended / SHARE).then_some(Share { lost, ended, cause })
    }
}

/// What the operator can do.
const fn remedy(cause: Lost) -> &'static str {
    match cause {
        Lost::RingFull => {
            "flowcar has too little CPU time to keep up, or too small a ring; raise its CPU limit, or FLOWCAR_RING_BYTES"
        }
        Lost::Storage => {
            "the kernel had no room for them; raise net.core.optmem_max, or flowcar's memory limit"
        }
        Lost::Callbacks => {
            "another program of this cgroup takes flowcar's callbacks off its sockets"
        }
        Lost::Overrun => {
            "the kernel dropped destroy events of sockets that closed at once; give flowcar CAP_BPF and CAP_NET_ADMIN, or more CPU time"
        }
        Lost::Malformed => "please report this with the output of `uname -r`",
        Lost::Detached => {
            "another process detached flowcar's programs from the cgroup; find out which may"
        }
        Lost::Disconnected => {
            "inet_diag loses the counts of a short connection whose socket is disconnected; use the eBPF source, which counts such connections"
        }
        Lost::Restart => "they closed while no flowcar followed them",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books(closed: u64, lost: &[(Lost, u64)]) -> Books {
        Books {
            closed,
            lost: lost.iter().copied().collect(),
            ..Books::default()
        }
    }

    #[test]
    fn new_loss_above_one_percent_is_reported_with_its_main_cause() {
        let mut losses = Losses::default();
        assert_eq!(losses.share(&books(1_000, &[])), None);
        let below = [(Lost::RingFull, 9)];
        assert_eq!(losses.share(&books(2_000, &below)), None);
        let more = [(Lost::RingFull, 59), (Lost::Disconnected, 2)];
        let expected = Share {
            lost: 52,
            ended: 1_052,
            cause: Lost::RingFull,
        };
        assert_eq!(losses.share(&books(3_000, &more)), Some(expected));
        // The same counts are no new loss.
        assert_eq!(losses.share(&books(3_000, &more)), None);
        assert_eq!(losses.share(&books(3_001, &more)), None);
    }
}

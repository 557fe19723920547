//! The kernel's counts of all TCP sockets of a network namespace, and where figures stand in the files of such counts (/proc/net/snmp,
//! netstat and snmp6). Pure.

/// Counts since the namespace was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections and attempts that the kernel aborted: `TcpExt.TCPAbortOnTimeout`, which every timer counts
    /// (net/ipv4/tcp_timer.c, tcp_write_err), and `TcpExt.TCPAbortOnMemory`, which the limits of orphans do.
    pub aborted_by_timer: u64,
    /// Segments sent with RST: `Tcp.OutRsts`.
    pub resets_sent: u64,
    /// Sockets that left no timewait socket because there was no room: `TcpExt.TCPTimeWaitOverflow`.
    pub timewait_overflows: u64,
    /// Connections that the kernel aborted because payload came that nobody would read, or that their applications aborted by SO_LINGER of
    /// 0: `TcpExt.TCPAbortOnData`.
    pub aborted_on_data: u64,
    /// Attempts that the kernel ended: `Tcp.AttemptFails`.
    pub attempts_failed: u64,
}

/// Where the figures of a group stand in its line, in a file of which each group has a line of names and below it one of values. While a
/// kernel runs the names of a group stay as they are; other groups come and go.
#[derive(Debug)]
pub(super) struct Group<const N: usize> {
    name: &'static str,
    columns: [usize; N],
}

impl<const N: usize> Group<N> {
    /// Finds a group's figures by their names; `None` where one is missing.
    pub(super) fn find(text: &[u8], name: &'static str, figures: [&str; N]) -> Option<Self> {
        let (names, _) = Self::lines(text, name)?;
        let mut columns = [0; N];
        for (column, figure) in columns.iter_mut().zip(figures) {
            *column = words(names).position(|word| word == figure.as_bytes())?;
        }
        Some(Self { name, columns })
    }

    /// The lines of names and of values.
    fn lines<'a>(text: &'a [u8], name: &str) -> Option<(&'a [u8], &'a [u8])> {
        let mut lines = lines(text).filter(|line| line.starts_with(name.as_bytes()));
        Some((lines.next()?, lines.next()?))
    }

    /// The figures in a newer text of the same file, in the order in which they were named.
    pub(super) fn figures(&self, text: &[u8]) -> Option<[u64; N]> {
        let (_, values) = Self::lines(text, self.name)?;
        let mut found = [None; N];
        for (column, word) in words(values).enumerate() {
            let wanted = self.columns.iter().zip(&mut found);
            for (_, found) in wanted.filter(|(at, _)| **at == column) {
                *found = number(word);
            }
        }
        let mut figures = [0; N];
        for (figure, found) in figures.iter_mut().zip(found) {
            *figure = found?;
        }
        Some(figures)
    }
}

/// The sum of figures of a file that has one to a line; `None` where one is missing.
pub(super) fn sum_of_lines(text: &[u8], figures: &[&str]) -> Option<u64> {
    let (mut sum, mut found) = (0, 0);
    for line in lines(text) {
        let mut words = words(line).filter(|word| !word.is_empty());
        let name = words.next().unwrap_or_default();
        if figures.iter().any(|figure| figure.as_bytes() == name) {
            sum += number(words.next()?)?;
            found += 1;
        }
    }
    (found == figures.len()).then_some(sum)
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte == b' ' || *byte == b'\t')
}

fn number(word: &[u8]) -> Option<u64> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "TcpExt: SyncookiesSent TCPAbortOnTimeout TCPTimeWaitOverflow\nTcpExt: 5 7 3\nTcp: MaxConn OutRsts\nTcp: -1 4\n";

    #[test]
    fn figures_are_found_by_their_names() {
        let text = TEXT.as_bytes();
        let extended = ["TCPTimeWaitOverflow", "SyncookiesSent"];
        let extended = Group::find(text, "TcpExt:", extended).unwrap();
        assert_eq!(extended.figures(text), Some([3, 5]));
        let tcp = Group::find(text, "Tcp:", ["OutRsts"]).unwrap();
        assert_eq!(tcp.figures(text), Some([4]));
        assert!(Group::find(text, "Tcp:", ["InRsts"]).is_none());
        assert!(Group::find(text, "Udp:", ["OutRsts"]).is_none());
    }

    #[test]
    fn figures_are_found_again_whatever_other_groups_have() {
        let text = TEXT.as_bytes();
        let extended = Group::find(text, "TcpExt:", ["TCPTimeWaitOverflow"]).unwrap();
        let tcp = Group::find(text, "Tcp:", ["OutRsts"]).unwrap();
        let newer = TEXT.replace("5 7 3", "5000 7000 3000");
        let newer = newer.replace("\nTcp: Max", "\nIcmpMsg: InType3\nIcmpMsg: 2\nTcp: Max");
        assert_eq!(extended.figures(newer.as_bytes()), Some([3_000]));
        assert_eq!(tcp.figures(newer.as_bytes()), Some([4]));
        for cut in ["", &TEXT[..60], &TEXT.replace("5 7 3", "5 7")] {
            assert_eq!(extended.figures(cut.as_bytes()), None, "{cut}");
        }
    }

    #[test]
    fn lines_with_a_figure_each_are_added_up() {
        let text = b"Icmp6InErrors                   \t9\nIcmp6InTimeExcds                \t2\nIcmp6InParmProblems\t3\n";
        let sum = |figures: &[&str]| sum_of_lines(text, figures);
        assert_eq!(sum(&["Icmp6InTimeExcds", "Icmp6InParmProblems"]), Some(5));
        assert_eq!(sum(&["Icmp6InTimeExcds", "Icmp6InDestUnreachs"]), None);
    }
}

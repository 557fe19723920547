use std::{collections::BTreeMap, fs, io, ops::Index};

/// The kernel's own counters of one network namespace, from `/proc/net/snmp`, `netstat` and `snmp6`.
///
/// Names are `Group.Name` as the files spell them: `Tcp.RetransSegs`, `TcpExt.TCPSynRetrans`,
/// `Ip6.InReceives`. Note that `Tcp.InSegs` and `OutSegs` count IPv4 and IPv6 together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters(BTreeMap<String, i64>);

// === impl Counters ===

impl Counters {
    /// Reads those of the calling thread's network namespace.
    pub(super) fn read() -> io::Result<Self> {
        // `/proc/net` would be that of the process's first thread, which is in another namespace.
        let mut values = parse_tables(&fs::read_to_string("/proc/thread-self/net/snmp")?);
        values.extend(parse_tables(&fs::read_to_string(
            "/proc/thread-self/net/netstat",
        )?));
        // Absent where the kernel has no IPv6.
        let v6 = fs::read_to_string("/proc/thread-self/net/snmp6").unwrap_or_default();
        values.extend(parse_list(&v6));
        Ok(Self(values))
    }

    /// The value of a counter, if this kernel has it.
    pub fn get(&self, name: &str) -> Option<i64> {
        self.0.get(name).copied()
    }

    /// By how much each counter grew since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let grown = self.0.iter().map(|(name, value)| {
            let before = earlier.get(name).unwrap_or(0);
            (name.clone(), value.wrapping_sub(before))
        });
        Self(grown.collect())
    }

    /// The counters that are not zero, for messages.
    pub fn nonzero(&self) -> impl Iterator<Item = (&str, i64)> {
        self.0
            .iter()
            .filter(|(_, value)| **value != 0)
            .map(|(name, value)| (name.as_str(), *value))
    }
}

impl Index<&str> for Counters {
    type Output = i64;

    /// # Panics
    /// This kernel has no such counter. A test must not take a misspelled name for zero.
    fn index(&self, name: &str) -> &i64 {
        match self.0.get(name) {
            Some(value) => value,
            None => panic!("no counter {name} in /proc/net/snmp, netstat or snmp6"),
        }
    }
}

/// Receive and transmit drops of a device of the calling thread's network namespace.
pub(super) fn device_drops(device: &str) -> io::Result<u64> {
    let table = fs::read_to_string("/proc/thread-self/net/dev")?;
    parse_device_drops(&table, device).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// `device: bytes packets errors drop ..`: eight columns received, then eight sent.
fn parse_device_drops(table: &str, device: &str) -> Option<u64> {
    let line = table
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'))?;
    let column = |number| line.split_whitespace().nth(number)?.parse::<u64>().ok();
    Some(column(3)? + column(11)?)
}

/// Two lines a group: `Tcp: Name Name ..`, `Tcp: 1 2 ..`.
fn parse_tables(text: &str) -> BTreeMap<String, i64> {
    let lines: Vec<&str> = text.lines().collect();
    let mut values = BTreeMap::new();
    for pair in lines.chunks_exact(2) {
        let (Some((group, names)), Some((_, numbers))) =
            (pair[0].split_once(": "), pair[1].split_once(": "))
        else {
            continue;
        };
        for (name, number) in names.split(' ').zip(numbers.split(' ')) {
            if let Ok(number) = number.parse() {
                values.insert(format!("{group}.{name}"), number);
            }
        }
    }
    values
}

/// One line a counter, the group being the name's prefix: `Ip6InReceives   12`.
fn parse_list(text: &str) -> BTreeMap<String, i64> {
    let entry = |line: &str| {
        let (name, number) = line.split_once(char::is_whitespace)?;
        let group = name.find('6')? + 1;
        Some((
            format!("{}.{}", &name[..group], &name[group..]),
            number.trim().parse().ok()?,
        ))
    };
    text.lines().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_both_layouts() {
        let tables = parse_tables("Tcp: MaxConn RetransSegs\nTcp: -1 17\nUdp: InErrors\nUdp: 3\n");
        assert_eq!(tables["Tcp.MaxConn"], -1);
        assert_eq!(tables["Tcp.RetransSegs"], 17);
        assert_eq!(tables["Udp.InErrors"], 3);
        let list = parse_list("Ip6InReceives                   \t12\nIcmp6OutMsgs\t4\n");
        assert_eq!(list["Ip6.InReceives"], 12);
        assert_eq!(list["Icmp6.OutMsgs"], 4);
    }

    #[test]
    fn device_drops_are_both_directions() {
        let table = "Inter-|   Receive\n face |bytes\n  link1: 1 2 3 40 5 6 7 8 9 10 11 200 13 14 15 16\n link10: 0 0 0 1";
        assert_eq!(parse_device_drops(table, "link1"), Some(240));
        assert_eq!(parse_device_drops(table, "link2"), None);
    }

    #[test]
    fn growth_is_the_difference() {
        let counters = |value| Counters([("Tcp.InSegs".to_owned(), value)].into());
        assert_eq!(counters(9).since(&counters(4)), counters(5));
    }
}

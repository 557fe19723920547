//! The files of a cgroup (Documentation/admin-guide/cgroup-v2.rst). Pure.
//!
//! Newer kernels add keys, which are skipped. A key that is absent leaves its figure out.

use std::collections::BTreeMap;

use crate::snapshot::{
    ContainerCounter as Counter, ContainerLevel as Level, PressureResource, Stall,
};

/// A file has something else than the kernel writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it has no number where a number is to be")]
pub struct Malformed;

/// What the files of one cgroup have: the figures since the cgroup was made, and those of now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// What only grows.
    pub counters: BTreeMap<Counter, u64>,
    /// What is now.
    pub levels: BTreeMap<Level, u64>,
    /// Bytes of files that nobody used lately, which the kernel takes back first.
    inactive_file: Option<u64>,
}

/// Takes the text of a file into a reading.
type Take = fn(&mut Reading, &str) -> Result<(), Malformed>;

/// The files that are read, in this order.
pub const FILES: [(&str, Take); 10] = [
    ("cpu.stat", Reading::cpu),
    ("memory.current", Reading::memory_current),
    ("memory.max", Reading::memory_max),
    ("memory.stat", Reading::memory),
    ("memory.events", Reading::memory_events),
    ("io.stat", Reading::io),
    ("pids.current", Reading::threads),
    ("cpu.pressure", |reading, text| {
        reading.pressure(PressureResource::Cpu, text)
    }),
    ("memory.pressure", |reading, text| {
        reading.pressure(PressureResource::Memory, text)
    }),
    ("io.pressure", |reading, text| {
        reading.pressure(PressureResource::Io, text)
    }),
];

// === impl Reading ===

impl Reading {
    /// The reading of these files, each by its place in [`FILES`], and how many are malformed. Of those nothing is used.
    pub fn of<'a>(texts: impl IntoIterator<Item = (usize, &'a [u8])>) -> (Self, Vec<&'static str>) {
        let (mut reading, mut malformed) = (Self::default(), Vec::new());
        for (place, text) in texts {
            let (name, take) = FILES[place];
            let mut with = reading.clone();
            let text = str::from_utf8(text).map_err(|_| Malformed);
            match text.and_then(|text| take(&mut with, text)) {
                Ok(()) => reading = with,
                Err(Malformed) => malformed.push(name),
            }
        }
        reading.derive();
        (reading, malformed)
    }

    fn cpu(&mut self, text: &str) -> Result<(), Malformed> {
        for (key, value) in keyed(text) {
            let counter = match key {
                "user_usec" => Counter::CpuUser,
                "system_usec" => Counter::CpuSystem,
                "nr_periods" => Counter::Periods,
                "nr_throttled" => Counter::ThrottledPeriods,
                "throttled_usec" => Counter::ThrottledTime,
                _ => continue,
            };
            self.counters.insert(counter, number(value)?);
        }
        Ok(())
    }

    fn memory(&mut self, text: &str) -> Result<(), Malformed> {
        let (mut all, mut major) = (None, None);
        for (key, value) in keyed(text) {
            match key {
                "anon" => drop(self.levels.insert(Level::Rss, number(value)?)),
                "inactive_file" => self.inactive_file = Some(number(value)?),
                "pgfault" => all = Some(number(value)?),
                "pgmajfault" => major = Some(number(value)?),
                _ => {}
            }
        }
        if let (Some(all), Some(major)) = (all, major) {
            // `pgfault` has both.
            self.counters
                .insert(Counter::MinorFaults, all.saturating_sub(major));
            self.counters.insert(Counter::MajorFaults, major);
        }
        Ok(())
    }

    fn memory_events(&mut self, text: &str) -> Result<(), Malformed> {
        if let Some((_, value)) = keyed(text).find(|(key, _)| *key == "oom_kill") {
            self.counters.insert(Counter::OomKills, number(value)?);
        }
        Ok(())
    }

    fn memory_current(&mut self, text: &str) -> Result<(), Malformed> {
        self.levels
            .insert(Level::MemoryUsage, number(text.trim_end())?);
        Ok(())
    }

    fn memory_max(&mut self, text: &str) -> Result<(), Malformed> {
        match text.trim_end() {
            "max" => {}
            text => drop(self.levels.insert(Level::MemoryLimit, number(text)?)),
        }
        Ok(())
    }

    fn threads(&mut self, text: &str) -> Result<(), Malformed> {
        self.levels.insert(Level::Threads, number(text.trim_end())?);
        Ok(())
    }

    /// The sums over all devices. Some kernels write a device without figures, and no end of its line.
    fn io(&mut self, text: &str) -> Result<(), Malformed> {
        let mut sums = [
            ("rbytes", Counter::BytesRead, 0_u64),
            ("wbytes", Counter::BytesWritten, 0),
            ("rios", Counter::Reads, 0),
            ("wios", Counter::Writes, 0),
        ];
        let pairs = text
            .split_ascii_whitespace()
            .filter_map(|of| of.split_once('='));
        for (key, value) in pairs {
            if let Some((.., sum)) = sums.iter_mut().find(|(name, ..)| *name == key) {
                *sum = sum.checked_add(number(value)?).ok_or(Malformed)?;
            }
        }
        self.counters
            .extend(sums.map(|(_, counter, sum)| (counter, sum)));
        Ok(())
    }

    fn pressure(&mut self, of: PressureResource, text: &str) -> Result<(), Malformed> {
        for (key, values) in keyed(text) {
            let Some(stall) = Stall::ALL.into_iter().find(|stall| stall.name() == key) else {
                continue;
            };
            let mut values = values.split_ascii_whitespace();
            let total = values.find_map(|value| value.strip_prefix("total="));
            let total = number(total.ok_or(Malformed)?)?;
            self.counters.insert(Counter::Pressure(of, stall), total);
        }
        Ok(())
    }

    /// Adds what follows from several files.
    fn derive(&mut self) {
        let level = |of| self.levels.get(&of).copied();
        let (usage, limit) = (level(Level::MemoryUsage), level(Level::MemoryLimit));
        if let (Some(usage), Some(inactive)) = (usage, self.inactive_file) {
            // The files are not read at the same time.
            let working_set = usage.saturating_sub(inactive);
            self.levels.insert(Level::WorkingSet, working_set);
            if let Some(limit) = limit {
                self.levels
                    .insert(Level::MemoryAvailable, limit.saturating_sub(working_set));
            }
        }
    }
}

/// The lines of a key and what follows it.
fn keyed(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines()
        .map(|line| line.split_once(' ').unwrap_or((line, "")))
}

/// A number as the kernel writes it: digits only.
fn number(text: &str) -> Result<u64, Malformed> {
    if text.starts_with('+') {
        return Err(Malformed);
    }
    text.parse().map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A reading of files by their names.
    fn read(files: &[(&str, &str)]) -> (Reading, Vec<&'static str>) {
        let place = |name: &str| FILES.iter().position(|(of, _)| *of == name);
        let texts = files
            .iter()
            .map(|(name, text)| (place(name).expect(name), text.as_bytes()));
        Reading::of(texts)
    }

    /// The files of a cgroup of Linux 6.12 with a limit of memory and of CPU time, shortened where lines are skipped.
    const LIMITED: [(&str, &str); 10] = [
        (
            "cpu.stat",
            "usage_usec 1849327\nuser_usec 1301002\nsystem_usec 548325\nnice_usec 0\ncore_sched.force_idle_usec 0\nnr_periods 91\nnr_throttled 57\nthrottled_usec 4390112\nnr_bursts 0\nburst_usec 0\n",
        ),
        ("memory.current", "73400320\n"),
        ("memory.max", "134217728\n"),
        (
            "memory.stat",
            "anon 20971520\nfile 41943040\nkernel 1048576\ninactive_anon 0\nactive_anon 20971520\ninactive_file 31457280\nactive_file 10485760\npgfault 9001\npgmajfault 12\n",
        ),
        (
            "memory.events",
            "low 0\nhigh 0\nmax 4\noom 1\noom_kill 1\noom_group_kill 0\n",
        ),
        (
            "io.stat",
            "254:0 rbytes=4096 wbytes=1048576 rios=1 wios=16 dbytes=0 dios=0\n259:1 rbytes=8192 wbytes=0 rios=2 wios=0 dbytes=0 dios=0\n",
        ),
        ("pids.current", "7\n"),
        (
            "cpu.pressure",
            "some avg10=12.33 avg60=3.01 avg300=0.70 total=2310440\nfull avg10=12.30 avg60=3.00 avg300=0.69 total=2309910\n",
        ),
        (
            "memory.pressure",
            "some avg10=0.00 avg60=0.00 avg300=0.00 total=21\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=20\n",
        ),
        (
            "io.pressure",
            "some avg10=0.00 avg60=0.00 avg300=0.00 total=904\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
        ),
    ];

    #[test]
    fn every_figure_of_a_limited_cgroup_is_read() {
        let (reading, malformed) = read(&LIMITED);
        assert!(malformed.is_empty());
        let expected = [
            (Counter::CpuUser, 1_301_002),
            (Counter::CpuSystem, 548_325),
            (Counter::Periods, 91),
            (Counter::ThrottledPeriods, 57),
            (Counter::ThrottledTime, 4_390_112),
            (Counter::MinorFaults, 8_989),
            (Counter::MajorFaults, 12),
            (Counter::OomKills, 1),
            (Counter::BytesRead, 12_288),
            (Counter::BytesWritten, 1_048_576),
            (Counter::Reads, 3),
            (Counter::Writes, 16),
            (
                Counter::Pressure(PressureResource::Cpu, Stall::Some),
                2_310_440,
            ),
            (
                Counter::Pressure(PressureResource::Cpu, Stall::Full),
                2_309_910,
            ),
            (Counter::Pressure(PressureResource::Memory, Stall::Some), 21),
            (Counter::Pressure(PressureResource::Memory, Stall::Full), 20),
            (Counter::Pressure(PressureResource::Io, Stall::Some), 904),
            (Counter::Pressure(PressureResource::Io, Stall::Full), 0),
        ];
        assert_eq!(reading.counters, BTreeMap::from(expected));
        assert!(Counter::all().eq(expected.map(|(counter, _)| counter)));
        let expected = [
            (Level::MemoryUsage, 73_400_320),
            (Level::WorkingSet, 41_943_040),
            (Level::Rss, 20_971_520),
            (Level::MemoryAvailable, 92_274_688),
            (Level::MemoryLimit, 134_217_728),
            (Level::Threads, 7),
        ];
        assert_eq!(reading.levels, BTreeMap::from(expected));
    }

    /// What a cgroup without a controller, an older kernel, and a cgroup without a limit do not have.
    #[test]
    fn what_a_file_does_not_have_is_left_out() {
        let counters = |name, text| read(&[(name, text)]).0.counters.into_keys();
        let all: [(&str, &str, &[Counter]); 5] = [
            (
                "cpu.stat",
                "usage_usec 9\nuser_usec 5\nsystem_usec 4\n",
                &[Counter::CpuUser, Counter::CpuSystem],
            ),
            (
                "cpu.pressure",
                "some avg10=0.00 avg60=0.00 avg300=0.00 total=3\n",
                &[Counter::Pressure(PressureResource::Cpu, Stall::Some)],
            ),
            ("memory.events", "low 0\nhigh 0\nmax 0\noom 0\n", &[]),
            ("memory.stat", "pgfault 3\n", &[]),
            ("cpu.stat", "", &[]),
        ];
        for (name, text, expected) in all {
            let found: Vec<_> = counters(name, text).collect();
            assert_eq!(found, expected, "{name}: {text}");
        }
        let (reading, malformed) = read(&[
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("memory.stat", "inactive_file 8192\n"),
        ]);
        assert!(malformed.is_empty());
        let expected = [(Level::MemoryUsage, 4_096), (Level::WorkingSet, 0)];
        assert_eq!(reading.levels, BTreeMap::from(expected));
    }

    /// No I/O is 0. A device may stand alone, also without an end of its line.
    #[test]
    fn io_is_summed_over_devices() {
        for (text, expected) in [
            ("", [0, 0, 0, 0]),
            ("8:0 \n", [0; 4]),
            (
                "8:0 8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n",
                [1, 2, 3, 4],
            ),
            (
                "8:0 rbytes=1 wbytes=2 rios=3 wios=4 cost.usage=x\n9:0 rbytes=1 wbytes=1 rios=1 wios=1\n",
                [2, 3, 4, 5],
            ),
        ] {
            let (reading, malformed) = read(&[("io.stat", text)]);
            assert!(malformed.is_empty(), "{text}");
            let found: Vec<_> = reading.counters.into_values().collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn malformed_file_is_named_and_not_used() {
        for (name, text) in [
            ("cpu.stat", "user_usec 5\nsystem_usec\n"),
            ("cpu.stat", "user_usec 18446744073709551616\n"),
            ("cpu.stat", "user_usec +5\n"),
            ("memory.current", ""),
            ("memory.current", "max\n"),
            ("memory.max", "-1\n"),
            ("memory.stat", "anon x\n"),
            ("memory.events", "oom_kill 1 2\n"),
            ("io.stat", "8:0 rbytes=\n"),
            ("io.stat", "8:0 rbytes=18446744073709551615 rbytes=1\n"),
            ("pids.current", "1 2\n"),
            ("cpu.pressure", "some avg10=0.00\n"),
            ("io.pressure", "full total=0.5\n"),
        ] {
            assert_eq!(
                read(&[(name, text)]),
                (Reading::default(), vec![name]),
                "{text}"
            );
        }
        let (reading, malformed) = Reading::of([(0, &b"user_usec 1\xff\n"[..])]);
        assert_eq!((reading, malformed), (Reading::default(), vec!["cpu.stat"]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_malformed(place in 0..FILES.len(), bytes: Vec<u8>) {
            let (reading, malformed) = Reading::of([(place, &*bytes)]);
            prop_assert!(malformed.is_empty() || reading == Reading::default());
        }

        /// Of lines of the right keys.
        #[test]
        fn any_text_of_known_keys_is_read_or_malformed(
            place in 0..FILES.len(),
            text in "((user_usec|pgfault|pgmajfault|oom_kill|some|full|8:0)( (total=|rbytes=)?[0-9a-z]{0,21})?\n?){0,6}",
        ) {
            let (reading, malformed) = Reading::of([(place, text.as_bytes())]);
            prop_assert!(malformed.is_empty() || reading == Reading::default());
        }
    }
}

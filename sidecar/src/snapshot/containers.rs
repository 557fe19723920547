//! The figures of one container, as its cgroup counts them. Pure data.

use std::collections::BTreeMap;

/// What a cgroup has pressure on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PressureResource {
    /// CPU time.
    Cpu,
    /// Memory.
    Memory,
    /// I/O.
    Io,
}

impl PressureResource {
    /// Every resource.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Io];

    /// The value of `flowcar.container.pressure.resource`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Io => "io",
        }
    }
}

/// How many of a cgroup's tasks are stalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stall {
    /// At least one.
    Some,
    /// All that are not idle.
    Full,
}

impl Stall {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Some, Self::Full];

    /// The value of `flowcar.container.pressure.stall`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Some => "some",
            Self::Full => "full",
        }
    }
}

/// A figure of a cgroup that only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContainerCounter {
    /// `container.cpu.time` in user mode, microseconds.
    CpuUser,
    /// The same in the kernel, microseconds.
    CpuSystem,
    /// `flowcar.container.cpu.periods`
    Periods,
    /// `flowcar.container.cpu.throttled.periods`
    ThrottledPeriods,
    /// `flowcar.container.cpu.throttled.time`, microseconds.
    ThrottledTime,
    /// `container.memory.paging.faults` without a read from a disk.
    MinorFaults,
    /// The same with one.
    MajorFaults,
    /// `flowcar.container.memory.oom_kills`
    OomKills,
    /// `container.disk.io`, read, bytes.
    BytesRead,
    /// The same written, bytes.
    BytesWritten,
    /// `flowcar.container.disk.operations`, read.
    Reads,
    /// The same written.
    Writes,
    /// `flowcar.container.pressure.time`, microseconds.
    Pressure(PressureResource, Stall),
}

impl ContainerCounter {
    /// Every counter.
    pub fn all() -> impl Iterator<Item = Self> {
        let pressure = PressureResource::ALL
            .into_iter()
            .flat_map(|of| Stall::ALL.map(|stall| Self::Pressure(of, stall)));
        [
            Self::CpuUser,
            Self::CpuSystem,
            Self::Periods,
            Self::ThrottledPeriods,
            Self::ThrottledTime,
            Self::MinorFaults,
            Self::MajorFaults,
            Self::OomKills,
            Self::BytesRead,
            Self::BytesWritten,
            Self::Reads,
            Self::Writes,
        ]
        .into_iter()
        .chain(pressure)
    }
}

/// A figure of a cgroup as of now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContainerLevel {
    /// `container.memory.usage`, bytes.
    MemoryUsage,
    /// `container.memory.working_set`, bytes.
    WorkingSet,
    /// `container.memory.rss`, bytes.
    Rss,
    /// `container.memory.available`, bytes.
    MemoryAvailable,
    /// `flowcar.container.memory.limit`, bytes.
    MemoryLimit,
    /// `flowcar.container.thread.count`
    Threads,
}

impl ContainerLevel {
    /// Every level.
    pub const ALL: [Self; 6] = [
        Self::MemoryUsage,
        Self::WorkingSet,
        Self::Rss,
        Self::MemoryAvailable,
        Self::MemoryLimit,
        Self::Threads,
    ];
}

/// The figures of one container. What its cgroup does not have is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerFigures {
    /// Time of the first report that had it, nanoseconds since the Unix epoch: one that was absent from a report begins anew.
    pub since_unix_ns: u64,
    /// What grew since flowcar began to read it, or since the container was made where that was later.
    pub counters: BTreeMap<ContainerCounter, u64>,
    /// What is now.
    pub levels: BTreeMap<ContainerLevel, u64>,
}

//! The source of the kernel programs: attached to one cgroup, and drained.

use std::{cell::Cell, fs::File, io, os::unix::fs::MetadataExt as _, path::Path};

use aya::{
    Ebpf,
    maps::{Array, Map, MapData, MapError, PerCpuArray},
};
use flowcar_shared::counter::{COUNTERS, Counter};
use tokio::io::unix::AsyncFd;

use super::{
    attach_error::AttachError,
    generations::{Attachment, Generations},
    programs::{
        CALLBACKS, Loaded, Options, attach_binds, attach_calls, attach_names, attach_programs,
        load, log_earlier_calls, log_unobserved_binds, log_unobserved_calls, log_unobserved_names,
    },
    ring::{self, Ring},
    turn::{Allowance, Turn},
};
use crate::{
    files::{NO_DESCRIPTOR, lacks_descriptor},
    origin::ProcNumbers,
};

/// The map of the one variable that is written while the programs run: the sample epoch, whether there is no room, and whether this process
/// sleeps, which the programs write, too.
const USERSPACE: &str = ".bss";

/// Bytes of the ring that a short turn takes in: some 1,500 records of short connections, at a microsecond or two each. Some are taken in
/// after the turn's clock was asked for the last time, as they are decided together.
const SHORT_TURN: u32 = 128 << 10;

/// The attached programs. Dropping it detaches them: their link is held by this process alone.
pub(super) struct EbpfSource {
    programs: Ebpf,
    options: Options,
    generations: Generations,
    ring: AsyncFd<Ring>,
    counters: PerCpuArray<MapData, u64>,
    /// As they were read last.
    last_counters: Cell<[u64; COUNTERS]>,
    userspace: Array<MapData, [u32; 3]>,
    sample_epoch: u32,
    is_full: bool,
    is_asleep: bool,
    taken: u64,
    /// The name of the program of the callbacks.
    callbacks: &'static str,
    /// Whether the kernel takes the programs for `connect()`.
    observes_calls: bool,
    /// Whether the programs for bound sockets are attached, too.
    observes_binds: bool,
}

// === impl EbpfSource ===

impl EbpfSource {
    /// Loads the programs and attaches them to `cgroup`, a cgroup2 directory: from here on its sockets, and those of
    /// the cgroups below it, are followed.
    ///
    /// # Errors
    /// [`AttachError`], which states what is missing and what to do about it.
    pub(super) fn attach(cgroup: &Path, options: Options) -> Result<Self, AttachError> {
        let loaded = load(options)?;
        if let Err(error) = &loaded.calls {
            log_unobserved_calls(error);
        }
        if let Err(error) = &loaded.binds {
            log_unobserved_binds(error);
        }
        if let Err(error) = &loaded.names {
            log_unobserved_names(error);
        }
        let mut source = Self::with_maps(loaded)?;
        source.follow(cgroup)?;
        Ok(source)
    }

    /// Attaches the programs also to the cgroup that is at this path now: the first one, or one made in place of a removed one. Gives its
    /// id.
    ///
    /// # Errors
    /// [`AttachError`].
    pub(super) fn follow(&mut self, cgroup: &Path) -> Result<u64, AttachError> {
        let unreadable = AttachError::of_cgroup(cgroup);
        let directory = File::open(cgroup).map_err(&unreadable)?;
        let id = directory.metadata().map_err(&unreadable)?.ino();
        // Attached twice, they would count everything twice.
        if self.generations.newest() != Some(id) {
            self.attach_to(directory, id)?;
        }
        Ok(id)
    }

    fn attach_to(&mut self, directory: File, id: u64) -> Result<(), AttachError> {
        let Self {
            programs,
            options,
            callbacks,
            observes_calls,
            observes_binds,
            ..
        } = self;
        let mut links = attach_programs(programs, directory, id, *options, callbacks)?;
        if *observes_calls {
            match attach_calls(programs, links.directory(), *options) {
                Ok(calls) => {
                    links.add_calls(calls);
                    log_earlier_calls(programs, links.directory(), *options);
                }
                Err(error) => {
                    log_unobserved_calls(&error);
                    // Of a cgroup that is made later the same is true.
                    *observes_calls = false;
                }
            }
        }
        if *observes_binds {
            match attach_binds(programs, links.directory()) {
                Ok(binds) => links.add_binds(binds),
                Err(error) => {
                    log_unobserved_binds(&error);
                    *observes_binds = false;
                }
            }
        }
        if options.names {
            match attach_names(programs, links.directory()) {
                Ok(names) => links.add_names(names),
                Err(error) => {
                    log_unobserved_names(&error);
                    options.names = false;
                }
            }
        }
        self.generations.add(links);
        Ok(())
    }

    /// Whether the programs are still attached to the cgroup that was followed last. The kernel detaches them from a removed cgroup.
    pub(super) fn attachment(&self) -> Attachment {
        self.generations.attachment()
    }

    /// Attaches the programs to the cgroup that was followed last, after another process detached them. Gives its id.
    ///
    /// # Errors
    /// [`AttachError`].
    pub(super) fn attach_again(&mut self) -> Result<u64, AttachError> {
        let (id, directory) = self.generations.detached().ok_or(AttachError::Cgroup {
            path: "that was followed".to_owned(),
            error: io::ErrorKind::NotFound.into(),
        })?;
        self.attach_to(directory, id)?;
        Ok(id)
    }

    /// The id of the cgroup that was followed last.
    pub(super) fn cgroup(&self) -> Option<u64> {
        self.generations.newest()
    }

    /// Whether records of attempts show if they are of flowcar's network namespace.
    pub(super) fn knows_netns(&self) -> bool {
        CALLBACKS[..2].contains(&self.callbacks)
    }

    /// Whether packets are inspected.
    pub(super) const fn observes_packets(&self) -> bool {
        self.options.exchanges
    }

    /// Whether DNS messages are copied.
    pub(super) const fn observes_names(&self) -> bool {
        self.options.names
    }

    /// Waits until the kernel asks for a drain of the ring before the next is due.
    pub(super) async fn woken(&self) {
        if let Ok(mut ready) = self.ring.readable().await {
            ready.clear_ready();
        }
    }

    /// Hands over the records that wait, for one turn. Gives whether more may wait: with little CPU time, more records may
    /// come than are taken in.
    pub(super) fn drain(&mut self, turn: Turn, mut take: impl FnMut(&[u8])) -> bool {
        let most = match turn {
            Turn::Short => self.options.ring_bytes.min(SHORT_TURN) as usize,
            Turn::Whole => self.options.ring_bytes as usize,
        };
        let (mut taken, mut allowance) = (0, Allowance::of(turn));
        let mut more = false;
        let ring = self.ring.get_mut();
        while let Some(length) = ring.next(|record| {
            take(record);
            record.len()
        }) {
            let bytes = ring::HEADER + length;
            taken += bytes;
            more = taken >= most || allowance.is_spent(bytes);
            if more {
                break;
            }
        }
        self.taken += taken as u64;
        more
    }

    /// Bytes of records that were taken in so far, with their headers.
    pub(super) const fn taken(&self) -> u64 {
        self.taken
    }

    /// The same once all is taken in that can wait now.
    pub(super) const fn upto(&self) -> u64 {
        self.taken + self.options.ring_bytes as u64
    }

    /// The kernel's own counts so far, summed over its CPUs, by [`Counter::index`].
    ///
    /// # Errors
    /// If the map cannot be read, which a live map always can.
    pub(super) fn counters(&self) -> Result<[u64; COUNTERS], MapError> {
        let mut sums = [0; COUNTERS];
        // Established last: else a connection that is established and lost in between would be lost and never opened.
        for counter in Counter::ALL.into_iter().rev() {
            let values = self.counters.get(&counter.index(), 0)?;
            sums[counter.index() as usize] = values.iter().sum();
        }
        Ok(sums)
    }

    /// The same; as they were last read if the map cannot be read now.
    pub(super) fn kernel_counters(&self) -> [u64; COUNTERS] {
        match self.counters() {
            Ok(counters) => self.last_counters.set(counters),
            Err(error) => match lack_of_descriptors(&error) {
                true => tracing::error!("the kernel's counters cannot be read: {NO_DESCRIPTOR}"),
                false => tracing::error!(%error, "the kernel's counters cannot be read"),
            },
        }
        self.last_counters.get()
    }

    /// Requests one sample of every flow: its next round trip sends it.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub(super) fn ask_for_samples(&mut self) -> Result<(), AttachError> {
        self.sample_epoch = self.sample_epoch.wrapping_add(1);
        self.write_userspace()
            .map_err(|error| AttachError::of("request samples", error))
    }

    /// Sets whether the memory limit has no room for the storage of one more socket. Connections without room are counted by
    /// [`Counter::StorageRefused`].
    ///
    /// # Errors
    /// If the map cannot be written.
    pub(super) fn set_full(&mut self, is_full: bool) -> Result<(), AttachError> {
        if std::mem::replace(&mut self.is_full, is_full) == is_full {
            return Ok(());
        }
        self.write_userspace()
            .map_err(|error| AttachError::of("limit its memory", error))
    }

    /// Has the next record wake this process, once. One that is on its way meanwhile may not: it is there a moment later.
    ///
    /// # Errors
    /// If the map cannot be written: all is as it was.
    pub(super) fn sleep(&mut self) -> Result<(), AttachError> {
        self.is_asleep = true;
        self.write_userspace().map_err(|error| {
            self.is_asleep = false;
            AttachError::of("be woken by the next record", error)
        })
    }

    /// This process is awake. The programs know it if a record woke it; else the next record wakes it in vain.
    pub(super) const fn awake(&mut self) {
        self.is_asleep = false;
    }

    fn write_userspace(&mut self) -> Result<(), MapError> {
        let values = [
            self.sample_epoch,
            self.is_full.into(),
            self.is_asleep.into(),
        ];
        self.userspace.set(0, values, 0)
    }

    /// Whose numbers /proc shows the processes by that the programs report; `None` where they cannot be found there.
    pub(super) const fn proc_numbers(&self) -> Option<ProcNumbers> {
        self.options.callers
    }

    fn with_maps(loaded: Loaded) -> Result<Self, AttachError> {
        let Loaded {
            mut programs,
            callbacks,
            calls,
            binds,
            names,
            options,
        } = loaded;
        let mut take = |name: &str| {
            programs
                .take_map(name)
                .expect("sidecar-ebpf/src/maps.rs declares this map")
        };
        let (ring, counters, userspace) = (take("RECORDS"), take("COUNTERS"), take(USERSPACE));
        let of = |error| AttachError::of("open its maps", error);
        let Map::RingBuf(ring) = ring else {
            unreachable!("sidecar-ebpf/src/maps.rs declares a ring buffer");
        };
        // As large as it is: whole pages, which may be of 64 KiB.
        let ring_bytes = ring.info().map_err(of)?.max_entries();
        let ring = Ring::map(ring, ring_bytes as usize);
        let ring = ring.map_err(|error| of(error.into()))?;
        // SAFETY: the ring owns its descriptor, and the AsyncFd owns the ring for as long as it is registered.
        let ring = unsafe { AsyncFd::register_with_interest(ring, tokio::io::Interest::READABLE) }
            .map_err(|error| AttachError::Poll(error.into()))?;
        Ok(Self {
            programs,
            options: Options {
                ring_bytes,
                names: options.names && names.is_ok(),
                ..options
            },
            generations: Generations::default(),
            ring,
            counters: PerCpuArray::try_from(counters).map_err(of)?,
            last_counters: Cell::new([0; COUNTERS]),
            userspace: Array::try_from(userspace).map_err(of)?,
            sample_epoch: 0,
            is_full: false,
            is_asleep: false,
            taken: 0,
            callbacks,
            observes_calls: calls.is_ok(),
            observes_binds: binds.unwrap_or(false),
        })
    }
}

/// Whether a map could not be read for want of a file descriptor: values of all CPUs need a file that lists these.
fn lack_of_descriptors(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(error) if lacks_descriptor(&error.io_error))
        || matches!(error, MapError::IoError(error) if lacks_descriptor(error))
}

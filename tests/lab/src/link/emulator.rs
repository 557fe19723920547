use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        eventfd::{EfdFlags, EventFd},
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
    time::clock_gettime,
};

use super::{
    error::Error,
    packet::TcpSummary,
    plan::{Director, Plan, Verdict},
    record::{Direction, Fate, PacketRecord},
    trace::Trace,
    tun::Tun,
};

/// Packets taken from one device before the other one and the due ones have their turn.
const BATCH: usize = 64;

/// Larger than any packet a device may hold, so that a segment larger than the MTU would be seen whole.
const BUFFER: usize = 65_536;

/// Records kept by default, about 150 bytes each.
const LOG_LIMIT: usize = 1_000_000;

/// Above every normal thread, below other real-time threads.
const REAL_TIME_PRIORITY: libc::c_int = 1;

/// The thread that moves the packets, and what it shares with the link's owner.
#[derive(Debug)]
pub(super) struct Emulator {
    state: Arc<Mutex<State>>,
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    directors: [Director; 2],
    records: Vec<PacketRecord>,
    limit: usize,
    unrecorded: u64,
    failure: Option<io::Error>,
}

/// The thread's own state.
struct Loop {
    ends: [Tun; 2],
    epoll: Epoll,
    timer: TimerFd,
    state: Arc<Mutex<State>>,
    flying: BinaryHeap<Reverse<Flying>>,
    buffer: Box<[u8]>,
    /// Packets seen, both directions; the order of packets that are due at the same time.
    count: u64,
    /// The latest packet that arrived, for each direction.
    newest: [u64; 2],
}

/// A packet on its way; the order of the fields is the order of delivery.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Flying {
    due: Duration,
    number: u64,
    to: usize,
    record: Option<usize>,
    packet: Vec<u8>,
}

// === impl Emulator ===

impl Emulator {
    pub(super) fn start(ends: [Tun; 2], plan: Plan) -> Result<Self, Error> {
        // The same seed must not give both directions the same fate.
        let back = plan.clone().seed(plan.seed_of_the_way_back());
        let state = Arc::new(Mutex::new(State {
            directors: [Director::new(plan), Director::new(back)],
            records: Vec::new(),
            limit: LOG_LIMIT,
            unrecorded: 0,
            failure: None,
        }));
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC)
            .map_err(|error| Error::Start(error.into()))?;
        let mut work = Loop::new(ends, &stop, Arc::clone(&state)).map_err(Error::Start)?;
        let thread = thread::Builder::new()
            .name("link".to_owned())
            .spawn(move || {
                become_real_time();
                if let Err(error) = work.run() {
                    lock(&work.state).failure = Some(error);
                }
            })
            .map_err(Error::Start)?;
        Ok(Self {
            state,
            stop,
            thread: Some(thread),
        })
    }

    pub(super) fn set(&self, direction: Direction, plan: Plan) {
        let plan = match direction {
            Direction::AtoB => plan,
            Direction::BtoA => plan.clone().seed(plan.seed_of_the_way_back()),
        };
        lock(&self.state).directors[direction.origin()].change(plan);
    }

    pub(super) fn trace(&self) -> Trace {
        let state = lock(&self.state);
        Trace {
            records: state.records.clone(),
            unrecorded: state.unrecorded,
        }
    }

    pub(super) fn limit_log(&self, records: usize) {
        lock(&self.state).limit = records;
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        match &lock(&self.state).failure {
            None => Ok(()),
            Some(error) => Err(Error::Stopped(error.to_string())),
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // An eventfd takes 2^64 - 2 of these before it blocks.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            // It does not panic on purpose; if it did, its message is on stderr already.
            let _ = thread.join();
        }
    }
}

// === impl State ===

impl State {
    /// Where the record is kept, if it is.
    fn record(&mut self, record: PacketRecord) -> Option<usize> {
        if self.records.len() >= self.limit {
            self.unrecorded += 1;
            return None;
        }
        self.records.push(record);
        Some(self.records.len() - 1)
    }
}

// === impl Loop ===

impl Loop {
    fn new(ends: [Tun; 2], stop: &EventFd, state: Arc<Mutex<State>>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let timer = TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK,
        )?;
        let readable = || EpollEvent::new(EpollFlags::EPOLLIN, 0);
        epoll.add(&ends[0], readable())?;
        epoll.add(&ends[1], readable())?;
        epoll.add(&timer, readable())?;
        // Distinguished from the other events, all of which mean: check every device.
        epoll.add(stop, EpollEvent::new(EpollFlags::EPOLLIN, 1))?;
        Ok(Self {
            ends,
            epoll,
            timer,
            state,
            flying: BinaryHeap::new(),
            buffer: vec![0; BUFFER].into_boxed_slice(),
            count: 0,
            newest: [0; 2],
        })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 4];
        loop {
            let ready = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(ready) => ready,
                Err(nix::Error::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            if events[..ready].iter().any(|event| event.data() == 1) {
                return Ok(());
            }
            for direction in Direction::BOTH {
                self.receive(direction)?;
            }
            self.deliver()?;
            self.set_timer()?;
        }
    }

    fn receive(&mut self, direction: Direction) -> io::Result<()> {
        for _ in 0..BATCH {
            let Some(length) = self.ends[direction.origin()].receive(&mut self.buffer)? else {
                break;
            };
            self.admit(direction, now()?, length);
        }
        Ok(())
    }

    /// Decides about the packet in the buffer.
    fn admit(&mut self, direction: Direction, entered: Duration, length: usize) {
        let packet = &self.buffer[..length];
        let tcp = TcpSummary::parse(packet);
        let mut state = lock(&self.state);
        let verdict = state.directors[direction.origin()].decide(entered, tcp.as_ref());
        let mut record = PacketRecord {
            direction,
            entered,
            left: None,
            length: length as u32,
            tcp,
            fate: Fate::InFlight,
            copy: false,
        };
        self.count += 1;
        let Verdict::Deliver { due, copies } = verdict else {
            record.fate = Fate::Dropped;
            state.record(record);
            return;
        };
        for copy in 0..copies {
            record.copy = copy > 0;
            self.flying.push(Reverse(Flying {
                due,
                number: self.count,
                to: direction.target(),
                record: state.record(record),
                packet: packet.to_vec(),
            }));
        }
    }

    fn deliver(&mut self) -> io::Result<()> {
        while let Some(Reverse(next)) = self.flying.peek() {
            // Taken before the write, inside which the receiving kernel does its work and stamps its times.
            let left = now()?;
            if next.due > left {
                break;
            }
            let Some(Reverse(Flying {
                number,
                to,
                record,
                packet,
                ..
            })) = self.flying.pop()
            else {
                break;
            };
            let sent = self.ends[to].send(&packet);
            let newest = &mut self.newest[to];
            let fate = match sent {
                Err(_) => Fate::Refused,
                Ok(()) if number < *newest => Fate::Reordered,
                Ok(()) => Fate::Delivered,
            };
            *newest = number.max(*newest);
            if let Some(record) = record {
                let record = &mut lock(&self.state).records[record];
                record.fate = fate;
                record.left = sent.is_ok().then_some(left);
            }
        }
        Ok(())
    }

    /// Setting it also takes back an expiration that was not read.
    fn set_timer(&self) -> io::Result<()> {
        match self.flying.peek() {
            Some(Reverse(next)) => {
                self.timer.set(
                    Expiration::OneShot(next.due.into()),
                    TimerSetTimeFlags::TFD_TIMER_ABSTIME,
                )?;
            }
            None => self.timer.unset()?,
        }
        Ok(())
    }
}

fn now() -> io::Result<Duration> {
    Ok(clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?.into())
}

/// A panic elsewhere leaves the state as whole as it was.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A packet that waits for the processor has a delay that the plan does not have. Where this is refused, the link
/// is only less exact, and its log shows by how much.
fn become_real_time() {
    // As the kernel has `struct sched_param`. The call is made directly, because musl's wrapper refuses it.
    let priority: libc::c_int = REAL_TIME_PRIORITY;
    // SAFETY: the kernel reads the priority during the call; 0 is the calling thread.
    unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            0,
            libc::SCHED_FIFO,
            &raw const priority,
        );
    }
}

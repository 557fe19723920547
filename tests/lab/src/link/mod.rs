//! A link between two network namespaces that delays, drops, reorders and duplicates packets by a seeded
//! plan, and records what it did to each.
//!
//! ```text
//!  namespace a            one thread                        namespace b
//!  TUN device --read--> plan: drop? when due? --write--> TUN device
//!             <--write-- heap by due time, timerfd <--read--
//! ```
//!
//! A TUN device without IFF_VNET_HDR is never given segments larger than its MTU and their checksums are
//! complete, so what passes here is what would be on a wire. All times are CLOCK_MONOTONIC, the clock of
//! `bpf_ktime_get_ns`, so that they compare with what the kernel reports.

mod capture;
mod emulator;
mod error;
mod nat;
mod packet;
mod plan;
mod pod_pair;
mod record;
mod samples;
mod trace;
mod tun;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::{AtomicU8, Ordering},
};

pub use capture::{Capture, Captured};
use emulator::Emulator;
pub use error::Error;
pub use nat::{Nat, Rewrite};
pub use packet::TcpSummary;
pub use plan::{Only, Plan, When};
pub use pod_pair::PodPair;
pub use record::{Direction, Fate, PacketRecord};
pub use trace::{Trace, is_within_a_bucket, percentile, within_a_bucket, within_buckets};
use tun::Tun;

use crate::place::{DeviceAddresses, Netns, set_up_device};

/// Largest IP packet on the link, in bytes.
pub const MTU: u32 = 1500;

/// Packets that wait in a device until the emulator reads them: enough for any burst that two cores make,
/// because a drop here would be one that the plan did not ask for.
const DEVICE_QUEUE: u32 = 20_000;

/// Two namespaces connected by an emulated link. Dropping it takes both devices away.
#[derive(Debug)]
pub struct Link {
    number: u8,
    emulator: Emulator,
}

// === impl Link ===

impl Link {
    /// Connects two namespaces; `plan` holds for both directions.
    ///
    /// # Errors
    /// TUN devices cannot be made or configured.
    pub fn between(a: &Netns, b: &Netns, plan: Plan) -> Result<Self, Error> {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let ends = [add_end(a, number, 1)?, add_end(b, number, 2)?];
        Ok(Self {
            number,
            emulator: Emulator::start(ends, plan)?,
        })
    }

    /// Replaces the plan of one direction from now on: its counts and its random numbers start afresh.
    /// Packets on their way keep the fate they have.
    pub fn set(&self, direction: Direction, plan: Plan) {
        self.emulator.set(direction, plan);
    }

    /// Replaces the plans of both directions.
    pub fn set_both(&self, plan: Plan) {
        self.set(Direction::AtoB, plan.clone());
        self.set(Direction::BtoA, plan);
    }

    /// Address of the first namespace, IPv4.
    pub fn a4(&self) -> IpAddr {
        v4(self.number, 1)
    }

    /// Address of the second namespace, IPv4.
    pub fn b4(&self) -> IpAddr {
        v4(self.number, 2)
    }

    /// Address of the first namespace, IPv6.
    pub fn a6(&self) -> IpAddr {
        v6(self.number, 1)
    }

    /// Address of the second namespace, IPv6.
    pub fn b6(&self) -> IpAddr {
        v6(self.number, 2)
    }

    /// Link-local IPv6 address of the first (1) and second (2) namespace; its scope is [`Link::device`].
    pub fn link_local(end: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, end)
    }

    /// Name of the link's device, the same in both namespaces.
    pub fn device(&self) -> String {
        device_name(self.number)
    }

    /// What happened so far to every packet that entered the link.
    pub fn trace(&self) -> Trace {
        self.emulator.trace()
    }

    /// The records of [`Link::trace`].
    pub fn log(&self) -> Vec<PacketRecord> {
        self.trace().records
    }

    /// Keeps at most this many records from now on; the rest is only counted, in [`Trace::unrecorded`].
    pub fn limit_log(&self, records: usize) {
        self.emulator.limit_log(records);
    }

    /// Fails if the emulator stopped by an error: from then on nothing passes.
    ///
    /// # Errors
    /// The error that stopped it.
    pub fn check(&self) -> Result<(), Error> {
        self.emulator.check()
    }
}

fn add_end(netns: &Netns, number: u8, end: u8) -> Result<Tun, Error> {
    let name = device_name(number);
    let link_local = IpAddr::V6(Link::link_local(end.into()));
    let device = DeviceAddresses {
        name: name.clone(),
        mtu: MTU,
        queue: DEVICE_QUEUE,
        addresses: vec![
            (v4(number, end), 24),
            (v6(number, end), 64),
            (link_local, 64),
        ],
    };
    let made = netns.run(|| {
        // Made inside the namespace, a device needs no moving.
        let tun = Tun::open(&name)?;
        set_up_device(&device)?;
        Ok(tun)
    });
    made?.map_err(|why| Error::Device {
        name,
        netns: netns.name().to_owned(),
        why,
    })
}

fn device_name(number: u8) -> String {
    format!("link{number}")
}

fn v4(link: u8, end: u8) -> IpAddr {
    Ipv4Addr::new(10, 77, link, end).into()
}

fn v6(link: u8, end: u8) -> IpAddr {
    Ipv6Addr::new(0xfd77, link.into(), 0, 0, 0, 0, 0, end.into()).into()
}

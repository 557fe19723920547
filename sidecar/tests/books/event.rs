//! Events of connections, and faults in their delivery.

use proptest::prelude::*;

/// The next event of one of the sockets.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// An attempt begins; the peer's last octet.
    Connect(u8),
    /// It is established; or its storage, its callbacks, or the ring refuse.
    Establish(Fault),
    /// It fails.
    Fail { delivered: bool },
    /// It sends and receives, and a sample is due.
    Work {
        sent: u16,
        received: u16,
        rtt_us: u16,
        delivered: bool,
    },
    /// A socket dump shows every socket. If flowcar was stalled, it first reads the records that wait.
    Poll,
    /// It closes; the record arrives, is dropped, or does not decode. A dump may still show the socket.
    Close { arrival: Arrival, lingers: bool },
    /// flowcar stalls between two steps: records wait in the ring from here on.
    Stall,
    /// flowcar continues.
    CatchUp,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    None,
    RingFull,
    Storage,
    Callbacks,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Arrival {
    Whole,
    Dropped,
    Malformed,
}

fn event() -> impl Strategy<Value = Event> {
    let fault = prop_oneof![
        8 => Just(Fault::None),
        2 => Just(Fault::RingFull),
        1 => Just(Fault::Storage),
        1 => Just(Fault::Callbacks),
    ];
    let arrival = prop_oneof![
        8 => Just(Arrival::Whole),
        1 => Just(Arrival::Dropped),
        1 => Just(Arrival::Malformed),
    ];
    let delivered = proptest::bool::weighted(0.8);
    prop_oneof![
        4 => any::<u8>().prop_map(Event::Connect),
        4 => fault.prop_map(Event::Establish),
        2 => Just(Event::Poll),
        1 => delivered.prop_map(|delivered| Event::Fail { delivered }),
        8 => (any::<u16>(), any::<u16>(), 10_u16.., delivered).prop_map(|(sent, received, rtt_us, delivered)| {
            Event::Work { sent, received, rtt_us, delivered }
        }),
        3 => (arrival, any::<bool>()).prop_map(|(arrival, lingers)| Event::Close { arrival, lingers }),
        1 => Just(Event::Stall),
        1 => Just(Event::CatchUp),
    ]
}

/// Events, each with an index of its socket.
pub(crate) fn events() -> impl Strategy<Value = Vec<(usize, Event)>> {
    proptest::collection::vec((any::<usize>(), event()), 0..400)
}

//! Exchanges from packets: which end sent the last request, and when.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::{bpf_get_socket_cookie, bpf_sk_fullsock},
};
use flowcar_shared::{
    counter::Counter,
    exchange::{ExchangeHead, flag},
    record::Role,
};

use super::{
    of,
    record::{add, copy, keep},
    stored, stored_or_new,
};
use crate::{
    ctx::{before, now},
    maps::count,
};

/// Which way a packet goes.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    Out,
    In,
}

/// A segment with payload that ends before the sequence number `end`.
#[inline(always)]
pub(crate) fn payload(skb: *mut __sk_buff, way: Way, end: u32) {
    if let Some(head) = of(cookie(skb)) {
        if let Some(duration_us) = turn(head, skb, way, end)
            && !keep(head, duration_us)
        {
            promote(head, skb, duration_us);
        }
        return;
    }
    if let Some(record) = stored(socket(skb))
        && let Some(duration_us) = turn(&mut record.head, skb, way, end)
    {
        add(record, duration_us);
    }
}

/// The peer's last segment came: one with FIN, or one with RST and this sequence number.
#[inline(always)]
pub(crate) fn last(skb: *mut __sk_buff, reset: Option<u32>) {
    if let Some(head) = of(cookie(skb)) {
        keep_last(head, reset);
    } else if let Some(record) = stored(socket(skb)) {
        keep_last(&mut record.head, reset);
    }
}

#[inline(always)]
fn keep_last(head: &mut ExchangeHead, reset: Option<u32>) {
    if let Some(sequence) = reset {
        head.reset_sequence = sequence as u16;
        head.flags |= flag::RESET_RECEIVED;
    } else {
        head.flags |= flag::FIN_RECEIVED;
    }
}

/// A packet whose headers cannot be parsed: it may belong to an exchange.
#[inline(always)]
pub(crate) fn unread(skb: *mut __sk_buff) {
    if of(cookie(skb)).is_some() || stored(socket(skb)).is_some() {
        count(Counter::DetailRefused);
    }
}

/// The exchange that the segment completes, microseconds. A segment whose end is not new is a retransmission.
#[inline(always)]
fn turn(head: &mut ExchangeHead, skb: *mut __sk_buff, way: Way, end: u32) -> Option<u32> {
    let asks = match way {
        Way::Out => {
            if !before(head.sent_end, end) {
                return None;
            }
            head.sent_end = end;
            head.role == Role::Client as u8
        }
        Way::In => {
            if !before(head.received_end, end) {
                return None;
            }
            head.received_end = end;
            head.role != Role::Client as u8
        }
    };
    if asks {
        head.asked_ns = time(skb, way);
        return None;
    }
    let asked_ns = head.asked_ns;
    if asked_ns == 0 {
        return None;
    }
    head.asked_ns = 0;
    let duration_us = time(skb, way).saturating_sub(asked_ns) / 1000;
    Some(if duration_us > u64::from(u32::MAX) {
        u32::MAX
    } else {
        duration_us as u32
    })
}

/// When the segment leaves, or now. TCP stamps what it sends with the time of its departure, `CLOCK_MONOTONIC`
/// (net/ipv4/tcp_output.c, __tcp_transmit_skb, since 4.20), which saves reading the clock.
#[inline(always)]
fn time(skb: *mut __sk_buff, way: Way) -> u64 {
    if let Way::Out = way {
        // SAFETY: the verifier has proven the context pointer; the field is UAPI.
        let departure = unsafe { (&raw const (*skb).tstamp).read_volatile() };
        if departure != 0 {
            return departure;
        }
    }
    now()
}

#[inline(always)]
fn cookie(skb: *mut __sk_buff) -> u64 {
    // SAFETY: the helper takes the context.
    unsafe { bpf_get_socket_cookie(skb.cast()) }
}

/// The packet's socket; null where it has none, or not yet a full one.
#[inline(always)]
fn socket(skb: *mut __sk_buff) -> *mut bpf_sock {
    // SAFETY: the verifier has proven the context pointer; the field is UAPI.
    let sk = unsafe { (&raw const (*skb).__bindgen_anon_2.sk).read_volatile() };
    if sk.is_null() {
        return sk;
    }
    // SAFETY: a socket that was checked.
    unsafe { bpf_sk_fullsock(sk) }
}

/// Moves to socket storage, which has a histogram for the exchanges that follow.
#[inline(always)]
fn promote(head: &mut ExchangeHead, skb: *mut __sk_buff, duration_us: u32) {
    let Some(record) = stored_or_new(socket(skb)) else {
        count(Counter::DetailRefused);
        return;
    };
    copy(head, &mut record.head);
    add(record, duration_us);
    head.cookie = 0;
}

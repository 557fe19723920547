//! `BPF_SOCK_OPS_RTT_CB` (since 5.3): once in a round trip, when the window that was timed is acknowledged.

use aya_ebpf::bindings::{BPF_TCP_CLOSE_WAIT, BPF_TCP_ESTABLISHED};
use flowcar_shared::{
    counter::Counter,
    histogram::{MICROS, SLOTS},
    record::{FlowRecord, Kind, flag},
};

use crate::{ctx::Ctx, emit::emit, maps};

/// Counts one sample, and sends the flow's record if userspace's tick has moved since the last.
#[inline(always)]
pub(crate) fn sample(ctx: Ctx) {
    let Some(flow) = ctx.flow() else { return };
    // From 6.10 on the arguments are the measured RTT and the new smoothed one, shifted left by 3; the
    // field still holds the smoothed value before this sample. Before 6.10 there are no arguments and
    // that older smoothed value is all there is (net/ipv4/tcp_input.c, tcp_rtt_estimator).
    let smoothed = ctx.arg::<1>();
    let rtt_us = if smoothed != 0 {
        flow.srtt_us = smoothed >> 3;
        ctx.arg::<0>()
    } else {
        flow.flags |= flag::RTT_SMOOTHED;
        flow.srtt_us = ctx.srtt_us() >> 3;
        if flow.srtt_us == 0 {
            // The first callback of a connection comes before there is a smoothed value.
            return;
        }
        flow.srtt_us
    };
    record(flow, rtt_us);
    // Only in states that this end's FIN has not been sent in: past that, bytes_acked may hold the FIN
    // before the state says so, and a sample must never count a byte that the close record will not.
    let open = matches!(ctx.state(), BPF_TCP_ESTABLISHED | BPF_TCP_CLOSE_WAIT);
    if open && flow.tick != maps::tick() && flow.established_ns != 0 {
        ctx.measure(flow);
        emit(flow, Kind::Sample, Counter::SampleDropped);
    }
}

#[inline(always)]
fn record(flow: &mut FlowRecord, rtt_us: u32) {
    flow.rtt_sum_us += u64::from(rtt_us);
    if rtt_us < flow.rtt_min_us {
        flow.rtt_min_us = rtt_us;
    }
    if rtt_us > flow.rtt_max_us {
        flow.rtt_max_us = rtt_us;
    }
    // Through memory, so that the verifier sees one unknown index and one bound on every path. Without
    // CAP_PERFMON it refuses an index whose bounds differ from path to path.
    let scratch = &raw mut flow.scratch;
    // SAFETY: a field of the value that `flow` points to.
    let slot = unsafe {
        scratch.write_volatile(MICROS.slot(rtt_us.into()) as u32);
        scratch.read_volatile() as usize
    };
    if slot < SLOTS {
        // SAFETY: the index was just compared with the array's length.
        unsafe { *flow.rtt_slots.get_unchecked_mut(slot) += 1 };
        let used = slot as u16 + 1;
        if used > flow.slots_used {
            flow.slots_used = used;
        }
    }
}

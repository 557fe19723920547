//! `BPF_SOCK_OPS_RTT_CB` (since 5.3): once in a round trip, when the window that was timed is acknowledged.

use aya_ebpf::bindings::{BPF_TCP_CLOSE_WAIT, BPF_TCP_ESTABLISHED};
use flowcar_shared::{
    counter::Counter,
    record::{FlowRecord, Kind, flag},
};

use crate::{
    ctx::{Ctx, now},
    emit::{emit, emit_short},
    exchange,
    handshake::CALLBACKS,
    histogram::Histogram,
    maps,
    mark::Mark,
    short_flow::{self, ShortFlow},
    state::fins,
};

/// Segments received from which on a flow is sought in socket storage first: by then nearly every one has had more samples than a
/// short-flow slot holds.
const LONG: u32 = 32;

/// Counts one sample, and sends the flow's record if the sample epoch has moved since the last. Where another program asked for callbacks
/// before, the first is the handshake's round trip, which is reported as the time to connect: it is no sample.
#[inline(always)]
pub(crate) fn sample(ctx: Ctx) {
    let is_long = ctx.segs_in() >= LONG;
    if !is_long && let Some(short_flow) = short_flow::of(ctx) {
        return in_short_flow(ctx, short_flow);
    }
    if let Some(flow) = ctx.flow() {
        in_storage(ctx, flow);
    } else if is_long {
        in_short_flow_after_all(ctx);
    }
}

/// A flow that received much and sent little.
#[cold]
#[inline(never)]
fn in_short_flow_after_all(ctx: Ctx) {
    if let Some(short_flow) = short_flow::of(ctx) {
        in_short_flow(ctx, short_flow);
    }
}

#[inline(always)]
fn in_storage(ctx: Ctx, flow: &mut FlowRecord) {
    Mark::now(ctx).write(flow);
    if flow.established_ns == 0 {
        return;
    }
    let Some(rtt_us) = measured(ctx, &mut flow.flags) else {
        return;
    };
    count(flow, rtt_us);
    if flow.sample_epoch != maps::sample_epoch()
        && let Some(fins) = open(ctx)
    {
        report(ctx, flow, fins);
    }
}

#[cold]
#[inline(never)]
fn report(ctx: Ctx, flow: &mut FlowRecord, fins: u16) {
    maps::count(Counter::Sampled);
    flow.flags |= fins;
    ctx.measure(flow);
    exchange::report(ctx);
    emit(flow, Kind::Sample, now(), Counter::SampleDropped);
}

#[inline(always)]
fn in_short_flow(ctx: Ctx, short_flow: &mut ShortFlow) {
    short_flow.mark = Mark::now(ctx);
    if short_flow.established_ns == 0 {
        return;
    }
    let Some(rtt_us) = measured(ctx, &mut short_flow.flags) else {
        return;
    };
    if !short_flow.keep(rtt_us) {
        // The next sample checks whether a record is due.
        outgrown(ctx, short_flow, rtt_us);
    } else if !short_flow.reported()
        && let Some(fins) = open(ctx)
    {
        report_inline(ctx, short_flow, fins);
    }
}

#[cold]
#[inline(never)]
fn outgrown(ctx: Ctx, short_flow: &mut ShortFlow, rtt_us: u32) {
    match short_flow.promote(ctx) {
        Some(flow) => count(flow, rtt_us),
        None => maps::count(Counter::DetailRefused),
    }
}

#[cold]
#[inline(never)]
fn report_inline(ctx: Ctx, short_flow: &mut ShortFlow, fins: u16) {
    maps::count(Counter::Sampled);
    short_flow.flags |= fins;
    exchange::report(ctx);
    emit_short(ctx, short_flow, Kind::Sample);
}

/// The sample, microseconds.
///
/// From 6.10 on the arguments are the measured RTT and the new smoothed one, shifted left by 3; the
/// field still holds the smoothed value before this sample. Before 6.10 there are no arguments and
/// that older smoothed value is all there is (net/ipv4/tcp_input.c, tcp_rtt_estimator).
#[inline(always)]
fn measured(ctx: Ctx, flags: &mut u16) -> Option<u32> {
    // Another program on the way may have replaced the callback flags by its own.
    ctx.arm(CALLBACKS);
    if ctx.arg::<1>() != 0 {
        return Some(ctx.arg::<0>());
    }
    *flags |= flag::RTT_SMOOTHED;
    // The first callback of a connection comes before there is a smoothed value.
    match ctx.srtt_us() >> 3 {
        0 => None,
        smoothed => Some(smoothed),
    }
}

/// The FIN flags of the state, if this end's FIN has not been sent in it: after that, bytes_acked may hold the FIN before the state
/// shows it, and a sample must never count a byte that the close record will not.
#[inline(always)]
fn open(ctx: Ctx) -> Option<u16> {
    let state = ctx.state();
    matches!(state, BPF_TCP_ESTABLISHED | BPF_TCP_CLOSE_WAIT).then(|| fins(state))
}

/// Counts a sample in the flow's histogram.
#[inline(always)]
fn count(flow: &mut FlowRecord, rtt_us: u32) {
    let histogram = Histogram {
        sum_us: &mut flow.rtt_sum_us,
        min_us: &mut flow.rtt_min_us,
        max_us: &mut flow.rtt_max_us,
        slots: &mut flow.rtt_slots,
        slots_used: &mut flow.slots_used,
        scratch: &mut flow.scratch,
    };
    histogram.count(rtt_us);
}

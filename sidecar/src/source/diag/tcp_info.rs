//! `struct tcp_info`, read by the offsets of include/uapi/linux/tcp.h. The struct only ever grows at its end, so an offset
//! holds for every kernel that has the field.

use crate::flow::TcpInfo;

/// Where each field begins.
mod at {
    pub(super) const STATE: usize = 0;
    pub(super) const RETRANSMITS: usize = 2;
    pub(super) const PROBES: usize = 3;
    pub(super) const LAST_DATA_SENT: usize = 44;
    pub(super) const LAST_DATA_RECV: usize = 52;
    pub(super) const LAST_ACK_RECV: usize = 56;
    pub(super) const RTT: usize = 68;
    pub(super) const TOTAL_RETRANS: usize = 100;
    pub(super) const BYTES_ACKED: usize = 120;
    pub(super) const BYTES_RECEIVED: usize = 128;
    pub(super) const SEGS_OUT: usize = 136;
    pub(super) const SEGS_IN: usize = 140;
    pub(super) const NOTSENT_BYTES: usize = 144;
    pub(super) const MIN_RTT: usize = 148;
    pub(super) const DATA_SEGS_IN: usize = 152;
    pub(super) const DATA_SEGS_OUT: usize = 156;
    pub(super) const DELIVERY_RATE: usize = 160;
    pub(super) const RWND_LIMITED: usize = 176;
    pub(super) const SNDBUF_LIMITED: usize = 184;
    pub(super) const DELIVERED: usize = 192;
    pub(super) const BYTES_SENT: usize = 200;
    pub(super) const BYTES_RETRANS: usize = 208;
}

/// Bytes up to the last field that is used (Linux 4.19 and later have it).
pub(super) const LEAST: usize = at::BYTES_RETRANS + 8;

/// The fields that are used; `None` if there are not enough bytes.
pub(super) fn parse(bytes: &[u8]) -> Option<TcpInfo> {
    let bytes: &[u8; LEAST] = bytes.first_chunk()?;
    let u32_at = |at: usize| u32::from_ne_bytes(array(bytes, at));
    let u64_at = |at: usize| u64::from_ne_bytes(array(bytes, at));
    Some(TcpInfo {
        state: bytes[at::STATE],
        retransmits: bytes[at::RETRANSMITS],
        probes: bytes[at::PROBES],
        last_data_sent_ms: u32_at(at::LAST_DATA_SENT),
        last_data_recv_ms: u32_at(at::LAST_DATA_RECV),
        last_ack_recv_ms: u32_at(at::LAST_ACK_RECV),
        rtt_us: u32_at(at::RTT),
        total_retrans: u32_at(at::TOTAL_RETRANS),
        bytes_acked: u64_at(at::BYTES_ACKED),
        bytes_received: u64_at(at::BYTES_RECEIVED),
        segs_out: u32_at(at::SEGS_OUT),
        segs_in: u32_at(at::SEGS_IN),
        notsent: u32_at(at::NOTSENT_BYTES),
        min_rtt_us: u32_at(at::MIN_RTT),
        data_segs_in: u32_at(at::DATA_SEGS_IN),
        data_segs_out: u32_at(at::DATA_SEGS_OUT),
        delivery_rate: u64_at(at::DELIVERY_RATE),
        rwnd_limited_us: u64_at(at::RWND_LIMITED),
        sndbuf_limited_us: u64_at(at::SNDBUF_LIMITED),
        delivered: u32_at(at::DELIVERED),
        bytes_sent: u64_at(at::BYTES_SENT),
        bytes_retrans: u64_at(at::BYTES_RETRANS),
    })
}

/// `N` bytes from `at` on, which lie within a `tcp_info` by the table above.
fn array<const N: usize>(bytes: &[u8; LEAST], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

//! Where records come from. The only room that knows aya.

pub mod ebpf;

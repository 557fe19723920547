//! Types that flowcar's kernel programs and its userspace share.
//!
//! Everything here crosses the kernel border as plain memory, so every layout is `repr(C)`, has no
//! padding, and is asserted at compile time. Nothing here allocates or reads a clock.

#![no_std]

pub mod asked;
pub mod counter;
pub mod dns;
pub mod exchange;
pub mod histogram;
pub mod origin;
pub mod record;

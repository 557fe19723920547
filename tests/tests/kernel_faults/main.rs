//! Every fault that the link can have, and flowcar's report of it: the cause, and no other.

mod data;
mod handshake;
mod refused;
mod reported;
mod stalled;

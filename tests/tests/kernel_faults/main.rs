//! Every fault that the link can be made to have, and what flowcar says was wrong: the cause, and no other.

mod data;
mod handshake;
mod refused;
mod stalled;
mod told;

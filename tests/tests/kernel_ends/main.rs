//! Every way in which a connection closes, with real sockets, against what the kernel did to them: the reason at each end, and the
//! payload to the byte, in every mode.

mod crowd;
mod doubtful;
mod held;
mod orphans;
mod rows;
mod ways;

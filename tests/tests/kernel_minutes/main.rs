//! What takes minutes. In one program, because what waits can do so while another test has the machine.

mod half_closed;
mod rate;
mod starved;

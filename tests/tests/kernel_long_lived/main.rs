//! Tests that take minutes. In one program, because most of them wait while another one uses the machine.

mod half_closed;
mod rate;
mod starved;

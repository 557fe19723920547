//! The second source: what inet_diag shows, alone and beside eBPF, against what the applications did.

mod adoption;
mod alone;
mod closed_books;
mod cost;
mod listeners;
mod lossy;
mod scope;
mod stalled;

//! What flowcar's sidecar and its kubectl plugin have in common: histograms, quantities in few characters, and the screen of
//! `flowcar top` and `kubectl flowcar top`.
//!
//! ```text
//! control socket -> Answer --+                                  (flowcar top)
//!                            +--> top::Merged --> top::draw --> terminal
//! exec -> line -> Answer ----+                                  (kubectl flowcar top, one stream for each pod)
//! ```
//!
//! It knows neither the kernel nor a cluster.

pub mod answer;
mod buckets;
pub mod cut;
pub mod histogram;
pub mod line;
pub mod quantity;
pub mod terminal;
pub mod top;

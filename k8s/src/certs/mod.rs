//! The webhook's certificates: made, rotated and published automatically.
//!
//! [`Material`] is what two Secrets hold; [`advance`] decides purely, with the time as an argument, what is due.
//! [`CertificateReconciler`] does it against the API server, and only while it holds the Lease.

mod material;
mod reconciler;
mod remaining;
mod rotation;

pub use material::{Authority, Material, MaterialError, SecretData};
pub(crate) use material::{ends, server_config_of};
pub use reconciler::{CertificateReconciler, Names, ReconcileError, WEBHOOK_FIELD_MANAGER};
pub(crate) use remaining::{Remaining, is_own, remaining};
pub use rotation::{Policy, Step, advance};

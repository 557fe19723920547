//! The webhook's certificates: made, rotated and published without anybody's hand.
//!
//! [`Material`] is what two Secrets hold; [`advance`] decides purely, with the time as an argument, what is due.
//! [`Keeper`] does it against the API server, and only while it holds the Lease.

mod keeper;
mod material;
mod remaining;
mod rotation;

pub use keeper::{Keeper, KeeperError, Names, WEBHOOK_FIELD_MANAGER};
pub use material::{Authority, Material, MaterialError, SecretData};
pub(crate) use material::{ends, server_config_of};
pub(crate) use remaining::{Remaining, is_own, remaining};
pub use rotation::{Policy, Step, advance};

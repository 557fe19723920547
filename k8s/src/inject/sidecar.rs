//! What the sidecar's container is made from.

use serde_json::Value;

use super::{Context, Form};
use crate::{annotations::Overrides, config::Settings};

/// All that the sidecar's container depends on.
pub(super) struct Sidecar<'a> {
    pub(super) pod: &'a Value,
    pub(super) context: &'a Context,
    pub(super) settings: &'a Settings,
    pub(super) overrides: &'a Overrides,
    pub(super) form: Form,
}

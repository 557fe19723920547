//! Every annotation of flowcar, in one table: [`TABLE`].
//!
//! A row carries its name, type, default, meaning, example and the environment variable that it sets on the
//! sidecar. Parsing ([`Overrides::parse`]), the documentation ([`markdown`]) and the injected environment are
//! all read from it, so a new override is one new row.

mod docs;
mod endpoint;
mod identity;
mod kind;
mod limits;
mod overrides;
mod problem;
mod resources;
mod table;

pub use docs::markdown;
use endpoint::with_values;
pub(crate) use endpoint::{LONGEST_SOCKET, REFERENCES, socket_path};
pub(crate) use identity::identity_of;
pub use kind::{Kind, parse_secret_ref};
pub(crate) use kind::{parse_command, parse_reference};
pub use limits::Limits;
pub(crate) use limits::{Written, is_secure};
pub use overrides::{Overrides, Permissions};
pub use problem::Problem;
#[cfg(test)]
pub(crate) use problem::ProblemKind;
pub(crate) use resources::{RESOURCES, Resource, drop_contradictions};
pub use table::{Annotation, Key, TABLE};

/// The prefix of every annotation and label of flowcar.
pub const PREFIX: &str = "flowcar.io/";

/// Opts a pod, a workload or (as a label) a namespace in or out.
pub const INJECT: &str = "flowcar.io/inject";

/// Written by flowcar on a pod: what was injected, or why not. See `inject::Status`.
pub const STATUS: &str = "flowcar.io/status";

/// Written by flowcar into a template: the keys that it copied from the workload, comma-separated.
pub const COPIED: &str = "flowcar.io/copied";

/// Written by flowcar into a template: the workload, as `Kind/name`, that the copy came from.
pub const WORKLOAD: &str = "flowcar.io/workload";

/// The annotations that only flowcar writes.
pub const OWN_MARKS: [&str; 3] = [STATUS, COPIED, WORKLOAD];

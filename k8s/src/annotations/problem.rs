//! What can be wrong with annotations, each in one sentence that fits an admission warning.

use std::fmt;

use super::{Annotation, Kind, PREFIX, TABLE, socket_path};
use crate::text::{clip, nearest};

/// One problem in a set of annotations.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(strum::EnumDiscriminants))]
#[cfg_attr(
    test,
    strum_discriminants(vis(pub(crate)), name(ProblemKind), derive(strum::EnumIter))
)]
pub enum Problem {
    /// No annotation has this name.
    UnknownKey {
        /// The whole name, as written.
        name: String,
        /// The nearest name that exists.
        nearest: Option<&'static str>,
    },
    /// The value is none that the annotation takes.
    InvalidValue {
        /// The annotation.
        row: &'static Annotation,
        /// The value, as written.
        value: String,
    },
    /// The operator does not allow this annotation.
    NotPermitted {
        /// The annotation.
        row: &'static Annotation,
    },
    /// The endpoint is on no line of the operator's allow-list.
    EndpointNotAllowed {
        /// The endpoint, as written.
        endpoint: String,
    },
    /// The operator lets no annotation decide it.
    Locked {
        /// The annotation.
        row: &'static Annotation,
    },
    /// The value is not within what the operator allows.
    OutOfBounds {
        /// The annotation.
        row: &'static Annotation,
        /// The value, as written.
        value: String,
        /// What the operator allows, in words.
        bound: String,
    },
    /// A resource attribute that would give the pod another one's identity.
    Identity {
        /// The attribute.
        key: String,
    },
    /// The endpoint is neither `https://` nor `unix://`, and the operator wants one of them.
    TlsRequired {
        /// The endpoint, as written.
        endpoint: String,
    },
    /// A request above its limit, which the API server would refuse.
    RequestAboveLimit {
        /// `cpu` or `memory`.
        resource: &'static str,
    },
}

// === impl Problem ===

impl Problem {
    /// The problem as a metric attribute, of a small fixed set.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnknownKey { .. } => "unknown_annotation",
            Self::InvalidValue { .. } => "invalid_value",
            Self::NotPermitted { .. } => "not_permitted",
            Self::EndpointNotAllowed { .. } => "endpoint_not_allowed",
            Self::Locked { .. } => "locked",
            Self::OutOfBounds { .. } => "out_of_bounds",
            Self::Identity { .. } => "identity",
            Self::TlsRequired { .. } => "tls_required",
            Self::RequestAboveLimit { .. } => "request_above_limit",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKey {
                name,
                nearest: Some(nearest),
            } => {
                write!(
                    f,
                    "{}: unknown, ignored; did you mean {nearest}?",
                    clip(name, 50)
                )
            }
            Self::UnknownKey {
                name,
                nearest: None,
            } => {
                write!(
                    f,
                    "{}: unknown, ignored; see the table of annotations",
                    clip(name, 60)
                )
            }
            Self::InvalidValue { row, value } => {
                let quoted = quoted(row, value, 26);
                match row.kind.nearest(value) {
                    Some(nearest) => write!(
                        f,
                        "{}{quoted}: ignored; did you mean {nearest:?}?",
                        row.name
                    ),
                    None => write!(f, "{}{quoted}: ignored; expected {}", row.name, row.kind),
                }
            }
            Self::NotPermitted { row } => {
                write!(
                    f,
                    "{}: ignored, the controller's configuration does not allow it",
                    row.name
                )
            }
            Self::EndpointNotAllowed { endpoint } => {
                write!(
                    f,
                    "flowcar.io/endpoint={:?}: ignored, not on the allow-list",
                    clip(place_of(endpoint), 60)
                )
            }
            Self::Locked { row } => {
                write!(f, "{}: ignored, the operator has locked it", row.name)
            }
            Self::OutOfBounds { row, value, bound } => {
                let quoted = quoted(row, value, 20);
                write!(
                    f,
                    "{}{quoted}: ignored, the operator allows {}",
                    row.name,
                    clip(bound, 24)
                )
            }
            Self::Identity { key } => {
                write!(
                    f,
                    "flowcar.io/resource-attributes: {} is ignored, it is fixed for each pod",
                    clip(key, 40)
                )
            }
            Self::TlsRequired { endpoint } => {
                write!(
                    f,
                    "flowcar.io/endpoint={:?}: ignored, the operator requires https:// or unix://",
                    clip(place_of(endpoint), 36)
                )
            }
            Self::RequestAboveLimit { resource } => {
                write!(
                    f,
                    "flowcar.io/{resource}-request is above the {resource} limit: both ignored"
                )
            }
        }
    }
}

/// `="value"` where the value is a word or an amount. Another one can be a secret in the wrong place, as the headers
/// themselves where the name of their Secret belongs, and warnings, Events and logs have many readers.
fn quoted(row: &Annotation, value: &str, most: usize) -> String {
    match row.kind {
        Kind::Choice(_) | Kind::Integer { .. } | Kind::Cpu | Kind::Memory => {
            format!("={}", clip(&format!("{value:?}"), most))
        }
        _ => String::new(),
    }
}

/// The endpoint without path and query, which can have a key in them; a socket's whole path.
fn place_of(endpoint: &str) -> &str {
    if socket_path(endpoint).is_some() {
        return endpoint;
    }
    let host = endpoint.find("://").map_or(0, |at| at + 3);
    let end = endpoint[host..].find(['/', '?', '#']);
    end.map_or(endpoint, |end| &endpoint[..host + end])
}

/// The annotation that an unknown name was most likely meant to be. `None` inside means that the name is
/// flowcar's but near nothing; `None` outside that it is someone else's annotation.
pub(super) fn unknown_key(name: &str) -> Option<Option<&'static str>> {
    let (prefix, short) = name.split_once('/')?;
    let ours = PREFIX.trim_end_matches('/');
    let short_names = || TABLE.iter().map(|row| &row.name[PREFIX.len()..]);
    let row_of = |short: &str| {
        TABLE
            .iter()
            .map(|row| row.name)
            .find(|name| &name[PREFIX.len()..] == short)
    };
    if prefix == ours {
        return Some(nearest(short, short_names()).and_then(row_of));
    }
    // A misspelled prefix is only reported where the rest is exactly a name of flowcar's.
    let slipped = strsim::damerau_levenshtein(prefix, ours) <= 3;
    (slipped && short_names().any(|known| known == short)).then(|| row_of(short))
}

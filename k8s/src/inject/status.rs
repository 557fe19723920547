//! The annotation on the pod that records what flowcar did.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::annotations::STATUS;

/// The value of `flowcar.io/status`, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", untagged)]
pub enum Status {
    /// The sidecar was added.
    Injected {
        /// flowcar's version.
        version: String,
        /// The hash of the configuration.
        config: String,
        /// `ebpf`, or `inet_diag` for the form without capabilities.
        form: String,
        /// The volumes that were added.
        volumes: Vec<String>,
        /// Those of them that were declared to the cluster autoscaler as safe to lose.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        evictable: Vec<String>,
        /// The Secrets that were added to those that images are pulled with.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        secrets: Vec<String>,
        /// Fields that were absent, as JSON pointers, to undo the injection.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        absent: Vec<String>,
        /// Fields that were null, as JSON pointers, to undo the injection.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        null: Vec<String>,
    },
    /// The sidecar was asked for and not added.
    Skipped {
        /// See `Skip::reason`.
        skipped: String,
        /// The reason as a sentence.
        message: String,
        /// As in [`Status::Injected`].
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        absent: Vec<String>,
        /// As in [`Status::Injected`].
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        null: Vec<String>,
    },
}

// === impl Status ===

impl Status {
    /// The status among a pod's annotations, if there is one that can be read.
    #[must_use]
    pub fn read(annotations: &Map<String, Value>) -> Option<Self> {
        serde_json::from_str(annotations.get(STATUS)?.as_str()?).ok()
    }

    /// The annotation's value.
    pub(super) fn to_text(&self) -> String {
        serde_json::to_string(self).expect("strings serialise")
    }

    /// The fields that were absent and null before.
    pub(super) fn before(&self) -> (&[String], &[String]) {
        match self {
            Self::Injected { absent, null, .. } | Self::Skipped { absent, null, .. } => {
                (absent, null)
            }
        }
    }
}

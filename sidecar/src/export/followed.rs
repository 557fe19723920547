//! What is followed: the cgroup that was named, the pod's, or the network namespace.

use std::path::{Path, PathBuf};

use crate::{
    cgroup::{self, CgroupError},
    config::{Config, SourceChoice},
    source::{self, cause::Cause},
};

/// The source, and the cgroup that was named or the pod's. Without programs and without a named cgroup flowcar follows the network
/// namespace, which is the pod's too. `auto` does so if there is no cgroup2 to attach programs to.
pub(super) fn followed(
    named: Option<&Path>,
    config: &Config,
) -> Result<(SourceChoice, Option<PathBuf>), CgroupError> {
    if let Some(path) = named {
        let in_pod = config.pod.is_known();
        let path = cgroup::named(path, in_pod, &config.host_cgroup)?;
        let choice = if in_pod {
            beside_tree(config)?
        } else {
            config.source
        };
        return Ok((choice, Some(path)));
    }
    if config.source == SourceChoice::InetDiag {
        return Ok((config.source, None));
    }
    let found = match cgroup::discover(&config.host_cgroup) {
        Err(error) if config.source == SourceChoice::Auto && cgroup::is_version_1_only() => {
            source::log_refusal(&Cause::CgroupV1, &error);
            return Ok((SourceChoice::InetDiag, None));
        }
        found => found?,
    };
    if beside_tree(config)? == SourceChoice::InetDiag {
        return Ok((SourceChoice::InetDiag, None));
    }
    // A static pod's cgroup has another uid than the API's: the inode is the proof, the uid a hint.
    if let Some(uid) = config.pod.uid.as_ref().filter(|uid| **uid != found.uid) {
        tracing::warn!(
            cgroup = %found.path.display(),
            "the pod's cgroup is named by another uid than the API's ({uid}): correct for a static pod only"
        );
    }
    Ok((config.source, Some(found.path)))
}

/// The source in a pod: no programs, and so no rights, if flowcar could write to the node's cgroup tree.
fn beside_tree(config: &Config) -> Result<SourceChoice, CgroupError> {
    if config.source == SourceChoice::InetDiag {
        return Ok(SourceChoice::InetDiag);
    }
    match cgroup::check_read_only(&config.host_cgroup) {
        Err(error @ CgroupError::WritableTree { .. }) if config.source == SourceChoice::Auto => {
            source::log_refusal(&Cause::WritableTree, &error);
            Ok(SourceChoice::InetDiag)
        }
        checked => checked.map(|()| config.source),
    }
}

//! The followed cgroup is removed and created again, or another process detaches the programs.

use std::{fs, os::unix::fs::MetadataExt as _};

use crate::{
    cgroup::{Change, Watch},
    exit::{self, Failure},
    session::Session,
    source::SourceError,
};

/// Waits for a change of the cgroup; for ever if there is none.
pub(super) async fn changed(watch: &mut Option<Watch>) -> Change {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

/// Follows the cgroup that was created in place of the one that was followed. Until there is one, the flows of the old one are
/// followed until they close.
pub(super) fn follow_again(
    session: &mut Session,
    watch: &mut Option<Watch>,
    change: Change,
    attaches: bool,
) -> Result<(), Failure> {
    let Some(watch) = watch else { return Ok(()) };
    let path = watch.path().to_owned();
    let cgroup = path.display();
    if change == Change::Removed {
        tracing::warn!(
            %cgroup,
            "the followed cgroup was removed: its connections are followed until they close, and a new cgroup at the path will be followed"
        );
        return Ok(());
    }
    let there = || fs::metadata(&path).map(|found| found.ino()).ok();
    let before = there();
    match session.follow(&path) {
        Ok(id) => {
            watch.follows(id);
            tracing::info!(%cgroup, "the cgroup was recreated: following its TCP flows");
            Ok(())
        }
        // It was removed again meanwhile.
        Err(_) if there() != before => Ok(()),
        Err(error) => Err(Failure::new(
            exit::START_AGAIN,
            format_args!(
                "the followed cgroup {cgroup} was removed and recreated, and the new one cannot be followed: {}. flowcar exits with status 75, so that its supervisor restarts it",
                why_not_attached(attaches, &error)
            ),
        )),
    }
}

/// Fails if the programs cannot be attached again: nothing would be followed, silently.
pub(super) fn check_links(session: &mut Session, attaches: bool) -> Result<(), Failure> {
    session.check_links().map_err(|error| {
        Failure::new(
            exit::START_AGAIN,
            format_args!(
                "flowcar's programs were detached from the cgroup by another process, and cannot be attached again: {}. flowcar exits with status 75, so that its supervisor restarts it",
                why_not_attached(attaches, &error)
            ),
        )
    })
}

/// Why programs are not attached a second time: in a pod the filter of system calls refuses what the kernel would allow.
fn why_not_attached(attaches: bool, error: &SourceError) -> String {
    match attaches {
        true => error.to_string(),
        false => "in a pod flowcar attaches no program a second time, because it could be attached to another pod's cgroup".to_owned(),
    }
}

//! What finds containers and processes, and reads statistics of containers, as the settings ask for it.

use std::path::{Path, PathBuf};

use crate::{
    cgroup,
    config::Config,
    container_stats::{ContainerStats, Root},
    host::Host,
    origin::{Containers, Origins, ProcNumbers, Processes},
    source::own_netns,
};

/// The cgroup in which containers are, where one of the settings asks for it: the followed one, else the pod's. Without programs the
/// network namespace is followed, and the tree may be there all the same.
pub(super) fn tree(config: &Config, cgroup: Option<&Path>) -> Option<PathBuf> {
    if !config.containers && !config.container_stats {
        return None;
    }
    let pod = || Some(cgroup::discover(&config.host_cgroup).ok()?.path);
    cgroup.map(Path::to_owned).or_else(pod)
}

/// What finds whose sockets the flows have. Where a container's own cgroup is followed, all are its, and the resource says so.
pub(super) fn origins(
    config: &Config,
    tree: Option<&Path>,
    host: &Host,
    numbers: Option<ProcNumbers>,
) -> Origins {
    let containers = config.containers && host.container_id.is_none();
    let containers = containers.then(|| Containers::below(tree));
    let processes = config.processes.then(|| Processes::of_proc(numbers));
    Origins::new(containers, processes, own_netns())
}

/// The statistics of containers, where the setting asks for them, and metrics are sent.
pub(super) fn container_stats(
    config: &Config,
    tree: Option<&Path>,
    root: Root,
) -> Option<ContainerStats> {
    if !config.container_stats || config.export.metrics.is_none() {
        return None;
    }
    if tree.is_none() {
        tracing::warn!(
            "FLOWCAR_CONTAINERS is ignored: the cgroup tree of the node is not there. The injector mounts it with the eBPF source; elsewhere mount it read-only and name it in FLOWCAR_HOST_CGROUP, or give --cgroup"
        );
    }
    let stats = tree.map(|tree| ContainerStats::below(tree, root))?;
    // None is there yet where flowcar starts first.
    tracing::info!(
        containers = stats.count(),
        "reading statistics of containers"
    );
    Some(stats)
}

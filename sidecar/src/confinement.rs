//! The confinement of a process: user namespace, seccomp, Linux security modules, limits. Read from /proc and /sys, where
//! a container sees its own.

use std::fs;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

/// The inode number of the initial user namespace (include/linux/proc_ns.h, PROC_USER_INIT_INO).
const INITIAL_USER_NAMESPACE: &str = "user:[4026531837]";

/// The confinement of this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Whether it is in a user namespace other than the initial one, where no capability counts for bpf(2).
    pub user_namespace: bool,
    /// `Seccomp` in /proc/PID/status: a filter is active (2), or strict mode (1).
    pub seccomp: Seccomp,
    /// How security modules confine this process, if one does.
    pub confinement: Confinement,
    /// Whether SELinux enforces its policy; unknown if its file system is not mounted, as in most containers.
    pub selinux_enforcing: Option<bool>,
    /// The active mode of kernel lockdown (kernel_lockdown(7)), where it can be read.
    pub lockdown: Option<String>,
    /// The active security modules, where they can be read.
    pub modules: Option<String>,
    /// RLIMIT_MEMLOCK in bytes, `None` for unlimited.
    pub memlock: Option<u64>,
}

/// Mode of seccomp(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// No filter.
    #[default]
    Off,
    /// A filter or strict mode.
    Filtered,
    /// The kernel does not report it.
    Unknown,
}

/// The content of /proc/self/attr/current.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Confinement {
    /// No module confines it.
    #[default]
    Unconfined,
    /// An SELinux context.
    Selinux(String),
    /// An AppArmor profile that is enforced.
    AppArmor(String),
}

// === impl Surroundings ===

impl Surroundings {
    /// Reads the confinement. A value that cannot be read is that of an unconfined process.
    pub fn read() -> Self {
        let text = |path| fs::read_to_string(path).ok();
        let namespace = fs::read_link("/proc/self/ns/user").ok();
        Self {
            user_namespace: namespace
                .is_some_and(|namespace| namespace.as_os_str() != INITIAL_USER_NAMESPACE),
            seccomp: text("/proc/self/status").map_or(Seccomp::Unknown, |text| seccomp(&text)),
            confinement: text("/proc/self/attr/current")
                .map_or(Confinement::Unconfined, |text| confinement(&text)),
            selinux_enforcing: text("/sys/fs/selinux/enforce").map(|text| text.trim() == "1"),
            lockdown: text("/sys/kernel/security/lockdown").and_then(|text| lockdown(&text)),
            modules: text("/sys/kernel/security/lsm").map(|text| text.trim().to_owned()),
            memlock: getrlimit(Resource::RLIMIT_MEMLOCK)
                .ok()
                .and_then(|(soft, _)| (soft != RLIM_INFINITY).then_some(soft)),
        }
    }
}

/// From a /proc/PID/status file.
fn seccomp(status: &str) -> Seccomp {
    let mode = status
        .lines()
        .find_map(|line| line.strip_prefix("Seccomp:"));
    match mode.map(str::trim) {
        Some("0") => Seccomp::Off,
        Some(_) => Seccomp::Filtered,
        None => Seccomp::Unknown,
    }
}

/// From a /proc/PID/attr/current file: an SELinux context has colons, an AppArmor profile its mode behind it.
fn confinement(current: &str) -> Confinement {
    let current = current.trim_end_matches(['\0', '\n']);
    if let Some(profile) = current.strip_suffix(" (enforce)") {
        return Confinement::AppArmor(profile.to_owned());
    }
    if current.split(':').count() >= 3 && !current.contains(' ') {
        return Confinement::Selinux(current.to_owned());
    }
    Confinement::Unconfined
}

/// The mode in brackets.
fn lockdown(modes: &str) -> Option<String> {
    let (_, rest) = modes.split_once('[')?;
    let (active, _) = rest.split_once(']')?;
    Some(active.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seccomp_modes_parse() {
        assert_eq!(seccomp("Name:\tx\nSeccomp:\t0\n"), Seccomp::Off);
        assert_eq!(
            seccomp("NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n"),
            Seccomp::Filtered
        );
        assert_eq!(seccomp("Name:\tx\n"), Seccomp::Unknown);
    }

    #[test]
    fn selinux_contexts_and_apparmor_profiles_parse() {
        let apparmor = Confinement::AppArmor("cri-containerd.apparmor.d".into());
        assert_eq!(
            confinement("cri-containerd.apparmor.d (enforce)\n"),
            apparmor
        );
        let selinux = Confinement::Selinux("system_u:system_r:container_t:s0:c1,c2".into());
        assert_eq!(
            confinement("system_u:system_r:container_t:s0:c1,c2\0"),
            selinux
        );
        for none in [
            "unconfined\n",
            "docker-default (complain)\n",
            "kernel\0",
            "",
        ] {
            assert_eq!(confinement(none), Confinement::Unconfined, "{none:?}");
        }
    }

    #[test]
    fn active_lockdown_mode_parses() {
        let modes = "none [integrity] confidentiality\n";
        assert_eq!(lockdown(modes).as_deref(), Some("integrity"));
        assert_eq!(lockdown(""), None);
    }
}

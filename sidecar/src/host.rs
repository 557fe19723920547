//! The identity of a followed cgroup on a host without pods: its name is that of the unit or container, its id survives a restart.

use std::{fs, path::Path};

use nix::unistd::gethostname;
use uuid::Uuid;

use crate::cgroup;

/// The namespace that OpenTelemetry gives for a `service.instance.id` of version 5 (semantic conventions,
/// attributes-registry/service).
const NAMESPACE: Uuid = Uuid::from_u128(0x4d63009a_8d0f_11ee_aad7_4c796ed8e320);

/// Where systemd (machine-id(5)) and D-Bus keep the machine's id.
const MACHINE_ID: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];

/// The resource's attributes that do not come from the settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// `service.name`
    pub service_name: Option<String>,
    /// `service.instance.id`
    pub instance: Option<String>,
    /// `host.name`
    pub host_name: Option<String>,
    /// `container.id`
    pub container_id: Option<String>,
}

impl Host {
    /// For a command that `flowcar run` runs: each run is an instance of its own.
    pub fn of_command(command: Option<&str>) -> Self {
        Self {
            service_name: command.map(str::to_owned),
            instance: random(),
            host_name: host_name(),
            container_id: None,
        }
    }

    /// For a cgroup that was named, or else for the whole network namespace.
    pub fn of_cgroup(cgroup: Option<&Path>) -> Self {
        let path = match cgroup {
            Some(path) => below_mount(path),
            None => cgroup::own_cgroup().map_or_else(|_| String::new(), |own| below_mount(&own)),
        };
        let (service_name, container_id) = match cgroup {
            Some(_) => named_by(&path),
            None => (None, None),
        };
        Self {
            service_name,
            instance: machine_id()
                .or_else(|| host_name().filter(|name| distinguishes_hosts(name)))
                .map(|machine| derived(&machine, &path))
                .or_else(random),
            host_name: host_name(),
            container_id,
        }
    }
}

/// The path of a cgroup as /proc/PID/cgroup would have it, wherever cgroup2 is mounted.
fn below_mount(path: &Path) -> String {
    let mount = cgroup::mount_point().unwrap_or_default();
    let below = path.strip_prefix(&mount).unwrap_or(path);
    format!("/{}", below.display().to_string().trim_start_matches('/'))
}

/// Not the machine's id itself, which must be kept secret (machine-id(5)).
fn derived(machine: &str, path: &str) -> String {
    Uuid::new_v5(&NAMESPACE, format!("{machine} {path}").as_bytes()).to_string()
}

/// A machine's id is 32 hex digits; in an image that was never booted it may be `uninitialized`.
fn machine_id() -> Option<String> {
    MACHINE_ID.into_iter().find_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        let id = text.trim();
        let is_id = id.len() == 32 && id.bytes().all(|digit| digit.is_ascii_hexdigit());
        is_id.then(|| id.to_owned())
    })
}

/// Whether a host's name may stand for a machine's id, which an image from scratch does not have: the names that hosts without one have
/// do not.
fn distinguishes_hosts(name: &str) -> bool {
    let first = name.split('.').next().unwrap_or_default();
    !["", "localhost", "localhost6", "linux"].contains(&first.to_ascii_lowercase().as_str())
}

/// A random UUID of the kernel's; none where there is no /proc.
pub fn random() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/uuid").ok()?;
    Some(id.trim().to_owned())
}

fn host_name() -> Option<String> {
    let name = gethostname().ok()?.into_string().ok()?;
    (!name.is_empty() && name != "(none)").then_some(name)
}

/// The service's name and the container's id in the path of a cgroup: of the innermost unit of systemd's, else of the
/// directory itself.
fn named_by(path: &str) -> (Option<String>, Option<String>) {
    let unit = |name: &&str| name.ends_with(".service") || name.ends_with(".scope");
    let mut names = path.rsplit('/').filter(|name| !name.is_empty());
    let innermost = names.clone().next();
    let Some(name) = names.find(unit).or(innermost) else {
        // The root: the whole host.
        return (None, None);
    };
    let suffixes = [".service", ".scope", ".slice"];
    let bare = suffixes.into_iter().find_map(|end| name.strip_suffix(end));
    let name = unescape(bare.unwrap_or(name));
    match container(&name) {
        // The short form that container engines list.
        Some((before, id)) => (Some(format!("{before}{}", &id[..12])), Some(id.to_owned())),
        None => (Some(name), None),
    }
}

/// The container's id in a name, and what is before it. The names of container engines' scopes and directories: `docker-<id>`, `libpod-<id>`, `cri-containerd-<id>`, `<id>`.
pub fn container(name: &str) -> Option<(&str, &str)> {
    let at = name.rfind('-').map_or(0, |at| at + 1);
    let (before, id) = name.split_at(at);
    let is_id = id.len() == 64 && id.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_id.then_some((before, id))
}

/// Undoes systemd's escapes in a unit's name (systemd-escape(1)): `\x2d` is `-`. Other text stays.
fn unescape(name: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = name;
    while let Some(at) = rest.find("\\x") {
        let (before, escape) = rest.split_at(at);
        bytes.extend_from_slice(before.as_bytes());
        let digits = escape.get(2..4);
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &escape[4..];
            }
            None => {
                bytes.extend_from_slice(b"\\x");
                rest = &escape[2..];
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).unwrap_or_else(|_| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup_names_its_service() {
        let id = "0123456789abcdef".repeat(4);
        for (path, name, container) in [
            ("/system.slice/nginx.service", Some("nginx"), false),
            ("/system.slice/nginx.service/worker", Some("nginx"), false),
            (
                "/system.slice/system-getty.slice/getty@tty1.service",
                Some("getty@tty1"),
                false,
            ),
            (r"/system.slice/my\x2dapp.service", Some("my-app"), false),
            (r"/system.slice/odd\xzz.service", Some(r"odd\xzz"), false),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/web.service",
                Some("web"),
                false,
            ),
            (
                "/user.slice/user-1000.slice/session-3.scope",
                Some("session-3"),
                false,
            ),
            ("/system.slice", Some("system"), false),
            ("/web", Some("web"), false),
            ("/", None, false),
            (
                &format!("/system.slice/docker-{id}.scope"),
                Some("docker-0123456789ab"),
                true,
            ),
            (&format!("/docker/{id}"), Some("0123456789ab"), true),
            (
                &format!("/machine.slice/libpod-{id}.scope/container"),
                Some("libpod-0123456789ab"),
                true,
            ),
        ] {
            let (found, id_found) = named_by(path);
            assert_eq!(found.as_deref(), name, "{path}");
            assert_eq!(id_found.as_deref(), container.then_some(&*id), "{path}");
        }
    }

    #[test]
    fn host_name_stands_for_the_machine_unless_it_is_a_default() {
        for (name, stands) in [
            ("web-1", true),
            ("web-1.example.org", true),
            ("a41f1c2b7d3e", true),
            ("localhost", false),
            ("LOCALHOST.localdomain", false),
            ("localhost6.localdomain6", false),
            ("linux", false),
            ("", false),
        ] {
            assert_eq!(distinguishes_hosts(name), stands, "{name}");
        }
    }

    #[test]
    fn instance_id_depends_on_machine_and_cgroup_and_hides_the_id() {
        let machine = "0123456789abcdef0123456789abcdef";
        let one = derived(machine, "/system.slice/nginx.service");
        assert_eq!(one, derived(machine, "/system.slice/nginx.service"));
        assert_ne!(one, derived(machine, "/system.slice/apache2.service"));
        assert_ne!(
            one,
            derived(
                "f123456789abcdef0123456789abcdef",
                "/system.slice/nginx.service"
            )
        );
        // Computed with Python's uuid.uuid5.
        assert_eq!(one, "7e8315c3-2d69-5b26-b3e7-c3fe37a4b859");
        assert!(!one.contains(&machine[..8]));
    }
}

//! One line for each check.

use std::path::{Path, PathBuf};

use caps::{CapSet, Capability};

use super::{
    report::{Line, Report},
    verdict::{Findings, Reach, Verdict},
};
use crate::{
    cgroup::{self, CgroupError},
    config::{Config, ConfigErrors, Protocol, SourceChoice, Target},
    confinement::{Confinement, Seccomp, Surroundings},
    source::{
        self, AttachError, Loaded, Options,
        cause::{self, Answer, Cause},
        missing_capabilities,
    },
};

/// The host's tree and the programs' parameters for the check if the settings do not parse.
const DEFAULT_HOST: &str = "/run/host-cgroup";
const DEFAULTS: Options = Options {
    ring_bytes: 1 << 20,
    exchanges: false,
    names: true,
    origins: true,
    callers: None,
};

/// `sends` is whether receivers are tried as well.
pub(super) fn report(
    named: Option<&Path>,
    config: &Result<Config, ConfigErrors>,
    sends: bool,
) -> Report {
    let around = Surroundings::read();
    let loaded = source::load_programs(config.as_ref().map_or(DEFAULTS, Options::from));
    let refused = loaded.as_ref().err().map(AttachError::cause);
    let (scope, path, pod) = pod(named, config.as_ref().ok());
    let diag = sockets();
    let findings = Findings {
        choice: config.as_ref().ok().map(|config| config.source),
        refused,
        diag: diag.is_ok(),
        scope,
    };
    let verdict = Verdict::of(&findings);
    let mut checks = vec![
        kernel(),
        btf(),
        syscall(&around),
        programs(&loaded),
        capabilities(),
        seccomp(&around),
        user_namespace(&around),
        modules(&around, findings.refused.as_ref()),
        memlock(&around, findings.refused.as_ref()),
        mount(),
        pod,
        match diag {
            Ok(text) => Line::ok("inet_diag", text),
            Err(text) => Line::no("inet_diag", text),
        },
        settings(config, sends),
    ];
    let notices = config.iter().flat_map(|config| &config.notices);
    checks.extend(notices.map(|notice| Line::info("settings", notice.to_string())));
    if let Ok(mut loaded) = loaded {
        checks.extend(names(&mut loaded, path.as_deref()));
        checks.extend(calls(loaded, path.as_deref()));
    }
    checks.push(verdict.line(&findings));
    Report {
        version: env!("CARGO_PKG_VERSION"),
        source: verdict.source,
        reason: verdict.reason,
        fixes: None,
        checks,
    }
}

fn kernel() -> Line {
    match std::fs::read_to_string("/proc/sys/kernel/osrelease") {
        Ok(release) => Line::ok(
            "kernel",
            format!("Linux {} on {}", release.trim(), std::env::consts::ARCH),
        ),
        Err(error) => Line::info("kernel", format!("unknown ({error})")),
    }
}

/// The programs bring their own types; they use none of the kernel's.
fn btf() -> Line {
    let path = "/sys/kernel/btf/vmlinux";
    if Path::new(path).exists() {
        Line::ok("btf", format!("{path} exists (flowcar does not need it)"))
    } else {
        Line::info(
            "btf",
            format!("{path} does not exist (flowcar does not need it)"),
        )
    }
}

fn syscall(around: &Surroundings) -> Line {
    let name = "bpf";
    match cause::unknown_command() {
        Answer::Reached => Line::ok(name, "bpf(2) can be called"),
        Answer::Refused(libc::ENOSYS) if around.seccomp == Seccomp::Off => Line::no(
            name,
            "this kernel has no bpf(2): it needs CONFIG_BPF_SYSCALL",
        ),
        Answer::Refused(errno) => Line::no(
            name,
            format!(
                "bpf(2) is refused ({})",
                std::io::Error::from_raw_os_error(errno)
            ),
        ),
    }
}

fn programs(loaded: &Result<Loaded, AttachError>) -> Line {
    let name = "programs";
    match loaded {
        Ok(_) => Line::ok(
            name,
            "the verifier accepts them (loaded, not attached, unloaded)",
        ),
        Err(error) => Line::no(name, error.to_string()),
    }
}

/// Whether `server.address` can be a name; `None` where it can, or is not to be.
fn names(loaded: &mut Loaded, cgroup: Option<&Path>) -> Option<Line> {
    let error = loaded.try_names(cgroup).err()?;
    Some(Line::no(
        "names",
        format!("{error}: DNS messages are not observed, and server.address is an address"),
    ))
}

/// Whether `server.address` can be what was asked for; `None` where there is no cgroup.
fn calls(loaded: Loaded, cgroup: Option<&Path>) -> Option<Line> {
    let name = "connect()";
    let without = "server.address is the address that the socket connects to, and attempts that fail before a SYN are not counted";
    if let Err(error) = loaded.calls() {
        return Some(Line::no(name, format!("{error}: {without}")));
    }
    let line = match loaded.try_calls(cgroup?) {
        Ok(Some(0)) => Line::ok(name, "no other program runs before flowcar's"),
        Ok(Some(earlier)) => Line::info(
            name,
            format!(
                "{earlier} other programs run before flowcar's (of the same cgroup, or of one above with BPF_F_PREORDER): where one of them replaces the address, server.address is the address that it chose"
            ),
        ),
        Ok(None) => Line::info(
            name,
            "whether other programs run before flowcar's is unknown: the kernel does not show it",
        ),
        Err(error) => Line::no(name, format!("{error}: {without}")),
    };
    Some(line)
}

fn capabilities() -> Line {
    let name = "capabilities";
    let held = match caps::read(None, CapSet::Effective) {
        Ok(held) => held,
        Err(error) => return Line::info(name, format!("unknown ({error})")),
    };
    let missing: Vec<_> = missing_capabilities()
        .iter()
        .map(ToString::to_string)
        .collect();
    let how_many = match held.len() {
        0 => "none is held".to_owned(),
        count if count == caps::all().len() => "all are held".to_owned(),
        count => format!("{count} held"),
    };
    if missing.is_empty() {
        return Line::ok(
            name,
            format!("CAP_BPF and CAP_NET_ADMIN are among those held ({how_many})"),
        );
    }
    Line::no(
        name,
        format!("{} missing ({how_many})", missing.join(" and ")),
    )
}

fn seccomp(around: &Surroundings) -> Line {
    let name = "seccomp";
    match (around.seccomp, cause::unknown_command()) {
        (Seccomp::Off, _) => Line::ok(name, "no filter"),
        (Seccomp::Filtered, Answer::Reached) => Line::ok(name, "a filter, which allows bpf(2)"),
        (Seccomp::Filtered, Answer::Refused(_)) if holds_bpf() && !around.user_namespace => {
            Line::no(name, Cause::Seccomp.to_string())
        }
        (Seccomp::Filtered, Answer::Refused(_)) => Line::info(
            name,
            "a filter; whether it allows bpf(2) is unknown without CAP_BPF",
        ),
        (Seccomp::Unknown, _) => Line::info(name, "unknown: the kernel does not report it"),
    }
}

fn holds_bpf() -> bool {
    !missing_capabilities().contains(&Capability::CAP_BPF)
}

fn user_namespace(around: &Surroundings) -> Line {
    let name = "user namespace";
    if around.user_namespace {
        Line::no(name, Cause::UserNamespace.to_string())
    } else {
        Line::ok(name, "the initial one")
    }
}

fn modules(around: &Surroundings, refused: Option<&Cause>) -> Line {
    let name = "security modules";
    if let Some(cause @ (Cause::Selinux(_) | Cause::AppArmor(_))) = refused {
        return Line::no(name, cause.to_string());
    }
    let mut seen = Vec::new();
    seen.extend(around.modules.clone());
    match &around.confinement {
        Confinement::Unconfined => seen.push("unconfined".into()),
        Confinement::Selinux(context) => {
            let enforcing = match around.selinux_enforcing {
                Some(true) => " (enforcing)",
                Some(false) => " (permissive)",
                None => "",
            };
            seen.push(format!("SELinux{enforcing} {context}"));
        }
        Confinement::AppArmor(profile) => seen.push(format!("AppArmor {profile} (enforcing)")),
    }
    seen.extend(
        around
            .lockdown
            .as_ref()
            .map(|mode| format!("lockdown {mode}")),
    );
    Line::info(name, seen.join("; "))
}

fn memlock(around: &Surroundings, refused: Option<&Cause>) -> Line {
    let name = "memory lock";
    match (refused, around.memlock) {
        (Some(cause @ Cause::Memlock(_)), _) => Line::no(name, cause.to_string()),
        (_, None) => Line::ok(name, "RLIMIT_MEMLOCK is unlimited"),
        (_, Some(limit)) => Line::info(
            name,
            format!("RLIMIT_MEMLOCK is {limit} bytes; before Linux 5.11 maps count against it"),
        ),
    }
}

fn mount() -> Line {
    let name = "cgroup2";
    match cgroup::mount_point() {
        Ok(path) => Line::ok(name, path.display().to_string()),
        Err(CgroupError::NotMounted) => Line::no(name, Cause::CgroupV1.to_string()),
        Err(error) => Line::no(name, error.to_string()),
    }
}

/// The cgroup that would be followed.
fn pod(named: Option<&Path>, config: Option<&Config>) -> (Reach, Option<PathBuf>, Line) {
    let host = config.map_or_else(
        || PathBuf::from(DEFAULT_HOST),
        |config| config.host_cgroup.clone(),
    );
    let wants_none = config.is_some_and(|config| config.source == SourceChoice::InetDiag);
    if let Some(path) = named {
        let name = "cgroup";
        let in_pod = config.is_some_and(|config| config.pod.is_known());
        return match cgroup::named(path, in_pod, &host) {
            Ok(path) => match in_pod.then(|| writable(&host, wants_none)).flatten() {
                Some(error) => (Reach::Writable, None, Line::no(name, error.to_string())),
                None => {
                    let line = Line::ok(name, path.display().to_string());
                    (Reach::Found, Some(path), line)
                }
            },
            Err(error) => (Reach::Missing, None, Line::no(name, error.to_string())),
        };
    }
    let name = "pod";
    let uid = config.and_then(|config| config.pod.uid.as_ref());
    let found = match cgroup::discover(&host) {
        Ok(found) => found,
        Err(_) if wants_none => {
            let text = "the whole network namespace is followed (FLOWCAR_SOURCE=inet_diag)";
            return (Reach::ToBeNamed, None, Line::ok(name, text));
        }
        Err(error) if cgroup::is_version_1_only() => {
            return (Reach::Version1, None, Line::no(name, error.to_string()));
        }
        // The injector sets the uid.
        Err(error) if uid.is_some() => {
            return (Reach::Missing, None, Line::no(name, error.to_string()));
        }
        Err(error) => return (Reach::ToBeNamed, None, Line::info(name, error.to_string())),
    };
    if let Some(error) = writable(&host, wants_none) {
        return (Reach::Writable, None, Line::no(name, error.to_string()));
    }
    let text = format!("{} (uid {})", found.path.display(), found.uid);
    let line = match uid {
        Some(uid) if *uid != found.uid => Line::info(
            name,
            format!("{text}, not the API's uid {uid}: correct for a static pod only"),
        ),
        _ => Line::ok(name, text),
    };
    (Reach::Found, Some(found.path), line)
}

/// Why no programs are attached beside the node's tree at `host`, where they are wanted.
fn writable(host: &Path, wants_none: bool) -> Option<CgroupError> {
    (!wants_none)
        .then(|| cgroup::check_read_only(host).err())
        .flatten()
}

/// The result of a socket dump, or why there is none.
fn sockets() -> Result<String, String> {
    source::try_dump()
        .map(|sockets| {
            format!("the kernel dumps {sockets} connections of this network namespace, and reports closes")
        })
        .map_err(|error| error.to_string())
}

fn settings(config: &Result<Config, ConfigErrors>, sends: bool) -> Line {
    let name = "settings";
    match config {
        Err(errors) => {
            let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
            Line::no(name, texts.join("; "))
        }
        Ok(config) => {
            let export = config.clone().with_default_endpoint().export;
            let signals = [("metrics", &export.metrics), ("spans", &export.traces)];
            let texts = signals.iter().map(|(signal, target)| match target {
                Some(target) => format!("{signal} to {}", reported(target)),
                None => format!("no {signal}"),
            });
            // They are off by default.
            let logs = export.logs.as_ref();
            let logs = logs.map(|target| format!("log records to {}", reported(target)));
            let texts: Vec<_> = texts.chain(logs).collect();
            let tried = if sends {
                ""
            } else {
                " (not tried: --send does)"
            };
            Line::ok(name, format!("{}{tried}", texts.join(", ")))
        }
    }
}

/// A receiver, its protocol and its proxy.
pub(super) fn reported(target: &Target) -> String {
    let protocol = match target.protocol {
        Protocol::Grpc => "gRPC",
        Protocol::HttpProtobuf => "HTTP",
    };
    let proxy = target.proxy.as_ref();
    let proxy = proxy.map(|proxy| format!(" through {proxy}"));
    format!(
        "{} by {protocol}{}",
        target.url(),
        proxy.unwrap_or_default()
    )
}

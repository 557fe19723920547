//! `flowcar check --fix-hints`: what to type, or to write into a manifest, so that eBPF follows connections here. Pure.

use serde::Serialize;

/// One way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Fix {
    /// Where it is of use.
    pub place: &'static str,
    /// A command, or a part of a manifest.
    pub text: &'static str,
}

/// By the reason that [`Report::reason`](super::Report::reason) names.
static BY_REASON: &[(&[&str], &[Fix])] = &[
    (
        &["capability"],
        &[
            fix("host", "sudo flowcar export --cgroup PATH"),
            fix("host", "sudo setcap cap_bpf,cap_net_admin+ep FILE"),
            fix("systemd unit", "AmbientCapabilities=CAP_BPF CAP_NET_ADMIN"),
            fix("docker run", "--cap-add BPF --cap-add NET_ADMIN"),
            fix(
                "container",
                "securityContext:\n  runAsUser: 0\n  capabilities:\n    add: [BPF, NET_ADMIN]",
            ),
            fix(
                "injected pod",
                "# Pod Security baseline and restricted allow neither: does the namespace enforce one?\n\
                 kubectl get namespace NAMESPACE --show-labels",
            ),
        ],
    ),
    (
        &["kernel"],
        &[fix(
            "host",
            "uname -r    # 5.10 or later, with CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF",
        )],
    ),
    (
        &["user_namespace"],
        &[fix("pod", "spec:\n  hostUsers: true"), INET_DIAG],
    ),
    (
        &["seccomp"],
        &[
            fix(
                "container",
                "securityContext:\n  seccompProfile:\n    type: RuntimeDefault",
            ),
            fix(
                "docker run",
                "--security-opt seccomp=PROFILE.json    # a profile that allows bpf(2)",
            ),
        ],
    ),
    (
        &["selinux"],
        &[
            fix("host", "sudo ausearch -m avc -ts recent    # the denial"),
            fix(
                "policy",
                "allow DOMAIN self:bpf { map_create map_read map_write prog_load prog_run };",
            ),
        ],
    ),
    (
        &["apparmor"],
        &[fix("profile", "capability bpf,\ncapability net_admin,")],
    ),
    (
        &["memlock"],
        &[
            fix("host", "ulimit -l unlimited"),
            fix(
                "systemd unit",
                "LimitMEMLOCK=infinity    # flowcar's, or the container runtime's",
            ),
            fix("docker run", "--ulimit memlock=-1"),
        ],
    ),
    (
        &["descriptors"],
        &[
            fix("host", "ulimit -n 1024"),
            fix("systemd unit", "LimitNOFILE=1024"),
            fix("host", "cat /proc/sys/fs/file-nr    # in use, free, most"),
        ],
    ),
    (
        &["writable_cgroup_tree"],
        &[fix(
            "container",
            "volumeMounts:\n  - name: VOLUME\n    mountPath: /run/host-cgroup\n    readOnly: true\n    recursiveReadOnly: IfPossible",
        )],
    ),
    (
        &["exclusive_program"],
        &[fix(
            "host",
            "sudo bpftool cgroup tree    # the owner of the program has to allow others (BPF_F_ALLOW_MULTI, or a link)",
        )],
    ),
    (
        &["cgroup_v1"],
        &[
            fix("kernel command line", "systemd.unified_cgroup_hierarchy=1"),
            INET_DIAG,
        ],
    ),
    (
        &["cgroup", "scope"],
        &[
            fix(
                "host",
                "flowcar export --cgroup /sys/fs/cgroup/system.slice/UNIT.service",
            ),
            fix(
                "container",
                "volumeMounts:\n  - name: VOLUME    # a hostPath of the node's /sys/fs/cgroup\n    mountPath: /run/host-cgroup\n    readOnly: true\n    recursiveReadOnly: IfPossible",
            ),
        ],
    ),
    (
        &["settings"],
        &[
            fix(
                "any",
                "env | grep -E '^(FLOWCAR|OTEL)_'    # the line of settings above names what is wrong",
            ),
            NOT_CHOSEN,
        ],
    ),
    (&["build"], &[fix("sources", "make build")]),
    (
        &["unknown"],
        &[fix(
            "any",
            "uname -r; cat /sys/kernel/security/lsm    # for a report, with the lines above",
        )],
    ),
];

/// Where eBPF is not chosen.
const NOT_CHOSEN: Fix = fix(
    "any",
    "unset FLOWCAR_SOURCE    # or set it to auto: inet_diag never uses eBPF",
);

/// Instead of eBPF.
const INET_DIAG: Fix = fix(
    "injected pod",
    "metadata:\n  annotations:\n    flowcar.io/source: inet_diag    # instead: no handshakes, smoothed RTTs",
);

const fn fix(place: &'static str, text: &'static str) -> Fix {
    Fix { place, text }
}

/// The ways for a reason, the simplest first. With a source the settings have nothing wrong: they choose that source.
pub(super) fn of(reason: &str, source: Option<&str>) -> &'static [Fix] {
    if reason == "settings" && source.is_some() {
        return &[NOT_CHOSEN];
    }
    let mut rows = BY_REASON.iter();
    let found = rows.find(|(reasons, _)| reasons.contains(&reason));
    found.map_or(&[], |(_, fixes)| fixes)
}

/// The ways below one another, for people.
pub(super) fn table(reason: Option<&str>, source: Option<&str>) -> String {
    let Some(reason) = reason else {
        return "\nnothing prevents eBPF\n".to_owned();
    };
    let mut text = format!("\nto have eBPF here ({reason}), one of these:\n");
    for fix in of(reason, source) {
        text += &format!("  {}:\n", fix.place);
        for line in fix.text.lines() {
            text += &format!("    {line}\n");
        }
    }
    text + &format!("more: docs/troubleshooting.md, \"refused: {reason}\"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those of docs/troubleshooting.md, which has a paragraph for each.
    #[test]
    fn every_reason_of_the_documentation_has_a_fix_of_its_own() {
        let text = include_str!("../../../docs/troubleshooting.md");
        let heads = text
            .lines()
            .filter_map(|line| line.strip_prefix("### refused: "));
        let reasons: Vec<_> = heads
            .flat_map(|head| head.split(", "))
            .map(|reason| reason.trim_matches('`'))
            .collect();
        assert!(reasons.len() > 12, "{reasons:?}");
        for reason in &reasons {
            assert!(!of(reason, None).is_empty(), "{reason}");
            assert!(
                table(Some(reason), None).contains(of(reason, None)[0].place),
                "{reason}"
            );
        }
    }

    #[test]
    fn lines_are_not_wider_than_a_terminal() {
        for reason in [
            "capability",
            "writable_cgroup_tree",
            "exclusive_program",
            "scope",
            "unknown",
        ] {
            let table = table(Some(reason), None);
            assert!(table.lines().all(|line| line.len() <= 115), "{table}");
        }
        assert_eq!(table(None, Some("ebpf")).trim(), "nothing prevents eBPF");
    }

    #[test]
    fn setting_that_chooses_a_source_is_named_and_nothing_else_is_blamed() {
        let table = table(Some("settings"), Some("inet_diag"));
        assert!(table.contains("unset FLOWCAR_SOURCE"), "{table}");
        assert!(!table.contains("wrong"), "{table}");
    }
}

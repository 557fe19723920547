//! Which source `flowcar export` would take: pure.

use super::report::Line;
use crate::{config::SourceChoice, source::cause::Cause};

/// The input of the choice.
#[derive(Clone, Debug)]
pub(super) struct Findings {
    /// `FLOWCAR_SOURCE`; none if the settings do not parse.
    pub choice: Option<SourceChoice>,
    /// Why the programs are refused, if they are.
    pub refused: Option<Cause>,
    /// Whether sockets can be dumped.
    pub diag: bool,
    /// The cgroup.
    pub scope: Reach,
}

/// The cgroup to attach to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// A pod's cgroup, or the one that was named.
    Found,
    /// This is no pod, so `--cgroup` is needed.
    ToBeNamed,
    /// A pod's cgroup is expected and absent, or the one that was named is no cgroup.
    Missing,
    /// There is no cgroup2.
    Version1,
    /// The node's tree, in which the pod's cgroup is, could be written to.
    Writable,
}

/// The source and why it is not eBPF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub source: Option<&'static str>,
    pub reason: Option<&'static str>,
}

// === impl Verdict ===

impl Verdict {
    pub(super) fn of(findings: &Findings) -> Self {
        let Some(choice) = findings.choice else {
            return Self::nothing("settings");
        };
        let diag = findings.diag.then_some("inet_diag");
        if choice == SourceChoice::InetDiag {
            return match findings.scope {
                Reach::Missing => Self::nothing("scope"),
                _ => Self {
                    source: diag,
                    reason: Some("settings"),
                },
            };
        }
        // A wrong cgroup is refused without programs, too.
        let refused = match findings.scope {
            Reach::Missing => return Self::nothing("scope"),
            Reach::Version1 => Some(Cause::CgroupV1.name()),
            Reach::Writable => Some(Cause::WritableTree.name()),
            Reach::Found | Reach::ToBeNamed => findings.refused.as_ref().map(Cause::name),
        };
        match (refused, choice) {
            (None, _) => Self {
                source: Some("ebpf"),
                reason: None,
            },
            (Some(reason), SourceChoice::Auto) => Self {
                source: diag,
                reason: Some(reason),
            },
            (Some(reason), _) => Self::nothing(reason),
        }
    }

    const fn nothing(reason: &'static str) -> Self {
        Self {
            source: None,
            reason: Some(reason),
        }
    }

    /// The last line.
    pub(super) fn line(self, findings: &Findings) -> Line {
        let setting = match findings.choice {
            Some(SourceChoice::Auto) => "auto",
            Some(SourceChoice::Ebpf) => "ebpf",
            Some(SourceChoice::InetDiag) => "inet_diag",
            None => "?",
        };
        let reason = self.reason.unwrap_or_default();
        let name = "source";
        match self.source {
            Some("ebpf") if findings.scope == Reach::ToBeNamed => Line::ok(
                name,
                format!(
                    "ebpf (FLOWCAR_SOURCE={setting}), with a named cgroup: flowcar export --cgroup PATH, or flowcar run -- COMMAND"
                ),
            ),
            Some("ebpf") => Line::ok(name, format!("ebpf (FLOWCAR_SOURCE={setting})")),
            Some(source) if reason == "settings" => {
                Line::ok(name, format!("{source} (FLOWCAR_SOURCE={setting})"))
            }
            Some(source) => Line::ok(
                name,
                format!(
                    "{source} (FLOWCAR_SOURCE={setting}; ebpf is refused: {reason}): handshakes are not seen, RTTs are smoothed"
                ),
            ),
            None => Line::no(
                name,
                format!("none: nothing can be followed (FLOWCAR_SOURCE={setting}; {reason})"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Findings {
        Findings {
            choice: Some(SourceChoice::Auto),
            refused: None,
            diag: true,
            scope: Reach::Found,
        }
    }

    fn verdict(findings: &Findings) -> (Option<&'static str>, Option<&'static str>) {
        let verdict = Verdict::of(findings);
        (verdict.source, verdict.reason)
    }

    #[test]
    fn auto_takes_the_available_source() {
        let mut findings = findings();
        assert_eq!(verdict(&findings), (Some("ebpf"), None));
        findings.refused = Some(Cause::Seccomp);
        assert_eq!(verdict(&findings), (Some("inet_diag"), Some("seccomp")));
        findings.diag = false;
        assert_eq!(verdict(&findings), (None, Some("seccomp")));
        findings.refused = None;
        assert_eq!(
            verdict(&findings),
            (Some("ebpf"), None),
            "inet_diag is an extra there"
        );
    }

    #[test]
    fn chosen_source_is_kept() {
        let mut findings = findings();
        findings.choice = Some(SourceChoice::Ebpf);
        findings.refused = Some(Cause::Kernel);
        assert_eq!(verdict(&findings), (None, Some("kernel")));
        findings.choice = Some(SourceChoice::InetDiag);
        assert_eq!(verdict(&findings), (Some("inet_diag"), Some("settings")));
        findings.choice = None;
        assert_eq!(verdict(&findings), (None, Some("settings")));
    }

    #[test]
    fn wrong_cgroup_is_never_replaced() {
        let mut findings = findings();
        findings.scope = Reach::Missing;
        assert_eq!(verdict(&findings), (None, Some("scope")));
        findings.scope = Reach::Version1;
        assert_eq!(verdict(&findings), (Some("inet_diag"), Some("cgroup_v1")));
        findings.scope = Reach::Writable;
        let reason = Some("writable_cgroup_tree");
        assert_eq!(verdict(&findings), (Some("inet_diag"), reason));
        findings.choice = Some(SourceChoice::Ebpf);
        assert_eq!(verdict(&findings), (None, reason));
        findings.choice = Some(SourceChoice::Auto);
        findings.scope = Reach::ToBeNamed;
        assert_eq!(verdict(&findings), (Some("ebpf"), None));
    }
}

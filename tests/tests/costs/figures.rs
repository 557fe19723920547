//! The committed figures: how the file is read and written, and what differs too much.

use std::{collections::BTreeMap, fmt::Write as _};

use flowcar_tests::place::lacks;
use serde::Deserialize;

/// Figures by what they are of.
pub(crate) type Table = BTreeMap<String, f64>;

/// The file.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Figures {
    /// What compiled that of which they are.
    #[serde(rename = "made-by")]
    pub(crate) made_by: MadeBy,
    /// Instructions of userspace.
    pub(crate) instructions: Table,
    /// Allocations of userspace.
    pub(crate) allocations: Table,
    /// Bytes of userspace.
    pub(crate) bytes: Table,
    /// Instructions of kernel programs in their object.
    pub(crate) object: Table,
    /// Instructions that the verifier followed, by kernel.
    pub(crate) verified: BTreeMap<String, Table>,
    /// Instructions of kernel programs as they run, by kernel.
    pub(crate) translated: BTreeMap<String, Table>,
}

/// What compiled, and for what.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct MadeBy {
    /// The processor's architecture, which instructions of userspace are of.
    pub(crate) architecture: String,
    /// The compiler of userspace.
    pub(crate) userspace: String,
    /// The cargo of the kernel programs' compiler.
    pub(crate) programs: String,
}

/// The kinds of work of the program `costs`, and what one of each is.
pub(crate) const WORK: [(&str, &str); 6] = [
    (
        "short_connection",
        "the open and the close record of a short connection, from their bytes to the series and the closed flow",
    ),
    (
        "sample_record",
        "the sample record of a connection that had exchanges since the sample before",
    ),
    (
        "idle_sample_record",
        "the sample record of a connection that had one exchange, and none since",
    ),
    (
        "polled_socket",
        "a socket of a dump, of a connection that records reported",
    ),
    (
        "span",
        "a span, from the closed flow to the bytes of a request",
    ),
    (
        "point",
        "a point of a report, from the series to the bytes of a request",
    ),
];

/// What else there is, and what it is.
const OTHERS: [(&str, &str); 2] = [
    (
        "idle_connection",
        "a connection that is still, with its interim span",
    ),
    (
        "connection_with_round_trips",
        "a connection that had six round trips of different times",
    ),
];

/// Figures that nothing may exceed, and why.
const MOST: [(&str, &str, f64, &str); 3] = [
    (
        "allocations",
        "idle_sample_record",
        0.0,
        "a connection on which nothing happens allocates nothing",
    ),
    (
        "bytes",
        "idle_connection",
        700.0,
        "`FLOW` in sidecar/src/memory/budget.rs bounds connections by it, and docs/benchmarks.md and docs/limits.md have it",
    ),
    (
        "bytes",
        "connection_with_round_trips",
        1_000.0,
        "`FLOW` in sidecar/src/memory/budget.rs bounds connections by it, and docs/benchmarks.md and docs/limits.md have it",
    ),
];

/// How far off a figure may be, and how far where another compiler made it.
const MARGIN: f64 = 0.10;
const MARGIN_OF_OTHERS: f64 = 0.30;

/// A committed figure is replaced only by one that differs by more: a diff shows what changed.
const NOISE: f64 = 0.01;

const HEAD: &str = "\
# What flowcar costs, counted and not timed, so that it does not depend on the machine: docs/benchmarks.md explains it.
# `make costs`, which is part of `make test`, fails where a figure is 10 % off. To accept what it counted:
#     FLOWCAR_BLESS=1 make costs
# and commit this file with the change that it comes from.
";

/// A part of the file.
struct Part<'a> {
    /// Its name in the file.
    name: String,
    /// What its figures are of, in a report.
    unit: &'static str,
    figures: &'a Table,
    /// What its figures depend on.
    compiler: &'a str,
    /// Whether there is one for each kernel on which figures were committed.
    is_of_a_kernel: bool,
}

// === impl Figures ===

impl Figures {
    /// The figures of a file.
    pub(crate) fn read(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// The file of the figures.
    pub(crate) fn write(&self) -> String {
        let mut text = HEAD.to_owned();
        let MadeBy {
            architecture,
            userspace,
            programs,
        } = &self.made_by;
        let line = "# Where another compiler is used, a figure that depends on it may be 30 % off.";
        let _ = writeln!(text, "\n{line}\n[made-by]");
        for (name, value) in [
            ("architecture", architecture),
            ("userspace", userspace),
            ("programs", programs),
        ] {
            let _ = writeln!(text, "{name} = {value:?}");
        }
        for part in self.parts() {
            let _ = writeln!(text, "\n# {}\n[{}]", upper(part.unit), part.name);
            for (name, figure) in part.figures {
                let meaning = meaning(name).map_or_else(String::new, |of| format!(" # {of}"));
                let _ = writeln!(text, "{name} = {figure}{meaning}");
            }
        }
        text
    }

    /// These figures in place of the committed ones, but for noise.
    pub(crate) fn accepted(mut self, committed: &Self) -> Self {
        let of_kernels = [
            (&mut self.verified, &committed.verified),
            (&mut self.translated, &committed.translated),
        ];
        for (now, before) in of_kernels {
            for (kernel, now) in now {
                before.get(kernel).into_iter().for_each(|of| keep(now, of));
            }
        }
        keep(&mut self.instructions, &committed.instructions);
        keep(&mut self.allocations, &committed.allocations);
        keep(&mut self.bytes, &committed.bytes);
        keep(&mut self.object, &committed.object);
        self
    }

    fn parts(&self) -> Vec<Part<'_>> {
        let MadeBy {
            userspace,
            programs,
            ..
        } = &self.made_by;
        let part = |name: &str, unit, figures, compiler| Part {
            name: name.to_owned(),
            unit,
            figures,
            compiler,
            is_of_a_kernel: false,
        };
        let of_kernels = |name: &'static str, unit, all| {
            let all: &BTreeMap<String, Table> = all;
            all.iter().map(move |(kernel, of)| Part {
                is_of_a_kernel: true,
                ..part(&format!("{name}.{kernel:?}"), unit, of, programs)
            })
        };
        let mut parts = vec![
            part(
                "instructions",
                "instructions of userspace",
                &self.instructions,
                userspace,
            ),
            part(
                "allocations",
                "allocations of userspace",
                &self.allocations,
                "",
            ),
            part("bytes", "bytes of userspace's memory", &self.bytes, ""),
            part(
                "object",
                "instructions of each kernel program, with the functions that it calls",
                &self.object,
                programs,
            ),
        ];
        parts.extend(of_kernels(
            "verified",
            "instructions that the verifier followed, on this kernel",
            &self.verified,
        ));
        parts.extend(of_kernels(
            "translated",
            "instructions of the program as it runs, on this kernel",
            &self.translated,
        ));
        parts
    }
}

/// Keeps the committed figures that differ by noise alone.
fn keep(now: &mut Table, committed: &Table) {
    for (name, figure) in now {
        if let Some(old) = committed.get(name)
            && !is_off(*old, *figure, NOISE)
        {
            *figure = *old;
        }
    }
}

fn is_off(old: f64, new: f64, margin: f64) -> bool {
    new > old * (1.0 + margin) || new < old * (1.0 - margin)
}

fn upper(text: &str) -> String {
    let (first, rest) = text.split_at(1);
    first.to_uppercase() + rest
}

fn meaning(name: &str) -> Option<&'static str> {
    let mut all = WORK.iter().chain(&OTHERS);
    all.find(|(of, _)| *of == name).map(|(_, meaning)| *meaning)
}

/// What exceeds a bound that blessing does not raise.
pub(crate) fn bounds(now: &Figures) -> Vec<String> {
    let over = MOST.iter().filter_map(|(part, name, most, why)| {
        let parts = now.parts();
        let part = parts.iter().find(|of| of.name == *part)?;
        let figure = *part.figures.get(*name)?;
        (figure > *most).then(|| {
            format!(
                "{name}: {figure} {}, more than {most}: {why}. Make it less, or raise the bound on purpose (`MOST` in tests/tests/costs/figures.rs)",
                part.unit
            )
        })
    });
    over.collect()
}

/// Compares what was counted now with what is committed.
///
/// # Errors
/// What differs too much, and what to do about it.
pub(crate) fn compare(committed: &Figures, now: &Figures) -> Result<(), String> {
    let before: BTreeMap<_, _> = committed
        .parts()
        .into_iter()
        .map(|of| (of.name.clone(), of))
        .collect();
    let nothing = Table::new();
    let mut lines = Vec::new();
    for part in now.parts() {
        let old = before.get(&part.name);
        if old.is_none() && part.is_of_a_kernel {
            lacks(&format!(
                "committed figures of this kernel: [{}]",
                part.name
            ));
            continue;
        }
        let (figures, compiler) = old.map_or((&nothing, ""), |of| (of.figures, of.compiler));
        // How far the verifier has to go changes many times over with the order of few instructions.
        if part.name.starts_with("verified") && compiler != part.compiler {
            continue;
        }
        let margin = margin(compiler, part.compiler);
        let names = figures.keys().chain(
            part.figures
                .keys()
                .filter(|name| !figures.contains_key(*name)),
        );
        lines.extend(names.filter_map(|name| {
            let change = change(
                figures.get(name).copied(),
                part.figures.get(name).copied(),
                margin,
            )?;
            let of = meaning(name).map_or_else(String::new, |of| format!(" ({of})"));
            Some(format!("  [{}] {name}: {change}{of}", part.name))
        }));
    }
    if lines.is_empty() {
        return Ok(());
    }
    let mut report = format!(
        "flowcar costs something else than is committed in tests/costs/figures.toml:\n{}\n",
        lines.join("\n")
    );
    for (what, old, new) in [
        (
            "Userspace",
            &committed.made_by.userspace,
            &now.made_by.userspace,
        ),
        (
            "Kernel programs",
            &committed.made_by.programs,
            &now.made_by.programs,
        ),
    ] {
        let _ = match old == new {
            true => writeln!(report, "{what}: both by {new}."),
            false => writeln!(
                report,
                "{what}: committed by {old}, now by {new}. Some of the difference may be the compiler's."
            ),
        };
    }
    report += "If it is more: find what made it so (git diff; callgrind_annotate shows which functions take the instructions). If it is less, or more on purpose, accept it:\n    FLOWCAR_BLESS=1 make costs\nand commit tests/costs/figures.toml with the change, and the reason in its message.";
    Err(report)
}

fn margin(old: &str, new: &str) -> f64 {
    if old == new { MARGIN } else { MARGIN_OF_OTHERS }
}

/// How a figure differs too much, if it does.
fn change(old: Option<f64>, new: Option<f64>, margin: f64) -> Option<String> {
    let (old, new) = match (old, new) {
        (Some(old), Some(new)) => (old, new),
        (None, Some(new)) => return Some(format!("{new}, and none is committed")),
        (Some(old), None) => {
            return Some(format!("{old} is committed, and there is no such figure"));
        }
        (None, None) => return None,
    };
    let percent = 100.0 * (new - old).abs() / old;
    let more = if new > old { "more" } else { "less" };
    is_off(old, new, margin).then(|| match old {
        0.0 => format!("{old} -> {new}"),
        _ => format!("{old} -> {new}, {percent:.1} % {more}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(instructions: f64, compiler: &str) -> Figures {
        Figures {
            made_by: MadeBy {
                userspace: compiler.to_owned(),
                ..MadeBy::default()
            },
            instructions: Table::from([("span".to_owned(), instructions)]),
            allocations: Table::from([("idle_sample_record".to_owned(), 0.0)]),
            verified: BTreeMap::from([(
                "6.18".to_owned(),
                Table::from([("flowcar_sock_ops".to_owned(), 9_000.5)]),
            )]),
            ..Figures::default()
        }
    }

    #[test]
    fn file_is_read_as_it_was_written() {
        let figures = figures(1_000.0, "rustc 1");
        assert_eq!(Figures::read(&figures.write()).unwrap(), figures);
    }

    #[test]
    fn figure_may_be_ten_percent_off_and_thirty_with_another_compiler() {
        for (now, compiler, expected) in [
            (1_100.0, "rustc 1", None),
            (900.0, "rustc 1", None),
            (1_101.0, "rustc 1", Some("span: 1000 -> 1101, 10.1 % more")),
            (899.0, "rustc 1", Some("span: 1000 -> 899, 10.1 % less")),
            (1_300.0, "rustc 2", None),
            (
                1_301.0,
                "rustc 2",
                Some("committed by rustc 1, now by rustc 2"),
            ),
        ] {
            let report = compare(&figures(1_000.0, "rustc 1"), &figures(now, compiler));
            match expected {
                None => assert_eq!(report, Ok(()), "{now}"),
                Some(text) => {
                    let report = report.unwrap_err();
                    assert!(report.contains(text), "{now}: {report}");
                    assert!(report.contains("FLOWCAR_BLESS=1 make costs"), "{report}");
                }
            }
        }
    }

    #[test]
    fn any_more_than_nothing_is_reported_and_so_are_new_and_stale_figures() {
        let old = figures(1_000.0, "");
        let mut now = old.clone();
        now.allocations
            .insert("idle_sample_record".to_owned(), 0.01);
        now.verified.get_mut("6.18").unwrap().clear();
        now.bytes.insert("idle_connection".to_owned(), 700.0);
        // Nothing is expected of kernels of which nothing is committed.
        now.translated
            .insert("6.1".to_owned(), now.allocations.clone());
        let report = compare(&old, &now).unwrap_err();
        for line in [
            "[allocations] idle_sample_record: 0 -> 0.01",
            "[verified.\"6.18\"] flowcar_sock_ops: 9000.5 is committed, and there is no such figure",
            "[bytes] idle_connection: 700, and none is committed",
        ] {
            assert!(report.contains(line), "{report}");
        }
        assert!(!report.contains("6.1\""), "{report}");
        assert_eq!(bounds(&now).len(), 1);
        now.bytes.insert("idle_connection".to_owned(), 701.0);
        assert_eq!(bounds(&now).len(), 2);
    }

    #[test]
    fn blessing_replaces_what_differs_by_more_than_noise() {
        let old = figures(1_000.0, "");
        for (now, accepted) in [
            (1_010.0, 1_000.0),
            (990.0, 1_000.0),
            (1_011.0, 1_011.0),
            (500.0, 500.0),
        ] {
            let now = figures(now, "").accepted(&old);
            assert_eq!(now, figures(accepted, ""));
        }
    }
}

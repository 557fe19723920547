//! The table as documentation.

use std::fmt::Write as _;

use super::{Annotation, TABLE};

/// The table of annotations in Markdown. `k8s/ANNOTATIONS.md` is this text; a test fails when it is stale.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from(
        "# Annotations\n\n\
         Written on a pod, or on its workload (Deployment, StatefulSet, DaemonSet, Job, CronJob), from where flowcar copies\n\
         them into the pod template. An invalid value never blocks a pod: its default holds, and a warning names it. The operator\n\
         sets other defaults for a cluster in the controller's configuration, `defaults`, under the names without prefix, and an\n\
         annotation on a Namespace (all but `inject`, which is a label there) is the default of its pods. The operator can lock or\n\
         bound any of them (docs/security/injector.md). In YAML, quote `\"on\"` and\n\
         `\"off\"`: kubectl takes them for booleans.\n\n\
         | annotation | type | default | meaning | example |\n|---|---|---|---|---|\n",
    );
    for row in &TABLE {
        writeln!(text, "{}", markdown_row(row)).expect("writing to a String cannot fail");
    }
    text
}

fn markdown_row(row: &Annotation) -> String {
    let cell = |text: &str| text.replace('|', "\\|");
    format!(
        "| `{}` | {} | {} | {} | `{}` |",
        row.name,
        cell(&row.kind.to_string()),
        cell(row.default),
        cell(row.meaning),
        cell(row.example)
    )
}

#[cfg(test)]
mod tests {
    use super::markdown;

    /// Set `FLOWCAR_BLESS=1` to write the file anew.
    #[test]
    fn annotations_md_matches_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/ANNOTATIONS.md");
        if std::env::var_os("FLOWCAR_BLESS").is_some() {
            std::fs::write(path, markdown()).expect("ANNOTATIONS.md can be written");
        }
        let committed = std::fs::read_to_string(path).expect("ANNOTATIONS.md can be read");
        assert_eq!(
            committed,
            markdown(),
            "stale: run the tests with FLOWCAR_BLESS=1 and commit"
        );
    }
}

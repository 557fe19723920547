//! What flowcar costs, counted and not timed, compared with what is committed in `tests/costs/figures.toml`: instructions and allocations of
//! a record, a span and a point, bytes of a connection, and instructions of the kernel programs.
//!
//! `FLOWCAR_BLESS=1 make costs` writes the file anew. `make` builds the program whose work is counted; cargo alone does not.

mod figures;
mod programs;
mod userspace;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use figures::{Figures, bounds, compare};

/// Of what cannot be counted here, the committed figures are taken.
#[test]
fn costs_are_as_committed() {
    let path = file();
    let text = fs::read_to_string(&path).unwrap_or_default();
    let committed =
        Figures::read(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut now = committed.clone();
    userspace::count(&mut now);
    programs::count(&mut now);
    let mut reports = bounds(&now);
    if env::var_os("FLOWCAR_BLESS").is_none() {
        reports.extend(compare(&committed, &now).err());
    } else if reports.is_empty() {
        fs::write(&path, now.accepted(&committed).write()).unwrap();
    }
    assert!(reports.is_empty(), "{}", reports.join("\n"));
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("costs/figures.toml")
}

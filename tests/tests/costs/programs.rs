//! How large the kernel programs are: in their object, and as this kernel's verifier took them.

use std::{collections::HashSet, env, process::Command};

use aya_obj::Object;
use flowcar::{
    origin::ProcNumbers,
    source::{
        Options,
        verified::{object, verify},
    },
};
use flowcar_tests::{
    flowcar::CAPABILITIES,
    place::{kernel_release, lacks, require_root, with_only_caps},
};

use super::figures::{Figures, Table};

/// Everything that a program may do is part of it.
const ALL: Options = Options {
    ring_bytes: 1 << 20,
    exchanges: true,
    names: true,
    origins: true,
    callers: Some(ProcNumbers::Initial),
};

/// Counts instructions in the object and, as root, what the kernel counts.
pub(crate) fn count(figures: &mut Figures) {
    if object().is_empty() {
        return lacks("kernel programs in this build: `make setup`");
    }
    figures.made_by.programs = compiler();
    figures.object = in_object();
    if !require_root() {
        return;
    }
    let taken = with_only_caps(&CAPABILITIES, || verify(ALL))
        .unwrap()
        .unwrap();
    let (mut verified, mut translated) = (Table::new(), Table::new());
    for (name, counted) in taken {
        match counted {
            Ok(of) => {
                verified.extend(of.verified.map(|count| (name.clone(), count.into())));
                translated.extend(of.translated.map(|count| (name, count.into())));
            }
            Err(error) => println!("{name}: {error}"),
        }
    }
    let (major, minor) = kernel_release();
    let kernel = format!("{major}.{minor} {}", env::consts::ARCH);
    for (all, counts) in [
        (&mut figures.verified, verified),
        (&mut figures.translated, translated),
    ] {
        if !counts.is_empty() {
            all.insert(kernel.clone(), counts);
        }
    }
}

/// Instructions of each program and of the functions that it calls, as they are loaded.
fn in_object() -> Table {
    let mut object = Object::parse(object()).unwrap();
    let sections: HashSet<usize> = object
        .functions
        .keys()
        .map(|(section, _)| *section)
        .collect();
    object.relocate_calls(&sections).unwrap();
    let programs = object.programs.iter();
    let counts = programs.map(|(name, program)| {
        let function = &object.functions[&program.function_key()];
        (name.clone(), function.instructions.len() as f64)
    });
    counts.collect()
}

/// The compiler of the programs, by the cargo that comes with it (`.ci/setup`).
fn compiler() -> String {
    let cargo = env::var("FLOWCAR_BPF_CARGO").unwrap_or_default();
    let mut words = cargo.split_whitespace();
    let Some(program) = words.next() else {
        return "unknown".to_owned();
    };
    let output = Command::new(program)
        .args(words)
        .arg("--version")
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

//! The bill of materials of a binary (SPDX 2.3) and the licence texts of all that is linked into it, by cargo's
//! resolution for one package and one target, without what only builds or tests need.

mod authorities;
mod crates;
mod licences;
mod spdx;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Parser;

use self::crates::Catalogue;

/// What kernel programs are compiled for (sidecar/build.rs).
const KERNEL_TARGET: &str = "bpfel-unknown-none";

/// Writes the bill of materials and the licences of a package's binary.
#[derive(Parser)]
struct Arguments {
    /// The workspace's package that the binary is from
    #[arg(long)]
    package: String,
    /// The target that it is built for
    #[arg(long)]
    target: String,
    /// The workspace's package of kernel programs that the binary embeds
    #[arg(long)]
    embedded: Option<String>,
    /// When it was made, as SPDX writes it (2026-01-31T12:00:00Z)
    #[arg(long)]
    created: String,
    /// Where the bill goes
    #[arg(long)]
    spdx: PathBuf,
    /// Where the licences go
    #[arg(long)]
    licences: PathBuf,
    /// Where the certificate authorities of Mozilla's list go, as PEM: those of the locked crate, none of this machine's
    #[arg(long)]
    authorities: PathBuf,
}

fn main() -> ExitCode {
    match write(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bill: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn write(arguments: &Arguments) -> anyhow::Result<()> {
    let mut catalogue = Catalogue::read()?;
    let mut crates = catalogue.take_linked(&arguments.package, &arguments.target)?;
    if let Some(embedded) = &arguments.embedded {
        crates.extend(catalogue.take_linked(embedded, KERNEL_TARGET)?);
    }
    crates.extend(catalogue.take(authorities::CRATE)?);
    let rust = crates::compiler()?;
    let bill = spdx::document(&arguments.package, &arguments.created, &rust, &crates);
    let bill = serde_json::to_string_pretty(&bill)?;
    let licences = licences::texts(&crates)?;
    let files = [
        (&arguments.spdx, bill),
        (&arguments.licences, licences),
        (&arguments.authorities, authorities::pem()),
    ];
    for (path, text) in files {
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

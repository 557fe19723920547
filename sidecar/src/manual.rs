//! `flowcar manual`: man pages, and completions for shells, made from the command line itself.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::Command;
use clap_complete::Shell;

use crate::exit::{self, Failure};

/// The shells, the directory in which each looks below share/ (of bash-completion, zsh and fish), and the file's name.
const COMPLETIONS: [(Shell, &str, &str); 3] = [
    (Shell::Bash, "bash-completion/completions", "flowcar"),
    (Shell::Zsh, "zsh/site-functions", "_flowcar"),
    (Shell::Fish, "fish/vendor_completions.d", "flowcar.fish"),
];

/// What bash calls, which completes another command behind `--`: clap's own completion has flowcar's options there.
const BASH: &str = r#"
_flowcar_or_command() {
    local at
    for ((at = 1; at < COMP_CWORD; at++)); do
        [[ ${COMP_WORDS[at]} == -- ]] || continue
        COMPREPLY=()
        if declare -F _command_offset >/dev/null; then
            _command_offset $((at + 1))
        elif ((COMP_CWORD == at + 1)); then
            mapfile -t COMPREPLY < <(compgen -c -- "$2")
        fi
        return 0
    done
    _flowcar "$@"
}
"#;

/// Where to write.
#[derive(Debug, clap::Args)]
pub struct ManualArgs {
    /// The directory, as /usr/local/share: man pages go to man/man1 in it, completions to the places where bash, zsh and fish look
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

/// Writes the man pages and completions of `command`, and prints the path of each file.
///
/// # Errors
/// [`Failure`] if one cannot be written.
pub fn manual(args: &ManualArgs, command: &Command) -> Result<u8, Failure> {
    write(&args.directory, command)
        .map(|()| 0)
        .map_err(|error| {
            let directory = args.directory.display();
            Failure::new(
                exit::CANNOT_CREATE,
                format_args!("cannot write into {directory}: {error}"),
            )
        })
}

fn write(directory: &Path, command: &Command) -> io::Result<()> {
    let pages = directory.join("man/man1");
    fs::create_dir_all(&pages)?;
    clap_mangen::generate_to(command.clone(), &pages)?;
    println!("{}/flowcar*.1", pages.display());
    for (shell, place, file) in COMPLETIONS {
        let place = directory.join(place);
        fs::create_dir_all(&place)?;
        let path = place.join(file);
        fs::write(&path, completion(shell, command))?;
        println!("{}", path.display());
    }
    Ok(())
}

fn completion(shell: Shell, command: &Command) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command.clone(), "flowcar", &mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    if shell == Shell::Bash {
        text.replace("complete -F _flowcar ", "complete -F _flowcar_or_command ") + BASH
    } else {
        text
    }
}

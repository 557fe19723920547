//! The last screen, in 100 columns.

mod books;
mod flows;
mod histograms;
mod retransmits;
mod trace;

use std::fmt::Write;

use crate::testbed::{Played, SHOP, WEB};

/// Colours, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// ANSI colours: it is a terminal.
    Coloured,
    /// Plain text.
    Plain,
}

/// What a text is.
#[derive(Clone, Copy, Debug)]
enum Ink {
    Title,
    Faint,
    Good,
    Bar,
    Warning,
    Bad,
}

// === impl Style ===

impl Style {
    fn paint(self, ink: Ink, text: &str) -> String {
        let code = match ink {
            Ink::Title => "1",
            Ink::Faint => "2",
            Ink::Good => "32",
            Ink::Bar => "36",
            Ink::Warning => "33",
            Ink::Bad => "31",
        };
        match self {
            Self::Coloured => format!("\x1b[{code}m{text}\x1b[0m"),
            Self::Plain => text.to_owned(),
        }
    }
}

/// All of it.
pub(crate) fn draw(played: &Played, style: Style) -> String {
    let mut out = String::new();
    let written = write_all(&mut out, played, style);
    written.expect("a text takes every write");
    out
}

fn write_all(out: &mut String, played: &Played, style: Style) -> std::fmt::Result {
    writeln!(out)?;
    let pairs = played.seen.pairs(SHOP, WEB);
    flows::write(out, played, &pairs, style)?;
    let (Some(shop), Some(web)) = (played.seen.pod(SHOP), played.seen.pod(WEB)) else {
        return Ok(());
    };
    histograms::write(out, shop, web, &played.truth, style)?;
    retransmits::write(out, shop, web, &played.truth, style)?;
    trace::write(out, &pairs, style)?;
    books::write(out, [(SHOP, shop), (WEB, web)], style)?;
    let yours = format!(
        "sudo {} run -- curl -s https://example.org -o /dev/null",
        flowcar()
    );
    writeln!(
        out,
        "Now a command of yours:  {}",
        style.paint(Ink::Good, &yours)
    )
}

/// The path of the binary that the demo ran, as it is typed in the current directory.
fn flowcar() -> String {
    let Ok(program) = flowcar_lab::flowcar::program() else {
        return "flowcar".to_owned();
    };
    let here = std::env::current_dir().unwrap_or_default();
    let path = program.strip_prefix(here).unwrap_or(&program);
    path.display().to_string()
}

fn title(out: &mut String, style: Style, text: &str, note: &str) -> std::fmt::Result {
    writeln!(
        out,
        "{}  {}",
        style.paint(Ink::Title, text),
        style.paint(Ink::Faint, note)
    )
}

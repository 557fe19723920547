//! The report, as a table for people and as JSON.

use serde::Serialize;

use super::fixes::Fix;

/// The report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// flowcar's version.
    pub version: &'static str,
    /// The source that flowcar would use; none if flows cannot be followed.
    pub source: Option<&'static str>,
    /// Why it is not eBPF, in one word: [`crate::source::cause::Cause::name`], or `settings` or `scope`.
    pub reason: Option<&'static str>,
    /// Each check.
    pub checks: Vec<Line>,
    /// With `--fix-hints`, what would remove the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fixes: Option<Vec<Fix>>,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Its name.
    pub name: &'static str,
    /// Its result.
    pub state: State,
    /// What it found.
    pub text: String,
}

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing prevents flowcar.
    Ok,
    /// It prevents one source or both.
    No,
    /// Information.
    Info,
}

// === impl Line ===

impl Line {
    /// A check that passed.
    pub fn ok(name: &'static str, text: impl Into<String>) -> Self {
        Self::new(name, State::Ok, text)
    }

    /// A check that failed.
    pub fn no(name: &'static str, text: impl Into<String>) -> Self {
        Self::new(name, State::No, text)
    }

    /// Information.
    pub fn info(name: &'static str, text: impl Into<String>) -> Self {
        Self::new(name, State::Info, text)
    }

    fn new(name: &'static str, state: State, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { name, state, text }
    }
}

// === impl Report ===

impl Report {
    /// A line for each check; long texts are broken between words.
    pub fn table(&self) -> String {
        self.checks.iter().map(row).collect()
    }

    /// One object on one line.
    ///
    /// # Panics
    /// Never: texts and names always serialise.
    pub fn json(&self) -> String {
        let text = serde_json::to_string(self).expect("a report is texts and names");
        format!("{text}\n")
    }
}

const NAME: usize = 17;
const STATE: usize = 4;
const WIDTH: usize = 100;

fn row(line: &Line) -> String {
    let state = match line.state {
        State::Ok => "ok",
        State::No => "NO",
        State::Info => "-",
    };
    let mut text = format!("{:NAME$}{state:STATE$}", line.name);
    let mut column = NAME + STATE;
    let words = line.text.split_whitespace().map(visible);
    for (at, word) in words.enumerate() {
        let length = word.chars().count();
        if at > 0 && column + 1 + length > WIDTH {
            text += &format!("\n{:1$}", "", NAME + STATE);
            column = NAME + STATE;
        } else if at > 0 {
            text.push(' ');
            column += 1;
        }
        text += &word;
        column += length;
    }
    text + "\n"
}

/// The word with characters escaped that a terminal takes for commands, or does not show: the environment has any.
fn visible(word: &str) -> String {
    let mut text = String::with_capacity(word.len());
    for character in word.chars() {
        match character {
            '"' | '\'' | '\\' => text.push(character),
            other => text.extend(other.escape_debug()),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            version: "1.2.3",
            source: None,
            reason: Some("capability"),
            checks: vec![
                Line::ok("kernel", "Linux 6.1"),
                Line::no("capabilities", "word ".repeat(30)),
                Line::info("security modules", "none"),
            ],
            fixes: None,
        }
    }

    #[test]
    fn long_texts_wrap_between_words() {
        let table = report().table();
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines[0], "kernel           ok  Linux 6.1");
        assert!(lines[1].starts_with("capabilities     NO  word word"));
        assert!(lines[2].starts_with("                     word"));
        assert!(lines.iter().all(|line| line.len() <= WIDTH));
        assert_eq!(*lines.last().unwrap(), "security modules -   none");
    }

    #[test]
    fn text_of_others_gives_a_terminal_no_commands() {
        let mut report = report();
        let text = "FLOWCAR_\u{1b}[31mX\u{202e} \"größer\" it's \\ 太大";
        report.checks = vec![Line::info("settings", text)];
        let table = report.table();
        assert_eq!(
            table.trim_end(),
            "settings         -   FLOWCAR_\\u{1b}[31mX\\u{202e} \"größer\" it's \\ 太大"
        );
    }

    #[test]
    fn json_is_one_object() {
        let value: serde_json::Value = serde_json::from_str(&report().json()).unwrap();
        assert_eq!(value["source"], serde_json::Value::Null);
        assert_eq!(value["reason"], "capability");
        assert_eq!(value["checks"][1]["state"], "no");
    }
}

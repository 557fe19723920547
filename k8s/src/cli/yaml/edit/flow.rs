//! Edits inside brackets: JSON, and YAML that is written like it.

use std::ops::Range;

use serde_json::Value;

use super::{
    super::{
        tree::{Flow, Node},
        write,
    },
    Editor, Refusal, refuse,
};

/// Keeps the token of a null field behind the value that is written for it.
const WAS: &str = " # flowcar: was ";

/// Ends that comment.
pub(super) const LINE: &str = "\n ";

type Planned = Result<(), Refusal>;

/// Puts members behind the last one.
pub(in crate::cli::yaml) fn add_members(
    editor: &mut Editor<'_>,
    flow: Flow,
    spans: &[Range<usize>],
    added: &[(&str, &Value)],
    at: usize,
) -> Planned {
    put_last(editor, flow, spans, at, &|indent| {
        added
            .iter()
            .map(|(key, value)| match indent {
                Some(indent) => write::pretty_member(key, value, indent),
                None => write::inline_member(key, value),
            })
            .collect()
    })
}

/// Puts items behind the last one.
pub(in crate::cli::yaml) fn append(
    editor: &mut Editor<'_>,
    flow: Flow,
    spans: &[Range<usize>],
    new: &[Value],
) -> Planned {
    let at = spans.first().map_or(0, |span| span.start);
    put_last(editor, flow, spans, at, &|indent| items(new, indent))
}

fn items(new: &[Value], indent: Option<&str>) -> Vec<String> {
    let item = |item| match indent {
        Some(indent) => write::pretty(item, indent),
        None => write::inline(item),
    };
    new.iter().map(item).collect()
}

fn put_last(
    editor: &mut Editor<'_>,
    flow: Flow,
    spans: &[Range<usize>],
    at: usize,
    written: &dyn Fn(Option<&str>) -> Vec<String>,
) -> Planned {
    let Flow::In(open) = flow else {
        return refuse(at, "what has no brackets of its own takes nothing more");
    };
    let Some(last) = spans.last() else {
        editor.replace_bytes(open..open, written(None).join(", "));
        return Ok(());
    };
    let white = editor.lines.white_before(open, last.start);
    let newline = newline_in(white);
    let text: String = match white.rsplit_once('\n') {
        Some((_, indent)) => written(Some(indent))
            .iter()
            .map(|part| format!(",{white}{}", part.replace('\n', newline)))
            .collect(),
        None => written(None)
            .iter()
            .map(|part| format!(", {part}"))
            .collect(),
    };
    editor.replace_bytes(last.end..last.end, text);
    Ok(())
}

/// How a line ends in white space. A whole list can be one line, so no line is searched to its ends.
fn newline_in(white: &str) -> &'static str {
    if white.contains("\r\n") { "\r\n" } else { "\n" }
}

/// Puts items before the first one.
pub(in crate::cli::yaml) fn prepend(
    editor: &mut Editor<'_>,
    flow: Flow,
    spans: &[Range<usize>],
    new: &[Value],
) -> Planned {
    let (Flow::In(open), Some(first)) = (flow, spans.first()) else {
        return put_last(editor, flow, spans, 0, &|indent| items(new, indent));
    };
    let before = &editor.lines.text[open..first.start];
    let newline = newline_in(before);
    if before.is_empty() || !before.trim().is_empty() {
        let text: String = items(new, None).iter().map(|i| format!("{i}, ")).collect();
        editor.replace_bytes(open..open, text);
        return Ok(());
    }
    let indent = before.rsplit_once('\n').map(|(_, indent)| indent);
    let text: String = items(new, indent)
        .iter()
        .map(|item| format!("{before}{},", item.replace('\n', newline)))
        .collect();
    editor.replace_bytes(open..open, text);
    Ok(())
}

/// Takes parts out, by their indices in ascending order, and the commas that [`append`], [`prepend`] and [`add_members`] put
/// beside them: the first parts go with the commas behind them, all others with those before them.
pub(in crate::cli::yaml) fn remove(
    editor: &mut Editor<'_>,
    flow: Flow,
    spans: &[Range<usize>],
    removed: &[usize],
) -> Planned {
    let first = removed.iter().zip(0..).take_while(|(at, n)| *at == n);
    let first = first.count();
    if let Some(behind) = first.checked_sub(1) {
        remove_first(editor, flow, spans, behind)?;
    }
    for index in &removed[first..] {
        editor.replace_bytes(spans[index - 1].end..spans[*index].end, "");
    }
    Ok(())
}

/// Takes out the first parts, up to this one.
fn remove_first(
    editor: &mut Editor<'_>,
    flow: Flow,
    spans: &[Range<usize>],
    last: usize,
) -> Planned {
    let (start, end) = (spans[0].start, spans[last].end);
    let Flow::In(open) = flow else {
        return refuse(start, "what has no brackets of its own loses nothing");
    };
    let Some(next) = spans.get(last + 1) else {
        editor.replace_bytes(start..end, "");
        return Ok(());
    };
    let text = editor.lines.text;
    let between = &text[end..next.start];
    let Some(comma) = between
        .find(',')
        .filter(|at| between[..*at].trim().is_empty())
    else {
        return refuse(end, "a comment stands before the comma");
    };
    let behind = end + comma + 1;
    let range = if open < start {
        open..behind
    } else {
        let space = usize::from(text[behind..].starts_with(' '));
        start..behind + space
    };
    editor.replace_bytes(range, "");
    Ok(())
}

/// A field that was null, by the span of its token. Every spelling but `null` itself is kept in a comment.
pub(in crate::cli::yaml) fn fill_null(editor: &mut Editor<'_>, token: Range<usize>, new: &Value) {
    let written = write::inline(new);
    if &editor.lines.text[token.clone()] == "null" {
        editor.replace_bytes(token, written);
        return;
    }
    keep(editor, token, &written);
}

/// Writes something before a token, which goes into a comment with a line of its own.
pub(in crate::cli::yaml) fn keep(editor: &mut Editor<'_>, token: Range<usize>, written: &str) {
    editor.replace_bytes(token.start..token.start, format!(" {written}{WAS}"));
    editor.comment_out(token.clone());
    editor.replace_bytes(token.end..token.end, LINE);
}

/// Behind the comment that [`fill_null`] writes behind a value.
pub(in crate::cli::yaml) fn behind_was(text: &str, end: usize) -> usize {
    let line = text[end..]
        .strip_prefix(WAS)
        .and_then(|comment| comment.find(LINE));
    line.map_or(end, |line| end + WAS.len() + line + LINE.len())
}

/// Undoes [`fill_null`].
pub(in crate::cli::yaml) fn restore_null(editor: &mut Editor<'_>, value: &Node) -> Planned {
    let text = editor.lines.text;
    let comment = text[value.end..].strip_prefix(WAS);
    let line = comment.and_then(|comment| comment.find(LINE));
    let (Some(line), true) = (line, text[..value.start].ends_with(' ')) else {
        editor.replace_bytes(value.start..value.end, "null");
        return Ok(());
    };
    let token = value.end + WAS.len();
    editor.replace_bytes(value.start - 1..token, "");
    editor.replace_bytes(token + line..token + line + LINE.len(), "");
    Ok(())
}

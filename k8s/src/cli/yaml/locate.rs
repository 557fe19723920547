//! Where lines, comments and dashes are around a position in a text.

/// A text of which a document begins at `base`.
#[derive(Clone, Copy)]
pub(super) struct Lines<'a> {
    pub(super) text: &'a str,
    pub(super) base: usize,
    pub(super) end: usize,
}

// === impl Lines ===

impl<'a> Lines<'a> {
    /// The first byte of the line that `at` is in.
    pub(super) fn start(&self, at: usize) -> usize {
        let before = &self.text[self.base..at];
        before
            .rfind('\n')
            .map_or(self.base, |end| self.base + end + 1)
    }

    /// The first byte of the next line, or the document's end.
    pub(super) fn next(&self, at: usize) -> usize {
        let rest = &self.text[at..self.end];
        rest.find('\n').map_or(self.end, |end| at + end + 1)
    }

    /// How many characters stand before `at` in its line.
    pub(super) fn column(&self, at: usize) -> usize {
        self.text[self.start(at)..at].chars().count()
    }

    /// The column of a mapping of which a key begins at `at`: that of the question mark that stands before the key (`? key`), if
    /// one does.
    pub(super) fn column_of_key(&self, at: usize) -> usize {
        let before = self.text[self.start(at)..at].trim_end_matches([' ', '\t']);
        let mark = before
            .strip_suffix('?')
            .filter(|_| before.len() < self.column(at));
        let mark = mark.filter(|rest| rest.bytes().all(|b| b" -?:".contains(&b)));
        mark.map_or_else(|| self.column(at), |rest| rest.chars().count())
    }

    /// How the line of `at` ends, or the one before it.
    pub(super) fn newline(&self, at: usize) -> &'static str {
        let this = &self.text[at..self.next(at)];
        let before = &self.text[self.base..self.start(at)];
        let is_crlf = match this.ends_with('\n') {
            true => this.ends_with("\r\n"),
            false => before.ends_with("\r\n"),
        };
        if is_crlf { "\r\n" } else { "\n" }
    }

    /// Whether only spaces stand before `at` in its line.
    pub(super) fn is_first(&self, at: usize) -> bool {
        self.text[self.start(at)..at].bytes().all(|b| b == b' ')
    }

    /// The first byte behind the line in which a value ends; `None` where more than a comment follows it there.
    pub(super) fn behind(&self, end: usize) -> Option<usize> {
        let next = self.next(end);
        if end > self.base && self.text[..end].ends_with('\n') {
            return Some(end);
        }
        let rest = self.text[end..next].trim();
        (rest.is_empty() || rest.starts_with('#')).then_some(next)
    }

    /// Behind the comments that follow at once and belong to a block at `column`, by their indentation.
    pub(super) fn behind_comments(&self, at: usize, column: usize) -> usize {
        let indent = |line: &str| line.len() - line.trim_start_matches(' ').len();
        let is_comment = |line: &str| line.trim_start().starts_with('#');
        // A comment in the column of what follows belongs to that.
        let follows = self.text[at..self.end]
            .lines()
            .find(|line| !line.trim().is_empty() && !is_comment(line));
        let from = match follows {
            Some(line) if indent(line) == column => column + 1,
            _ => column,
        };
        let mut behind = at;
        for line in self.text[at..self.end].split_inclusive('\n') {
            if !is_comment(line) || indent(line) < from {
                break;
            }
            behind += line.len();
        }
        behind
    }

    /// The dash of the list item that begins at `at`.
    pub(super) fn dash(&self, at: usize) -> Option<usize> {
        let (mut start, mut end) = (self.start(at), at);
        loop {
            let line = self.text[start..end].trim_end();
            let is_dash = line.ends_with('-') && !line[..line.len() - 1].ends_with(|c| c != ' ');
            if is_dash {
                return Some(start + line.len() - 1);
            }
            if !line.is_empty() || start == self.base {
                return None;
            }
            end = start - 1;
            start = self.start(end);
            // Only a comment can stand between a dash and its item.
            if let Some(comment) = self.comment(start, end) {
                end = comment;
            }
        }
    }

    /// Where a comment begins in a line that can hold nothing but dashes before it.
    fn comment(&self, start: usize, end: usize) -> Option<usize> {
        let line = &self.text[start..end];
        let at = line.find('#')?;
        let is_dashes = line[..at].bytes().all(|b| b == b' ' || b == b'-');
        is_dashes.then_some(start + at)
    }

    /// Behind the colon that follows a key.
    pub(super) fn behind_colon(&self, key_end: usize) -> Option<usize> {
        let rest = self.text[key_end..self.end].trim_start_matches([' ', '\t']);
        let at = self.end - rest.len();
        rest.starts_with(':').then_some(at + 1)
    }

    /// The white space directly before `at`, back to `from`.
    pub(super) fn white_before(&self, from: usize, at: usize) -> &'a str {
        let before = &self.text[from..at];
        &before[before.trim_end().len()..]
    }
}

#[cfg(test)]
mod tests {
    use super::Lines;

    #[test]
    fn dash_is_found_before_comments_not_in_them() {
        for (text, item, dash) in [
            ("- a", 2, Some(0)),
            ("-  # c - d\n\n  # e\n  a", 19, Some(0)),
            ("x:\n  - - a", 9, Some(7)),
            ("a: b", 3, None),
            ("# - x\na", 6, None),
        ] {
            let (base, end) = (0, text.len());
            assert_eq!(Lines { text, base, end }.dash(item), dash, "{text}");
        }
    }

    #[test]
    fn explicit_key_has_the_column_of_its_question_mark() {
        for (text, key, column) in [
            ("  a: b", 2, 2),
            ("? a", 2, 0),
            ("  ?   a", 6, 2),
            ("- ? a", 4, 2),
            (": ? a", 4, 2),
            ("x?: a", 4, 4),
        ] {
            let (base, end) = (0, text.len());
            assert_eq!(
                Lines { text, base, end }.column_of_key(key),
                column,
                "{text}"
            );
        }
    }

    #[test]
    fn comments_belong_to_the_block_of_their_indentation() {
        let text = "  # a\n    # b\n# c\nx: 1\n";
        let (base, end) = (0, text.len());
        let lines = Lines { text, base, end };
        assert_eq!(lines.behind_comments(0, 2), 14);
        assert_eq!(lines.behind_comments(0, 4), 0);
        assert_eq!(lines.behind_comments(0, 0), 14, "# c belongs to x");
    }
}

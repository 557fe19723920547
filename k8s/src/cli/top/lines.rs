//! Bytes of a stream as lines of bounded length. Pure.

use flowcar_screen::line::MOST_BYTES;

/// The part of a line that has come so far.
#[derive(Debug, Default)]
pub(super) struct Lines {
    begun: Vec<u8>,
}

/// A line is longer than [`MOST_BYTES`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Lines {
    /// The lines that these bytes complete, without their ends.
    ///
    /// # Errors
    /// [`TooLong`]: nothing of the stream can be read any more.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, TooLong> {
        let mut whole = Vec::new();
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.extend(&rest[..end])?;
            whole.push(std::mem::take(&mut self.begun));
            rest = &rest[end + 1..];
        }
        self.extend(rest)?;
        Ok(whole)
    }

    fn extend(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        if self.begun.len() + bytes.len() > MOST_BYTES {
            return Err(TooLong);
        }
        self.begun.extend_from_slice(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Lines, MOST_BYTES, TooLong};

    #[test]
    fn lines_are_whole_however_they_come() {
        let text = b"one\n\nthree\nand a begun one";
        for size in 1..=text.len() {
            let mut lines = Lines::default();
            let parts = text
                .chunks(size)
                .map(|part| lines.push(part).expect("short"));
            let whole = parts.collect::<Vec<_>>().concat();
            assert_eq!(whole, [&b"one"[..], b"", b"three"], "{size}");
            assert_eq!(lines.begun, b"and a begun one");
        }
    }

    #[test]
    fn line_beyond_the_bound_is_not_kept() {
        let mut lines = Lines::default();
        let part = vec![b'x'; MOST_BYTES / 2];
        for _ in 0..2 {
            assert_eq!(lines.push(&part), Ok(Vec::new()));
        }
        assert_eq!(lines.push(b"x"), Err(TooLong));
        assert_eq!(Lines::default().push(&[b'x'; MOST_BYTES + 1]), Err(TooLong));
    }
}

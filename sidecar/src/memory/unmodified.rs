//! Which mappings of files hold nothing that is not in the file, by /proc/PID/smaps (proc_pid_smaps(5)).

use std::ops::Range;

/// A mapping.
struct Mapping<'a> {
    addresses: Range<usize>,
    /// Device and inode of its file.
    file: (&'a str, &'a str),
    is_read_only: bool,
    /// Whether it was seen that none of its pages is anonymous: a page that was modified, as by relocations, is.
    has_no_anonymous: bool,
    /// Whether a page of it is swapped out, which only anonymous ones are.
    has_swapped: bool,
}

/// The addresses of the private mappings that cannot be written to, of which no page was modified before, and whose file is the one that
/// is mapped at `code`. Of other files another thread may make new mappings meanwhile, as libraries are loaded.
pub(super) fn unmodified(smaps: &str, code: usize) -> Vec<Range<usize>> {
    let mappings = read(smaps);
    let own = mappings.iter().find(|of| of.addresses.contains(&code));
    let Some(file) = own.map(|own| own.file) else {
        return Vec::new();
    };
    let unmodified = mappings
        .into_iter()
        .filter(|of| of.file == file && of.is_unmodified());
    unmodified.map(|mapping| mapping.addresses).collect()
}

fn read(smaps: &str) -> Vec<Mapping<'_>> {
    let mut mappings: Vec<Mapping<'_>> = Vec::new();
    for line in smaps.lines() {
        if let Some(mapping) = Mapping::of(line) {
            mappings.push(mapping);
        } else if let Some(mapping) = mappings.last_mut() {
            mapping.add(line);
        }
    }
    mappings
}

// === impl Mapping ===

impl<'a> Mapping<'a> {
    /// The mapping that a line begins; `None` if it begins none.
    fn of(line: &'a str) -> Option<Self> {
        let mut fields = line.split_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        let (rights, _offset) = (fields.next()?, fields.next()?);
        Some(Self {
            addresses: address(start)?..address(end)?,
            is_read_only: matches!(rights, "r-xp" | "r--p"),
            file: (fields.next()?, fields.next()?),
            has_no_anonymous: false,
            has_swapped: false,
        })
    }

    /// Adds what a line counts of its pages.
    fn add(&mut self, line: &str) {
        let mut fields = line.split_whitespace();
        match (fields.next(), fields.next()) {
            (Some("Anonymous:"), Some("0")) => self.has_no_anonymous = true,
            (Some("Swap:"), Some(size)) => self.has_swapped = size != "0",
            _ => {}
        }
    }

    fn is_unmodified(&self) -> bool {
        let is_of_a_file = self.file.1 != "0";
        is_of_a_file && self.is_read_only && self.has_no_anonymous && !self.has_swapped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mappings_that_are_as_their_file_is_are_found() {
        const SMAPS: &str = "\
55e4c0800000-55e4c0a00000 r--p 00000000 fe:00 1311768 /usr/bin/flowcar
Size:               2048 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd mr mw me
55e4c0a00000-55e4c1200000 r-xp 00200000 fe:00 1311768 /usr/bin/flowcar
Anonymous:             0 kB
Swap:                  0 kB
55e4c1200000-55e4c1280000 r--p 00a00000 fe:00 1311768 /usr/bin/flowcar
Anonymous:           512 kB
Swap:                  0 kB
55e4c1280000-55e4c1290000 r--p 00a80000 fe:00 1311768 /usr/bin/flowcar
Anonymous:             0 kB
Swap:                 64 kB
55e4c1290000-55e4c1300000 rw-p 00a90000 fe:00 1311768 /usr/bin/flowcar
Anonymous:             0 kB
Swap:                  0 kB
55e4c1300000-55e4c1310000 r--p 00b00000 fe:00 1311768 /usr/bin/flowcar
Size:                 64 kB
7f53c2076000-7f53c2077000 r--p 00001000 fe:00 1311769 /usr/lib/libnss_dns.so
Anonymous:             0 kB
Swap:                  0 kB
7f53c3076000-7f53c3277000 r--s 00001000 00:10 1038 anon_inode:bpf-map
Anonymous:             0 kB
Swap:                  0 kB
7ffd1e5f2000-7ffd1e5f6000 r--p 00000000 00:00 0 [vvar]
Anonymous:             0 kB
Swap:                  0 kB
7ffd1e5f6000-7ffd1e5f8000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
Swap:                  0 kB
";
        assert_eq!(
            unmodified(SMAPS, 0x55e4_c0b0_0000),
            [
                0x55e4_c080_0000..0x55e4_c0a0_0000,
                0x55e4_c0a0_0000..0x55e4_c120_0000
            ]
        );
        let vdso = 0x7ffd_1e5f_6000;
        for (other, code) in [
            ("", 1),
            ("Anonymous: 0 kB\n-\nx-y\n1-2 r-xp\n", 1),
            (SMAPS, 1),
            (SMAPS, vdso),
        ] {
            assert!(unmodified(other, code).is_empty(), "{other}");
        }
    }
}

//! Which mappings of files hold nothing that is not in the file, by /proc/PID/smaps (proc_pid_smaps(5)).

use std::ops::Range;

/// A mapping, and whether all of its pages are the file's.
struct Mapping {
    addresses: Range<usize>,
    is_unmodified: bool,
}

/// The addresses of the private mappings of files that cannot be written to, and of which no page was modified before, as by relocations:
/// a modified page is anonymous.
pub(super) fn unmodified(smaps: &str) -> Vec<Range<usize>> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        if let Some(mapping) = Mapping::of(line) {
            mappings.push(mapping);
        } else if let Some(mapping) = mappings.last_mut() {
            mapping.is_unmodified &= !shows_modified(line);
        }
    }
    let unmodified = mappings.into_iter().filter(|mapping| mapping.is_unmodified);
    unmodified.map(|mapping| mapping.addresses).collect()
}

/// Whether a line counts pages that are not the file's any more.
fn shows_modified(line: &str) -> bool {
    let mut fields = line.split_whitespace();
    let counts = matches!(fields.next(), Some("Anonymous:" | "Swap:"));
    counts && fields.next() != Some("0")
}

// === impl Mapping ===

impl Mapping {
    /// The mapping that a line begins; `None` if it begins none.
    fn of(line: &str) -> Option<Self> {
        let mut fields = line.split_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        let addresses = address(start)?..address(end)?;
        let rights = fields.next()?;
        let (_offset, _device, inode) = (fields.next()?, fields.next()?, fields.next()?);
        let is_unmodified = matches!(rights, "r-xp" | "r--p") && inode != "0";
        Some(Self {
            addresses,
            is_unmodified,
        })
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
            unmodified(SMAPS),
            [
                0x55e4_c080_0000..0x55e4_c0a0_0000,
                0x55e4_c0a0_0000..0x55e4_c120_0000
            ]
        );
        for other in ["", "Anonymous: 4 kB\n-\nx-y\n1-2 r-xp\n"] {
            assert!(unmodified(other).is_empty(), "{other}");
        }
    }
}

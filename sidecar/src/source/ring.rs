//! The ring buffer that the kernel programs write and this process reads (Documentation/bpf/ringbuf.rst).
//!
//! The kernel shows its data twice, one behind the other, so that a record that crosses the end is read in one piece. Only as much of the
//! second time is mapped as a record reaches into: what is mapped counts as resident, whether it is read or not, and the whole ring would
//! count twice.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd, BorrowedFd, RawFd},
    ptr::NonNull,
    slice,
    sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence},
};

use aya::maps::MapData;
use flowcar_shared::{asked, dns, exchange, origin, record};
use nix::unistd::{SysconfVar, sysconf};

/// Bytes of the header in front of each record (`BPF_RINGBUF_HDR_SZ`, include/uapi/linux/bpf.h).
pub(super) const HEADER: usize = 8;

/// Set in a header while the record is written (`BPF_RINGBUF_BUSY_BIT`).
const BUSY: u32 = 1 << 31;

/// Set in a header whose record is to be skipped (`BPF_RINGBUF_DISCARD_BIT`).
const DISCARDED: u32 = 1 << 30;

/// The most bytes of a record.
const LONGEST: usize = dns::HEAD_LEN + dns::LARGE;

const _: () = assert!(record::RECORD_LEN <= LONGEST && exchange::RECORD_LEN <= LONGEST);
const _: () = assert!(asked::RECORD_LEN <= LONGEST && origin::RECORD_LEN <= LONGEST);

/// The ring of a map.
pub(super) struct Ring {
    map: MapData,
    reader: Reader,
}

// === impl Ring ===

impl Ring {
    /// Maps the ring of so many bytes.
    ///
    /// # Errors
    /// The kernel does not map it.
    pub(super) fn map(map: MapData, bytes: usize) -> io::Result<Self> {
        let reader = Reader::map(map.fd().as_fd(), bytes)?;
        Ok(Self { map, reader })
    }

    /// Hands over the next record, and gives what is made of it; `None` if no more waits.
    pub(super) fn next<T>(&mut self, take: impl FnOnce(&[u8]) -> T) -> Option<T> {
        self.reader.next(take)
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.map.fd().as_fd().as_raw_fd()
    }
}

/// What reads a ring.
struct Reader {
    /// A page with the position up to which records were read. The kernel reads it.
    consumer: Mapping,
    /// A page with the position up to which records were written, and the data behind it.
    producer: Mapping,
    page: usize,
    /// Bytes of the ring, a power of two.
    bytes: usize,
    read: usize,
    /// As far as is known.
    written: usize,
    /// A record was read since the last fence.
    has_read: bool,
}

// === impl Reader ===

impl Reader {
    fn map(ring: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        let page = sysconf(SysconfVar::PAGE_SIZE)?.unwrap_or(4_096) as usize;
        let again = (HEADER + LONGEST).next_multiple_of(page).min(bytes);
        let consumer = Mapping::new(ring, 0, page, libc::PROT_READ | libc::PROT_WRITE)?;
        let producer = Mapping::new(ring, page, page + bytes + again, libc::PROT_READ)?;
        let read = consumer.position().load(Ordering::Acquire);
        Ok(Self {
            consumer,
            producer,
            page,
            bytes,
            read,
            written: read,
            has_read: false,
        })
    }

    fn next<T>(&mut self, take: impl FnOnce(&[u8]) -> T) -> Option<T> {
        loop {
            if self.read == self.written {
                self.fence();
                self.written = self.producer.position().load(Ordering::Acquire);
                if self.read == self.written {
                    return None;
                }
            }
            let at = self.page + self.read % self.bytes;
            // Behind the header's mark the record is whole.
            let header = self.producer.word(at).load(Ordering::Acquire);
            let length = (header & !(BUSY | DISCARDED)) as usize;
            if header & BUSY != 0 {
                if !self.fence() {
                    return None;
                }
            } else if header & DISCARDED != 0 {
                self.has_been_read(length);
            } else {
                let taken = take(self.producer.bytes(at + HEADER, length));
                self.has_been_read(length);
                return Some(taken);
            }
        }
    }

    /// Shows the kernel what was read before it is asked whether there is more: either this process sees the next record, or the kernel sees
    /// that it is the next one, and wakes this process. Gives whether that was to be done.
    fn fence(&mut self) -> bool {
        let has_read = std::mem::take(&mut self.has_read);
        if has_read {
            fence(Ordering::SeqCst);
        }
        has_read
    }

    /// Lets the kernel write over a record.
    fn has_been_read(&mut self, length: usize) {
        self.read = self
            .read
            .wrapping_add((HEADER + length).next_multiple_of(HEADER));
        self.consumer.position().store(self.read, Ordering::Release);
        self.has_read = true;
    }
}

/// A part of a ring in memory.
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the memory is this value's alone, and is not bound to a thread.
unsafe impl Send for Mapping {}

// === impl Mapping ===

impl Mapping {
    fn new(of: BorrowedFd<'_>, from: usize, length: usize, rights: i32) -> io::Result<Self> {
        let from = libc::off_t::try_from(from).map_err(io::Error::other)?;
        // SAFETY: a new mapping, at an address that the kernel chooses, replaces none.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                rights,
                libc::MAP_SHARED,
                of.as_raw_fd(),
                from,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).expect("the kernel maps nothing at 0 by itself");
        Ok(Self { start, length })
    }

    /// The position that it begins with.
    const fn position(&self) -> &AtomicUsize {
        // SAFETY: a page is longer than a position and aligned for it, and stays mapped as long as this value. The kernel, too, accesses it
        // as a whole.
        unsafe { self.start.cast().as_ref() }
    }

    /// The word at a multiple of a header's bytes.
    fn word(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(HEADER) && at < self.length);
        // SAFETY: checked to lie in the mapping, and aligned, as the mapping is; the kernel accesses it as a whole.
        unsafe { self.start.add(at).cast().as_ref() }
    }

    /// Bytes that the kernel does not write any more.
    fn bytes(&self, at: usize, length: usize) -> &[u8] {
        assert!(
            at + length <= self.length,
            "the kernel's record of {length} bytes is longer than any that the programs write"
        );
        // SAFETY: checked to lie in the mapping, which stays as long as this value. The kernel writes nothing there until the position behind
        // it is stored, for which the slice has to be over.
        unsafe { slice::from_raw_parts(self.start.add(at).as_ptr(), length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this value's own mapping, whole, of which no reference is left.
        unsafe {
            libc::munmap(self.start.as_ptr().cast(), self.length);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::FileExt as _};

    use super::*;

    const RING: usize = 64 << 10;

    /// A file in place of the kernel's ring.
    struct Written {
        file: File,
        page: usize,
        position: usize,
    }

    impl Written {
        fn new() -> Self {
            let page = sysconf(SysconfVar::PAGE_SIZE).unwrap().unwrap() as usize;
            let file = tempfile::tempfile().unwrap();
            file.set_len((2 * page + 2 * RING) as u64).unwrap();
            Self {
                file,
                page,
                position: 0,
            }
        }

        fn write(&self, at: usize, bytes: &[u8]) {
            self.file.write_all_at(bytes, at as u64).unwrap();
        }

        /// As the kernel's data, which are there twice.
        fn write_data(&self, position: usize, bytes: &[u8]) {
            for (at, byte) in bytes.iter().enumerate() {
                let at = 2 * self.page + (position + at) % RING;
                self.write(at, &[*byte]);
                self.write(at + RING, &[*byte]);
            }
        }

        fn record(&mut self, record: &[u8], flags: u32) {
            let header = record.len() as u32 | flags;
            self.write_data(self.position, &header.to_ne_bytes());
            self.write_data(self.position + HEADER, record);
            self.position += (HEADER + record.len()).next_multiple_of(8);
            self.write(self.page, &self.position.to_ne_bytes());
        }

        fn consumed(&self) -> usize {
            let mut position = [0; size_of::<usize>()];
            self.file.read_exact_at(&mut position, 0).unwrap();
            usize::from_ne_bytes(position)
        }
    }

    #[test]
    fn records_are_read_in_their_order_without_those_that_are_discarded() {
        let mut ring = Written::new();
        let mut reader = Reader::map(ring.file.as_fd(), RING).unwrap();
        assert_eq!(reader.next(<[u8]>::to_vec), None);
        ring.record(b"one", 0);
        ring.record(b"discarded", DISCARDED);
        ring.record(b"two", 0);
        let busy = ring.position;
        ring.record(b"three", BUSY);
        ring.record(b"four", 0);
        assert_eq!(reader.next(<[u8]>::to_vec).unwrap(), b"one");
        assert_eq!(ring.consumed(), 16);
        assert_eq!(reader.next(<[u8]>::to_vec).unwrap(), b"two");
        assert_eq!(reader.next(<[u8]>::to_vec), None, "it is being written");
        ring.write_data(busy, &5_u32.to_ne_bytes());
        assert_eq!(reader.next(<[u8]>::to_vec).unwrap(), b"three");
        assert_eq!(reader.next(<[u8]>::to_vec).unwrap(), b"four");
        assert_eq!(reader.next(<[u8]>::to_vec), None);
        assert_eq!(ring.consumed(), ring.position);
    }

    /// Wherever the longest record begins, it is read in one piece.
    #[test]
    fn record_that_crosses_the_end_is_whole() {
        let mut ring = Written::new();
        let mut reader = Reader::map(ring.file.as_fd(), RING).unwrap();
        let longest: Vec<u8> = (0..LONGEST).map(|at| at as u8).collect();
        let short = [7; 40];
        while ring.position < 3 * RING {
            ring.record(&short, 0);
            ring.record(&longest, 0);
            assert_eq!(reader.next(<[u8]>::to_vec).unwrap(), short);
            assert_eq!(reader.next(<[u8]>::to_vec).unwrap(), longest);
        }
        // The last place at which one begins.
        ring.position = 4 * RING - HEADER;
        ring.write(0, &ring.position.to_ne_bytes());
        let mut reader = Reader::map(ring.file.as_fd(), RING).unwrap();
        ring.record(&longest, 0);
        assert_eq!(reader.next(<[u8]>::to_vec).unwrap(), longest);
    }

    #[test]
    fn ring_is_mapped_once_and_a_few_pages() {
        let ring = Written::new();
        let reader = Reader::map(ring.file.as_fd(), RING).unwrap();
        let mapped = reader.producer.length;
        assert!(mapped <= RING + RING / 4 + 3 * ring.page, "{mapped}");
    }
}

//! The log as it is on its disk: a superblock, then entries, each a sector of header and its data.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use crate::{Failure, Result, failure::ensure};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const HEADER_BYTES: usize = 32;

/// What an entry is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u64);

/// One entry. Sectors are those of the log's superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// First sector on the logged disk.
    pub sector: u64,
    /// Number of sectors.
    pub sector_count: u64,
    /// What it is.
    pub flags: Flags,
    /// The word of a mark, else empty.
    pub mark: String,
    /// Where in the log its data are, in bytes; without meaning for a discard or a mark.
    pub data_offset: u64,
}

/// A log with its entries in order; data stay in the file.
pub struct Log {
    file: File,
    sector_bytes: u64,
    entries: Vec<Entry>,
}

impl Flags {
    /// Everything complete before it was submitted is on the disk when it is in the log.
    #[must_use]
    pub fn is_flush(self) -> bool {
        self.0 & 1 != 0
    }

    /// Its own data are on the disk when it is in the log.
    #[must_use]
    pub fn is_forced(self) -> bool {
        self.0 & 2 != 0
    }

    /// It carries no data; its range is void.
    #[must_use]
    pub fn is_discard(self) -> bool {
        self.0 & 4 != 0
    }

    /// A word from userspace.
    #[must_use]
    pub fn is_mark(self) -> bool {
        self.0 & 8 != 0
    }
}

impl Log {
    /// Reads the entries of a log.
    ///
    /// Only entries up to the last but one mark are taken: the target writes them in order but does not wait, so of the
    /// last few a killed guest may have lost some. Whoever marks does so many milliseconds apart.
    ///
    /// # Errors
    /// No log, a log of another version, or one without two marks.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Failure::io(path.display()))?;
        let size = file.metadata().map_err(Failure::io(path.display()))?.len();
        let mut header = [0; HEADER_BYTES];
        file.read_exact_at(&mut header, 0).map_err(Failure::io("log superblock"))?;
        ensure(word(&header, 0) == MAGIC && word(&header, 1) == VERSION, || "no log-writes superblock".into())?;
        let (entry_count, sector_bytes) = (word(&header, 2), word(&header, 3) & 0xffff_ffff);
        ensure(sector_bytes.is_power_of_two() && (512..=65536).contains(&sector_bytes), || {
            format!("a sector of {sector_bytes} bytes")
        })?;
        let mut log = Self { file, sector_bytes, entries: Vec::new() };
        let mut offset = sector_bytes;
        for index in 0..entry_count {
            ensure(offset + sector_bytes <= size, || format!("entry {index} of {entry_count} is beyond the end"))?;
            offset = log.read_entry(offset)?;
        }
        let marks: Vec<_> = log.marks().map(|(index, _)| index).collect();
        let [.., last, _] = marks[..] else { return Err(Failure::new("a log without two marks")) };
        log.entries.truncate(last + 1);
        Ok(log)
    }

    /// The entries, oldest first.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Bytes of a sector.
    #[must_use]
    pub fn sector_bytes(&self) -> u64 {
        self.sector_bytes
    }

    /// Index and word of every mark, oldest first.
    pub fn marks(&self) -> impl DoubleEndedIterator<Item = (usize, &str)> {
        self.entries.iter().enumerate().filter(|(_, e)| e.flags.is_mark()).map(|(index, e)| (index, e.mark.as_str()))
    }

    /// The word of the newest mark before entry `cut`.
    #[must_use]
    pub fn mark_before(&self, cut: usize) -> Option<&str> {
        self.marks().take_while(|(index, _)| *index < cut).last().map(|(_, word)| word)
    }

    /// Reads `bytes` from the data of `entry`, from the beginning.
    ///
    /// # Errors
    /// When the log ends before.
    pub fn read_data(&self, entry: &Entry, bytes: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(bytes, entry.data_offset).map_err(Failure::io("log data"))
    }

    /// Takes the entry at `offset`; where the next one is.
    fn read_entry(&mut self, offset: u64) -> Result<u64> {
        let mut sector = vec![0; usize::try_from(self.sector_bytes).unwrap_or(512)];
        self.file.read_exact_at(&mut sector, offset).map_err(Failure::io("log entry"))?;
        let flags = Flags(word(&sector, 2));
        let data_length = usize::try_from(word(&sector, 3)).unwrap_or(usize::MAX);
        let mark = if flags.is_mark() {
            let text = sector[HEADER_BYTES..].get(..data_length).unwrap_or_default();
            String::from_utf8_lossy(text).trim_end_matches('\0').to_owned()
        } else {
            String::new()
        };
        let data_offset = offset + self.sector_bytes;
        let entry = Entry { sector: word(&sector, 0), sector_count: word(&sector, 1), flags, mark, data_offset };
        let data_sectors = if flags.is_discard() { 0 } else { entry.sector_count };
        self.entries.push(entry);
        Ok(data_offset + data_sectors * self.sector_bytes)
    }
}

fn word(bytes: &[u8], index: usize) -> u64 {
    bytes.chunks_exact(8).nth(index).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// Builds logs for tests as the kernel lays them out.
#[cfg(test)]
pub(super) mod build {
    use std::io::Write;

    use super::*;

    pub(crate) struct Item {
        pub(crate) sector: u64,
        pub(crate) flags: u64,
        pub(crate) data: Vec<u8>,
    }

    pub(crate) fn write(sector: u64, fill: u8, sectors: usize) -> Item {
        Item { sector, flags: 0, data: vec![fill; sectors * 512] }
    }

    pub(crate) fn flush() -> Item {
        Item { sector: 0, flags: 1, data: Vec::new() }
    }

    pub(crate) fn mark(word: &str) -> Item {
        Item { sector: 0, flags: 8, data: word.as_bytes().to_vec() }
    }

    pub(crate) fn log(items: &[Item]) -> (tempfile::NamedTempFile, Log) {
        let mut bytes = Vec::new();
        let entry_count = u64::try_from(items.len()).unwrap();
        for field in [MAGIC, VERSION, entry_count, 512] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes.resize(512, 0);
        for item in items {
            let (is_discard, is_mark) = (item.flags & 4 != 0, item.flags & 8 != 0);
            let length = u64::try_from(item.data.len()).unwrap();
            let sectors = if is_mark { 0 } else { length / 512 };
            for field in [item.sector, sectors, item.flags, if is_mark { length } else { 0 }] {
                bytes.extend_from_slice(&field.to_le_bytes());
            }
            if is_mark {
                bytes.extend_from_slice(&item.data);
            }
            bytes.resize(bytes.len().next_multiple_of(512), 0);
            if !is_mark && !is_discard {
                bytes.extend_from_slice(&item.data);
            }
        }
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        let log = Log::open(file.path()).unwrap();
        (file, log)
    }
}

#[cfg(test)]
mod tests {
    use super::{build::*, *};

    #[test]
    fn entries_are_read_up_to_the_last_but_one_mark() {
        let (_file, log) =
            log(&[write(8, 1, 2), flush(), mark("one"), write(0, 2, 1), mark("two"), flush(), mark("end")]);
        assert_eq!(log.entries().len(), 5);
        assert_eq!(log.marks().collect::<Vec<_>>(), [(2, "one"), (4, "two")]);
        assert_eq!((log.mark_before(2), log.mark_before(3), log.mark_before(5)), (None, Some("one"), Some("two")));
        let first = &log.entries()[0];
        assert_eq!((first.sector, first.sector_count), (8, 2));
        let mut data = [0; 1024];
        log.read_data(first, &mut data).unwrap();
        assert_eq!(data, [1; 1024]);
    }

    #[test]
    fn what_is_no_log_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Log::open(file.path()).is_err());
        file.as_file().set_len(1 << 20).unwrap();
        assert!(Log::open(file.path()).is_err());
    }
}

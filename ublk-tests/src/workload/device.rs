//! The guest's side: makes the operations of a plan on a block device, past the page cache, and reads them back.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    process::Command,
};

use rustix::{
    fs::{FallocateFlags, OFlags, fallocate, fdatasync},
    io::{Errno, IoSlice, ReadWriteFlags, pwritev2},
};

use super::{BLOCK_BYTES, Found, Op, Plan, Range, content};
use crate::{Failure, Result, failure::ensure};

/// Bytes read at once when everything is read back.
const READ_BYTES: usize = 256 * BLOCK_BYTES;

/// A block device opened for direct I/O.
pub struct Device {
    file: File,
    buffer: Aligned,
}

impl Device {
    /// Opens `path`.
    ///
    /// # Errors
    /// When it does not exist or does not take direct I/O.
    pub fn open(path: &Path) -> Result<Self> {
        let direct = i32::try_from(OFlags::DIRECT.bits()).unwrap_or(0);
        let file = OpenOptions::new().read(true).write(true).custom_flags(direct).open(path);
        Ok(Self { file: file.map_err(Failure::io(path.display()))?, buffer: Aligned::new(READ_BYTES) })
    }

    /// Makes operation `number` of `plan`; a mark does nothing here.
    ///
    /// # Errors
    /// What the device answers.
    pub fn make(&mut self, plan: &Plan, number: u64) -> Result<()> {
        let what = plan.op(number);
        let done = match what {
            Op::Write { range, forced } => self.write(plan, number, range, forced),
            Op::Zero(range) => self.zero(range),
            Op::Flush => fdatasync(&self.file).map_err(io::Error::from),
            Op::Mark => Ok(()),
        };
        done.map_err(Failure::io(format_args!("operation {number}, {what:?}")))
    }

    /// What each block of the plan is now.
    ///
    /// # Errors
    /// What the device answers.
    pub fn find(&mut self, plan: &Plan) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        let mut lba = 0;
        while lba < plan.block_count {
            let left = usize::try_from(byte(plan.block_count - lba)).unwrap_or(READ_BYTES);
            let bytes = &mut self.buffer.bytes()[..left.min(READ_BYTES)];
            self.file.read_exact_at(bytes, byte(lba)).map_err(Failure::io(format_args!("reading block {lba}")))?;
            for block in bytes.chunks_exact(BLOCK_BYTES) {
                found.push(content::identify(plan, lba, block));
                lba += 1;
            }
        }
        Ok(found)
    }

    /// Asks for zeros; where the device has no such request the kernel writes them.
    fn zero(&self, range: Range) -> io::Result<()> {
        let ask = |how| fallocate(&self.file, how | FallocateFlags::KEEP_SIZE, byte(range.start), byte(range.count));
        match ask(FallocateFlags::PUNCH_HOLE) {
            Err(Errno::OPNOTSUPP) => ask(FallocateFlags::ZERO_RANGE),
            done => done,
        }
        .map_err(io::Error::from)
    }

    fn write(&mut self, plan: &Plan, number: u64, range: Range, forced: bool) -> io::Result<()> {
        let mut length = 0;
        for lba in range.start..range.start + range.count {
            self.buffer.bytes()[length..length + BLOCK_BYTES].copy_from_slice(&content::block(plan, lba, number));
            length += BLOCK_BYTES;
        }
        let flags = if forced { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
        let written = pwritev2(&self.file, &[IoSlice::new(&self.buffer.bytes()[..length])], byte(range.start), flags)?;
        if written == length { Ok(()) } else { Err(io::Error::other(format!("wrote {written} of {length} bytes"))) }
    }
}

/// Makes the operations from `first` on until `count` are done, or for ever. After every [`super::MARK_EVERY`] it puts
/// a mark into the log of device-mapper target `log`, then says `mark NUMBER` on standard output.
///
/// # Errors
/// What the device answers; no operation is repeated.
pub fn run(device: &mut Device, plan: &Plan, first: u64, count: Option<u64>, log: Option<&str>) -> Result<()> {
    let end = count.map_or(u64::MAX, |count| first + count);
    for number in first..end {
        device.make(plan, number)?;
        if plan.op(number) == Op::Mark {
            if let Some(name) = log {
                let word = number.to_string();
                let status = Command::new("dmsetup").args(["message", name, "0", "mark", &word]).status();
                ensure(status.map_err(Failure::io("dmsetup"))?.success(), || format!("no mark {number} in {name}"))?;
            }
            say(&format!("mark {number}\n"))?;
        }
    }
    say(&format!("done {end}\n"))
}

/// Prints what was found, for [`parse_found`] on the other side.
///
/// # Errors
/// When standard output is closed.
pub fn print_found(found: &[Found]) -> Result<()> {
    let text: String = found
        .iter()
        .enumerate()
        .filter_map(|(lba, found)| match found {
            Found::Zeros => None,
            Found::Op(number) => Some(format!("found {lba} {number}\n")),
            Found::Damaged => Some(format!("found {lba} damaged\n")),
        })
        .collect();
    say(&format!("{text}found-all {}\n", found.len()))
}

/// What [`print_found`] printed; other lines are passed over.
///
/// # Errors
/// When the lines do not end as they should.
pub fn parse_found(lines: &[String]) -> Result<Vec<Found>> {
    let count = lines.iter().find_map(|line| line.strip_prefix("found-all ")).and_then(|n| n.parse().ok());
    let mut found = vec![Found::Zeros; count.ok_or_else(|| Failure::new(format!("no end of findings: {lines:?}")))?];
    for line in lines.iter().filter_map(|line| line.strip_prefix("found ")) {
        let (lba, value) = line.split_once(' ').unwrap_or_default();
        let slot = lba.parse::<usize>().ok().and_then(|lba| found.get_mut(lba));
        let slot = slot.ok_or_else(|| Failure::new(format!("not a finding: {line}")))?;
        *slot = value.parse().map_or(Found::Damaged, Found::Op);
    }
    Ok(found)
}

fn byte(lba: u64) -> u64 {
    lba * 4096
}

fn say(line: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes()).and_then(|()| out.flush()).map_err(Failure::io("standard output"))
}

/// Memory whose used part begins at a page.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    fn new(length: usize) -> Self {
        let memory = vec![0; length + BLOCK_BYTES];
        let start = memory.as_ptr().align_offset(BLOCK_BYTES);
        Self { memory, start, length }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_survive_their_way_through_text() {
        let found = [Found::Zeros, Found::Op(12), Found::Damaged, Found::Zeros];
        let lines = ["mark 39", "found 1 12", "found 2 damaged", "found-all 4"].map(String::from);
        assert_eq!(parse_found(&lines).unwrap(), found);
        assert!(parse_found(&lines[..3]).is_err());
    }

    #[test]
    fn a_device_shows_the_last_operation_on_each_block() {
        let plan = Plan { seed: 5, block_count: 512 };
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(512 * 4096).unwrap();
        let mut device = Device::open(file.path()).unwrap();
        run(&mut device, &plan, 0, Some(400), None).unwrap();
        let mut expected = vec![Found::Zeros; 512];
        for number in 0..400 {
            let (range, value) = match plan.op(number) {
                Op::Write { range, .. } => (range, Found::Op(number)),
                Op::Zero(range) => (range, Found::Zeros),
                Op::Flush | Op::Mark => continue,
            };
            for (lba, slot) in (0..).zip(&mut expected) {
                if range.contains(lba) {
                    *slot = value;
                }
            }
        }
        assert_eq!(device.find(&plan).unwrap(), expected);
    }
}

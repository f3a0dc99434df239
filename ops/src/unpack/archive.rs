//! The entries of an archive, one after the other, whatever its format.
//!
//! Knows tar, zip and the compressions; judges nothing but the format.

use std::cell::Cell;
use std::io::{self, BufReader, Read, Seek};
use std::ops::ControlFlow;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use fs_err::File;

use super::UnpackError;

/// One thing in an archive.
pub(super) struct Entry<'a> {
    /// Its name as the archive has it.
    pub(super) name: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) modified: Option<SystemTime>,
    /// The contents, if it is a file.
    pub(super) data: &'a mut dyn Read,
}

pub(super) enum Kind {
    Folder,
    File { is_executable: bool },
    Symlink { target: Vec<u8> },
    HardLink { target: Vec<u8> },
    Special(&'static str),
}

impl Kind {
    pub(super) fn is_file(&self) -> bool {
        matches!(self, Self::File { .. })
    }

    pub(super) fn is_folder(&self) -> bool {
        matches!(self, Self::Folder)
    }
}

/// Decides what happens after an entry.
pub(super) type Visitor<'a> = dyn FnMut(Entry<'_>) -> Result<ControlFlow<()>, UnpackError> + 'a;

/// Shows every entry of `archive` to `visitor`, in the archive's order, until it breaks off or all that was read or
/// passed over is more than `bytes_max`.
pub(super) fn visit(archive: &Path, bytes_max: u64, visitor: &mut Visitor<'_>) -> Result<(), UnpackError> {
    // xz says how much memory it wants; 64 MiB is what the highest preset needs.
    const XZ_MEMORY_KIB: u32 = 256 << 10;
    let mut file = File::open(archive)?;
    let mut start = Vec::with_capacity(512);
    file.by_ref().take(512).read_to_end(&mut start)?;
    file.rewind()?;
    let file = BufReader::with_capacity(64 << 10, file);
    let visited = match start.as_slice() {
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => visit_zip(file, visitor),
        [0x1f, 0x8b, ..] => visit_tar(flate2::bufread::MultiGzDecoder::new(file), bytes_max, visitor),
        [b'B', b'Z', b'h', ..] => visit_tar(bzip2::bufread::MultiBzDecoder::new(file), bytes_max, visitor),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            visit_tar(lzma_rust2::XzReader::new_mem_limit(file, true, XZ_MEMORY_KIB), bytes_max, visitor)
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => match ruzstd::decoding::StreamingDecoder::new(file) {
            Ok(decoder) => visit_tar(decoder, bytes_max, visitor),
            Err(error) => Err(Failure::Read(io::Error::other(error))),
        },
        block if is_tar(block) => visit_tar(file, bytes_max, visitor),
        _ => {
            let start = start[..start.len().min(24)].escape_ascii().to_string();
            return Err(UnpackError::UnknownFormat { archive: archive.to_owned(), start });
        }
    };
    visited.map_err(|failure| match failure {
        Failure::Read(source) => UnpackError::Damaged { archive: archive.to_owned(), source },
        Failure::TooLarge => UnpackError::TooLarge { archive: archive.to_owned(), max: bytes_max, unit: "bytes" },
        Failure::Visitor(error) => error,
    })
}

/// Tells the archive's faults from the visitor's.
enum Failure {
    Read(io::Error),
    TooLarge,
    Visitor(UnpackError),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

impl From<zip::result::ZipError> for Failure {
    fn from(error: zip::result::ZipError) -> Self {
        Self::Read(error.into())
    }
}

/// Says whether this is a tar header: old tars have no magic bytes, but all have a checksum.
fn is_tar(block: &[u8]) -> bool {
    let Ok(block) = <[u8; 512]>::try_from(block) else {
        return false;
    };
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    let computed = sum(&block[..148]) + 8 * u32::from(b' ') + sum(&block[156..]);
    let is_empty_archive = block.iter().all(|byte| *byte == 0);
    is_empty_archive || tar::Header::from_byte_slice(&block).cksum().is_ok_and(|written| written == computed)
}

fn visit_tar(reader: impl Read, bytes_max: u64, visitor: &mut Visitor<'_>) -> Result<(), Failure> {
    // Long names and extended attributes are read into memory before the entry that they belong to is seen.
    const HEADERS_BYTES_MAX: u64 = 1 << 20;
    let left = Rc::new(Cell::new(HEADERS_BYTES_MAX));
    let mut archive = tar::Archive::new(Metered { reader, left: Rc::clone(&left) });
    let mut entries = archive.entries()?;
    // Bytes that the visitor has not read. It counts by itself what it has.
    let mut n_skipped = 0;
    loop {
        left.set(HEADERS_BYTES_MAX);
        let Some(entry) = entries.next() else {
            return Ok(());
        };
        let mut entry = entry?;
        left.set(u64::MAX);
        if !entry.header().entry_type().is_pax_global_extensions() {
            let name = entry.path_bytes().into_owned();
            let seconds = entry.header().mtime().ok();
            let modified = seconds.and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
            let kind = tar_kind(&entry, &name)?;
            let flow = visitor(Entry { name, kind, modified, data: &mut entry }).map_err(Failure::Visitor)?;
            if flow.is_break() {
                return Ok(());
            }
        }
        // What is left unread must not count as header of the next entry. A sparse file may pretend to be endless.
        n_skipped += io::copy(&mut entry.take(bytes_max - n_skipped + 1), &mut io::sink())?;
        if n_skipped > bytes_max {
            return Err(Failure::TooLarge);
        }
    }
}

fn tar_kind<R: Read>(entry: &tar::Entry<'_, R>, name: &[u8]) -> io::Result<Kind> {
    use tar::EntryType;
    let target = || entry.link_name_bytes().unwrap_or_default().into_owned();
    Ok(match entry.header().entry_type() {
        // Tars from before POSIX mark folders by a slash alone.
        EntryType::Regular if name.ends_with(b"/") => Kind::Folder,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            Kind::File { is_executable: entry.header().mode()? & 0o111 != 0 }
        }
        EntryType::Directory => Kind::Folder,
        EntryType::Symlink => Kind::Symlink { target: target() },
        EntryType::Link => Kind::HardLink { target: target() },
        EntryType::Char | EntryType::Block => Kind::Special("device"),
        EntryType::Fifo => Kind::Special("named pipe"),
        _ => Kind::Special("thing of unknown kind"),
    })
}

/// Fails once more was read than there was leave for.
pub(crate) struct Metered<R> {
    pub(crate) reader: R,
    pub(crate) left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buffer)?;
        let left = self.left.get().checked_sub(n as u64);
        self.left.set(left.ok_or_else(|| io::Error::other("an entry's header is unreasonably long"))?);
        Ok(n)
    }
}

fn visit_zip(file: impl Read + Seek, visitor: &mut Visitor<'_>) -> Result<(), Failure> {
    const TARGET_BYTES_MAX: u64 = 4096;
    let mut archive = zip::ZipArchive::new(file)?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index)?;
        let name = entry.name_raw().to_owned();
        let mode = entry.unix_mode().unwrap_or(0o644);
        let kind = match mode & 0o170_000 {
            _ if name.ends_with(b"/") => Kind::Folder,
            0o040_000 => Kind::Folder,
            0o120_000 => {
                let mut target = Vec::new();
                entry.by_ref().take(TARGET_BYTES_MAX).read_to_end(&mut target)?;
                Kind::Symlink { target }
            }
            0 | 0o100_000 => Kind::File { is_executable: mode & 0o111 != 0 },
            0o010_000 => Kind::Special("named pipe"),
            0o020_000 | 0o060_000 => Kind::Special("device"),
            0o140_000 => Kind::Special("socket"),
            _ => Kind::Special("thing of unknown kind"),
        };
        let modified = zip_modified(&entry);
        let flow = visitor(Entry { name, kind, modified, data: &mut entry }).map_err(Failure::Visitor)?;
        if flow.is_break() {
            break;
        }
    }
    Ok(())
}

/// The entry's time: the exact one if there is, else the DOS one, which has no time zone and is taken for UTC.
fn zip_modified<R: Read>(entry: &zip::read::ZipFile<'_, R>) -> Option<SystemTime> {
    let exact = entry.extra_data_fields().find_map(|field| match field {
        zip::ExtraField::ExtendedTimestamp(times) => times.mod_time().map(u64::from),
        _ => None,
    });
    let seconds = exact.or_else(|| entry.last_modified().map(dos_seconds))?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Seconds from 1970 on. DOS years begin with 1980, so nothing here is negative.
fn dos_seconds(time: zip::DateTime) -> u64 {
    let (month, day) = (u64::from(time.month()), u64::from(time.day()));
    // Counted in years that begin in March: the leap day is then the last one, and months follow a pattern.
    let year = u64::from(time.year()) - u64::from(month <= 2);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = 365 * year + year / 4 - year / 100 + year / 400 + day_of_year - 719_468;
    days * 86_400 + u64::from(time.hour()) * 3600 + u64::from(time.minute()) * 60 + u64::from(time.second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dos_times_are_read_as_utc() {
        let time = |y, mo, d, h, mi, s| dos_seconds(zip::DateTime::from_date_and_time(y, mo, d, h, mi, s).unwrap());
        assert_eq!(time(1980, 1, 1, 0, 0, 0), 315_532_800);
        assert_eq!(time(2000, 2, 29, 12, 30, 4), 951_827_404);
        assert_eq!(time(2024, 3, 1, 0, 0, 0), 1_709_251_200);
        assert_eq!(time(2023, 12, 31, 23, 59, 58), 1_704_067_198);
    }
}

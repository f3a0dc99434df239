//! Good archives of every kind come out right; a corpus of hostile ones is refused and leaves nothing.

use std::cell::Cell;
use std::io::{Cursor, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use tar::EntryType;
use tempfile::TempDir;

use super::*;

const MTIME: u64 = 1_700_000_000;

/// Writes tars that the `tar` crate itself would refuse to write.
struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    /// A package of one file.
    fn package() -> Self {
        Self::new().file("demo/DESCRIPTION", b"Package: demo\n")
    }

    fn entry(mut self, kind: EntryType, name: &str, target: &str, mode: u32, data: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(MTIME);
        header.set_size(data.len() as u64);
        let fields = header.as_gnu_mut().unwrap();
        fields.name[..name.len()].copy_from_slice(name.as_bytes());
        fields.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    fn file(self, name: &str, data: &[u8]) -> Self {
        self.entry(EntryType::Regular, name, "", 0o600, data)
    }

    fn folder(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name, "", 0o700, b"")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, target, 0o777, b"")
    }

    fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name, target, 0o644, b"")
    }

    fn pax(mut self, key: &str, value: &[u8]) -> Self {
        self.0.append_pax_extensions([(key, value)]).unwrap();
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zip_of(entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let time = zip::DateTime::from_date_and_time(2023, 11, 14, 22, 13, 20).unwrap();
    for (name, mode, data) in entries {
        let options = zip::write::SimpleFileOptions::default().unix_permissions(*mode).last_modified_time(time);
        match mode & 0o170_000 {
            0o120_000 => zip.add_symlink(*name, str::from_utf8(data).unwrap(), options).unwrap(),
            _ if name.ends_with('/') => zip.add_directory(*name, options).unwrap(),
            _ => zip.start_file(*name, options).and_then(|()| Ok(zip.write_all(data)?)).unwrap(),
        }
    }
    zip.finish().unwrap().into_inner()
}

/// A directory with one archive in it and room for a tree.
struct Place(TempDir);

impl Place {
    fn with(archive: &[u8]) -> Self {
        let place = Self(TempDir::new().unwrap());
        fs_err::write(place.archive(), archive).unwrap();
        place
    }

    fn archive(&self) -> PathBuf {
        self.0.path().join("archive")
    }

    fn tree(&self) -> PathBuf {
        self.0.path().join("tree")
    }

    fn unpack(&self, options: &Options) -> Result<Unpacked, UnpackError> {
        unpack(&self.archive(), &self.tree(), options, &|| false)
    }

    /// Every path of the tree with what it is, sorted.
    fn listing(&self) -> String {
        fn walk(dir: &Path, root: &Path, lines: &mut Vec<String>) {
            for entry in fs_err::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let (metadata, name) = (path.symlink_metadata().unwrap(), path.strip_prefix(root).unwrap().display());
                let mode = metadata.permissions().mode() & 0o7777;
                if metadata.is_dir() {
                    lines.push(format!("{name}/ {mode:o}"));
                    walk(&path, root, lines);
                } else if metadata.is_symlink() {
                    lines.push(format!("{name} -> {}", path.read_link().unwrap().display()));
                } else {
                    lines.push(format!("{name} {mode:o} {}", fs_err::read_to_string(&path).unwrap().trim_end()));
                }
            }
        }
        let mut lines = Vec::new();
        walk(&self.tree(), &self.tree(), &mut lines);
        lines.sort();
        lines.join("\n")
    }

    /// Unpacks, expects a refusal, and checks that the archive is all there is.
    fn refusal(&self) -> Refusal {
        let result = self.unpack(&Options::default());
        let left: Vec<_> = fs_err::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["archive"]);
        match result {
            Err(UnpackError::Refused { why, .. }) => why,
            other => panic!("expected a refusal, not {other:?}"),
        }
    }
}

fn refusal_of(tar: Tar) -> Refusal {
    Place::with(&tar.bytes()).refusal()
}

#[test]
fn every_format_is_told_by_its_bytes_and_gives_the_same_tree() {
    let tar = Tar::package().entry(EntryType::Regular, "demo/configure", "", 0o4750, b"#!/bin/sh\n").bytes();
    let mut bz2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bz2.write_all(&tar).unwrap();
    let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::default()).unwrap();
    xz.write_all(&tar).unwrap();
    let zstd = ruzstd::encoding::compress_to_vec(tar.as_slice(), ruzstd::encoding::CompressionLevel::Fastest);
    let zip = zip_of(&[("demo/DESCRIPTION", 0o644, b"Package: demo\n"), ("demo/configure", 0o755, b"#!/bin/sh\n")]);
    let archives = [gzip(&tar), bz2.finish().unwrap(), xz.finish().unwrap(), zstd, zip, tar];
    for (index, archive) in archives.iter().enumerate() {
        let place = Place::with(archive);
        let unpacked = place.unpack(&Options::default()).unwrap_or_else(|error| panic!("{index}: {error:?}"));
        assert_eq!(place.listing(), "DESCRIPTION 644 Package: demo\nconfigure 755 #!/bin/sh", "{index}");
        let expected =
            Unpacked { package_dir: place.tree(), top_folder: "demo".to_owned(), size_bytes: 24, n_entries: 2 };
        assert_eq!(unpacked, expected);
        assert_eq!(place.tree().join("configure").metadata().unwrap().mtime(), MTIME.cast_signed(), "{index}");
        assert_eq!(peek(&place.archive(), "DESCRIPTION").unwrap().unwrap(), b"Package: demo\n", "{index}");
        assert_eq!(peek(&place.archive(), "NAMESPACE").unwrap(), None, "{index}");
    }
}

#[test]
fn folders_and_links_within_the_tree_are_kept() {
    let tar = Tar::package()
        .symlink("demo/inst/current", "../R/a.R")
        .folder("demo/R/")
        .file("demo/R/a.R", b"a <- 1")
        .hard_link("demo/R/b.R", "demo/R/a.R")
        .symlink("demo/dangling", "nowhere");
    let place = Place::with(&tar.bytes());
    place.unpack(&Options::default()).unwrap();
    let expected = "DESCRIPTION 644 Package: demo\nR/ 755\nR/a.R 644 a <- 1\nR/b.R 644 a <- 1\ndangling -> nowhere\n\
                    inst/ 755\ninst/current -> ../R/a.R";
    assert_eq!(place.listing(), expected);
    assert_eq!(place.tree().join("R").metadata().unwrap().mtime(), MTIME.cast_signed());
}

#[test]
fn long_names_survive() {
    let long = format!("demo/{}/x.R", "d".repeat(120));
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    builder.append_data(&mut header, &long, &b"1"[..]).unwrap();
    let by_pax = Tar::package().pax("path", format!("{long}.pax").as_bytes()).file("demo/short", b"2").bytes();
    let place = Place::with(&by_pax);
    place.unpack(&Options::default()).unwrap();
    let inner = format!("{}.pax", &long["demo/".len()..]);
    assert_eq!(fs_err::read(place.tree().join(inner)).unwrap(), b"2");

    let place = Place::with(&builder.into_inner().unwrap());
    place.unpack(&Options { needs_description: false, ..Options::default() }).unwrap();
    assert_eq!(fs_err::read(place.tree().join(&long["demo/".len()..])).unwrap(), b"1");
}

#[test]
fn what_archivers_leave_behind_is_left_out() {
    let tar = Tar::new()
        .entry(EntryType::XGlobalHeader, "pax_global_header", "", 0o644, b"19 comment=0123456\n")
        .file("pax_global_header", b"x")
        .folder("./")
        .file("./._demo", b"x")
        .file("./demo/._DESCRIPTION", b"x")
        .file("./demo/DESCRIPTION", b"Package: demo\n");
    let place = Place::with(&tar.bytes());
    place.unpack(&Options::default()).unwrap();
    assert_eq!(place.listing(), "DESCRIPTION 644 Package: demo");
    let zip = zip_of(&[("__MACOSX/demo/._x", 0o644, b"x"), ("demo/DESCRIPTION", 0o644, b"Package: demo\n")]);
    let place = Place::with(&zip);
    place.unpack(&Options::default()).unwrap();
    assert_eq!(place.listing(), "DESCRIPTION 644 Package: demo");
}

#[test]
fn a_subdirectory_is_found_below_the_top_folder_of_a_github_zip() {
    let zip = zip_of(&[
        ("demo-0123abc/", 0o755, b""),
        ("demo-0123abc/README.md", 0o644, b"x"),
        ("demo-0123abc/r/DESCRIPTION", 0o644, b"Package: demo\n"),
        ("demo-0123abc/r/shared", 0o120_777, b"../README.md"),
    ]);
    let place = Place::with(&zip);
    let options = |subdir: &str| Options { subdir: Some(subdir.to_owned()), ..Options::default() };
    let unpacked = place.unpack(&options("/r/")).unwrap();
    assert_eq!(unpacked.package_dir, place.tree().join("r"));
    assert_eq!(fs_err::read(unpacked.package_dir.join("shared")).unwrap(), b"x");
    assert_eq!(peek(&place.archive(), "r/DESCRIPTION").unwrap().unwrap(), b"Package: demo\n");
    fs_err::remove_dir_all(place.tree()).unwrap();

    assert!(matches!(place.unpack(&options("python")), Err(UnpackError::NoSubdir { .. })));
    assert!(matches!(place.unpack(&options("../x")), Err(UnpackError::Refused { .. })));
    let error = place.unpack(&Options::default()).unwrap_err();
    assert!(error.to_string().ends_with("has no DESCRIPTION in `demo-0123abc`, so it is no R package"), "{error}");
    assert!(!place.tree().exists());
}

#[test]
fn paths_that_leave_are_refused() {
    assert_eq!(refusal_of(Tar::package().file("/tmp/evil", b"x")), Refusal::Absolute);
    assert_eq!(refusal_of(Tar::package().file("../evil", b"x")), Refusal::ParentFolder);
    assert_eq!(refusal_of(Tar::package().file("demo/../../evil", b"x")), Refusal::ParentFolder);
    assert_eq!(refusal_of(Tar::package().folder("demo/../../evil/")), Refusal::ParentFolder);
    assert_eq!(refusal_of(Tar::package().pax("path", b"../evil").file("demo/good", b"x")), Refusal::ParentFolder);
    assert_eq!(refusal_of(Tar::package().pax("path", b"demo/a\0b").file("demo/good", b"x")), Refusal::ZeroByte);
    assert_eq!(Place::with(&zip_of(&[("demo/../../evil", 0o644, b"x")])).refusal(), Refusal::ParentFolder);
    assert_eq!(Place::with(&zip_of(&[("/evil", 0o644, b"x")])).refusal(), Refusal::Absolute);
}

#[test]
fn links_that_leave_are_refused() {
    for (name, target) in [
        ("demo/a", "/etc/passwd"),
        ("demo/a", "../outside"),
        ("demo/a/b", "../../outside"),
        ("demo/a/b/c", "d/../../x"),
        ("demo/a", ""),
    ] {
        let why = refusal_of(Tar::package().symlink(name, target));
        assert_eq!(why, Refusal::LinkLeaves { target: target.to_owned() });
    }
    for target in ["/etc/passwd", "../outside", "demo/../../outside", "other/file", "demo", "demo/missing"] {
        let why = refusal_of(Tar::package().hard_link("demo/a", target));
        assert_eq!(why, Refusal::HardLinkToNothing { target: target.to_owned() });
    }
    let zip = zip_of(&[("demo/DESCRIPTION", 0o644, b"Package: demo\n"), ("demo/a", 0o120_777, b"../../etc")]);
    assert_eq!(Place::with(&zip).refusal(), Refusal::LinkLeaves { target: "../../etc".to_owned() });
}

#[test]
fn nothing_is_written_through_a_link() {
    let through = Tar::package().folder("demo/dir").symlink("demo/link", "dir").file("demo/link/file", b"x");
    assert_eq!(refusal_of(through), Refusal::InTheWay);
    let over = Tar::package().file("demo/file", b"x").symlink("demo/link", "file").file("demo/link", b"y");
    assert_eq!(refusal_of(over), Refusal::InTheWay);
    let by_hard_link = Tar::package().symlink("demo/link", "DESCRIPTION").hard_link("demo/hard", "demo/link");
    assert_eq!(refusal_of(by_hard_link), Refusal::HardLinkToNothing { target: "demo/link".to_owned() });
    let below_file = Tar::package().file("demo/file", b"x").file("demo/file/below", b"y");
    assert_eq!(refusal_of(below_file), Refusal::InTheWay);
}

#[test]
fn of_two_files_in_one_place_the_last_counts_and_hard_links_keep_the_first() {
    let tar = Tar::package().file("demo/a", b"old").hard_link("demo/b", "demo/a").file("demo/a", b"new");
    let place = Place::with(&tar.bytes());
    place.unpack(&Options::default()).unwrap();
    assert_eq!(place.listing(), "DESCRIPTION 644 Package: demo\na 644 new\nb 644 old");
}

#[test]
fn devices_and_pipes_are_refused() {
    for (kind, what) in [(EntryType::Char, "device"), (EntryType::Block, "device"), (EntryType::Fifo, "named pipe")] {
        assert_eq!(refusal_of(Tar::package().entry(kind, "demo/x", "", 0o644, b"")), Refusal::Special(what));
    }
    let unknown = Tar::package().entry(EntryType::new(b'V'), "demo/x", "", 0o644, b"");
    assert_eq!(refusal_of(unknown), Refusal::Special("thing of unknown kind"));
}

#[test]
fn there_is_exactly_one_top_folder() {
    let first = "demo".to_owned();
    assert_eq!(refusal_of(Tar::package().file("other/x", b"x")), Refusal::SecondTopFolder { first });
    assert_eq!(refusal_of(Tar::new().file("DESCRIPTION", b"x")), Refusal::OutsideTopFolder);
    assert_eq!(refusal_of(Tar::new().symlink("demo", "/etc")), Refusal::OutsideTopFolder);
    let place = Place::with(&Tar::new().bytes());
    assert!(matches!(place.unpack(&Options::default()), Err(UnpackError::Empty { .. })));
    assert!(!place.tree().exists());
}

#[test]
fn bombs_are_stopped() {
    let zeros = gzip(&Tar::package().file("demo/zeros", &vec![0; 1 << 20]).bytes());
    let place = Place::with(&zeros);
    let error = place.unpack(&Options { unpacked_bytes_max: 1 << 19, ..Options::default() }).unwrap_err();
    assert!(matches!(error, UnpackError::TooLarge { unit: "bytes", .. }), "{error:?}");
    let error = place.unpack(&Options { entries_max: 1, ..Options::default() }).unwrap_err();
    assert!(matches!(error, UnpackError::TooLarge { unit: "entries", .. }), "{error:?}");
    assert!(!place.tree().exists());

    // One entry may imply many folders, and all their names are kept in memory.
    let place = Place::with(&Tar::package().file(&format!("demo/{}x", "d/".repeat(40)), b"x").bytes());
    let error = place.unpack(&Options { entries_max: 30, ..Options::default() }).unwrap_err();
    assert!(matches!(error, UnpackError::TooLarge { unit: "entries", .. }), "{error:?}");
    let error = place.unpack(&Options { names_bytes_max: 1000, ..Options::default() }).unwrap_err();
    assert!(matches!(error, UnpackError::TooLarge { unit: "bytes of names", .. }), "{error:?}");
    assert!(!place.tree().exists());

    // Names are read into memory at once.
    let name = Tar::package().entry(EntryType::GNULongName, "long", "", 0o644, &vec![b'a'; 2 << 20]);
    let place = Place::with(&gzip(&name.file("demo/x", b"x").bytes()));
    assert!(matches!(place.unpack(&Options::default()), Err(UnpackError::Damaged { .. })));
    assert!(!place.tree().exists());
}

#[test]
fn a_damaged_archive_leaves_nothing() {
    let noise: Vec<u8> = (0..200_000_u32).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let tar = Tar::package().file("demo/noise", &noise).bytes();
    for whole in [gzip(&tar), tar] {
        let place = Place::with(&whole[..whole.len() / 2]);
        let error = place.unpack(&Options::default()).unwrap_err();
        assert!(matches!(error, UnpackError::Damaged { .. }), "{error:?}");
        assert!(!place.tree().exists());
    }
    let place = Place::with(b"<!DOCTYPE html><title>503</title>");
    let error = place.unpack(&Options::default()).unwrap_err();
    assert!(error.to_string().contains("it starts with `<!DOCTYPE html>"), "{error}");
}

#[test]
fn stopping_between_files_leaves_nothing() {
    let place = Place::with(&Tar::package().file("demo/a", b"a").file("demo/b", b"b").bytes());
    let asked = Cell::new(0);
    let should_stop = || asked.replace(asked.get() + 1) == 3;
    let result = unpack(&place.archive(), &place.tree(), &Options::default(), &should_stop);
    assert!(matches!(result, Err(UnpackError::Stopped)), "{result:?}");
    assert!(!place.tree().exists());
}

#[test]
fn a_directory_in_use_is_left_alone() {
    let place = Place::with(&Tar::package().bytes());
    fs_err::create_dir(place.tree()).unwrap();
    fs_err::write(place.tree().join("mine"), "x").unwrap();
    assert!(matches!(place.unpack(&Options::default()), Err(UnpackError::Occupied { .. })));
    assert_eq!(place.listing(), "mine 644 x");
}

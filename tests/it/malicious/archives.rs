//! Hostile archives, made here: each of them tries something that no package has reason to do.

use std::io::{Cursor, Write};

use tar::EntryType;

/// An archive and what becomes of it.
pub(super) struct Hostile {
    pub(super) name: &'static str,
    pub(super) bytes: Vec<u8>,
    /// The words with which it is refused, or `None` if it does no harm once unpacked.
    pub(super) refusal: Option<&'static str>,
}

/// Writes tars that the `tar` crate itself would refuse to write.
pub(super) struct Tar(Vec<u8>);

impl Tar {
    /// A tar with the DESCRIPTION of a package, in the folder `demo`.
    pub(super) fn package(package: &str) -> Self {
        Self::empty().file("demo/DESCRIPTION", description(package).as_bytes())
    }

    pub(super) fn empty() -> Self {
        Self(Vec::new())
    }

    fn entry(self, kind: EntryType, name: &[u8], target: &[u8], mode: u32, data: &[u8]) -> Self {
        self.sized(kind, name, target, mode, data.len() as u64).raw(data)
    }

    /// Writes a header alone, which promises this many bytes.
    fn sized(mut self, kind: EntryType, name: &[u8], target: &[u8], mode: u32, size: u64) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_700_000_000);
        header.set_size(size);
        let fields = header.as_gnu_mut().unwrap();
        fields.name[..name.len()].copy_from_slice(name);
        fields.linkname[..target.len()].copy_from_slice(target);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self
    }

    fn raw(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(super) fn file(self, name: &str, data: &[u8]) -> Self {
        self.entry(EntryType::Regular, name.as_bytes(), b"", 0o644, data)
    }

    fn folder(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name.as_bytes(), b"", 0o755, b"")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name.as_bytes(), target.as_bytes(), 0o777, b"")
    }

    fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name.as_bytes(), target.as_bytes(), 0o644, b"")
    }

    /// Gives the next entry a name of any length.
    fn long_name(self, name: &[u8]) -> Self {
        self.entry(EntryType::GNULongName, b"././@LongLink", b"", 0o644, name)
    }

    fn pax(self, key: &str, value: &[u8]) -> Self {
        let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        // The length counts its own digits.
        let n = (1..10_000_000).find(|n: &usize| n - n.to_string().len() == rest.len()).unwrap();
        self.entry(EntryType::XHeader, b"pax", b"", 0o644, &[n.to_string().as_bytes(), &rest].concat())
    }

    /// Returns the archive, and all memory that it took.
    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

fn description(package: &str) -> String {
    format!("Package: {package}\nVersion: 1.0\nTitle: Evil\n")
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(0)).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zip(package: &str, entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let description = description(package);
    let first = [("demo/DESCRIPTION", 0o644, description.as_bytes())];
    for (name, mode, data) in first.iter().chain(entries) {
        let options = zip::write::SimpleFileOptions::default().unix_permissions(*mode);
        match mode & 0o170_000 {
            0o120_000 => zip.add_symlink(*name, str::from_utf8(data).unwrap(), options).unwrap(),
            _ => zip.start_file(*name, options).and_then(|()| Ok(zip.write_all(data)?)).unwrap(),
        }
    }
    zip.finish().unwrap().into_inner()
}

/// Archives of the package `package` that try to get out of their tree, or to leave something dangerous in it.
pub(super) fn escapes(package: &str) -> Vec<Hostile> {
    const ABSOLUTE: Option<&str> = Some("its path is absolute");
    const PARENT: Option<&str> = Some("its path has `..` in it");
    const LEAVES: Option<&str> = Some("which leaves the tree");
    const IN_THE_WAY: Option<&str> = Some("another entry of another kind");
    const NOTHING: Option<&str> = Some("which is no earlier file of the archive");
    const LONG: Option<&str> = Some("too long or too deep");
    const DAMAGED: Option<&str> = Some("the archive is damaged");
    let tar = || Tar::package(package);
    let deep = "d/".repeat(5000);
    let many: Vec<String> = (0..100).map(|n| format!("demo/l{n}")).collect();
    let chain = many.windows(2).fold(tar(), |tar, pair| tar.symlink(&pair[0], pair[1].trim_start_matches("demo/")));
    let tars = [
        ("absolute", tar().file("/tmp/evil", b"x"), ABSOLUTE),
        ("two slashes", tar().file("//tmp/evil", b"x"), ABSOLUTE),
        ("parent", tar().file("../evil", b"x"), PARENT),
        ("parent within", tar().file("demo/../../evil", b"x"), PARENT),
        ("parent folder", tar().folder("demo/../../evil/"), PARENT),
        ("parent at the end", tar().folder("demo/.."), PARENT),
        ("parent by a long name", tar().long_name(b"demo/../../evil\0").file("demo/x", b"x"), PARENT),
        ("parent by pax", tar().pax("path", b"demo/../../evil").file("demo/x", b"x"), PARENT),
        ("absolute by pax", tar().pax("path", b"/tmp/evil").file("demo/x", b"x"), ABSOLUTE),
        ("zero byte by pax", tar().pax("path", b"demo/x\0/../evil").file("demo/x", b"x"), Some("zero byte")),
        ("zero byte by a long name", tar().long_name(b"demo/x\0../evil\0").file("demo/x", b"x"), Some("zero byte")),
        ("backslashes", tar().file("demo/..\\..\\evil", b"x"), None),
        ("drive letter", tar().file("demo/C:\\evil", b"x"), None),
        ("newlines and escapes", tar().file("demo/\n\x1b[2J", b"x"), None),
        ("a name that is not UTF-8", tar().entry(EntryType::Regular, b"demo/\xff\xfe", b"", 0o644, b"x"), None),
        (
            "a top folder that is not UTF-8",
            Tar::empty().entry(EntryType::Regular, b"\xff/x", b"", 0o644, b""),
            Some("UTF-8"),
        ),
        ("second top folder", tar().file("other/x", b"x"), Some("second top folder")),
        ("top folder in another case", tar().file("Demo/DESCRIPTION", b"x"), Some("second top folder")),
        ("beside the top folder", tar().file("x", b"x"), Some("not inside of a top folder")),
        ("top folder is a link", Tar::empty().symlink("demo", "/etc"), Some("not inside of a top folder")),
        ("link to an absolute path", tar().symlink("demo/a", "/etc/passwd"), LEAVES),
        ("link to the parent", tar().symlink("demo/a", ".."), LEAVES),
        ("link through a folder", tar().folder("demo/d").symlink("demo/a", "d/../../x"), LEAVES),
        ("link by pax", tar().pax("linkpath", b"/etc/passwd").symlink("demo/a", "b"), LEAVES),
        ("link to nothing", tar().symlink("demo/a", ""), LEAVES),
        ("link with a zero byte", tar().pax("linkpath", b"a\0b").symlink("demo/a", "b"), LEAVES),
        ("file through a link", tar().symlink("demo/l", "d").folder("demo/d").file("demo/l/x", b"x"), IN_THE_WAY),
        ("file through a link that comes later", tar().file("demo/l/x", b"x").symlink("demo/l", "d"), IN_THE_WAY),
        ("file in the place of a link", tar().symlink("demo/l", "DESCRIPTION").file("demo/l", b"x"), IN_THE_WAY),
        ("link through a link", tar().symlink("demo/l", "d").folder("demo/d").symlink("demo/l/m", "x"), IN_THE_WAY),
        ("folder in the place of a link", tar().symlink("demo/l", "d").folder("demo/l").folder("demo/d"), IN_THE_WAY),
        ("file in the place of a folder", tar().folder("demo/d").file("demo/d", b"x"), IN_THE_WAY),
        ("below a file", tar().file("demo/f", b"x").file("demo/f/x", b"x"), IN_THE_WAY),
        ("hard link out", tar().hard_link("demo/a", "/etc/passwd"), NOTHING),
        ("hard link to the parent", tar().hard_link("demo/a", "../outside"), NOTHING),
        ("hard link to a link", tar().symlink("demo/l", "DESCRIPTION").hard_link("demo/a", "demo/l"), NOTHING),
        ("hard link to a folder", tar().folder("demo/d").hard_link("demo/a", "demo/d"), NOTHING),
        ("hard link to what comes later", tar().hard_link("demo/a", "demo/b").file("demo/b", b"x"), NOTHING),
        ("hard link to itself", tar().hard_link("demo/DESCRIPTION", "demo/DESCRIPTION"), None),
        ("links in a circle", tar().symlink("demo/a", "b").symlink("demo/b", "a"), None),
        ("link to itself", tar().symlink("demo/a", "a"), None),
        ("a hundred links in a row", chain, None),
        ("device", tar().entry(EntryType::Char, b"demo/null", b"", 0o666, b""), Some("device")),
        ("block device", tar().entry(EntryType::Block, b"demo/disk", b"", 0o666, b""), Some("device")),
        ("named pipe", tar().entry(EntryType::Fifo, b"demo/pipe", b"", 0o666, b""), Some("named pipe")),
        ("unknown kind", tar().entry(EntryType::new(b'S' ^ 3), b"demo/x", b"", 0o666, b""), Some("unknown kind")),
        ("setuid", tar().entry(EntryType::Regular, b"demo/su", b"", 0o6755, b"x"), None),
        (
            "folder nobody may enter",
            tar().entry(EntryType::Directory, b"demo/d", b"", 0, b"").file("demo/d/x", b"x"),
            None,
        ),
        ("sticky folder for all", tar().entry(EntryType::Directory, b"demo/d", b"", 0o7777, b""), None),
        ("names differ in case", tar().file("demo/A", b"x").symlink("demo/a", "R").folder("demo/r"), None),
        ("name of 300 bytes", tar().long_name(&[b"demo/", &[b'a'; 300][..]].concat()).file("demo/x", b"x"), LONG),
        ("5000 folders deep", tar().long_name(format!("demo/{deep}x").as_bytes()).file("demo/x", b"x"), LONG),
        ("name of 2 MiB", tar().long_name(&vec![b'a'; 2 << 20]).file("demo/x", b"x"), DAMAGED),
        ("pax of 2 MiB", tar().pax("comment", &vec![b'a'; 2 << 20]).file("demo/x", b"x"), DAMAGED),
        ("promises 8 EiB", tar().sized(EntryType::Regular, b"demo/x", b"", 0o644, u64::MAX / 2), DAMAGED),
        ("promises too much by pax", tar().pax("size", b"18446744073709551615").file("demo/x", b"x"), DAMAGED),
        ("long name without end", tar().sized(EntryType::GNULongName, b"x", b"", 0o644, 1 << 40), DAMAGED),
        ("no DESCRIPTION", Tar::empty().file("demo/README", b"x"), Some("no DESCRIPTION")),
        ("DESCRIPTION is a folder", Tar::empty().folder("demo/DESCRIPTION"), Some("no DESCRIPTION")),
        ("nothing", Tar::empty(), Some("empty")),
    ];
    let link = |target: &'static [u8]| zip(package, &[("demo/a", 0o120_777, target)]);
    let zips = [
        ("zip: absolute", zip(package, &[("/tmp/evil", 0o644, b"x")]), ABSOLUTE),
        ("zip: parent", zip(package, &[("demo/../../evil", 0o644, b"x")]), PARENT),
        ("zip: zero byte", zip(package, &[("demo/a\0b", 0o644, b"x")]), Some("zero byte")),
        ("zip: link to an absolute path", link(b"/etc/passwd"), LEAVES),
        ("zip: link to the parent", link(b"../x"), LEAVES),
        ("zip: through a link", zip(package, &[("demo/l", 0o120_777, b"d"), ("demo/l/x", 0o644, b"x")]), IN_THE_WAY),
        ("zip: device", patched_mode(package, 0o020_666), Some("device")),
        ("zip: pipe", patched_mode(package, 0o010_666), Some("named pipe")),
        ("zip: setuid", patched_mode(package, 0o106_755), None),
        ("zip: promises more entries than it has", patched_count(package), DAMAGED),
    ];
    let tars = tars.into_iter().map(|(name, tar, refusal)| Hostile { name, bytes: tar.end(), refusal });
    tars.chain(zips.into_iter().map(|(name, bytes, refusal)| Hostile { name, bytes, refusal })).collect()
}

/// A zip whose last entry, `demo/x`, has a mode that the `zip` crate would not write.
fn patched_mode(package: &str, mode: u32) -> Vec<u8> {
    let mut bytes = zip(package, &[("demo/x", 0o644, b"x")]);
    let central = bytes.windows(4).rposition(|window| window == b"PK\x01\x02").unwrap();
    bytes[central + 38..central + 42].copy_from_slice(&(mode << 16).to_le_bytes());
    bytes
}

fn patched_count(package: &str) -> Vec<u8> {
    let mut bytes = zip(package, &[]);
    let end = bytes.windows(4).rposition(|window| window == b"PK\x05\x06").unwrap();
    bytes[end + 8..end + 12].fill(0xfe);
    bytes
}

/// Small archives of the package `package` that would fill disk or memory.
pub(super) fn bombs(package: &str) -> Vec<Hostile> {
    const BYTES: Option<&str> = Some("holds more than 1073741824 bytes");
    const SIZE: u64 = 1 << 40;
    let tar = || Tar::package(package);
    let zeros = vec![0; 8 << 20];
    // Compressed once; a decoder takes any number of streams for one.
    let stream = |pack: fn(&[u8]) -> Vec<u8>, start: Tar| [pack(&start.0), pack(&zeros).repeat(160)].concat();
    let file = || tar().sized(EntryType::Regular, b"demo/zeros", b"", 0o644, SIZE);
    let litter = || tar().sized(EntryType::Regular, b"demo/._zeros", b"", 0o644, SIZE);
    let description = || Tar::empty().sized(EntryType::Regular, b"demo/DESCRIPTION", b"", 0o644, 100 << 20);
    let field = [format!("Package: {package}\nVersion: 1.0\nTitle: ").as_bytes(), &vec![b'x'; 100 << 20]].concat();
    let mut sparse = tar().sized(EntryType::GNUSparse, b"demo/._sparse", b"", 0o644, 0);
    pretend(&mut sparse);
    let long = format!("demo/{}x", format!("{}/", "n".repeat(200)).repeat(13));
    let names = (0..1000).fold(Tar::empty(), |tar, _| tar.long_name(long.as_bytes()).symlink("x", "y"));
    vec![
        Hostile { name: "gzip of zeros", bytes: stream(gzip, file()), refusal: BYTES },
        Hostile { name: "gzip of zeros that are passed over", bytes: stream(gzip, litter()), refusal: BYTES },
        Hostile { name: "bzip2 of zeros that are passed over", bytes: stream(bzip2, litter()), refusal: BYTES },
        Hostile { name: "xz of zeros that are passed over", bytes: stream(xz, litter()), refusal: BYTES },
        Hostile {
            name: "DESCRIPTION of 100 MiB of zeros",
            bytes: stream(gzip, description()),
            refusal: Some("more than 4194304 bytes"),
        },
        Hostile {
            name: "field of 100 MiB",
            bytes: gzip(&Tar::empty().file("demo/DESCRIPTION", &field).end()),
            refusal: Some("more than 4194304 bytes"),
        },
        Hostile { name: "endless sparse file", bytes: gzip(&sparse.end()), refusal: BYTES },
        Hostile {
            name: "names",
            bytes: [gzip(&tar().0), gzip(&names.0).repeat(60)].concat(),
            refusal: Some("more than 134217728 bytes of names"),
        },
    ]
}

/// Makes the last header that of a sparse file of 4 EiB without one byte of data.
fn pretend(tar: &mut Tar) {
    let at = tar.0.len() - 512;
    let header = tar::Header::from_byte_slice(&tar.0[at..]);
    let mut header = header.clone();
    let fields = header.as_gnu_mut().unwrap();
    let size: u64 = 1 << 62;
    let binary = |size: u64| {
        let mut bytes = [0; 12];
        bytes[0] = 0x80;
        bytes[4..].copy_from_slice(&size.to_be_bytes());
        bytes
    };
    fields.realsize = binary(size);
    fields.sparse[0].offset = binary(size);
    fields.sparse[0].numbytes = binary(0);
    header.set_cksum();
    tar.0[at..].copy_from_slice(header.as_bytes());
}

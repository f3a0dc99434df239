//! Archives in every form that packages come in, and in forms that they should not.

use std::io::{Cursor, Write};

use flate2::write::GzEncoder;

/// The form of an archive.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Form {
    TarGz,
    TarXz,
    TarBz2,
    Zip,
}

/// A file in an archive: its path, its content, and whether it is executable.
pub(crate) type Member = (String, Vec<u8>, bool);

/// Packs these files, in this order.
pub(crate) fn pack(members: &[Member], form: Form) -> Vec<u8> {
    match form {
        Form::TarGz => gzip(&tar(members)),
        Form::TarXz => {
            let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(0)).unwrap();
            xz.write_all(&tar(members)).unwrap();
            xz.finish().unwrap()
        }
        Form::TarBz2 => {
            let mut bz2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            bz2.write_all(&tar(members)).unwrap();
            bz2.finish().unwrap()
        }
        Form::Zip => {
            let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
            for (path, content, is_executable) in members {
                let mode = if *is_executable { 0o755 } else { 0o644 };
                let options = zip::write::SimpleFileOptions::default().unix_permissions(mode);
                zip.start_file(path, options).unwrap();
                zip.write_all(content).unwrap();
            }
            zip.finish().unwrap().into_inner()
        }
    }
}

/// Returns a tar.gz whose entries may have any name, such as one that leads out of the archive.
pub(crate) fn tarball(files: &[(&str, &str)]) -> Vec<u8> {
    let members: Vec<Member> = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).into(), false)).collect();
    gzip(&tar(&members))
}

fn tar(members: &[Member]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content, is_executable) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(if *is_executable { 0o755 } else { 0o644 });
        header.set_mtime(1_000_000_000);
        let name = &mut header.as_old_mut().name;
        if path.len() > name.len() {
            tar.append_data(&mut header, path, content.as_slice()).unwrap();
            continue;
        }
        // The checked way to set a name refuses just those that tests are after.
        name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        tar.append(&header, content.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gz = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap()
}

use std::io::{Read, Write};

use fs_err as fs;

use super::*;
use crate::store::testing::{Shop, key, name, paths};
use crate::store::verify::{Options, verify};

/// A store with `top`, which links to `Rcpp`, and an export of both.
fn exported() -> (Shop, Vec<u8>) {
    let shop = Shop::new();
    let rcpp = key("Rcpp", &[]);
    let top = key("top", &[&rcpp]);
    shop.publish(&rcpp);
    shop.publish(&top);
    let wanted = [(top.package().clone(), top.reference())];
    let closure = shop.store.closure(wanted, &BTreeMap::new(), |_| false).unwrap();
    let mut stream = Vec::new();
    let moved = export(&shop.store, &closure, &mut stream).unwrap();
    assert_eq!((moved.n_entries, closure.len()), (2, 2));
    (shop, stream)
}

fn refusal(stream: &[u8]) -> String {
    let shop = Shop::new();
    let error = import(&shop.store, false, stream).expect_err("it is refused").to_string();
    let left = paths(shop.store.root());
    assert!(left.iter().all(|path| path.starts_with(".staging") || path.starts_with(".locks")), "{left:?}");
    error
}

#[test]
fn an_import_gives_the_same_trees_and_a_second_one_changes_nothing() {
    let (from, stream) = exported();
    let to = Shop::new();
    let moved = import(&to.store, false, &*stream).unwrap();
    assert_eq!((moved.n_entries, moved.n_present), (2, 0));
    let platform = |shop: &Shop| {
        let root = shop.store.root().join("some-platform");
        paths(&root).into_iter().map(|path| (path.clone(), fs::read(root.join(path)).ok())).collect::<Vec<_>>()
    };
    assert_eq!(platform(&from), platform(&to));
    let verified = verify(to.store.root(), &Options::default(), &|_, _| {}).unwrap();
    assert_eq!((verified.findings.len(), verified.n_entries), (0, 2));
    let moved = import(&to.store, false, &*stream).unwrap();
    assert_eq!((moved.n_entries, moved.n_present), (2, 2));
    assert_eq!(platform(&from), platform(&to));
}

#[test]
fn no_flipped_bit_no_missing_end_and_no_further_byte_is_taken() {
    let (_from, stream) = exported();
    let plain = zstd::decode_all(&*stream).unwrap();
    let step = (stream.len() / 60).max(1);
    for at in (0..stream.len()).step_by(step) {
        let mut bytes = stream.clone();
        bytes[at] ^= 1 << (at % 8);
        // Some bits of a compressed stream mean nothing: then it is the same export.
        if zstd::decode_all(&*bytes).ok().as_ref() != Some(&plain) {
            refusal(&bytes);
        }
        refusal(&stream[..at]);
    }
    refusal(&stream[..stream.len() - 1]);
    refusal(&[&stream, "x".as_bytes()].concat());
    refusal(&zstd::encode_all(&b"no tar"[..], 1).unwrap());
    refusal(&[&stream[..], &zstd::encode_all(&b"more"[..], 1).unwrap()].concat());
    assert!(refusal(b"").contains("not complete") || refusal(b"").contains("not what"));
}

/// A stream with its members changed, and the digests of its outer shell right again.
fn rewritten(stream: &[u8], change: impl Fn(usize, &mut String, &mut Vec<u8>) -> bool) -> Vec<u8> {
    let tar = zstd::decode_all(stream).unwrap();
    let mut out = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
    for (n, entry) in tar::Archive::new(&*tar).entries().unwrap().enumerate() {
        let mut entry = entry.unwrap();
        let mut name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        if change(n, &mut name, &mut bytes) {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Regular);
            // Written by hand: the crate refuses names that lead out.
            header.as_mut_bytes()[..100].fill(0);
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(bytes.len() as u64);
            header.set_cksum();
            out.append(&header, &*bytes).unwrap();
        }
    }
    let mut encoder = out.into_inner().unwrap();
    encoder.flush().unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_stream_with_other_members_than_it_lists_is_refused() {
    let (_from, stream) = exported();
    let as_it_is = rewritten(&stream, |_, _, _| true);
    assert_eq!(import(&Shop::new().store, false, &*as_it_is).unwrap().n_entries, 2);
    let of = |change: &dyn Fn(usize, &mut String, &mut Vec<u8>) -> bool| refusal(&rewritten(&stream, change));
    assert!(of(&|n, _, _| n != 3).contains("should be in its place"));
    assert!(of(&|_, name, _| !name.starts_with("top")).contains("is missing"));
    for escape in ["../../escaped", "/tmp/escaped", "Rcpp.0/../../escaped"] {
        let error = of(&|n, name, _| {
            if n == 3 {
                escape.clone_into(name);
            }
            true
        });
        assert!(error.contains("should be in its place"), "{error}");
    }
    let error = of(&|_, name, bytes| {
        if name.ends_with("code.rdb") {
            bytes[0] ^= 1;
        }
        true
    });
    assert!(error.contains("code.rdb") && error.contains("content"), "{error}");
    let error = of(&|_, name, bytes| {
        if name.ends_with("code.rdb") {
            bytes.push(0);
        }
        true
    });
    assert!(error.contains("size"), "{error}");
    let error = of(&|_, name, bytes| {
        if name == "top.1.json" {
            let last = bytes.len() - 5;
            bytes[last] ^= 1;
        }
        true
    });
    assert!(error.contains("top.1.json"), "{error}");
}

#[test]
fn a_manifest_that_leads_out_is_refused_even_with_the_right_digests() {
    let (_from, stream) = exported();
    let digest = Sha256Digest::of(b"");
    for (body, why) in [
        (format!("f 0 {digest} ../escaped"), "line 2"),
        (format!("l / out\nf 0 {digest} out/escaped"), "line 3"),
        ("l ../../.. out".to_owned(), "leaves the tree"),
    ] {
        let text = format!("larder-tree 1\n{body}\n");
        let tree = Sha256Digest::of(text.as_bytes());
        let stolen = std::cell::RefCell::new((Vec::new(), Sha256Digest::of(b"")));
        // The sidecar first, since the index names its digest: two passes.
        rewritten(&stream, |_, name, bytes| {
            if name == "Rcpp.0.json" {
                let mut sidecar: serde_json::Value = serde_json::from_slice(bytes).unwrap();
                sidecar["tree"] = tree.to_string().into();
                sidecar["size"] = 0.into();
                sidecar["n_files"] = u64::from(body.starts_with('f') || body.contains("\nf")).into();
                let empty = crate::store::manifest::Manifest::default();
                sidecar["interface"] = crate::facets::interface(&empty).to_string().into();
                let sealed = crate::store::sidecar::seal(&sidecar).unwrap();
                *stolen.borrow_mut() = (sealed.clone(), Sha256Digest::of(&sealed));
            }
            true
        });
        let (sidecar, sidecar_digest) = stolen.into_inner();
        let evil = rewritten(&stream, |_, name, bytes| {
            match name.as_str() {
                INDEX => {
                    let mut index: Index = serde_json::from_slice(bytes).unwrap();
                    (index.entries[0].tree, index.entries[0].sidecar) = (tree, sidecar_digest);
                    *bytes = serde_json::to_vec(&index).unwrap();
                }
                "Rcpp.0.json" => bytes.clone_from(&sidecar),
                "Rcpp.0.files" => *bytes = text.clone().into_bytes(),
                _ => {}
            }
            true
        });
        let error = refusal(&evil);
        assert!(error.contains(why), "{body}: {error}");
    }
}

#[test]
fn another_platform_is_refused_unless_it_is_wanted() {
    let (_from, stream) = exported();
    let to = Shop::on("another-platform");
    let error = import(&to.store, false, &*stream).unwrap_err();
    assert!(matches!(&error, ImportError::OtherPlatform { found, .. } if found == "some-platform"), "{error}");
    import(&to.store, true, &*stream).unwrap();
    assert!(to.store.root().join("some-platform/platform.json").is_file());
    assert!(!to.store.root().join("another-platform").exists());
    for platform in ["..", "../x", "", ".locks", "blobs", "/x"] {
        let stream = rewritten(&stream, |n, _, bytes| {
            if n == 0 {
                let mut index: Index = serde_json::from_slice(bytes).unwrap();
                platform.clone_into(&mut index.platform);
                *bytes = serde_json::to_vec(&index).unwrap();
            }
            true
        });
        assert!(matches!(import(&to.store, true, &*stream), Err(ImportError::NotAnExport(_))), "{platform}");
    }
}

#[test]
fn what_is_broken_or_not_there_is_not_exported() {
    let (shop, _) = exported();
    let (rcpp, top) = (key("Rcpp", &[]), key("top", &[&key("Rcpp", &[])]));
    let wanted = || [(top.package().clone(), top.reference())];
    let tree = shop.store.tree(rcpp.package(), rcpp.reference());
    let closure = shop.store.closure(wanted(), &BTreeMap::new(), |_| false).unwrap();
    let path = tree.join("R/code.rdb");
    fs::remove_file(&path).unwrap();
    fs::write(&path, "the code of Rcpp, and some MORE of it").unwrap();
    let error = export(&shop.store, &closure, std::io::sink()).unwrap_err();
    assert!(matches!(&error, ExportError::Broken { package, .. } if *package == name("Rcpp")), "{error}");
    fs::remove_file(tree.with_extension("json")).unwrap();
    let error = shop.store.closure(wanted(), &BTreeMap::new(), |_| false).unwrap_err();
    assert_eq!(error.to_string(), "not in the store for this platform: Rcpp");
    let closure = shop.store.closure(wanted(), &BTreeMap::new(), |package| *package == name("Rcpp")).unwrap();
    assert_eq!(closure.len(), 1, "R has it");
    assert_eq!(shop.store.last_used(&name("top")).unwrap(), Some(top.reference()));
    assert_eq!(shop.store.last_used(&name("Rcpp")).unwrap(), None);
}

/// Lets an evictor take what it can before each byte.
struct Evicting<'a> {
    root: &'a std::path::Path,
    stream: Vec<u8>,
}

impl Write for Evicting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let policy = crate::store::Policy { max_bytes: Some(0), ..Default::default() };
        let summary = crate::store::evict(self.root, &policy, std::time::SystemTime::now(), |_| {}).unwrap();
        assert_eq!(summary.n_entries, 0);
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_is_being_exported_is_not_evicted() {
    let shop = Shop::new();
    let only = key("only", &[]);
    shop.publish(&only);
    let root = shop.store.root().to_owned();
    // Another process: nothing is leased but by the export itself.
    let store = Store::open(&root, "some-platform", "R 4.2\nsome system");
    let _dir = shop.end_of_lease();
    let mut out = Evicting { root: &root, stream: Vec::new() };
    let entries = BTreeSet::from([(only.package().clone(), only.reference())]);
    assert_eq!(export(&store, &entries, &mut out).unwrap().n_entries, 1);
    assert_eq!(import(&Shop::new().store, false, &*out.stream).unwrap().n_entries, 1);
    drop(store);
    let policy = crate::store::Policy { max_bytes: Some(0), ..Default::default() };
    let summary = crate::store::evict(&root, &policy, std::time::SystemTime::now(), |_| {}).unwrap();
    assert_eq!(summary.n_entries, 1, "and now it is");
}

//! Any bytes as a DESCRIPTION: fields are found, and putting in what a lockfile adds changes no other field.

#![no_main]

use std::collections::BTreeMap;

use larder_ops::metadata::with_fields;
use larder_ops::package::Description;
use libfuzzer_sys::fuzz_target;

#[path = "../seeds.rs"]
mod seeds;

fuzz_target!(init: seeds::write("description"), |bytes: &[u8]| {
    let description = Description::parse(bytes);
    for field in ["LinkingTo", "Imports", "Depends"] {
        for package in description.packages(field) {
            assert!(!package.as_str().contains(['/', '\0']), "{package}");
        }
    }
    // The first half of what is there as the value of a new field: it must not become more than one field.
    let value = String::from_utf8_lossy(&bytes[..bytes.len() / 2]).into_owned();
    let fields = BTreeMap::from([("RemoteRef".to_owned(), value)]);
    let after = Description::parse(&with_fields(bytes, &fields));
    assert!(after.get("RemoteRef").is_some());
    assert_eq!(after.get("Package").is_some(), with_fields_has_package(bytes));
});

/// Says whether a record has a `Package`, read without regard to blank lines, which `with_fields` takes away.
fn with_fields_has_package(bytes: &[u8]) -> bool {
    let plain = with_fields(bytes, &BTreeMap::new());
    Description::parse(&plain).get("Package").is_some()
}

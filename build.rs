//! Links the command at a fixed address.
//!
//! At an address of the loader's choosing, some 35,000 pointers in tables of functions are written when the process
//! starts, and 150 pages copied for them: 0.3 ms of the 7 that a run with nothing to do takes (`benches/README.md`). What
//! a random address would protect from are overwritten pointers, which safe Rust has not; libraries, heap and stack have
//! random ones all the same.

#[expect(clippy::disallowed_methods, reason = "so cargo tells what it builds for")]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Elsewhere the linker knows no such option, or the system starts nothing at a fixed address.
    if std::env::var_os("CARGO_CFG_TARGET_OS").is_some_and(|os| os == "linux") {
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}

//! Links the command at a fixed address: it starts 0.3 ms sooner (ARCHITECTURE, Decisions).

#[expect(clippy::disallowed_methods, reason = "so cargo tells what it builds for")]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let of_target = |name| std::env::var(name).unwrap_or_default();
    // A command without a loader has no such cost, and others know no such option.
    let is_loaded = !of_target("CARGO_CFG_TARGET_FEATURE").split(',').any(|feature| feature == "crt-static");
    if of_target("CARGO_CFG_TARGET_OS") == "linux" && of_target("CARGO_CFG_TARGET_ENV") == "gnu" && is_loaded {
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}

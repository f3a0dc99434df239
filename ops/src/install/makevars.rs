//! The Makevars that a build sees: the user's, and what larder adds.

use std::fmt::Write;
use std::path::Path;

use super::{Build, Builder};

/// What becomes of the debug information that R's default flags ask compilers for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DebugInfo {
    /// It is left out: a tenth to a quarter of the time to compile C++, nine tenths of the size.
    #[default]
    Drop,
    /// It stays; then it is part of the key.
    Keep,
}

/// The variables that R's configuration has flags in, by language.
const C: [&str; 10] = [
    "CFLAGS",
    "CXXFLAGS",
    "CXX11FLAGS",
    "CXX14FLAGS",
    "CXX17FLAGS",
    "CXX20FLAGS",
    "CXX23FLAGS",
    "CXX26FLAGS",
    "OBJCFLAGS",
    "OBJCXXFLAGS",
];
const FORTRAN: [&str; 2] = ["FFLAGS", "FCFLAGS"];

/// Returns the text of a build's Makevars.
///
/// First `-g0`, so that a `-g` in the user's own Makevars wins. Then the user's. Last, so that nothing there loses them,
/// flags that keep this build's paths out of what it compiles: that of the source, and that of the view, where the
/// headers it links to are.
pub(super) fn text(builder: &Builder, build: &Build<'_>) -> String {
    let mut text = String::new();
    let append = |text: &mut String, variables: &[&str], flags: &str| {
        for variable in variables {
            writeln!(text, "{variable} += {flags}").expect("strings take everything");
        }
    };
    let toolchain = &builder.toolchain;
    if build.debug_info == DebugInfo::Drop && toolchain.is_gnu_like() {
        append(&mut text, &C, "-g0");
        append(&mut text, &FORTRAN, "-g0");
    }
    if let Some(user) = &builder.makevars {
        writeln!(text, "include {}", user.display()).expect("strings take everything");
    }
    // Neither make nor a configure script that reads the flags could be told to take such a path as one word.
    let is_word = |path: &Path| !path.as_os_str().as_encoded_bytes().iter().any(|byte| b" \t#$\"'\\".contains(byte));
    if toolchain.maps_file_prefixes() && is_word(build.scratch) && is_word(build.source) {
        let (source, view) = (build.source.display(), build.scratch.join("view"));
        let maps = format!("-ffile-prefix-map={source}=. -ffile-prefix-map={}=view", view.display());
        append(&mut text, &C[..7], &maps);
    }
    text
}

//! The command `solve`.

fn main() {}

//! What a store says of the platforms that it has packages of.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::PLATFORM;
use crate::fault::fs;

/// The file of one platform.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Platform {
    pub(super) platform: String,
    pub(super) description: Vec<String>,
}

/// Returns the platforms that the store at `root` has packages of, sorted by name, each with the text behind it.
pub fn platforms(root: &Path) -> Vec<(String, String)> {
    let dirs = fs::read_dir(root).into_iter().flatten().flatten();
    let read = |dir: fs::DirEntry| {
        let platform: Platform = serde_json::from_slice(&fs::read(dir.path().join(PLATFORM)).ok()?).ok()?;
        let is_its_own = dir.file_name().to_str() == Some(&platform.platform);
        is_its_own.then(|| (platform.platform, platform.description.join("\n")))
    };
    let mut platforms: Vec<_> = dirs.filter_map(read).collect();
    platforms.sort();
    platforms
}
